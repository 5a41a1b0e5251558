//! Trims and zeroes: zeros to whoever asks what changed, space to the host, next to nothing to an increment.

use crate::fixture::{Daemon, State, noise};
use block::{BlockDevice, BlockSource, ByteOffset, ByteRange, Provision};
use control::{Change, ChangeKind, ChangesQuery, TransferKind};
use std::fs;
use std::os::unix::fs::MetadataExt;

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Bytes of the host that the layers of all disks take.
fn held(state: &State) -> u64 {
    let layers = state.files("disks").into_iter().filter(|path| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
        ending.is_some_and(|ending| ending.starts_with("layer"))
    });
    layers.map(|path| fs::metadata(path).expect("a layer").blocks() * 512).sum()
}

fn changes(daemon: &Daemon, since: &str) -> Vec<Change> {
    let query = ChangesQuery { since: Some(since.to_owned()), until: None };
    daemon.client().changes("web", &query).expect("changes").ranges
}

#[test]
fn what_is_trimmed_or_zeroed_goes_back_to_the_host_and_costs_an_increment_nothing() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 64 * MIB);
    let export = daemon.export("web");
    let content = noise(1, 32 << 20);
    export.write_at(ByteOffset::ZERO, &content).and_then(|()| export.flush()).expect("written");
    let full = held(&state);
    assert!(full >= 32 * MIB, "{full}");
    // not on edges of anything: what is left of the blocks at the edges stays
    export.discard(ByteRange::between(MIB + 512, 11 * MIB + 100)).expect("trimmed");
    export.zero(ByteRange::between(20 * MIB, 30 * MIB), Provision::Sparse).expect("zeroed");
    let trimmed = held(&state);
    assert!(full - trimmed >= 20 * MIB - 2 * 4096, "{full} were held, {trimmed} are");
    let first = daemon.backup("web");
    assert!(first.bytes_stored < 13 * MIB, "{first:?}");
    let name = first.point.expect("a point");
    // of what a point holds nothing can go back, and it is zeros for the guest all the same
    export.write_at(ByteOffset::new(40 * MIB), &content[..MIB as usize]).expect("written");
    export.discard(ByteRange::between(0, 41 * MIB)).expect("trimmed");
    assert!(held(&state) < trimmed + 64 * 1024, "what was written since the point went back");
    assert_eq!(changes(&daemon, &name), [Change { offset: 0, length: 41 * MIB, kind: ChangeKind::Zero }]);
    let job = daemon.backup("web");
    assert_eq!(job.kind, Some(TransferKind::Incremental));
    assert_eq!((job.bytes_read, job.chunks_new), (0, 0), "{job:?}");
    assert!(job.bytes_stored < 4096, "{job:?}");
    assert!(daemon.read(&job.point.expect("a point")).iter().all(|&byte| byte == 0));
    let mut expected = content;
    expected.resize(64 << 20, 0);
    expected[(MIB + 4096) as usize..(11 * MIB) as usize].fill(0);
    expected[(20 * MIB) as usize..(30 * MIB) as usize].fill(0);
    assert!(daemon.read(&name) == expected);
    drop(export);
    assert!(daemon.stop().success());
}

#[test]
fn trimming_terabytes_is_quick_and_its_increment_small() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 16 * TIB);
    let export = daemon.export("web");
    let piece = noise(2, 1 << 20);
    for tib in 0..16 {
        export.write_at(ByteOffset::new(tib * TIB + 4096), &piece).expect("written");
    }
    let first = daemon.backup("web").point.expect("a point");
    for tib in 0..15 {
        // as blkdiscard does it: in pieces as large as a request may be
        let (start, end) = (tib * TIB, (tib + 1) * TIB);
        (start..end).step_by(2 << 30).for_each(|at| {
            export.discard(ByteRange::between(at, at + (2 << 30))).expect("trimmed");
        });
    }
    assert_eq!(changes(&daemon, &first), [Change { offset: 0, length: 15 * TIB, kind: ChangeKind::Zero }]);
    let job = daemon.backup("web");
    assert_eq!((job.kind, job.bytes_changed), (Some(TransferKind::Incremental), 15 * TIB), "{job:?}");
    assert_eq!((job.bytes_read, job.chunks_new), (0, 0), "{job:?}");
    assert!(job.bytes_stored < 64 * 1024, "{job:?}");
    let point = daemon.export(&job.point.expect("a point"));
    let mut bytes = vec![1; 1 << 20];
    point.read_at(ByteOffset::new(14 * TIB + 4096), &mut bytes).expect("read");
    assert!(bytes.iter().all(|&byte| byte == 0));
    point.read_at(ByteOffset::new(15 * TIB + 4096), &mut bytes).expect("read");
    assert!(bytes == piece);
    drop((export, point));
    assert!(daemon.stop().success());
}
