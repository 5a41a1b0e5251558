//! The model accepts what is legal and names what is not.

use block::{BLOCK_SIZE, BlockDevice, ByteCount, ByteOffset, ByteRange, MemoryDisk, Provision, RangeSet};
use sim::{Action, Agreement, ModelDisk};

const SIZE: ByteCount = ByteCount::new(3 * BLOCK_SIZE + 10);

fn write(offset: u64, len: usize, byte: u8) -> Action {
    Action::Write { offset, bytes: vec![byte; len] }
}

fn start() -> (MemoryDisk, ModelDisk) {
    (MemoryDisk::new(SIZE), ModelDisk::new(SIZE))
}

fn both(disk: &MemoryDisk, model: &mut ModelDisk, actions: &[Action]) {
    for action in actions {
        action.run(disk).unwrap();
        model.done(action);
    }
}

fn blocks(ranges: &[(u64, u64)]) -> RangeSet {
    let bytes = |block: u64| (block * BLOCK_SIZE).min(SIZE.get());
    ranges.iter().map(|&(start, end)| ByteRange::between(bytes(start), bytes(end))).collect()
}

#[track_caller]
fn says(agreement: Agreement, part: &str) {
    let why = agreement.expect_err(part).to_string();
    assert!(why.contains(part), "{why}");
}

#[test]
fn a_difference_is_named() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[write(4000, 200, 7)]);
    model.check_exact(&disk).unwrap();
    disk.write_at(ByteOffset::new(4100), &[8, 9]).unwrap();
    says(
        model.check_exact(&disk),
        "block 1 (bytes 4096..8192) differs in 2 bytes, first at 4: reads 08 09 07",
    );
    says(model.check_exact(&MemoryDisk::new(ByteCount::new(5))), "the size is 5 and should be 12298");
}

#[test]
fn after_a_cut_each_word_is_of_some_version_since_the_flush() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[write(0, 4096, 1), Action::Flush, write(0, 4096, 2), write(8, 8, 3)]);
    let put = |offset: u64, bytes: &[u8]| disk.write_at(ByteOffset::new(offset), bytes).unwrap();
    model.check_after_power_cut(&disk).unwrap();
    put(0, &[1; 8]);
    put(8, &[2; 8]);
    model.check_after_power_cut(&disk).unwrap();
    put(16, &[3; 8]);
    says(model.check_after_power_cut(&disk), "block 0");
    put(16, &[1, 1, 1, 1, 2, 2, 2, 2]);
    says(model.check_after_power_cut(&disk), "block 0");
    put(16, &[0; 8]);
    says(model.check_after_power_cut(&disk), "block 0");
    put(16, &[1; 8]);
    model.check_after_power_cut(&disk).unwrap();
    put(5000, &[1]);
    says(model.check_after_power_cut(&disk), "block 1");
}

#[test]
fn a_failed_request_leaves_each_block_old_or_new() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[write(0, 8192, 1), Action::Flush]);
    model.failed(&write(4000, 200, 2));
    model.check_exact(&disk).unwrap();
    disk.write_at(ByteOffset::new(4000), &[2; 96]).unwrap();
    model.check_exact(&disk).unwrap();
    disk.write_at(ByteOffset::new(4096), &[2; 50]).unwrap();
    says(model.check_exact(&disk), "block 1");
    disk.write_at(ByteOffset::new(4096), &[1; 50]).unwrap();
    // a later write tells nothing about the bytes beside it, a whole block settles it
    both(&disk, &mut model, &[write(0, 10, 3), write(4096, 4096, 3), Action::Flush]);
    model.check_exact(&disk).unwrap();
    model.check_after_power_cut(&disk).unwrap();
    disk.write_at(ByteOffset::new(4000), &[1; 96]).unwrap();
    model.check_exact(&disk).unwrap();
    disk.write_at(ByteOffset::new(4096), &[1; 4096]).unwrap();
    says(model.check_after_power_cut(&disk), "block 1");
}

