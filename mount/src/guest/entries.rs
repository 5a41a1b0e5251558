//! Listing and looking up, for readers that walk the entries of a directory in place.

use super::{Entry, Listing, MAX_ENTRIES, NodeKind};
use crate::Result;
use std::ops::ControlFlow;

/// Blocks looked at for one page of a listing, so that the answer comes soon even from a directory of empty blocks.
const MAX_BLOCKS_A_PAGE: u64 = 1024;

/// Whether a walk goes on.
pub(super) type Visit<'a> = dyn FnMut(Found<'_>) -> ControlFlow<()> + 'a;

/// An entry in place.
pub(super) struct Found<'a> {
    pub(super) name: &'a [u8],
    pub(super) ino: u64,
    pub(super) kind: Option<NodeKind>,
    pub(super) next: u64,
}

/// Why a walk ended before the end.
pub(super) enum Stop {
    Visitor,
    /// Enough blocks for one page; the next begins here.
    Pages(u64),
}

/// One page. `walk` visits the entries from where the page begins, and looks at so many blocks at most.
pub(super) fn list(walk: impl FnOnce(u64, &mut Visit<'_>) -> Result<Option<Stop>>) -> Result<Listing> {
    let mut entries = Vec::new();
    let stopped = walk(MAX_BLOCKS_A_PAGE, &mut |Found { name, ino, kind, next }| {
        entries.push(Entry { name: name.to_vec(), ino, kind, next });
        if entries.len() < MAX_ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let next = match (stopped, entries.last()) {
        (Some(Stop::Visitor), Some(last)) => Some(last.next),
        (Some(Stop::Pages(next)), _) => Some(next),
        _ => None,
    };
    Ok(Listing { entries, next })
}

/// The inode `name` stands for. `walk` visits all entries, however many blocks that takes.
pub(super) fn lookup(
    name: &[u8],
    walk: impl FnOnce(u64, &mut Visit<'_>) -> Result<Option<Stop>>,
) -> Result<Option<u64>> {
    let mut found = None;
    walk(u64::MAX, &mut |entry| {
        if entry.name == name {
            found = Some(entry.ino);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// The kind of a node as directories of Linux write it: the numbers of `d_type` there, in their old order.
pub(super) fn kind(stored: u8) -> Option<NodeKind> {
    Some(match stored {
        1 => NodeKind::File,
        2 => NodeKind::Directory,
        3 => NodeKind::CharDevice,
        4 => NodeKind::BlockDevice,
        5 => NodeKind::Fifo,
        6 => NodeKind::Socket,
        7 => NodeKind::Symlink,
        _ => return None,
    })
}
