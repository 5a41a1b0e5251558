//! What was done to a file since its last sync, and how much of it a power cut leaves.

use super::content::{Content, PAGE};
use crate::Rng;
use std::sync::Arc;

/// One change of a file that no sync has made durable yet.
#[derive(Clone)]
pub(super) enum FileOp {
    Write { offset: u64, bytes: Arc<[u8]> },
    SetLen(u64),
    Punch { start: u64, end: u64 },
    Allocate { start: u64, end: u64 },
}

/// Disks write 8 bytes at once or not at all: so much the hardware gives, and nothing more may be relied on.
const WORD: u64 = 8;

/// The unit a torn write is torn at; coarser ones are what real disks and file systems do most.
const TEARS: [u64; 4] = [WORD, 512, PAGE, u64::MAX];

impl FileOp {
    /// The change lands whole.
    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(*offset, bytes),
            Self::SetLen(len) => content.set_len(*len),
            Self::Punch { start, end } => content.punch(*start, *end),
            Self::Allocate { start, end } => content.allocate(*start, *end),
        }
    }

    /// Adds the change to what is pending, in whole words as it left them: the page cache holds a word once, so what
    /// reaches the disk is the word after this change or after another one, never a blend of changes that readers
    /// never saw.
    pub(super) fn in_words(self, visible: &Content, pending: &mut Vec<Self>) {
        let as_left = |start: u64, end: u64| {
            let (start, end) = (start / WORD * WORD, end.next_multiple_of(WORD).min(visible.len()));
            let mut bytes = vec![0; end.saturating_sub(start) as usize];
            visible.read(start, &mut bytes);
            Self::Write { offset: start, bytes: bytes.into() }
        };
        match &self {
            Self::Write { offset, bytes }
                if offset % WORD != 0 || !(bytes.len() as u64).is_multiple_of(WORD) =>
            {
                pending.push(as_left(*offset, offset + bytes.len() as u64));
            }
            Self::Punch { start, end } if start % WORD != 0 || end % WORD != 0 => {
                let (first, last) = (start.next_multiple_of(WORD), end / WORD * WORD);
                let edges = [(start % WORD != 0).then_some(*start), (end % WORD != 0).then_some(*end)];
                // an edge past the end of the file has no bytes
                let edges = edges.into_iter().flatten().filter(|&at| at / WORD * WORD < visible.len());
                pending.extend(edges.map(|at| as_left(at, at)));
                if first < last {
                    pending.push(Self::Punch { start: first, end: last });
                }
            }
            _ => pending.push(self),
        }
    }

    /// The change lands in part. A change of length alone is whole.
    pub(super) fn apply_torn(&self, content: &mut Content, rng: &mut Rng) {
        match self {
            Self::Write { offset, bytes } => tear_write(content, *offset, bytes, rng),
            Self::Punch { start, end } => tear_punch(content, *start, *end, rng),
            Self::SetLen(_) | Self::Allocate { .. } => self.apply(content),
        }
    }
}

/// Lands a random part of the bytes. The new length is separate: without it, bytes past the old end are lost; with
/// it, those that did not land are zeros.
fn tear_write(content: &mut Content, offset: u64, bytes: &[u8], rng: &mut Rng) {
    let unit = *rng.pick(&TEARS);
    let end = offset + bytes.len() as u64;
    let grown = content.len().max(end);
    let limit = if rng.chance(1, 2) { grown } else { content.len() };
    content.set_len(limit);
    // a whole number of units per draw: either a random subset of them or everything up to some point
    let until = if rng.chance(1, 4) { rng.within(offset..end + 1) } else { end };
    let subset = until == end;
    let mut at = offset;
    while at < until.min(limit) {
        let next = if unit == u64::MAX { end } else { (at / unit + 1) * unit };
        let stop = next.min(end).min(limit);
        if !subset || rng.chance(1, 2) {
            content.write(at, &bytes[(at - offset) as usize..(stop - offset) as usize]);
        }
        at = next;
    }
}

/// Lands a random subset of the pages; a huge range is taken as a few pieces.
fn tear_punch(content: &mut Content, start: u64, end: u64, rng: &mut Rng) {
    let step = PAGE.max(((end - start) / 64).next_multiple_of(PAGE));
    let mut at = start;
    while at < end {
        let next = (at / step + 1).saturating_mul(step).min(end);
        if rng.chance(1, 2) {
            content.punch(at, next);
        }
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every aligned word is whole, some landings mix old and new, and the length is the old or the new one.
    #[test]
    fn tears_fall_between_words_and_nowhere_else() {
        let (mut mixed, mut lengths) = (0, std::collections::BTreeSet::new());
        crate::for_seeds(0..300, |rng| {
            let mut content = Content::default();
            content.write(0, &[1; 8000]);
            let op = FileOp::Write { offset: 4, bytes: vec![2; 9000].into() };
            op.apply_torn(&mut content, rng);
            lengths.insert(content.len());
            let mut bytes = vec![0; content.len() as usize];
            content.read(0, &mut bytes);
            assert_eq!(bytes[..4], [1; 4]);
            for word in bytes[8..8000].chunks(8) {
                assert!(word.iter().all(|b| *b == word[0]), "{word:?}");
            }
            mixed += u32::from(bytes[8..8000].contains(&1) && bytes[8..8000].contains(&2));
        });
        assert!(mixed > 100, "{mixed}");
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [8000, 9004]);
    }
}
