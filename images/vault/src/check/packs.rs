//! Reading and proving packs, several at a time: one is read while others are opened and decoded.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc::channel;
use std::thread;

use block::ByteRange;
use block::sync::{Arc, Mutex, lock};

use crate::check::{Damage, Found, HookSum};
use crate::chunk::Kind;
use crate::index::PackRow;
use crate::inner::Inner;
use crate::name::{Address, Fingerprint, Shelf};
use crate::pack::{
    Entry, FOOTER_LEN, MAX_PACK_LEN, PackHead, hooks, open_entry, prove_frame, read_head, read_prints,
};
use crate::{Error, Result};

/// More threads than this would wait for the store.
const MAX_THREADS: usize = 8;

/// What reading one pack found.
#[derive(Default)]
pub(super) struct Proof {
    /// None if nothing of it can be read.
    pub(super) found: Option<Found>,
    /// Bytes read.
    pub(super) bytes: u64,
    /// Chunks and nodes that are right.
    pub(super) entries: u64,
    pub(super) damage: Vec<Damage>,
}

/// A pack and its length.
pub(super) type Listed = (Address, u64);

/// Proves packs over all cores. `coming` is called before each is read, `came` with what was found, both in the order of the list.
pub(super) fn each_proven(
    vault: &Inner,
    packs: &[Listed],
    coming: &mut dyn FnMut(&Address) -> Result<()>,
    came: &mut dyn FnMut(&Listed, Result<Proof>) -> Result<()>,
) -> Result<()> {
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get()).min(MAX_THREADS);
    thread::scope(|scope| {
        let (to_prove, asked) = channel::<(usize, Listed)>();
        let (done, proofs) = channel::<(usize, Result<Proof>)>();
        let asked = Arc::new(Mutex::new(asked));
        for _ in 0..threads {
            let (asked, done) = (asked.clone(), done.clone());
            let body = move || {
                loop {
                    let next = lock(&asked).recv();
                    let Ok((number, (pack, len))) = next else { return };
                    if done.send((number, prove(vault, pack, len))).is_err() {
                        return;
                    }
                }
            };
            thread::Builder::new()
                .name("vault-check".to_owned())
                .spawn_scoped(scope, body)
                .map_err(Error::Threads)?;
        }
        drop(done);
        let (mut given, mut early) = (0, BTreeMap::new());
        for (number, pack) in packs.iter().enumerate() {
            // one more than threads, so that none waits for this one
            while given < packs.len().min(number + threads + 1) {
                coming(&packs[given].0)?;
                to_prove.send((given, packs[given])).map_err(|_| Error::Cancelled)?;
                given += 1;
            }
            let proof = loop {
                if let Some(proof) = early.remove(&number) {
                    break proof;
                }
                let (number, proof) = proofs.recv().map_err(|_| Error::Cancelled)?;
                early.insert(number, proof);
            };
            came(pack, proof)?;
        }
        Ok(())
    })
}

fn prove(vault: &Inner, address: Address, len: u64) -> Result<Proof> {
    let name = address.name(Shelf::Packs);
    let bytes = vault.fetch(&name, MAX_PACK_LEN)?;
    let mut proof = Proof { bytes: len, ..Proof::default() };
    match prove_bytes(vault, address, &bytes, &mut proof) {
        Ok(found) => proof.found = Some(found),
        Err(error) => proof.note(error, &name)?,
    }
    Ok(proof)
}

impl Proof {
    /// Notes damage; passes on what is no damage.
    fn note(&mut self, error: Error, name: &str) -> Result<()> {
        if !error.is_damage() && !matches!(error, Error::Unsupported(_)) {
            return Err(error);
        }
        self.damage.push(Damage::of(&error, name));
        Ok(())
    }
}

fn prove_bytes(vault: &Inner, address: Address, bytes: &[u8], proof: &mut Proof) -> Result<Found> {
    let name = address.name(Shelf::Packs);
    let slice = |range: ByteRange| {
        let part = bytes.get(range.start() as usize..range.end() as usize);
        part.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged(&name, "length", "it is shorter than it says"))
    };
    let head = read_head(&vault.keys, vault.id, address, bytes.len() as u64, &slice)?;
    let prints = read_prints(&head, &slice)?;
    let bad = entries(vault, &head, &prints, bytes, proof)?;
    let body = &bytes[..bytes.len() - FOOTER_LEN];
    if proof.damage.is_empty() && crc32fast::hash(body) != head.footer.body_crc {
        proof.note(Error::damaged(&name, "footer", "the body's checksum disagrees"), &name)?;
    }
    let chunks = |entry: &Entry| (entry.record.kind == Kind::Frame).then_some(entry.record.chunks() as u8);
    Ok(Found {
        row: PackRow::of(address, bytes.len() as u64, &head.table, &prints),
        hooks: HookSum::of(hooks(&prints).map(Fingerprint::key)),
        entries: head.table.entries().map(chunks).collect(),
        bad,
    })
}

/// Opens and compares all entries of a pack. Gives those that are damaged.
fn entries(
    vault: &Inner,
    head: &PackHead,
    prints: &[Fingerprint],
    bytes: &[u8],
    proof: &mut Proof,
) -> Result<HashSet<u32>> {
    let mut bad = HashSet::new();
    for (entry, number) in head.table.entries().zip(0..) {
        let end = entry.offset as usize + entry.record.stored as usize;
        let mut sealed = bytes.get(entry.offset as usize..end).unwrap_or_default().to_vec();
        let proven = open_entry(&head.key, &head.address, number, &entry.record, &mut sealed)
            .and_then(|raw| prove_frame(&vault.keys, head, prints, number, &raw));
        match proven {
            Ok(()) => proof.entries += u64::from(entry.record.chunks().max(1)),
            Err(error) => {
                bad.insert(number);
                proof.note(error, &head.address.name(Shelf::Packs))?;
            }
        }
    }
    Ok(bad)
}
