//! How far consolidation is, for people to see.

use super::Fold;
use block::ByteCount;
use block::sync::{Mutex, lock};

/// Whether there is more to fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Folding {
    /// Nothing that could be done now.
    Idle,
    /// There is more.
    Working,
}

/// What is left to fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FoldProgress {
    /// Layers that nobody needs: the one being folded, those that wait, and those that a pin or an open reader keeps.
    pub layers: usize,
    /// Of the fold under way: bytes to copy.
    pub bytes_total: ByteCount,
    /// Of the fold under way: bytes copied.
    pub bytes_done: ByteCount,
}

/// The fold under way as it was after its last step; read without waiting for the next.
#[derive(Default)]
pub(crate) struct Progress(Mutex<FoldProgress>);

impl Progress {
    pub(super) fn show(&self, fold: Option<&Fold>) {
        let (total, done) = fold.map_or((0, 0), Fold::bytes);
        *lock(&self.0) =
            FoldProgress { layers: 0, bytes_total: ByteCount::new(total), bytes_done: ByteCount::new(done) };
    }

    pub(super) fn of(&self, layers: usize) -> FoldProgress {
        FoldProgress { layers, ..*lock(&self.0) }
    }
}
