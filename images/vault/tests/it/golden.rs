//! Golden vaults: a small vault as each released format wrote it, committed beside the tests. Every later version must open it, give back
//! every byte, and build on it. `BLOCKD_GOLDEN=DIR cargo test -p blockd-vault --test it golden` writes those of the present format: one as backups
//! leave it, and one whose oldest point was deleted, so that sweeps wrote a pack anew.

use std::path::Path;
use std::sync::Arc;

use block::linux::LinuxMedia;
use block::{BlobStore, ByteCount, ByteOffset, Delta, DiskId, Epoch, MemoryDisk, RangeSet, StateId, Time};
use block::{BlockDevice, ByteRange};
use vault::{Backup, Compression, DirectoryStore, ManifestId, Options, PointKind, Quiet, Vault};

use crate::world::{Anything, env, key, restore};

const SIZE: usize = 90 * 4096 + 513;

/// The disk at its two points: what compresses, what does not, zeros that were written, holes, and a short last block.
fn content(point: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[..20 * 4096].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 100) as u8);
    bytes[40 * 4096..52 * 4096].copy_from_slice(&sim::Rng::new(7).bytes(12 * 4096));
    bytes[SIZE - 100..].fill(0xee);
    if point == 0 {
        // what goes with this point, and leaves little of its pack
        bytes[54 * 4096..89 * 4096].copy_from_slice(&sim::Rng::new(9).bytes(35 * 4096));
    }
    if point == 2 {
        bytes[45 * 4096..46 * 4096].copy_from_slice(&sim::Rng::new(8).bytes(4096));
        bytes[60 * 4096..61 * 4096].fill(0x11);
        bytes[..4096].fill(0);
    }
    bytes
}

fn backup(vault: &Vault, point: u64, base: Option<ManifestId>, changed: RangeSet) -> ManifestId {
    let size = ByteCount::new(SIZE as u64);
    let disk = MemoryDisk::new(size);
    disk.write_at(ByteOffset::ZERO, &content(point)).expect("written");
    let request = Backup {
        item: "golden",
        disk: DiskId::from_bytes([1; 16]),
        state: StateId::from_bytes([point as u8; 16]),
        base,
        epoch: Epoch::new(point),
        time: Time { unix_ms: 1000 * point },
        size,
        delta: Delta { source: Arc::new(disk), changed },
        progress: &Quiet,
    };
    vault.backup(&request).expect("a backup").manifest
}

fn make(store: Arc<dyn BlobStore>, moved: bool) {
    drop(Vault::create(store.clone(), key(), &env()).expect("a vault"));
    let open = |compression| {
        let options = Options { compression, gate: Arc::new(Anything), ..Options::default() };
        Vault::open_with(store.clone(), key(), &env(), options).expect("it opens")
    };
    let whole = RangeSet::whole(ByteCount::new(SIZE as u64));
    let oldest = moved.then(|| backup(&open(Compression::default()), 0, None, whole.clone()));
    let first = backup(&open(Compression::default()), 1, None, whole);
    let changed = [(0, 1), (45, 46), (60, 61)].map(|(from, to)| ByteRange::between(from * 4096, to * 4096));
    backup(&open(Compression::Lz4), 2, Some(first), changed.into_iter().collect());
    if let Some(oldest) = oldest {
        let vault = open(Compression::default());
        vault.delete_point(&oldest).expect("deleted");
        // the first writes anew what is needed, the second deletes the old pack
        let reports = [(); 2].map(|()| vault.sweep(&Quiet).expect("a sweep"));
        assert_eq!((reports[0].rewritten.len(), reports[1].deleted.len()), (1, 1), "{reports:?}");
    }
}

fn directory(root: &Path) -> Arc<DirectoryStore> {
    Arc::new(
        DirectoryStore::open(Arc::new(LinuxMedia::new(root, root).expect("a media")), "").expect("a store"),
    )
}

fn is_as_it_was(vault: &Vault) {
    let points = vault.points().expect("points");
    let about: Vec<_> =
        points.iter().map(|point| (point.epoch.get(), point.kind, point.item.as_str())).collect();
    assert_eq!(about, [(1, PointKind::Full, "golden"), (2, PointKind::Incremental, "golden")]);
    for (point, number) in points.iter().zip(1..) {
        assert!(restore(vault, &point.manifest).expect("it restores") == content(number), "point {number}");
    }
    let report = vault.check(&Quiet).expect("a check");
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn every_released_format_opens_and_is_built_on() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let versions: Vec<_> =
        std::fs::read_dir(golden).expect("golden vaults").map(|entry| entry.expect("an entry")).collect();
    assert!(!versions.is_empty());
    for version in versions {
        // to be read where it lies
        let path = version.path();
        let media = Arc::new(LinuxMedia::new(&path, &path).expect("a media"));
        let store = Arc::new(DirectoryStore::open_read_only(media, "").expect("a store"));
        is_as_it_was(&Vault::open(store, key(), &env()).expect("it opens"));
        // and a copy of it to be written
        let dir = tempfile::tempdir().expect("a directory");
        let copied = std::process::Command::new("cp").arg("-r").arg(path.join(".")).arg(dir.path()).status();
        assert!(copied.expect("cp runs").success());
        let vault = Vault::open(directory(dir.path()), key(), &env()).expect("it opens");
        let base = vault.points().expect("points").pop().expect("the second").manifest;
        let next = backup(&vault, 2, Some(base), RangeSet::new());
        assert!(restore(&vault, &next).expect("it restores") == content(2));
        let full = backup(&vault, 1, None, RangeSet::whole(ByteCount::new(SIZE as u64)));
        assert!(restore(&vault, &full).expect("it restores") == content(1));
        let reused = vault.points().expect("points").into_iter().find(|point| point.manifest == full);
        assert_eq!(reused.map(|point| point.chunks_new), Some(0), "what the old version stored is found");
        assert!(vault.check(&Quiet).expect("a check").is_clean());
    }
}

#[test]
fn what_writes_a_golden_vault_writes_a_right_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let given = std::env::var_os("BLOCKD_GOLDEN");
    let root = given.as_deref().map_or(dir.path(), Path::new);
    for (name, moved) in [("v1", false), ("v1-moved", true)] {
        let root = root.join(name);
        std::fs::create_dir(&root).expect("a directory");
        make(directory(&root), moved);
        assert_eq!(root.join("moved").exists(), moved);
        is_as_it_was(&Vault::open(directory(&root), key(), &env()).expect("it opens"));
    }
}