#[test]
fn points_keep_their_content_and_changes_add_up() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[write(0, 1, 1), write(SIZE.get() - 1, 1, 1)]);
    assert_eq!(model.sealed(), 0);
    both(&disk, &mut model, &[write(4096, 4097, 2)]);
    assert_eq!(model.sealed(), 1);
    both(&disk, &mut model, &[write(0, 1, 3)]);
    let zeros = MemoryDisk::new(SIZE);
    zeros.write_at(ByteOffset::ZERO, &[1]).unwrap();
    zeros.write_at(ByteOffset::new(SIZE.get() - 1), &[1]).unwrap();
    model.check_point(0, &zeros).unwrap();
    says(model.check_point(1, &zeros), "recovery point 1: block 1");
    model.check_changes(None, Some(0), &blocks(&[(0, 1), (3, 4)])).unwrap();
    model.check_changes(Some(0), Some(1), &blocks(&[(1, 3)])).unwrap();
    model.check_changes(Some(0), None, &blocks(&[(0, 3)])).unwrap();
    model.deleted(0);
    assert_eq!(model.points(), [1]);
    model.check_changes(None, None, &blocks(&[(0, 4)])).unwrap();
    model.check_changes(Some(0), None, &blocks(&[(0, 3)])).unwrap();
    says(model.check_changes(Some(0), None, &blocks(&[(0, 2)])), "block 2 was changed and is not reported");
    says(model.check_changes(Some(1), None, &blocks(&[(0, 2)])), "block 1 is reported and was not changed");
    let odd = RangeSet::from_iter([ByteRange::between(0, 100)]);
    says(model.check_changes(Some(1), None, &odd), "is not made of whole blocks");
}

#[test]
fn zeroing_zeros_may_count_as_a_change_or_not() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[Action::Zero(ByteRange::between(0, 4096), Provision::Sparse)]);
    model.check_changes(None, None, &blocks(&[])).unwrap();
    model.check_changes(None, None, &blocks(&[(0, 1)])).unwrap();
    both(&disk, &mut model, &[write(4096, 1, 1), Action::Discard(ByteRange::between(4096, 8192))]);
    model.check_changes(None, None, &blocks(&[(1, 2)])).unwrap();
    says(model.check_changes(None, None, &blocks(&[])), "block 1");
}

#[test]
fn lost_writes_need_not_count_as_changes_and_kept_ones_must() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[write(0, 1, 1), Action::Flush, write(4096, 1, 1), write(8192, 1, 1)]);
    // the second block was lost, the third was kept
    disk.write_at(ByteOffset::new(4096), &[0]).unwrap();
    model.recovered(&disk).unwrap();
    model.check_exact(&disk).unwrap();
    model.check_changes(None, None, &blocks(&[(0, 1), (2, 3)])).unwrap();
    model.check_changes(None, None, &blocks(&[(0, 3)])).unwrap();
    says(model.check_changes(None, None, &blocks(&[(0, 2)])), "block 2");
    says(model.check_changes(None, None, &blocks(&[(2, 3)])), "block 0");
    // and what was recovered is durable
    disk.write_at(ByteOffset::new(8192), &[0]).unwrap();
    says(model.check_after_power_cut(&disk), "block 2");
}

#[test]
fn a_restart_loses_nothing_and_makes_nothing_durable() {
    let (disk, mut model) = start();
    both(&disk, &mut model, &[write(0, 8, 1)]);
    model.failed(&write(0, 8, 2));
    disk.write_at(ByteOffset::ZERO, &[2; 8]).unwrap();
    model.restarted(&disk).unwrap();
    model.check_exact(&disk).unwrap();
    for byte in [0, 1, 2] {
        disk.write_at(ByteOffset::ZERO, &[byte; 8]).unwrap();
        model.check_after_power_cut(&disk).unwrap();
    }
    disk.write_at(ByteOffset::ZERO, &[1; 8]).unwrap();
    says(model.check_exact(&disk), "block 0");
    says(model.restarted(&disk), "block 0");
}
