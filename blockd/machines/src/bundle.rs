//! What is kept of a machine with each recovery point: a few small files as a POSIX tar archive (ustar), which any `tar` reads.
//! The same files make the same bytes, so that a definition that did not change is no change.

use crate::error::{Error, Result};

const RECORD: usize = 512;
/// The longest name an entry's head holds.
const NAME_LIMIT: usize = 100;
/// Files of a bundle: definition, record, firmware variables, and what a TPM keeps.
const FILES_LIMIT: usize = 64;
/// Bytes of a bundle: firmware variables have at most some megabytes, a TPM's state some kilobytes.
pub const BUNDLE_LIMIT_BYTES: usize = 48 << 20;

/// A file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its name: a relative path.
    pub name: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// A file.
    pub fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// Packs files.
///
/// # Errors
/// `Invalid` if they are more, larger or longer named than any bundle holds.
pub fn pack(pieces: &[Piece]) -> Result<Vec<u8>> {
    let bytes: usize = pieces.iter().map(|piece| piece.bytes.len() + 2 * RECORD).sum();
    if pieces.len() > FILES_LIMIT || bytes + 2 * RECORD > BUNDLE_LIMIT_BYTES {
        let what = format!("{} files with {bytes} bytes are more than is kept of a machine", pieces.len());
        return Err(Error::Invalid(what));
    }
    let mut packed = Vec::with_capacity(bytes);
    for piece in pieces {
        if !is_name(&piece.name) {
            return Err(Error::Invalid(format!("{:?} is no name of a file that is kept", piece.name)));
        }
        packed.extend(head(&piece.name, piece.bytes.len()));
        packed.extend(&piece.bytes);
        packed.resize(packed.len().next_multiple_of(RECORD), 0);
    }
    packed.resize(packed.len() + 2 * RECORD, 0);
    Ok(packed)
}

/// Unpacks a bundle; what is behind its end does not matter.
///
/// # Errors
/// `Corrupt` if it is none.
pub fn unpack(mut bytes: &[u8]) -> Result<Vec<Piece>> {
    let wrong = |why: &str| Error::Definition(format!("what was kept of it {why}"));
    let mut pieces = Vec::new();
    loop {
        let (head, rest) = bytes.split_at_checked(RECORD).ok_or_else(|| wrong("is cut short"))?;
        if head.iter().all(|byte| *byte == 0) {
            return Ok(pieces);
        }
        if pieces.len() == FILES_LIMIT {
            return Err(wrong("has more files than any"));
        }
        if &head[257..262] != b"ustar"
            || !matches!(head[156], 0 | b'0')
            || octal(&head[148..156]) != Some(sum(head))
        {
            return Err(wrong("is damaged, or no archive"));
        }
        let name = head[..NAME_LIMIT].split(|byte| *byte == 0).next().unwrap_or_default();
        let name = std::str::from_utf8(name).ok().filter(|name| is_name(name) && head[345] == 0);
        let name = name.ok_or_else(|| wrong("has a file with a name none has"))?;
        let size = octal(&head[124..136]).and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= rest.len()).ok_or_else(|| wrong("is cut short"))?;
        pieces.push(Piece::new(name, &rest[..size]));
        bytes = rest.get(size.next_multiple_of(RECORD)..).ok_or_else(|| wrong("is cut short"))?;
    }
}

/// A relative path that leads nowhere else.
fn is_name(name: &str) -> bool {
    name.len() < NAME_LIMIT
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn head(name: &str, size: usize) -> [u8; RECORD] {
    let mut head = [0; RECORD];
    let mut put = |at: usize, text: &str| head[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum = sum(&head);
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    head
}

/// The sum of a head, its own field taken for spaces.
fn sum(head: &[u8]) -> u64 {
    let byte = |(at, byte): (usize, &u8)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) };
    head.iter().enumerate().map(byte).sum()
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(|letter| letter == ' ' || letter == '\0'), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn some() -> Vec<Piece> {
        vec![
            Piece::new("domain.xml", "<domain/>"),
            Piece::new("tpm/tpm2-00.permall", vec![7; 1500]),
            Piece::new("e", ""),
        ]
    }

    #[test]
    fn what_goes_in_comes_out_and_tar_reads_it() {
        let packed = pack(&some()).expect("a bundle");
        assert_eq!(unpack(&packed).expect("the same"), some());
        let mut longer = packed.clone();
        longer.extend([9; 3000]);
        assert_eq!(unpack(&longer).expect("the same"), some());
        let mut tar = Command::new("tar")
            .args(["-xO", "domain.xml"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        tar.stdin.take().expect("its input").write_all(&packed).expect("written");
        assert_eq!(tar.wait_with_output().expect("its end").stdout, b"<domain/>");
    }

    #[test]
    fn what_is_none_is_refused() {
        let packed = pack(&some()).expect("a bundle");
        for at in 0..RECORD {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            // the padding of a number does not matter
            assert!(unpack(&damaged).is_err() || (148..156).contains(&at), "{at}");
        }
        for end in 0..packed.len() - 2 * RECORD {
            assert!(unpack(&packed[..end]).is_err(), "{end}");
        }
        for bad in ["", "/a", "a/../b", "a//b", "ä", &"x".repeat(100)] {
            assert!(pack(&[Piece::new(bad, "")]).is_err(), "{bad}");
        }
        assert!(pack(&[Piece::new("a", vec![0; BUNDLE_LIMIT_BYTES])]).is_err());
        assert!(pack(&vec![Piece::new("a", ""); FILES_LIMIT + 1]).is_err());
    }
}
