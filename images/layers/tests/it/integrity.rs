//! Flipped bits in sealed layers: found, named, and only where they are.

use crate::common::env;
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, Epoch, Kind, StateId};
use layers::{Disk, HurtBlock};
use sim::{Cut, Rng, SimMedia};
use std::sync::Arc;

/// More than two pages of sums.
const BLOCKS: u64 = 2_200;

fn new(media: &SimMedia) -> Arc<Disk> {
    let size = ByteCount::new(BLOCKS * 4096);
    Disk::create(&env(media, &mut Rng::new(1)), "d", DiskId::from_bytes([1; 16]), size).unwrap()
}

fn reopen(media: &SimMedia, disk: Arc<Disk>) -> Arc<Disk> {
    disk.close().unwrap();
    drop(disk);
    Disk::open(&env(media, &mut Rng::new(2)), "d").unwrap()
}

fn fill(disk: &Disk, first: u64, count: u64, byte: u8) {
    disk.write_at(ByteOffset::new(first * 4096), &vec![byte; count as usize * 4096]).unwrap();
}

fn sum(disk: &Disk) {
    assert!(disk.make_sums(&mut |_| true).unwrap());
}

fn read(source: &dyn BlockSource, block: u64) -> block::Result<u8> {
    let mut byte = [0];
    source.read_at(ByteOffset::new(block * 4096 + 77), &mut byte)?;
    Ok(byte[0])
}

/// The block an error names.
fn hurt(disk: &Disk, error: &block::Error) -> HurtBlock {
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    let named = disk.damage_met().into_iter().find(|hurt| error.to_string().contains(&hurt.to_string()));
    named.unwrap_or_else(|| panic!("{error}"))
}

fn point(disk: &Arc<Disk>, state: StateId) -> Arc<dyn BlockSource> {
    disk.point_source(state).unwrap()
}

const FIRST_LAYER: &str = "d/0000000000000001.layer";

