//! Which chunks of a delta have to be looked at, and which of those have to be read.

use std::ops::{ControlFlow, Range};

use block::{BlockSource, ByteCount, ByteRange, Extent, ExtentKind, RangeSet};

use crate::chunk::CHUNK_SIZE;
use crate::manifest::{Ref, Shape};
use crate::{Error, Result};

/// Runs collected from a source's extents before they are worked on: bounds memory, and no read happens inside the
/// source's own walk.
const RUNS_AT_ONCE: usize = 4096;

/// Chunks of one class, as the source's extents tell it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) chunks: Range<u64>,
    /// `None` if they have to be read.
    pub(crate) empty: Option<Ref>,
}

/// The chunks a delta touches, ascending and apart. If the size changed, everything from the chunk that holds the
/// shorter end is touched too.
pub(crate) fn changed_chunks(
    changed: &RangeSet,
    base: Option<ByteCount>,
    size: ByteCount,
) -> Vec<Range<u64>> {
    let mut wide = RangeSet::new();
    let mut touch = |range: ByteRange| {
        let start = range.start() / CHUNK_SIZE * CHUNK_SIZE;
        let end = range.end().min(size.get()).next_multiple_of(CHUNK_SIZE);
        wide.insert(ByteRange::between(start, end));
    };
    changed.clip(ByteRange::whole(size)).iter().for_each(&mut touch);
    if let Some(base) = base.filter(|base| *base != size) {
        touch(ByteRange::between(base.min(size).get(), size.get().max(base.min(size).get() + 1)));
    }
    let chunks = wide.iter().map(|range| range.start() / CHUNK_SIZE..range.end() / CHUNK_SIZE);
    chunks
        .map(|chunks| chunks.start..chunks.end.min(Shape::new(size).chunks()))
        .filter(|c| !c.is_empty())
        .collect()
}

/// Folds extents, which may begin and end anywhere, into classes of whole chunks: a chunk with any data is data, one
/// with zeros and holes is zero.
struct Folding {
    runs: Vec<(Range<u64>, ExtentKind)>,
}

fn stronger(a: ExtentKind, b: ExtentKind) -> ExtentKind {
    let rank = |kind| match kind {
        ExtentKind::Hole => 0,
        ExtentKind::Zero => 1,
        ExtentKind::Data => 2,
    };
    if rank(a) >= rank(b) { a } else { b }
}

impl Folding {
    fn add(&mut self, extent: Extent) {
        let mut chunks = extent.range.start() / CHUNK_SIZE..extent.range.end().div_ceil(CHUNK_SIZE);
        if let Some((last, kind)) = self.runs.last_mut().filter(|(last, _)| last.end > chunks.start) {
            // the chunk both touch
            let both = stronger(*kind, extent.kind);
            last.end -= 1;
            let shared = chunks.start..chunks.start + 1;
            chunks.start += 1;
            if last.is_empty() {
                self.runs.pop();
            }
            self.append(shared, both);
        }
        self.append(chunks, extent.kind);
    }

    fn append(&mut self, chunks: Range<u64>, kind: ExtentKind) {
        match self.runs.last_mut() {
            _ if chunks.is_empty() => {}
            Some((last, same)) if *same == kind => last.end = chunks.end,
            _ => self.runs.push((chunks, kind)),
        }
    }
}

