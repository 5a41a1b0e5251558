//! An open file of the simulated filesystem.

use super::content::PAGE;
use super::pending::FileOp;
use super::tree::{FileNode, Ino};
use super::{Machine, State, failed};
use crate::fault::{EINVAL, ENOSPC, Effect, Op, Turn};
use block::sync::{Arc, lock};
use block::{ByteRange, Error, MediaFile, Result};
use std::os::fd::BorrowedFd;

/// The largest offset a file can have, as on Linux.
const MAX_OFFSET: u64 = i64::MAX as u64;

/// An open file of one process of one machine.
pub(super) struct SimFile {
    pub(super) machine: Arc<Machine>,
    pub(super) ino: Ino,
    pub(super) path: String,
    pub(super) writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        lock(&self.machine.state).tree.hold(self.ino, false);
    }
}

impl SimFile {
    fn call<T>(&self, op: Op, act: impl FnOnce(&mut State, &Turn) -> Result<T>) -> Result<T> {
        self.machine.call(op, &self.path, |state, turn| match turn.error(&self.path) {
            Some(error) if op != Op::Sync => Err(error),
            _ if op.is_mutating() && !self.writable => Err(failed(op, &self.path, EBADF)),
            _ => act(state, turn),
        })
    }

    fn node<'a>(&self, state: &'a mut State, op: Op) -> Result<&'a mut FileNode> {
        state.tree.file(op, self.ino, &self.path)
    }

    fn end(&self, op: Op, offset: u64, count: u64) -> Result<u64> {
        let end = offset.checked_add(count).filter(|&end| end <= MAX_OFFSET);
        end.ok_or_else(|| failed(op, &self.path, EINVAL))
    }

    /// Does something visible at once and durable after the next sync.
    fn change(&self, state: &mut State, op: FileOp) {
        state.tree.account(self.ino, |file| {
            op.apply(&mut file.visible);
            op.in_words(&file.visible, &mut file.pending);
        });
    }

    /// How many bytes from `start` on find room.
    fn room(&self, state: &mut State, op: Op, start: u64, end: u64) -> Result<u64> {
        let free = state.capacity.saturating_sub(state.tree.used);
        let file = self.node(state, op)?;
        if file.visible.missing_bytes(start, end) <= free {
            return Ok(end - start);
        }
        let mut until = start;
        loop {
            let next = ((until / PAGE + 1) * PAGE).min(end);
            if file.visible.missing_bytes(start, next) > free {
                return Ok(until - start);
            }
            until = next;
        }
    }
}

/// Writing through a file opened for reading.
const EBADF: i32 = 9;

impl MediaFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.call(Op::Read, |state, turn| {
            let file = self.node(state, Op::Read)?;
            let (count, size) = (buf.len() as u64, file.visible.len());
            if offset.checked_add(count).is_none_or(|end| end > size) {
                return Err(Error::OutOfRange { offset, count, size });
            }
            let stale = turn.effect == Some(Effect::Stale);
            let content = if stale { &file.durable } else { &file.visible };
            content.read(offset, buf);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.call(Op::Write, |state, turn| {
            let offset = match turn.effect {
                Some(Effect::Lose) => return Ok(()),
                Some(Effect::Misdirect { to }) => to,
                _ => offset,
            };
            let end = self.end(Op::Write, offset, buf.len() as u64)?;
            let room = self.room(state, Op::Write, offset, end)?;
            if room > 0 {
                self.change(state, FileOp::Write { offset, bytes: buf[..room as usize].into() });
            }
            if room < buf.len() as u64 {
                return Err(failed(Op::Write, &self.path, ENOSPC));
            }
            Ok(())
        })
    }

    fn sync(&self) -> Result<()> {
        self.call(Op::Sync, |state, turn| {
            let file = self.node(state, Op::Sync)?;
            if turn.effect == Some(Effect::Lie) {
                return Ok(());
            }
            let pending = std::mem::take(&mut file.pending);
            match turn.error(&self.path) {
                // the pages are marked clean all the same: readers see them, nothing writes them any more
                Some(error) => Err(error),
                None => {
                    pending.iter().for_each(|op| op.apply(&mut file.durable));
                    Ok(())
                }
            }
        })
    }

    fn size(&self) -> Result<u64> {
        self.call(Op::Size, |state, _| Ok(self.node(state, Op::Size)?.visible.len()))
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.call(Op::SetLen, |state, _| {
            self.end(Op::SetLen, len, 0)?;
            self.change(state, FileOp::SetLen(len));
            Ok(())
        })
    }

    fn allocate(&self, range: ByteRange) -> Result<()> {
        self.call(Op::Allocate, |state, _| {
            let (start, end) = (range.start(), self.end(Op::Allocate, range.start(), range.count().get())?);
            if start == end {
                return Ok(());
            }
            let free = state.capacity.saturating_sub(state.tree.used);
            if self.node(state, Op::Allocate)?.visible.missing_bytes(start, end) > free {
                return Err(failed(Op::Allocate, &self.path, ENOSPC));
            }
            self.change(state, FileOp::Allocate { start, end });
            Ok(())
        })
    }

    fn punch(&self, range: ByteRange) -> Result<()> {
        self.call(Op::Punch, |state, _| {
            let (start, end) = (range.start(), self.end(Op::Punch, range.start(), range.count().get())?);
            if start < end {
                self.change(state, FileOp::Punch { start, end });
            }
            Ok(())
        })
    }

    fn data_ranges(&self, range: ByteRange) -> Result<Vec<ByteRange>> {
        self.call(Op::DataRanges, |state, _| {
            let found = self.node(state, Op::DataRanges)?.visible.data_ranges(range.start(), range.end());
            Ok(found.into_iter().map(|(start, end)| ByteRange::between(start, end)).collect())
        })
    }

    fn fast_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
