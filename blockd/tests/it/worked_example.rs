//! The worked example of the literature: a disk of ten blocks A1 to A10. A full backup takes all; after A2 A3 A4 A9
//! change the next takes exactly those; after A5 changes, exactly that one. Every point restores, in any order, after
//! any other is gone.

use crate::fixture::{Daemon, State};
use block::BLOCK_SIZE;
use control::{ChangeKind, ChangesQuery, DeletePointQuery, TransferKind};

const BLOCKS: u64 = 10;

/// The disk, the names of its three points, and what each must hold.
fn tell(daemon: &Daemon, disk: &str) -> Vec<(String, Vec<u8>)> {
    daemon.create(disk, BLOCKS * BLOCK_SIZE);
    let mut told: Vec<(String, Vec<u8>)> = Vec::new();
    let mut content = Vec::new();
    for (round, changed) in [(1..=BLOCKS).collect(), vec![2, 3, 4, 9], vec![5]].into_iter().enumerate() {
        content.resize((BLOCKS * BLOCK_SIZE) as usize, 0);
        for block in &changed {
            let start = (block - 1) * BLOCK_SIZE;
            let bytes = vec![(round as u8 + 1) * 16 + *block as u8; BLOCK_SIZE as usize];
            daemon.write(disk, start, &bytes);
            content[start as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        if let Some((before, _)) = told.last() {
            assert_eq!(named(daemon, disk, before), changed, "the change map names exactly what changed");
        }
        let job = daemon.backup(disk);
        assert_eq!(job.error, None);
        let kind = if round == 0 { TransferKind::Full } else { TransferKind::Incremental };
        assert_eq!(job.kind, Some(kind));
        assert_eq!(job.bytes_changed, changed.len() as u64 * BLOCK_SIZE, "exactly those are transferred");
        told.push((job.point.expect("a point"), content.clone()));
    }
    told
}

/// The numbers of the blocks that changed since a point.
fn named(daemon: &Daemon, disk: &str, since: &str) -> Vec<u64> {
    let query = ChangesQuery { since: Some(since.to_owned()), until: None };
    let changes = daemon.client().changes(disk, &query).expect("changes");
    assert!(changes.ranges.iter().all(|range| range.kind == ChangeKind::Data));
    let blocks = changes.ranges.iter().flat_map(|range| {
        assert_eq!((range.offset % BLOCK_SIZE, range.length % BLOCK_SIZE), (0, 0));
        range.offset / BLOCK_SIZE..(range.offset + range.length) / BLOCK_SIZE
    });
    blocks.map(|block| block + 1).collect()
}

#[test]
fn every_point_restores_in_any_order_after_any_other_is_gone() {
    let state = State::new();
    let daemon = state.start();
    for (number, [first, second, third]) in
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].into_iter().enumerate()
    {
        let disk = format!("example-{number}");
        let told = tell(&daemon, &disk);
        let restored = |point: usize, stage: &str| {
            let (name, content) = &told[point];
            let to = format!("{disk}-{stage}-{point}");
            assert_eq!(daemon.restore(name, &to).error, None);
            assert_eq!(daemon.read(&to), *content, "{name} restored as {to}");
            assert_eq!(daemon.read(name), *content, "{name} as an export");
        };
        for point in [third, first, second] {
            restored(point, "all");
        }
        for (gone, left) in [(first, vec![third, second]), (second, vec![third])] {
            let everywhere = DeletePointQuery::default();
            daemon.client().delete_point(&told[gone].0, &everywhere).expect("deleted");
            assert!(daemon.try_export(&told[gone].0).is_err(), "a deleted point is not exported");
            left.iter().for_each(|&point| restored(point, &format!("without-{gone}")));
        }
    }
}

#[test]
fn a_point_restores_from_the_vault_alone() {
    let state = State::new();
    let daemon = state.start();
    let told = tell(&daemon, "example");
    daemon.client().delete_disk("example").expect("deleted");
    for (name, content) in told.iter().rev() {
        let point = daemon.client().point(name).expect("still there");
        assert_eq!(point.tiers, [control::Tier::Vault]);
        assert_eq!(daemon.read(name), *content);
    }
    // the name is free again, and an earlier disk's points do not stand in its way
    assert_eq!(daemon.restore(&told[0].0, "example").error, None);
    assert_eq!(daemon.read("example"), told[0].1);
}
