//! Writes longer than a connection's buffer, placed in pieces as they arrive. A client that goes in the middle has a
//! write that was never answered, of which some blocks are new: what any disk leaves of a write that was cut off.

use super::{Refused, Step, Transmission, persist, refused};
use crate::limits::WRITE_PIECE;
use crate::outbox::Outbox;
use crate::wire::{self, Errno, Request};
use block::{BLOCK_SIZE, ByteOffset};
use std::ops::ControlFlow;

/// A request whose payload is taken in pieces.
pub(super) struct Writing {
    request: Request,
    taken: u64,
    // what is left of the payload is taken and thrown away
    failed: Option<Refused>,
}

impl Transmission {
    /// Begins a request whose payload is longer than the buffer.
    pub(super) fn begin_write(&mut self, request: &Request) {
        let checked = self.check(request).and_then(|()| match request.command {
            wire::CMD_WRITE => Ok(()),
            _ => Err((Errno::INVALID, format!("a payload of {} bytes", request.length))),
        });
        self.cells.count(request.command, if checked.is_ok() { request.length } else { 0 });
        self.writing = Some(Writing { request: *request, taken: 0, failed: checked.err() });
    }

    /// Places the next piece of a write and answers it after the last.
    pub(super) fn write_on(
        &mut self,
        mut writing: Writing,
        input: &[u8],
        out: &mut Outbox,
    ) -> ControlFlow<Step, usize> {
        let request = writing.request;
        let left = request.length - writing.taken;
        let need = left.min(WRITE_PIECE);
        if (input.len() as u64) < need {
            self.writing = Some(writing);
            return ControlFlow::Break(Step::Input(need as usize));
        }
        let start = request.offset.saturating_add(writing.taken);
        let take = piece(start, left, input.len() as u64);
        if writing.failed.is_none() {
            writing.failed = self.place(start, &input[..take as usize]).err();
        }
        writing.taken += take;
        if take < left {
            self.writing = Some(writing);
        } else if let Err((errno, why)) = self.finish_write(writing) {
            self.fail(&request, errno, &why, out);
        } else {
            self.succeed(&request, out);
        }
        ControlFlow::Continue(take as usize)
    }

    fn place(&self, start: u64, bytes: &[u8]) -> Result<(), Refused> {
        let Some(device) = self.access.device() else { return Ok(()) };
        device.write_at(ByteOffset::new(start), bytes).map_err(refused)
    }

    fn finish_write(&self, writing: Writing) -> Result<(), Refused> {
        match (writing.failed, self.access.device()) {
            (Some(refused), _) => Err(refused),
            (None, Some(device)) => persist(device, writing.request.flags).map_err(refused),
            (None, None) => Ok(()),
        }
    }
}

/// How much of a payload to take: all that is there, but ending where a block ends, so that no block is written twice.
fn piece(start: u64, left: u64, there: u64) -> u64 {
    if there >= left {
        return left;
    }
    let end = start.saturating_add(there) / BLOCK_SIZE * BLOCK_SIZE;
    if end > start { end - start } else { there }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_where_blocks_end() {
        assert_eq!(piece(0, 1 << 20, 200_000), 196_608);
        assert_eq!(piece(512, 1 << 20, 200_000), 196_096);
        assert_eq!(piece(4096, 100, 200_000), 100);
        assert_eq!(piece(100, 1 << 20, 50), 50);
        assert_eq!(piece(u64::MAX - 10, 1 << 20, 200_000), 200_000);
    }
}
