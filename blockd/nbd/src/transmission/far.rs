//! Requests about what is far away: bytes that only a vault's store has, which may take long and, while the store does not
//! answer, very long. The caller brings them near on another thread and says so; meanwhile the connection goes on.
//!
//! A read is then answered with those bytes. Everything else is done as if it had just come: what it needs is in memory by then.

use super::{Refused, Transmission, refused};
use crate::export::Access;
use crate::limits::{MAX_FAR_BYTES, MAX_FETCHES, MAX_PAYLOAD_ADVERTISED, MAX_STATUS_EXTENTS, READ_CHUNK};
use crate::outbox::Outbox;
use crate::wire::{self, Request};
use block::{BLOCK_SIZE, ByteOffset, ByteRange, Error};
use std::ops::ControlFlow;

/// A request that waits for what is far away: [`bring`](Self::bring) is for any thread, and what comes of it for
/// [`Transmission::brought`].
pub struct Far {
    request: Request,
    payload: Vec<u8>,
    access: Access,
}

impl Far {
    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Reads what the request needs. It may take as long as whatever has it.
    ///
    /// # Errors
    /// What the export reports.
    pub fn bring(&self) -> Result<Vec<u8>, Error> {
        let (source, range) = (self.access.source(), range_of(&self.request));
        match self.request.command {
            wire::CMD_READ => {
                let mut bytes = vec![0; range.count().get() as usize];
                source.read_at(range.offset(), &mut bytes)?;
                Ok(bytes)
            }
            wire::CMD_BLOCK_STATUS => {
                // as much as one answer names
                let mut left = MAX_STATUS_EXTENTS;
                source.extents(range, &mut |_| {
                    left -= 1;
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })?;
                Ok(Vec::new())
            }
            wire::CMD_CACHE => self.bring_pieces(range),
            _ => edges(range, source.size().get())
                .try_for_each(|edge| self.bring_pieces(edge).map(drop))
                .map(|()| Vec::new()),
        }
    }

    fn bring_pieces(&self, range: ByteRange) -> Result<Vec<u8>, Error> {
        let mut scratch = vec![0; range.count().get().min(READ_CHUNK) as usize];
        for at in (range.start()..range.end()).step_by(READ_CHUNK as usize) {
            let count = (range.end() - at).min(READ_CHUNK) as usize;
            self.access.source().read_at(ByteOffset::new(at), &mut scratch[..count])?;
        }
        Ok(Vec::new())
    }
}

fn range_of(request: &Request) -> ByteRange {
    ByteRange::between(request.offset, request.offset.saturating_add(request.length))
}

/// The blocks that a change of a range changes only in part: their other bytes have to be read.
fn edges(range: ByteRange, size: u64) -> impl Iterator<Item = ByteRange> {
    let block_of = move |at: u64| {
        let start = at / BLOCK_SIZE * BLOCK_SIZE;
        ByteRange::between(start, (start + BLOCK_SIZE).min(size))
    };
    let first = (!range.start().is_multiple_of(BLOCK_SIZE)).then(|| block_of(range.start()));
    let is_whole = range.end().is_multiple_of(BLOCK_SIZE) || range.end() == size;
    let last = (!is_whole).then(|| block_of(range.end())).filter(|last| first != Some(*last));
    first.into_iter().chain(last).filter(move |_| !range.is_empty())
}

impl Transmission {
    /// Whether a request that was found in order needs what is far away.
    pub(super) fn is_far(&mut self, request: &Request) -> bool {
        if !self.shortcuts.far
            || request.length > u64::from(MAX_PAYLOAD_ADVERTISED) && request.command != wire::CMD_BLOCK_STATUS
        {
            return false;
        }
        let (source, range) = (self.access.source(), range_of(request));
        let is_far = match request.command {
            wire::CMD_READ | wire::CMD_CACHE => !range.is_empty() && !source.is_near(range),
            wire::CMD_WRITE | wire::CMD_WRITE_ZEROES | wire::CMD_TRIM => {
                edges(range, self.size).any(|edge| !source.is_near(edge))
            }
            // what an extent is may be as far as its bytes; nobody knows before
            wire::CMD_BLOCK_STATUS => self.has_far && request.flags & wire::CMD_FLAG_PAYLOAD_LEN == 0,
            _ => false,
        };
        self.has_far |= is_far;
        is_far
    }

    /// Hands a request to the caller, who brings what it needs.
    pub(super) fn hand_out(&mut self, request: &Request, payload: &[u8], out: &mut Outbox) {
        self.far += 1;
        self.far_bytes += bytes_of(request);
        out.bring(Far { request: *request, payload: payload.to_vec(), access: self.access.clone() });
    }

    /// Whether no more of such requests are taken for now.
    pub(super) fn is_full_of_far(&self) -> bool {
        self.far >= MAX_FETCHES || self.far_bytes >= MAX_FAR_BYTES
    }

    /// Answers a request once what it needs was brought, or could not be.
    pub fn brought(&mut self, far: &Far, result: Result<Vec<u8>, Error>, out: &mut Outbox) {
        let Far { request, payload, .. } = far;
        self.far -= 1;
        self.far_bytes -= bytes_of(request);
        let done = match result {
            Err(error) => Err(refused(error)),
            Ok(bytes) if request.command == wire::CMD_READ => {
                // it cannot fail any more
                let _put = self.put_copied(request, range_of(request), out, |buf| {
                    buf.copy_from_slice(&bytes);
                    Ok(true)
                });
                return;
            }
            Ok(_) => self.answer(request, payload, out),
        };
        if let Err((errno, why)) = done {
            self.fail(request, errno, &why, out);
        }
    }

    /// Does what a request says that is no read, and answers it.
    pub(super) fn answer(&self, request: &Request, payload: &[u8], out: &mut Outbox) -> Result<(), Refused> {
        match request.command {
            wire::CMD_BLOCK_STATUS => self.status(request, payload, out),
            _ => self.perform(request, payload, out).map(|()| self.succeed(request, out)),
        }
    }
}

/// What a request that waits may hold of memory.
fn bytes_of(request: &Request) -> u64 {
    if request.command == wire::CMD_BLOCK_STATUS { 0 } else { request.length.min(MAX_FAR_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_that_are_changed_in_part_are_edges() {
        let of = |start, end| -> Vec<u64> {
            edges(ByteRange::between(start, end), 20_000).map(|edge| edge.start() / BLOCK_SIZE).collect()
        };
        assert!(of(0, 4096).is_empty() && of(4096, 12288).is_empty() && of(5000, 5000).is_empty());
        assert_eq!(of(1, 4096), [0]);
        assert_eq!(of(0, 4097), [1]);
        assert_eq!(of(100, 200), [0]);
        assert_eq!(of(100, 9000), [0, 2]);
        assert!(of(16_384, 20_000).is_empty(), "the end of the disk ends its last block");
        assert_eq!(of(16_385, 20_000), [4]);
    }
}