#[test]
fn a_flipped_bit_is_an_error_for_its_block_that_names_who_has_it() {
    let media = SimMedia::new();
    let disk = new(&media);
    fill(&disk, 0, 100, 1);
    let first = disk.seal().unwrap().state;
    fill(&disk, 50, 10, 2);
    let second = disk.seal().unwrap().state;
    sum(&disk);
    let disk = reopen(&media, disk);
    for block in [7, 55] {
        media.flip_bit(FIRST_LAYER, block * 4096 + 1234, 3);
    }
    // hidden from the second point and the live disk by what was written since
    let error = read(&*point(&disk, first), 55).unwrap_err();
    let named = hurt(&disk, &error);
    assert_eq!((named.block, &*named.layer, named.is_live), (55, FIRST_LAYER, false));
    assert_eq!(named.points, [Epoch::new(1)]);
    for part in [FIRST_LAYER, "disk 0101", "block 55", "point 1"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(read(&*point(&disk, second), 55).unwrap(), 2);
    // seen by both points and the live disk
    for source in [point(&disk, first), point(&disk, second), disk.clone() as Arc<dyn BlockSource>] {
        let named = hurt(&disk, &read(&*source, 7).unwrap_err());
        assert_eq!((named.points.len(), named.is_live), (2, true));
        assert_eq!([read(&*source, 6).unwrap(), read(&*source, 8).unwrap()], [1, 1], "neighbours read on");
        let mut many = vec![0; 16 * 4096];
        assert_eq!(hurt(&disk, &source.read_at(ByteOffset::new(100), &mut many).unwrap_err()).block, 7);
    }
    assert_eq!(disk.damage_met().len(), 2);
    // a part of a hurt block cannot be completed from below; all of it can be replaced
    assert_eq!(disk.write_at(ByteOffset::new(7 * 4096), &[9; 512]).unwrap_err().kind(), Kind::Corrupt);
    fill(&disk, 7, 1, 9);
    assert_eq!(read(&*disk, 7).unwrap(), 9);
    assert_eq!(hurt(&disk, &read(&*point(&disk, second), 7).unwrap_err()).block, 7);
}

#[test]
fn a_scrub_names_every_hurt_range_and_its_points() {
    let media = SimMedia::new();
    let disk = new(&media);
    fill(&disk, 0, BLOCKS, 1);
    disk.seal().unwrap();
    fill(&disk, 1_000, 10, 2);
    disk.seal().unwrap();
    let before = disk.scrub(&mut |_| true).unwrap();
    assert_eq!(before.unverified, before.bytes_read, "nothing is summed yet");
    sum(&disk);
    let clean = disk.scrub(&mut |_| true).unwrap();
    assert_eq!((clean.layers, clean.unverified.get(), clean.hurt.len()), (2, 0, 0));
    assert_eq!(clean.bytes_read.get(), (BLOCKS + 10) * 4096);
    assert_eq!(disk.sealed_bytes().unwrap(), clean.bytes_read);
    for block in [3, 4, 991, 992, 999, 1_000, BLOCKS - 1] {
        media.flip_bit(FIRST_LAYER, block * 4096 + block % 4096, (block % 8) as u8);
    }
    let found = disk.scrub(&mut |_| true).unwrap();
    let mut ranges: Vec<_> = found
        .hurt
        .iter()
        .map(|hurt| {
            (hurt.range.start() / 4096, hurt.range.count().get() / 4096, hurt.points.len(), hurt.is_live)
        })
        .collect();
    ranges.sort_unstable();
    let both = |first, count| (first, count, 2, true);
    assert_eq!(ranges, [both(3, 2), both(991, 2), both(999, 1), (1_000, 1, 1, false), both(BLOCKS - 1, 1)]);
    assert_eq!(found.bytes_hurt.get(), 7 * 4096);
    assert!(found.hurt.iter().all(|hurt| hurt.file == FIRST_LAYER));
    let stopped = disk.scrub(&mut |_| false).unwrap();
    assert_eq!(stopped.layers, 1, "it stops when told to");
}

#[test]
fn the_live_disk_verifies_at_the_first_read_and_again_when_a_blocks_owner_changed() {
    let media = SimMedia::new();
    let disk = new(&media);
    fill(&disk, 0, 64, 1);
    let first = disk.seal().unwrap().state;
    sum(&disk);
    assert_eq!(read(&*disk, 5).unwrap(), 1);
    media.flip_bit(FIRST_LAYER, 5 * 4096, 0);
    media.flip_bit(FIRST_LAYER, 6 * 4096, 0);
    assert_eq!(read(&*disk, 5).unwrap(), 1, "verified since the open: not looked at again");
    assert!(read(&*disk, 6).is_err(), "not yet read since the open");
    assert!(read(&*point(&disk, first), 5).is_err(), "a point is verified at every read");
    // another layer owns block 5 now, and it is hurt there
    fill(&disk, 5, 1, 2);
    disk.seal().unwrap();
    sum(&disk);
    let layers: Vec<_> = media.files().into_iter().filter(|(name, _)| name.ends_with(".layer")).collect();
    media.flip_bit(&layers[1].0, 5 * 4096, 0);
    assert_eq!(hurt(&disk, &read(&*disk, 5).unwrap_err()).layer, layers[1].0);
    let disk = reopen(&media, disk);
    assert!(read(&*disk, 6).is_err());
    assert_eq!(read(&*disk, 7).unwrap(), 1);
}

#[test]
fn damage_older_than_a_fold_is_found_after_it() {
    let media = SimMedia::new();
    let disk = new(&media);
    fill(&disk, 0, 1_500, 1);
    let first = disk.seal().unwrap().state;
    fill(&disk, 10, 5, 2);
    let second = disk.seal().unwrap().state;
    sum(&disk);
    for block in [3, 12, 1_400] {
        media.flip_bit(FIRST_LAYER, block * 4096, 0);
    }
    assert_eq!(read(&*disk, 2).unwrap(), 1);
    disk.delete_point(first).unwrap();
    disk.fold_all().unwrap();
    assert_eq!(disk.usage().unwrap().layers, 2, "folded");
    for block in [3, 1_400] {
        assert_eq!(hurt(&disk, &read(&*disk, block).unwrap_err()).points, [Epoch::new(2)]);
        assert!(read(&*point(&disk, second), block).is_err());
    }
    assert_eq!([read(&*disk, 2).unwrap(), read(&*disk, 12).unwrap()], [1, 2]);
    let found = disk.scrub(&mut |_| true).unwrap();
    assert_eq!((found.bytes_hurt.get(), found.unverified.get()), (2 * 4096, 0));
    // and after another open
    let disk = reopen(&media, disk);
    assert!(read(&*disk, 3).is_err());
}

/// What is folded without sums gets none: they are made later, of what is there.
#[test]
fn folds_with_and_without_sums_end_whole() {
    for summed in 0..4 {
        let media = SimMedia::new();
        let disk = new(&media);
        fill(&disk, 0, 1_200, 1);
        let first = disk.seal().unwrap().state;
        if summed & 1 != 0 {
            sum(&disk);
        }
        fill(&disk, 900, 300, 2);
        disk.seal().unwrap();
        if summed & 2 != 0 {
            sum(&disk);
        }
        disk.delete_point(first).unwrap();
        disk.fold_all().unwrap();
        sum(&disk);
        let found = disk.scrub(&mut |_| true).unwrap();
        assert_eq!((found.hurt.len(), found.unverified.get()), (0, 0), "{summed}");
        let disk = reopen(&media, disk);
        assert_eq!([read(&*disk, 899).unwrap(), read(&*disk, 900).unwrap()], [1, 2]);
        let sums = media.files().iter().filter(|(name, _)| name.ends_with(".sums")).count();
        assert_eq!(sums, 1, "no sums file is left behind");
    }
}

#[test]
fn making_sums_goes_on_where_a_crash_ended_it() {
    let media = SimMedia::new();
    let disk = new(&media);
    fill(&disk, 0, BLOCKS, 1);
    disk.seal().unwrap();
    let mut first = 0;
    let all = disk.make_sums(&mut |bytes| {
        first += bytes.get();
        false
    });
    assert!(!all.unwrap());
    assert_eq!(first, 992 * 4096);
    drop(disk);
    for power in [false, true] {
        let fork = media.fork();
        let after = if power { fork.power_cut(&mut Rng::new(3)) } else { fork.process_crash() };
        let disk = Disk::open(&env(&after, &mut Rng::new(4)), "d").unwrap();
        let mut second = 0;
        disk.make_sums(&mut |bytes| {
            second += bytes.get();
            true
        })
        .unwrap();
        assert_eq!(second, (BLOCKS - 992) * 4096, "what was made stays made, power {power}");
        assert_eq!(disk.scrub(&mut |_| true).unwrap().unverified.get(), 0);
        sum(&disk);
    }
}

/// At every call of making sums the power may go: no healthy block is ever called hurt, and the sums come to be.
#[test]
fn a_power_cut_while_sums_are_made_hurts_nothing() {
    let mut cuts = 0;
    for cut in 0.. {
        let media = SimMedia::new();
        let disk = new(&media);
        fill(&disk, 0, 1_100, 1);
        disk.seal().unwrap();
        media.crash_after(cut, Cut::BeforeEffect);
        let made = disk.make_sums(&mut |_| true);
        drop(disk);
        for seed in 0..4 {
            let media = media.fork().power_cut(&mut Rng::new(seed));
            let disk = Disk::open(&env(&media, &mut Rng::new(5)), "d").unwrap();
            assert_eq!(disk.scrub(&mut |_| true).unwrap().hurt, [], "cut {cut}");
            sum(&disk);
            assert_eq!(read(&*disk, 1_099).unwrap(), 1);
        }
        cuts += 1;
        if made.is_ok() {
            break;
        }
    }
    assert!(cuts > 10, "only {cuts} places to cut");
}

/// Whatever bit of a whole sums file flips: the data is never wrong, and the file or the block is named.
#[test]
fn a_flipped_bit_in_the_sums_is_found_or_harmless() {
    let healthy = SimMedia::new();
    let disk = Disk::create(
        &env(&healthy, &mut Rng::new(1)),
        "d",
        DiskId::from_bytes([1; 16]),
        ByteCount::new(3 * 4096),
    )
    .unwrap();
    fill(&disk, 0, 3, 1);
    disk.seal().unwrap();
    sum(&disk);
    disk.close().unwrap();
    drop(disk);
    let files = healthy.files();
    let (name, len) = files.iter().find(|(name, _)| name.ends_with(".sums")).unwrap();
    let mut found = 0;
    for bit in (0..len * 8).filter(|bit| bit % 8 == bit / 8 % 8) {
        let media = healthy.fork();
        media.flip_bit(name, bit / 8, (bit % 8) as u8);
        let read = Disk::open(&env(&media, &mut Rng::new(2)), "d")
            .map_err(block::Error::from)
            .and_then(|disk| (0..3).map(|block| read(&*disk, block)).collect::<block::Result<Vec<_>>>());
        match read {
            Ok(bytes) => assert_eq!(bytes, [1, 1, 1], "bit {bit}"),
            Err(error) => {
                found += 1;
                assert!(error.to_string().contains(name), "bit {bit}: {error}");
                assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "bit {bit}: {error}");
            }
        }
    }
    assert!(found >= 4_000, "only {found} flips were noticed");
}

#[test]
fn zeros_need_no_sums() {
    let media = SimMedia::new();
    let disk = new(&media);
    disk.discard(ByteRange::between(0, BLOCKS * 4096)).unwrap();
    disk.seal().unwrap();
    sum(&disk);
    assert_eq!(disk.scrub(&mut |_| true).unwrap().bytes_read.get(), 0);
    assert_eq!(read(&*disk, 9).unwrap(), 0);
}
