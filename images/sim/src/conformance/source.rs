//! What every [`BlockSource`] promises.

use super::fails;
use crate::Rng;
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Kind};
use std::ops::ControlFlow;

/// Checks a source that must read `content`.
///
/// # Panics
/// Where the source breaks a promise.
pub fn block_source(source: &dyn BlockSource, content: &[u8]) {
    let size = content.len() as u64;
    assert_eq!(source.size(), ByteCount::new(size), "size");
    let mut rng = Rng::new(size);
    for range in ranges(&mut rng, size) {
        reads(source, content, range);
        tiles(source, content, range);
    }
    stops_early(source, size);
    refuses_what_passes_the_end(source, size);
    takes_several_readers(source, content);
}

/// The corners of the disk, and ranges of every size and alignment.
fn ranges(rng: &mut Rng, size: u64) -> Vec<ByteRange> {
    let mut ranges =
        vec![ByteRange::between(0, size), ByteRange::between(0, 0), ByteRange::between(size, size)];
    for at in [0, 1, 511, 512, 4095, 4096, 4097, size.saturating_sub(1), size / 2] {
        for count in [0, 1, 2, 512, 4096, 4097, 65536] {
            ranges.push(ByteRange::between(at, at + count));
        }
    }
    if size > 0 {
        ranges.extend((0..100).map(|_| {
            let at = rng.below(size);
            ByteRange::between(at, at + rng.below(200_000))
        }));
    }
    ranges.retain(|range| range.start() <= size);
    ranges.iter().map(|range| ByteRange::between(range.start(), range.end().min(size))).collect()
}

fn part(content: &[u8], range: ByteRange) -> &[u8] {
    &content[range.start() as usize..range.end() as usize]
}

fn reads(source: &dyn BlockSource, content: &[u8], range: ByteRange) {
    let mut buf = vec![0xa5; range.count().get() as usize];
    source.read_at(range.offset(), &mut buf).unwrap_or_else(|error| panic!("read {range:?}: {error}"));
    let wanted = part(content, range);
    if let Some(at) = buf.iter().zip(wanted).position(|(found, wanted)| found != wanted) {
        let place = range.start() + at as u64;
        panic!("read {range:?}: byte {place} is {:#04x} and should be {:#04x}", buf[at], wanted[at]);
    }
}

/// The extents of a range, which must not be refused.
fn extents(source: &dyn BlockSource, range: ByteRange) -> Vec<Extent> {
    let mut found = Vec::new();
    let walked = source.extents(range, &mut |extent| {
        found.push(extent);
        ControlFlow::Continue(())
    });
    walked.unwrap_or_else(|error| panic!("extents of {range:?}: {error}"));
    found
}

fn tiles(source: &dyn BlockSource, content: &[u8], range: ByteRange) {
    let mut at = range.start();
    for extent in extents(source, range) {
        assert_eq!(extent.range.start(), at, "extents of {range:?} have a gap or overlap before {extent:?}");
        assert!(!extent.range.is_empty(), "extents of {range:?}: {extent:?} is empty");
        assert!(extent.range.end() <= range.end(), "extents of {range:?}: {extent:?} is not clipped");
        let zeros = part(content, extent.range).iter().all(|&byte| byte == 0);
        assert!(extent.kind == ExtentKind::Data || zeros, "{extent:?} holds other bytes than zeros");
        at = extent.range.end();
    }
    assert_eq!(at, range.end(), "extents of {range:?} end early");
}

fn stops_early(source: &dyn BlockSource, size: u64) {
    let whole = ByteRange::between(0, size);
    for limit in 1..=extents(source, whole).len().min(5) {
        let mut visits = 0;
        let walked = source.extents(whole, &mut |_| {
            visits += 1;
            if visits == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        walked.unwrap_or_else(|error| panic!("stopping early is not an error: {error}"));
        assert_eq!(visits, limit, "the walk goes on after the visitor broke");
    }
}

fn refuses_what_passes_the_end(source: &dyn BlockSource, size: u64) {
    for (offset, count) in [(size, 1), (size + 1, 0), (0, size + 1), (u64::MAX, 1), (u64::MAX, 0)] {
        // a buffer for a huge disk would be no test of anything
        if count > 1 << 26 {
            continue;
        }
        let mut buf = vec![0xa5; count as usize];
        fails(
            source.read_at(ByteOffset::new(offset), &mut buf),
            Kind::OutOfRange,
            "a read that passes the end",
        );
        assert!(buf.iter().all(|&byte| byte == 0xa5), "a refused read wrote into the buffer");
        let Some(range) = ByteRange::new(ByteOffset::new(offset), ByteCount::new(count)) else { continue };
        let mut visits = 0;
        let walked = source.extents(range, &mut |_| {
            visits += 1;
            ControlFlow::Continue(())
        });
        fails(walked, Kind::OutOfRange, "extents that pass the end");
        assert_eq!(visits, 0, "a refused walk visited something");
    }
}

fn takes_several_readers(source: &dyn BlockSource, content: &[u8]) {
    let size = content.len() as u64;
    if size == 0 || cfg!(blockd_shuttle) {
        return;
    }
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let mut rng = Rng::new(seed);
                for _ in 0..30 {
                    let at = rng.below(size);
                    reads(source, content, ByteRange::between(at, (at + 1 + rng.below(9000)).min(size)));
                }
            });
        }
    });
}
