//! What somebody has to open encrypted volumes with.

use super::open::{Key, Opened};
use super::{Luks, Slot};
use crate::{Error, Result};
use block::BlockSource;
use block::sync::{Mutex, lock};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Passphrases that are taken at most, and bytes of each: as many as the tools take.
const MAX_PASSPHRASES: usize = 16;
const MAX_LEN: usize = 512;
/// Keys remembered: the points of an item have the same volumes.
const MAX_KNOWN: usize = 64;
/// Passphrases tried on slots for one look at a point, each some seconds' work: a guest says how many slots there are.
const MAX_TRIES: usize = 64;

/// Passphrases, and the keys of volumes they opened. Copies share both. They are nowhere but in the memory of the process that
/// serves: no parser is told of them, and they are wiped when the last copy goes.
#[derive(Clone, Default)]
pub struct Passphrases(Arc<Shared>);

#[derive(Default)]
struct Shared {
    given: Vec<Zeroizing<Vec<u8>>>,
    /// An opened volume needs no slot's slow derivation again: its digest tells the key.
    known: Mutex<Vec<Key>>,
}

impl std::fmt::Debug for Passphrases {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passphrases", self.0.given.len())
    }
}

impl Passphrases {
    /// Each is tried on every volume.
    ///
    /// # Errors
    /// `Invalid` for too many of them, an empty or a very long one.
    pub fn new(given: Vec<Zeroizing<Vec<u8>>>) -> Result<Self> {
        if given.len() > MAX_PASSPHRASES {
            return Err(Error::invalid(
                format!("{} passphrases", given.len()),
                format!("at most {MAX_PASSPHRASES} are tried"),
            ));
        }
        if let Some(wrong) = given.iter().find(|given| given.is_empty() || given.len() > MAX_LEN) {
            return Err(Error::invalid(
                format!("a passphrase of {} bytes", wrong.len()),
                format!("1 to {MAX_LEN} are valid"),
            ));
        }
        Ok(Self(Arc::new(Shared { given, known: Mutex::default() })))
    }

    /// The first line of each file.
    ///
    /// # Errors
    /// As [`new`](Self::new); a file cannot be read.
    pub fn from_files<P: AsRef<Path>>(files: &[P]) -> Result<Self> {
        let line = |file: &P| {
            let failed = |error| Error::host("read the passphrase in", file.as_ref(), error);
            let mut start = Zeroizing::new(Vec::with_capacity(MAX_LEN + 2));
            let opened = File::open(file).map_err(failed)?;
            opened.take(MAX_LEN as u64 + 2).read_to_end(&mut start).map_err(failed)?;
            let end = start.iter().position(|byte| *byte == b'\n').unwrap_or(start.len());
            start.truncate(end);
            if start.last() == Some(&b'\r') {
                start.pop();
            }
            Ok(start)
        };
        Self::new(files.iter().map(line).collect::<Result<_>>()?)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.given.is_empty()
    }

    /// What decrypts a volume, whose bytes are at address `start`, if one of them opens it. `tries` counts what was tried before.
    ///
    /// # Errors
    /// `NoSpace` if a slot takes more memory than there is, `Unsupported` if too much was tried; the volume cannot be read.
    pub(crate) fn open(
        &self,
        luks: &Luks,
        volume: &dyn BlockSource,
        start: u64,
        tries: &mut usize,
    ) -> Result<Option<Opened>> {
        let opened = |key: &Key| luks.opened(key, start + luks.content.start());
        let known = lock(&self.0.known)
            .iter()
            .find(|key| key.len() == luks.key_len && luks.digest.is_of(key))
            .cloned();
        if let Some(key) = known {
            return Ok(opened(&key));
        }
        let mut failure = None;
        for slot in &luks.slots {
            match self.try_all(luks, slot, volume, tries) {
                Ok(None) => {}
                Ok(Some(key)) => {
                    let mut known = lock(&self.0.known);
                    if known.len() < MAX_KNOWN {
                        known.push(key.clone());
                    }
                    return Ok(opened(&key));
                }
                // another slot may take less
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn try_all(
        &self,
        luks: &Luks,
        slot: &Slot,
        volume: &dyn BlockSource,
        tries: &mut usize,
    ) -> Result<Option<Key>> {
        for given in &self.0.given {
            *tries += 1;
            if *tries > MAX_TRIES {
                let why = format!(
                    "{MAX_TRIES} passphrases were tried on the key slots of this machine, and no more are"
                );
                return Err(Error::unsupported("an encrypted volume", why));
            }
            if let Some(key) = luks.try_slot(slot, given, volume)? {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// All of them for the pipe to a process that takes over ([`read`](Self::read)).
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let len = self.0.given.iter().map(|given| given.len() + 2).sum();
        // never grown, so that no copy stays behind
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        for given in &self.0.given {
            bytes.extend((given.len() as u16).to_le_bytes());
            bytes.extend_from_slice(given);
        }
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) made, until the pipe's end.
    ///
    /// # Errors
    /// The pipe cannot be read, or holds something else.
    pub(crate) fn read(mut pipe: impl Read) -> Result<Self> {
        let failed = |error| Error::host("read", "the pipe of passphrases", error);
        let mut given = Vec::new();
        let mut len = [0; 2];
        loop {
            match pipe.read(&mut len[..1]).map_err(failed)? {
                0 => return Self::new(given),
                _ => pipe.read_exact(&mut len[1..]).map_err(failed)?,
            }
            let mut passphrase = Zeroizing::new(vec![0; usize::from(u16::from_le_bytes(len))]);
            pipe.read_exact(&mut passphrase).map_err(failed)?;
            given.push(passphrase);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passphrases_go_through_a_pipe_and_nowhere_else() {
        let given = [&b"one"[..], b"\0\xff two"].map(|given| Zeroizing::new(given.to_vec()));
        let passphrases = Passphrases::new(given.to_vec()).unwrap();
        let read = Passphrases::read(&**passphrases.to_bytes()).unwrap();
        assert_eq!(read.0.given, given);
        assert_eq!(format!("{passphrases:?}"), "2 passphrases");
        assert!(Passphrases::read(&b""[..]).unwrap().is_empty());
        assert!(Passphrases::read(&b"\x05\0abc"[..]).is_err());
        assert!(Passphrases::new(vec![Zeroizing::new(Vec::new())]).is_err());
    }
}
