//! How long replies took, in buckets a fifth wide: enough to see a percentile, small enough for every connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// Times up to this share the first bucket: 2^10 ns, about a microsecond.
const FIRST_OCTAVE: u32 = 10;
/// Times from 2^37 ns on, about two minutes, share the last one.
const OCTAVES: u32 = 28;
/// Buckets in an octave.
const PARTS: u32 = 4;
/// Buckets there are.
pub const BUCKETS: usize = (OCTAVES * PARTS) as usize;

/// A histogram that one thread fills and anyone reads.
pub(super) struct LatencyCells {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

impl Default for LatencyCells {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum_ns: AtomicU64::new(0) }
    }
}

fn add(cell: &AtomicU64, count: u64) {
    // one writer, so an addition need not be atomic as a whole
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

fn bucket(ns: u64) -> usize {
    let ns = ns.max(1 << FIRST_OCTAVE);
    let octave = ns.ilog2();
    let part = (ns >> (octave - PARTS.ilog2())) as u32 % PARTS;
    let index = (octave - FIRST_OCTAVE) * PARTS + part;
    (index as usize).min(BUCKETS - 1)
}

impl LatencyCells {
    pub(super) fn took(&self, count: u32, ns: u64) {
        add(&self.buckets[bucket(ns)], count.into());
        add(&self.sum_ns, ns.wrapping_mul(count.into()));
    }

    pub(super) fn read(&self) -> Latency {
        Latency {
            buckets: std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed)),
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
        }
    }
}

/// How long replies took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    buckets: [u64; BUCKETS],
    sum_ns: u64,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_ns: 0 }
    }
}

impl Latency {
    /// Adds the replies of another connection.
    pub fn add(&mut self, other: &Self) {
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, count)| *sum += count);
    }

    /// Replies counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Nanoseconds of all of them together.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// The time that `share` (of 1) of all replies kept below, in nanoseconds: the upper edge of its bucket, so at most a
    /// quarter too long. `None` if there was none.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = ((count as f64 * share).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        (count > 0).then(|| {
            let found = self.buckets.iter().position(|&bucket| {
                seen += bucket;
                seen >= rank
            });
            upper_ns(found.unwrap_or(BUCKETS - 1))
        })
    }

    /// Upper edges, in nanoseconds, with how many replies kept below each: an octave apart, ascending.
    pub fn octaves(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut below = 0;
        self.buckets.chunks(PARTS as usize).zip(FIRST_OCTAVE..).map(move |(parts, octave)| {
            below += parts.iter().sum::<u64>();
            (1 << (octave + 1), below)
        })
    }
}

/// The first time past a bucket.
fn upper_ns(bucket: usize) -> u64 {
    let (octave, part) = (bucket as u32 / PARTS + FIRST_OCTAVE, bucket as u64 % u64::from(PARTS));
    (u64::from(PARTS) + part + 1) << (octave - PARTS.ilog2())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_below_the_edge_of_its_bucket_and_not_far() {
        for ns in (0..4000).chain((10..37).flat_map(|octave| {
            let base = 1u64 << octave;
            [base - 1, base, base + base / 3, base + base / 2]
        })) {
            let upper = upper_ns(bucket(ns));
            assert!(upper > ns, "{ns} {upper}");
            assert!(ns < 1024 || upper <= ns + ns / 4 + 1, "{ns} {upper}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_octaves_count_everything_once() {
        let cells = LatencyCells::default();
        assert_eq!(cells.read().quantile_ns(0.5), None);
        cells.took(98, 10_000);
        cells.took(1, 100_000);
        cells.took(1, 1_000_000);
        let read = cells.read();
        assert_eq!((read.count(), read.sum_ns()), (100, 98 * 10_000 + 1_100_000));
        assert_eq!(read.quantile_ns(0.5), Some(10_240));
        assert_eq!(read.quantile_ns(0.99), Some(114_688));
        assert_eq!(read.quantile_ns(1.0), Some(1_048_576));
        assert_eq!(read.octaves().last().map(|(_, below)| below), Some(100));
        assert_eq!(read.octaves().find(|(upper, _)| *upper >= 16_384), Some((16_384, 98)));
    }
}
