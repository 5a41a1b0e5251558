//! In which order files are read. Whoever reads a whole tree most often reads the files of a directory as they were listed.

use super::content::Bytes;
use std::collections::{HashMap, VecDeque};

/// Files remembered: programs list a few thousand before they read the first of them.
const REMEMBERED: usize = 1 << 15;
/// Files read as they were listed, before the next ones are expected.
const SURE: u32 = 4;
/// How far apart files may be that still count as read in order: some are left out, some are read side by side.
const NEAR: u64 = 8;
/// Files expected at a time.
const EXPECTED: u64 = 24;

/// A file as it was listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    /// Its number in the tree.
    pub number: u64,
    pub bytes: Bytes,
    pub size: u64,
}

/// Files in the order in which they were listed, and where among them is being read.
#[derive(Default)]
pub(super) struct Order {
    listed: VecDeque<Listed>,
    /// The place of the first of them among all that ever were.
    first: u64,
    places: HashMap<u64, u64>,
    last: u64,
    in_order: u32,
    /// Files before this place were expected already.
    expected: u64,
}

impl Order {
    pub(super) fn list(&mut self, files: impl Iterator<Item = Listed>) {
        for file in files {
            if self.listed.len() == REMEMBERED
                && let Some(oldest) = self.listed.pop_front()
            {
                if self.places.get(&oldest.number) == Some(&self.first) {
                    self.places.remove(&oldest.number);
                }
                self.first += 1;
            }
            self.places.insert(file.number, self.first + self.listed.len() as u64);
            self.listed.push_back(file);
        }
    }

    /// How long a file is, if that is known.
    pub(super) fn size(&self, number: u64) -> Option<u64> {
        let place = self.places.get(&number)?.checked_sub(self.first)?;
        self.listed.get(usize::try_from(place).ok()?).map(|file| file.size)
    }

    /// Notes that this file is read, and tells those that are likely to be read next and were not told before.
    pub(super) fn read(&mut self, number: u64) -> Vec<Listed> {
        let Some(place) = self.places.get(&number).copied() else { return Vec::new() };
        if place == self.last {
            return Vec::new();
        }
        self.in_order = if place.abs_diff(self.last) <= NEAR { self.in_order.saturating_add(1) } else { 0 };
        if self.in_order == 0 {
            self.expected = 0;
        }
        self.last = place;
        if self.in_order < SURE {
            return Vec::new();
        }
        let (from, to) = (self.expected.max(place + 1), place + 1 + EXPECTED);
        self.expected = to.max(self.expected);
        let from = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let count = (to - self.first) as usize;
        self.listed.iter().take(count).skip(from).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::ByteRange;

    fn file(number: u64) -> Listed {
        Listed { number, bytes: Bytes::Range(ByteRange::between(0, number)), size: number }
    }

    fn numbers(files: &[Listed]) -> Vec<u64> {
        files.iter().map(|file| file.number).collect()
    }

    #[test]
    fn files_that_follow_are_expected_once() {
        let mut order = Order::default();
        order.list((100..200).map(file));
        for number in 100..100 + u64::from(SURE) {
            assert!(order.read(number).is_empty(), "{number}");
        }
        let first = 100 + u64::from(SURE);
        assert_eq!(numbers(&order.read(first)), (first + 1..first + 1 + EXPECTED).collect::<Vec<_>>());
        assert!(order.read(first).is_empty());
        // one is left out, and two more are expected for it
        let next = first + 1 + EXPECTED;
        assert_eq!(numbers(&order.read(first + 2)), [next, next + 1]);
        // the last ones have none behind them
        assert!(order.read(170).is_empty());
        (192..199).for_each(|number| drop(order.read(number)));
        assert!(order.read(199).is_empty());
    }

    #[test]
    fn files_read_here_and_there_expect_none() {
        let mut order = Order::default();
        order.list((0..1000).map(file));
        assert!((0..1000).all(|number| order.read(number * 387 % 1000).is_empty()));
        assert!(order.read(5000).is_empty());
    }

    #[test]
    fn no_more_than_a_number_of_files_is_remembered() {
        let mut order = Order::default();
        order.list((0..3 * REMEMBERED as u64).map(|number| file(number % (2 * REMEMBERED as u64))));
        assert_eq!((order.listed.len(), order.places.len()), (REMEMBERED, REMEMBERED));
        let start = REMEMBERED as u64 / 2;
        let read: Vec<_> = (start..start + 100).flat_map(|number| order.read(number)).collect();
        assert_eq!(read[0].number, start + u64::from(SURE) + 1);
    }
}
