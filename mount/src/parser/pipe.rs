//! Frames over a descriptor, at the parser's end: plain `read` and `write`, the only calls on descriptors its sandbox
//! leaves it.

use super::wire::{FromParser, MAX_FRAME, MAX_READ, ToParser};
use crate::{Error, Result};
use block::sync::{Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, ExtentKind, Malformed, Visit, check_range};
use rustix::io::Errno;
use std::os::fd::AsFd;

/// The parser's end of the pipe, which is its standard input, used both ways.
pub(super) struct Pipe {
    /// A read and its data belong together, whichever reader asks.
    turn: Mutex<()>,
}

impl Pipe {
    pub(super) fn new() -> Self {
        Self { turn: Mutex::new(()) }
    }

    /// Sends a message.
    pub(super) fn send(&self, message: &FromParser) -> Result<()> {
        let body = message.encode();
        let mut frame = (body.len() as u32).to_le_bytes().to_vec();
        frame.extend(body);
        let mut left = frame.as_slice();
        while !left.is_empty() {
            match rustix::io::write(std::io::stdin().as_fd(), left) {
                Ok(written) => left = left.get(written..).unwrap_or_default(),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::host("write to", "the pipe", errno)),
            }
        }
        Ok(())
    }

    /// The next message, or `None` if the supervisor is gone.
    pub(super) fn receive(&self) -> Result<Option<ToParser>> {
        let mut len = [0; 4];
        if !fill(&mut len)? {
            return Ok(None);
        }
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_FRAME {
            return Err(Malformed { why: format!("a frame of {len} bytes"), at: 0 }.into());
        }
        let mut frame = vec![0; len];
        if !fill(&mut frame)? {
            return Ok(None);
        }
        Ok(Some(ToParser::decode(&frame)?))
    }

    fn fetch(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let _turn = lock(&self.turn);
        self.send(&FromParser::Read { offset, count: buf.len() as u32 })?;
        match self.receive()? {
            Some(ToParser::Data(bytes)) if bytes.len() == buf.len() => {
                buf.copy_from_slice(&bytes);
                Ok(())
            }
            Some(ToParser::NoData { kind, text }) => Err(Error::Reported { kind, text }),
            _ => Err(Malformed { why: "no data where data was due".to_owned(), at: 0 }.into()),
        }
    }
}

/// Reads until `buf` is full; false if the other end closed before.
fn fill(mut buf: &mut [u8]) -> Result<bool> {
    while !buf.is_empty() {
        match rustix::io::read(std::io::stdin().as_fd(), &mut *buf) {
            Ok(0) => return Ok(false),
            Ok(read) => buf = buf.get_mut(read..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::host("read from", "the pipe", errno)),
        }
    }
    Ok(true)
}

/// The disk, as seen through the pipe.
pub(super) struct PipeSource {
    pub(super) pipe: std::sync::Arc<Pipe>,
    pub(super) size: ByteCount,
}

impl BlockSource for PipeSource {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let mut at = offset.get();
        for part in buf.chunks_mut(MAX_READ) {
            self.pipe.fetch(at, part).map_err(block::Error::other)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        // readers do not ask; one extent of data is always a right answer
        block::visit_last(range, ExtentKind::Data, visit);
        Ok(())
    }
}
