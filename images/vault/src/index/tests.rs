//! Index blobs of several sections, and a job that writes more than one.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Delta, DiskId, Epoch, Extent, ExtentKind, Media, OpenHow,
    RangeSet,
};
use block::{StateId, Time, VaultId, Visit};
use sim::{Rng, SeededEntropy, SimBlobStore, SimClock, SimMedia};

use super::*;
use crate::chunk::CHUNK_SIZE;
use crate::distrust::Distrust;
use crate::front::{Front, INDEX};
use crate::key::Keys;
use crate::name::{ApplianceId, BlobId, Shelf};
use crate::{Backup, Env, Quiet, Vault, VaultKey};

const VAULT: VaultId = VaultId::from_bytes([1; 16]);

fn address(id: u64) -> Address {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&id.to_be_bytes());
    Address { appliance: ApplianceId::from_bytes([2; 8]), id: BlobId::from_bytes(bytes) }
}

/// Content of one or two packs with so many hooks.
fn content(rng: &mut Rng, count: u32) -> IndexContent {
    let packs = (0..1 + count % 2).map(|_| {
        let row = PackRow { address: address(rng.next_u64()), len: 1 << 20, entries: 9, chunks: 500 };
        (row, (0..count / 2).map(|_| rng.next_u64()).collect())
    });
    IndexContent::of(packs.collect())
}

#[test]
fn blobs_of_many_sections_round_trip_and_every_damage_is_named() {
    let keys = Keys::derive(&VaultKey::from_bytes([9; 32]));
    let mut rng = Rng::new(1);
    // an index has at most every chunk of its packs
    for count in [0, 1, 3, 2000, 2001] {
        let content = content(&mut rng, count);
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
fn the_newest_pack_that_has_a_key_is_found() {
    let mut rng = Rng::new(2);
    let (old, new) = (content(&mut rng, 500), content(&mut rng, 500));
    let again: Vec<Hook> = old.hooks.iter().step_by(3).map(|hook| Hook { key: hook.key, pack: 0 }).collect();
    let newest = IndexContent { packs: new.packs.clone(), hooks: again.clone() };
    let mut hooks = Hooks::default();
    for (number, content) in (0..).zip([&old, &new, &newest]) {
        hooks.add(address(number), content, &Distrust::default()).unwrap();
    }
    for hook in &old.hooks {
        let is_again = again.iter().any(|again| again.key == hook.key);
        let wanted = if is_again { newest.packs[0] } else { old.packs[hook.pack as usize] };
        assert_eq!(hooks.find(hook.key, &Distrust::default()).unwrap(), Some(wanted.address));
    }
    assert_eq!(hooks.find(rng.next_u64(), &Distrust::default()).unwrap(), None);
}

/// Many index blobs through the cache's files, opened anew at every step, against a plain map.
#[test]
fn cached_hooks_say_the_same_as_a_map() {
    let media = SimMedia::new();
    let mut rng = Rng::new(3);
    let mut model: HashMap<u64, Address> = HashMap::new();
    let mut blobs: Vec<(Address, IndexContent)> = Vec::new();
    for number in 0..60 {
        let mut next = content(&mut rng, 300);
        let repeated = model.keys().copied().take(20).map(|key| Hook { key, pack: 0 });
        next.hooks.extend(repeated.collect::<Vec<_>>());
        next.hooks.sort_unstable();
        next.hooks.dedup_by_key(|hook| hook.key);
        let mut hooks = Hooks::open(Arc::new(media.clone()), VAULT).unwrap();
        blobs.push((address(number), next.clone()));
        let missing = blobs.iter().filter(|(index, _)| !hooks.covers(index)).collect::<Vec<_>>();
        assert!(missing.len() <= 6, "most of it is in files: {}", missing.len());
        for (index, content) in missing {
            hooks.add(*index, content, &Distrust::default()).unwrap();
        }
        model.extend(next.hooks.iter().map(|hook| (hook.key, next.packs[hook.pack as usize].address)));
        for (key, pack) in &model {
            assert_eq!(hooks.find(*key, &Distrust::default()).unwrap(), Some(*pack));
        }
        assert!((0..500).all(|_| hooks.find(rng.next_u64(), &Distrust::default()).unwrap().is_none()));
    }
    assert!(media.list("").unwrap().len() < 8, "files of like size are united");
}

/// Every flipped byte of the cache costs reading the index again, and never a wrong answer.
#[test]
fn a_damaged_cache_is_forgotten() {
    let media = SimMedia::new();
    let mut rng = Rng::new(4);
    let known = content(&mut rng, 2000);
    let mut hooks = Hooks::open(Arc::new(media.clone()), VAULT).unwrap();
    hooks.add(address(1), &known, &Distrust::default()).unwrap();
    drop(hooks);
    let mut forgotten = 0;
    for entry in media.list("").unwrap() {
        let file = media.open(&entry.name, OpenHow::Write).unwrap();
        for at in (0..file.size().unwrap()).step_by(61) {
            let hurt = media.fork();
            let file = hurt.open(&entry.name, OpenHow::Write).unwrap();
            let mut byte = [0];
            file.read_at(at, &mut byte).unwrap();
            file.write_at(at, &[byte[0] ^ 4]).unwrap();
            let mut hooks = Hooks::open(Arc::new(hurt.clone()), VAULT).unwrap();
            for hook in &known.hooks {
                let found = hooks.find(hook.key, &Distrust::default()).unwrap();
                assert!(found.is_none() || found == Some(known.packs[hook.pack as usize].address));
            }
            let again = Hooks::open(Arc::new(hurt), VAULT).unwrap();
            forgotten += u64::from(!again.covers(&address(1)));
        }
    }
    assert!(forgotten > 100, "{forgotten}");
    assert!(!Hooks::open(Arc::new(media), VaultId::from_bytes([2; 16])).unwrap().covers(&address(1)));
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
    let source = Arc::new(Numbered(5000));
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
    assert_eq!((first.chunks_new, first.chunks_reused), (5000, 0));
    let shelf = |shelf: Shelf| vault.inner.addresses(shelf).unwrap().len();
    assert_eq!((shelf(Shelf::Packs), shelf(Shelf::Index)), (3, 2));
    drop(vault);
    let vault = Vault::open(Arc::new(store), VaultKey::from_bytes([9; 32]), &env).unwrap();
    assert_eq!(backup(&vault).chunks_reused, 5000);
    let image = vault.image(&first.manifest).unwrap();
    for chunk in (0..5000).step_by(97) {
        let mut number = [0; 8];
        image.read_at(ByteOffset::new(chunk * CHUNK_SIZE), &mut number).unwrap();
        assert_eq!(u64::from_le_bytes(number), chunk + 1);
    }
    assert!(vault.check(&Quiet).unwrap().is_clean());
}
