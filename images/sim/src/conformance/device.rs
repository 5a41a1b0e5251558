//! What every [`BlockDevice`] promises.

use super::{block_source, fails};
use crate::{Action, ModelDisk, Rng};
use block::{BLOCK_SIZE, BlockDevice, ByteCount, ByteOffset, ByteRange, Kind, Provision};
use std::sync::Arc;

/// Sizes around every border, among them none that is a multiple of anything.
const SIZES: [u64; 8] = [1, 511, 512, 4095, 4096, 4097, 65_536, (1 << 20) + 512];

/// Checks devices that `make` makes, fresh and full of zeros, in the asked sizes.
///
/// # Panics
/// Where a device breaks a promise.
pub fn block_device(make: impl Fn(ByteCount) -> Arc<dyn BlockDevice>) {
    for size in SIZES.map(ByteCount::new) {
        let device = make(size);
        block_source(&*device, &vec![0; size.get() as usize]);
        refuses_what_passes_the_end(&*device);
        is_exact_to_the_byte(&*device);
        agrees_with_the_model(&*make(size), size.get());
    }
    takes_several_writers(&make(ByteCount::new(1 << 20)));
}

fn refuses_what_passes_the_end(device: &dyn BlockDevice) {
    let size = device.size().get();
    for (offset, count) in [(size, 1), (size + 1, 0), (0, size + 1), (u64::MAX, 1), (u64::MAX, 0)] {
        let bytes = vec![0xff; count as usize];
        fails(
            device.write_at(ByteOffset::new(offset), &bytes),
            Kind::OutOfRange,
            "a write that passes the end",
        );
        let Some(range) = ByteRange::new(ByteOffset::new(offset), ByteCount::new(count)) else { continue };
        for how in [Provision::Sparse, Provision::Allocated] {
            fails(device.zero(range, how), Kind::OutOfRange, "a zero that passes the end");
        }
        fails(device.discard(range), Kind::OutOfRange, "a discard that passes the end");
    }
    expect(device, &vec![0; size as usize], "after refused requests");
}

fn expect(device: &dyn BlockDevice, content: &[u8], when: &str) {
    let model = ModelDisk::with_content(content.to_vec());
    model.check_exact(device).unwrap_or_else(|why| panic!("{when}: {why}"));
}

/// Zeroing and discarding at every border, on a disk of ones.
fn is_exact_to_the_byte(device: &dyn BlockDevice) {
    let size = device.size();
    let ones = Action::Write { offset: 0, bytes: vec![0xff; size.get() as usize] };
    let borders = [0, 1, 4095, 4096, 4097, 8191, 8192, size.get().saturating_sub(1), size.get()];
    let ranges = borders.iter().flat_map(|&from| borders.iter().map(move |&to| (from, to)));
    for (from, to) in ranges.filter(|&(from, to)| from <= to && to <= size.get()) {
        let range = ByteRange::between(from, to);
        for action in [
            Action::Zero(range, Provision::Sparse),
            Action::Zero(range, Provision::Allocated),
            Action::Discard(range),
        ] {
            let mut model = ModelDisk::new(size);
            for action in [&ones, &action] {
                action.run(device).unwrap_or_else(|error| panic!("{action:?}: {error}"));
                model.done(action);
            }
            model.check_exact(device).unwrap_or_else(|why| panic!("after {action:?} on ones: {why}"));
        }
    }
}

fn agrees_with_the_model(device: &dyn BlockDevice, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut model = ModelDisk::new(device.size());
    let mut last = Vec::new();
    for step in 0..200 {
        let action = Action::random(&mut rng, device.size());
        action.run(device).unwrap_or_else(|error| panic!("{action:?}: {error}"));
        model.done(&action);
        last.push(action);
        if step % 8 == 7 {
            model.check_exact(device).unwrap_or_else(|why| panic!("after {last:?}: {why}"));
            last.clear();
        }
    }
    block_source(device, model.now());
}

/// Threads that each own every fourth block, or every fourth 512 bytes of shared blocks.
fn takes_several_writers(device: &Arc<dyn BlockDevice>) {
    if cfg!(blockd_shuttle) {
        return;
    }
    let size = device.size().get();
    for unit in [BLOCK_SIZE, 512] {
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                scope.spawn(move || write_own_units(&**device, thread, unit));
            }
        });
        let owner = |at: u64| (at / unit % 4) as u8 + 1;
        let content: Vec<u8> = (0..size).map(owner).collect();
        expect(&**device, &content, &format!("after writers of {unit} bytes each"));
    }
}

/// Writes, zeroes and writes again every unit of one thread, in random order, and always reads its own writes.
fn write_own_units(device: &dyn BlockDevice, thread: u64, unit: u64) {
    let mut rng = Rng::new(thread);
    let mut own: Vec<u64> = (0..device.size().get() / unit).filter(|at| at % 4 == thread).collect();
    let (full, mut found) = (vec![thread as u8 + 1; unit as usize], vec![0; unit as usize]);
    while !own.is_empty() {
        let start = own.swap_remove(rng.below(own.len() as u64) as usize) * unit;
        let range = ByteRange::between(start, start + unit);
        let steps = [
            Action::Write { offset: start, bytes: full.clone() },
            Action::Zero(range, Provision::Sparse),
            Action::Flush,
            Action::Write { offset: start, bytes: full.clone() },
        ];
        for action in &steps[if rng.chance(1, 16) { 0 } else { 3 }..] {
            action.run(device).unwrap_or_else(|error| panic!("{action:?}: {error}"));
        }
        device.read_at(range.offset(), &mut found).unwrap_or_else(|error| panic!("read {range:?}: {error}"));
        assert!(found == full, "a thread does not read what it wrote at {start}");
    }
}