/// Gives the chunks of a range as stretches to read or to take as empty, ascending.
pub(crate) fn stretches(
    source: &dyn BlockSource,
    shape: Shape,
    chunks: &Range<u64>,
    give: &mut dyn FnMut(Stretch) -> Result<()>,
) -> Result<()> {
    let mut at = chunks.start;
    let end = shape.bytes(&(0..chunks.end));
    while at < chunks.end {
        let mut folding = Folding { runs: Vec::new() };
        let mut stopped_at = None;
        let mut visit = |extent: Extent| {
            let between_chunks = extent.range.start().is_multiple_of(CHUNK_SIZE);
            if folding.runs.len() >= RUNS_AT_ONCE && between_chunks {
                stopped_at = Some(extent.range.start() / CHUNK_SIZE);
                return ControlFlow::Break(());
            }
            folding.add(extent);
            ControlFlow::Continue(())
        };
        source.extents(ByteRange::between(at * CHUNK_SIZE, end), &mut visit).map_err(Error::Source)?;
        let reached = folding.runs.last().map_or(at, |(run, _)| run.end);
        if reached != stopped_at.unwrap_or(chunks.end) {
            let why = format!("its extents end at {} bytes of {end}", reached * CHUNK_SIZE);
            return Err(Error::invalid("the source", why));
        }
        for (chunks, kind) in folding.runs {
            let empty = match kind {
                ExtentKind::Data => None,
                ExtentKind::Zero => Some(Ref::Zero),
                ExtentKind::Hole => Some(Ref::Hole),
            };
            give(Stretch { chunks, empty })?;
        }
        at = reached;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{ByteOffset, Visit};

    struct Made(Vec<Extent>);

    impl BlockSource for Made {
        fn size(&self) -> ByteCount {
            ByteCount::new(self.0.last().map_or(0, |extent| extent.range.end()))
        }

        fn read_at(&self, _offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
            buf.fill(1);
            Ok(())
        }

        fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
            for extent in &self.0 {
                let part = extent.range.intersect(range);
                if !part.is_empty() && visit(Extent { range: part, kind: extent.kind }).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    fn folded(extents: &[(u64, ExtentKind)]) -> Vec<Stretch> {
        let mut at = 0;
        let made = extents.iter().map(|&(len, kind)| {
            at += len;
            Extent { range: ByteRange::between(at - len, at), kind }
        });
        let source = Made(made.collect());
        let shape = Shape::new(source.size());
        let mut all = Vec::new();
        stretches(&source, shape, &(0..shape.chunks()), &mut |one| {
            all.push(one);
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn a_chunk_is_as_strong_as_the_strongest_in_it() {
        use ExtentKind::{Data, Hole, Zero};
        let c = CHUNK_SIZE;
        let all = folded(&[
            (c + 5, Hole),
            (5, Zero),
            (2 * c, Zero),
            (1, Data),
            (3, Hole),
            (2 * c - 14, Hole),
            (7, Hole),
        ]);
        let expected =
            [(0..1, Some(Ref::Hole)), (1..3, Some(Ref::Zero)), (3..4, None), (4..6, Some(Ref::Hole))];
        let expected: Vec<_> =
            expected.into_iter().map(|(chunks, empty)| Stretch { chunks, empty }).collect();
        assert_eq!(all, expected);
    }

    /// More runs than are collected at once, with borders off the chunks.
    #[test]
    fn long_lists_of_extents_are_folded_in_pieces() {
        use ExtentKind::{Data, Hole};
        let extents: Vec<_> = (0..20_000)
            .map(|i| (CHUNK_SIZE + (i % 3 == 0) as u64 * 512, if i % 2 == 0 { Data } else { Hole }))
            .collect();
        let all = folded(&extents);
        let size: u64 = extents.iter().map(|(len, _)| len).sum();
        assert_eq!(all.first().unwrap().chunks.start, 0);
        assert_eq!(all.last().unwrap().chunks.end, size.div_ceil(CHUNK_SIZE));
        assert!(all.windows(2).all(|two| two[0].chunks.end == two[1].chunks.start));
    }

    #[test]
    fn a_changed_size_touches_everything_from_the_shorter_end() {
        let c = CHUNK_SIZE;
        let touched = |changed: &[(u64, u64)], base: u64, size: u64| {
            let changed = changed.iter().map(|&(start, end)| ByteRange::between(start, end)).collect();
            let chunks = changed_chunks(&changed, Some(ByteCount::new(base)), ByteCount::new(size));
            chunks.into_iter().flatten().collect::<Vec<u64>>()
        };
        assert_eq!(touched(&[(1, 2), (c, c + 1)], 9 * c, 9 * c), [0, 1]);
        assert_eq!(touched(&[], 2 * c, 5 * c), [2, 3, 4]);
        assert_eq!(touched(&[(0, 1)], 2 * c + 1, 5 * c), [0, 2, 3, 4]);
        assert_eq!(touched(&[], 5 * c, 2 * c + 1), [2]);
        assert!(touched(&[], 5 * c, 2 * c).is_empty());
        assert!(touched(&[(0, 8 * c)], 5 * c, 0).is_empty());
    }
}
