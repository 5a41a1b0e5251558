//! Byte ranges and sets of them.

use crate::{ByteCount, ByteOffset};

/// A range of bytes whose end exists: `offset + count` never passes the largest offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ByteRange {
    offset: ByteOffset,
    count: ByteCount,
}

impl ByteRange {
    /// The range, or `None` if its end does not exist.
    pub fn new(offset: ByteOffset, count: ByteCount) -> Option<Self> {
        offset.checked_add(count).map(|_| Self { offset, count })
    }

    /// The range from `start` up to, not including, `end`; empty if `end` is not after `start`.
    pub fn between(start: u64, end: u64) -> Self {
        Self { offset: ByteOffset::new(start), count: ByteCount::new(end.saturating_sub(start)) }
    }

    /// Everything on a disk of this size.
    pub fn whole(size: ByteCount) -> Self {
        Self { offset: ByteOffset::ZERO, count: size }
    }

    /// The first byte.
    pub fn offset(self) -> ByteOffset {
        self.offset
    }

    /// The number of bytes.
    pub fn count(self) -> ByteCount {
        self.count
    }

    /// The first byte, as a plain number.
    pub fn start(self) -> u64 {
        self.offset.get()
    }

    /// One past the last byte, as a plain number.
    pub fn end(self) -> u64 {
        self.offset.get() + self.count.get()
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.count == ByteCount::ZERO
    }

    /// The bytes in both, empty (at this range's start) if none.
    pub fn intersect(self, other: Self) -> Self {
        let start = self.start().max(other.start());
        let end = self.end().min(other.end());
        if start < end { Self::between(start, end) } else { Self::between(self.start(), self.start()) }
    }
}

/// A set of bytes, kept as ascending ranges that neither overlap nor touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    // (start, end), ascending; each end < the next start
    ranges: Vec<(u64, u64)>,
}

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of all bytes of a disk of this size.
    pub fn whole(size: ByteCount) -> Self {
        let mut set = Self::new();
        set.insert(ByteRange::whole(size));
        set
    }

    /// Adds a range. Appending in ascending order costs O(1), otherwise O(ranges).
    pub fn insert(&mut self, range: ByteRange) {
        let (mut start, mut end) = (range.start(), range.end());
        if start == end {
            return;
        }
        // everything that overlaps or touches [start, end] melts into it
        let first = self.ranges.partition_point(|&(_, e)| e < start);
        let last = first + self.ranges[first..].partition_point(|&(s, _)| s <= end);
        if first < last {
            start = start.min(self.ranges[first].0);
            end = end.max(self.ranges[last - 1].1);
        }
        self.ranges.splice(first..last, [(start, end)]);
    }

    /// Adds every range of `other`. Costs O(ranges of both).
    pub fn union(&mut self, other: &Self) {
        let mut merged = Self { ranges: Vec::with_capacity(self.ranges.len() + other.ranges.len()) };
        let (mut left, mut right) = (self.ranges.iter().peekable(), other.ranges.iter().peekable());
        while let Some(&(start, end)) = match (left.peek(), right.peek()) {
            (Some(l), Some(r)) if l.0 <= r.0 => left.next(),
            (Some(_), None) => left.next(),
            _ => right.next(),
        } {
            merged.insert(ByteRange::between(start, end));
        }
        *self = merged;
    }

    /// Takes every byte of `other` out. Costs O(ranges of both).
    pub fn subtract(&mut self, other: &Self) {
        let mut left = Vec::with_capacity(self.ranges.len());
        let mut first = 0;
        for &(mut start, end) in &self.ranges {
            first += other.ranges[first..].iter().take_while(|(_, to)| *to <= start).count();
            for &(from, to) in other.ranges[first..].iter().take_while(|(from, _)| *from < end) {
                if start < from {
                    left.push((start, from));
                }
                start = start.max(to);
            }
            if start < end {
                left.push((start, end));
            }
        }
        self.ranges = left;
    }

    /// The part of the set inside `window`.
    pub fn clip(&self, window: ByteRange) -> Self {
        let ranges = self.iter().map(|range| range.intersect(window)).filter(|range| !range.is_empty());
        Self { ranges: ranges.map(|range| (range.start(), range.end())).collect() }
    }

    /// The ranges, ascending, with a gap between any two.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ByteRange> + '_ {
        self.ranges.iter().map(|&(start, end)| ByteRange::between(start, end))
    }

    /// Whether any byte of `range` is in the set.
    pub fn touches(&self, range: ByteRange) -> bool {
        let first = self.ranges.partition_point(|&(_, end)| end <= range.start());
        !range.is_empty() && self.ranges.get(first).is_some_and(|&(start, _)| start < range.end())
    }

    /// How many bytes are in the set.
    pub fn total(&self) -> ByteCount {
        ByteCount::new(self.ranges.iter().map(|(start, end)| end - start).sum())
    }

    /// Whether no byte is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(u64, u64)]) -> RangeSet {
        ranges.iter().map(|&(start, end)| ByteRange::between(start, end)).collect()
    }

    #[test]
    fn ranges_whose_end_does_not_exist_cannot_be_made() {
        assert_eq!(ByteRange::new(ByteOffset::new(u64::MAX), ByteCount::new(1)), None);
        assert!(ByteRange::new(ByteOffset::new(u64::MAX), ByteCount::ZERO).is_some());
    }

    /// Every pair of sets over eight bytes, against sets of single bytes.
    #[test]
    fn agrees_with_sets_of_single_bytes() {
        let of_bits = |bits: u32| -> RangeSet {
            (0..8).rev().filter(|i| bits >> i & 1 == 1).map(|i| ByteRange::between(i, i + 1)).collect()
        };
        let to_bits = |set: &RangeSet| -> u32 {
            set.iter().flat_map(|r| r.start()..r.end()).fold(0, |bits, i| bits | 1 << i)
        };
        for a in 0..256u32 {
            let left = of_bits(a);
            assert_eq!(to_bits(&left), a);
            assert_eq!(left.total().get(), u64::from(a.count_ones()));
            for b in 0..256u32 {
                let mut both = left.clone();
                both.union(&of_bits(b));
                assert_eq!(both, of_bits(a | b));
                let mut less = left.clone();
                less.subtract(&of_bits(b));
                assert_eq!(less, of_bits(a & !b));
            }
            for (start, end) in (0..=8).flat_map(|s| (s..=8).map(move |e| (s, e))) {
                let window = ByteRange::between(start, end);
                let mask = ((1u32 << end) - 1) & !((1u32 << start) - 1);
                assert_eq!(to_bits(&left.clip(window)), a & mask);
                assert_eq!(left.touches(window), a & mask != 0, "{a:b} {window:?}");
            }
        }
    }

    #[test]
    fn touching_ranges_melt() {
        assert_eq!(set(&[(0, 4), (8, 12), (4, 8)]), set(&[(0, 12)]));
        assert_eq!(set(&[(0, 4), (5, 8)]).iter().len(), 2);
    }
}
