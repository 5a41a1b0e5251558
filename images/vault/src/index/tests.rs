//! Index blobs of several sections, the table over several blobs, and a job that writes more than one.

use std::ops::ControlFlow;
use std::sync::Arc;

use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Delta, DiskId, Epoch, Extent, ExtentKind, RangeSet,
};
use block::{StateId, Time, VaultId, Visit};
use sim::{Rng, SeededEntropy, SimBlobStore, SimClock};

use super::*;
use crate::chunk::{CHUNK_SIZE, Encoding, Kind};
use crate::front::{FRONT_LEN, Front, INDEX};
use crate::key::Keys;
use crate::name::{ApplianceId, BlobId, ContentId, Shelf};
use crate::{Backup, Env, Quiet, Vault, VaultKey};

const VAULT: VaultId = VaultId::from_bytes([1; 16]);

fn address(id: u64) -> Address {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    Address { appliance: ApplianceId::from_bytes([2; 8]), id: BlobId::from_bytes(bytes) }
}

fn content_id(rng: &mut Rng) -> ContentId {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    ContentId::from_bytes(bytes)
}

/// Content of so many records in packs of 500, unsorted.
fn parts(rng: &mut Rng, count: u32) -> (Vec<PackRow>, Vec<Entry>) {
    let packs: Vec<PackRow> = (0..count.div_ceil(500))
        .map(|_| PackRow { address: address(rng.next_u64()), salt: [3; 32], len: 1 << 20 })
        .collect();
    let entries = (0..count).map(|at| Entry {
        record: Record {
            id: content_id(rng),
            stored: 100,
            raw: 84,
            kind: Kind::Chunk,
            encoding: Encoding::Raw,
        },
        pack: at / 500,
        number: at % 500,
        offset: FRONT_LEN as u32 + 100 * (at % 500),
    });
    let entries = entries.collect();
    (packs, entries)
}

#[test]
fn blobs_of_many_sections_round_trip_and_every_damage_is_named() {
    let keys = Keys::derive(&VaultKey::from_bytes([9; 32]));
    let mut rng = Rng::new(1);
    for count in [1, 4096, 4097, 20_000] {
        let (packs, entries) = parts(&mut rng, count);
        let content = IndexContent::sorted(packs, entries);
        let front = Front { format: INDEX, vault: VAULT, address: address(7), salt: [8; 32] };
        let bytes = encode_blob(&keys, &front, &content);
        assert_eq!(decode_blob(&keys, VAULT, address(7), &bytes).unwrap(), content);
        assert!(bytes.len() as u64 <= MAX_INDEX_LEN);
        for _ in 0..200 {
            let mut hurt = bytes.clone();
            let at = rng.below(hurt.len() as u64) as usize;
            match rng.chance(1, 2) {
                true => hurt.truncate(at),
                false => hurt[at] ^= 1 << rng.below(8),
            }
            let error = decode_blob(&keys, VAULT, address(7), &hurt).expect_err("it is damaged");
            assert!(error.to_string().contains(&address(7).name(Shelf::Index)), "{error}");
        }
    }
}

#[test]
fn every_place_is_found_whichever_way_the_table_came_to_be() {
    let mut rng = Rng::new(2);
    let mut contents = Vec::new();
    for _ in 0..4 {
        let (packs, mut entries) = parts(&mut rng, 1500);
        // some ids again, as when a chunk was stored anew
        if let Some(IndexContent { entries: before, .. }) = contents.last() {
            let before: &Vec<Entry> = before;
            entries.iter_mut().zip(before).take(300).for_each(|(entry, old)| entry.record.id = old.record.id);
        }
        contents.push(IndexContent::sorted(packs, entries));
    }
    let at_once = Index::of(&contents);
    let one_by_one = contents.iter().fold(Index::default(), |index, content| index.with(content));
    let places = |index: &Index, id: &ContentId| -> Vec<(Address, u32)> {
        index.find(id).map(|spot| (spot.pack.address, spot.entry.number)).collect()
    };
    let mut several = 0;
    for content in &contents {
        for entry in content.entries.iter().step_by(7) {
            let id = entry.record.id;
            let wanted: Vec<(Address, u32)> = contents
                .iter()
                .rev()
                .flat_map(|content| content.entries.iter().map(move |entry| (content, entry)))
                .filter(|(_, entry)| entry.record.id == id)
                .map(|(content, entry)| (content.packs[entry.pack as usize].address, entry.number))
                .collect();
            several += u32::from(wanted.len() > 1);
            assert_eq!(places(&at_once, &id), wanted, "newest first");
            assert_eq!(places(&one_by_one, &id), wanted, "newest first");
        }
    }
    assert!(several > 50);
    assert!(at_once.find(&ContentId::from_bytes([0; 32])).next().is_none());
    assert!(contents.iter().flat_map(|content| &content.packs).all(|pack| at_once.knows(&pack.address)));
}

/// Each chunk is unique and nearly empty.
struct Numbered(u64);

impl BlockSource for Numbered {
    fn size(&self) -> ByteCount {
        ByteCount::new(self.0 * CHUNK_SIZE)
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        buf.fill(0);
        for (at, chunk) in buf.chunks_mut(CHUNK_SIZE as usize).enumerate() {
            chunk[..8].copy_from_slice(&(offset.get() / CHUNK_SIZE + at as u64 + 1).to_le_bytes());
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        if !range.is_empty() && visit(Extent { range, kind: ExtentKind::Data }) == ControlFlow::Break(()) {
            return Ok(());
        }
        Ok(())
    }
}

#[test]
fn a_long_job_writes_several_packs_and_indexes_and_deduplicates_over_all() {
    let env = Env { clock: Arc::new(SimClock::default()), entropy: Arc::new(SeededEntropy::new(1)) };
    let store = SimBlobStore::new();
    let vault = Vault::create(Arc::new(store.clone()), VaultKey::from_bytes([9; 32]), &env).unwrap();
    let source = Arc::new(Numbered(17_000));
    let backup = |vault: &Vault| {
        let size = source.size();
        let request = Backup {
            item: "long",
            disk: DiskId::from_bytes([1; 16]),
            state: StateId::from_bytes([2; 16]),
            base: None,
            epoch: Epoch::new(1),
            time: Time::default(),
            size,
            delta: Delta { source: source.clone(), changed: RangeSet::whole(size) },
            progress: &Quiet,
        };
        vault.backup(&request).unwrap()
    };
    let first = backup(&vault);
    assert_eq!((first.chunks_new, first.chunks_reused), (17_000, 0));
    let shelf = |shelf: Shelf| vault.inner.addresses(shelf).unwrap().len();
    assert_eq!((shelf(Shelf::Packs), shelf(Shelf::Index)), (3, 2));
    drop(vault);
    let vault = Vault::open(Arc::new(store), VaultKey::from_bytes([9; 32]), &env).unwrap();
    assert_eq!(backup(&vault).chunks_reused, 17_000);
    let image = vault.image(&first.manifest).unwrap();
    for chunk in (0..17_000).step_by(97) {
        let mut number = [0; 8];
        image.read_at(ByteOffset::new(chunk * CHUNK_SIZE), &mut number).unwrap();
        assert_eq!(u64::from_le_bytes(number), chunk + 1);
    }
    assert!(vault.check(&Quiet).unwrap().is_clean());
}
