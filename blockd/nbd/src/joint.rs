//! Bytes of several files on their way to a socket: the kernel joins them in a pipe by reference, and the socket takes
//! them at once. A call for each piece costs less than copying it.

use crate::limits::READ_CHUNK;
use crate::socket::{Socket, SpliceEnd, is_of_socket};
use block::{Kind, Stored};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use std::io;

/// A pipe. It is empty between calls that sent everything; after any other it must be dropped.
pub(crate) struct Joint {
    reader: OwnedFd,
    writer: OwnedFd,
}

/// What is not in the pipe yet.
struct Rest<'a> {
    pieces: std::slice::Iter<'a, Stored>,
    open: Option<(&'a Stored, u64)>,
}

impl<'a> Rest<'a> {
    fn of(pieces: &'a [Stored]) -> Self {
        Self { pieces: pieces.iter(), open: None }
    }

    /// The file to go on with, and from where.
    fn next(&mut self) -> Option<(&'a Stored, u64)> {
        self.open.take().or_else(|| self.pieces.next().map(|stored| (stored, stored.offset)))
    }

    /// Remembers how far a file went.
    fn went_to(&mut self, stored: &'a Stored, at: u64) {
        self.open = (at < stored.range().end()).then_some((stored, at));
    }
}

impl Joint {
    pub(crate) fn make() -> Result<Self, Errno> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if let Err(errno) = fcntl_setpipe_size(&writer, READ_CHUNK as usize) {
            tracing::debug!(%errno, "a pipe stays small");
        }
        Ok(Self { reader, writer })
    }

    /// Sends the pieces one after the other, as many bytes as the socket takes without waiting; it must not be
    /// [waiting](Socket::set_waiting).
    ///
    /// # Errors
    /// What the socket reports; a failure of a file is none.
    pub(crate) fn send_now(&self, pieces: &[Stored], socket: &Socket) -> io::Result<SpliceEnd> {
        let mut missing = pieces.iter().map(|piece| piece.count).sum();
        let (mut rest, mut inside) = (Rest::of(pieces), 0);
        while missing > 0 {
            match self.fill(&mut rest) {
                Ok(count) => inside += count,
                Err(error) => return Ok(SpliceEnd::Failed { missing, error }),
            }
            match splice(&self.reader, None, socket, None, inside as usize, SpliceFlags::NONBLOCK) {
                Ok(0) => {
                    let error = block::Error::refused(Kind::Io, "a pipe", "gives nothing back");
                    return Ok(SpliceEnd::Failed { missing, error });
                }
                Ok(sent) => (inside, missing) = (inside - sent as u64, missing - sent as u64),
                Err(Errno::AGAIN) => return Ok(SpliceEnd::Waits { missing }),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let error = io::Error::from(errno);
                    let what = "send from a pipe to";
                    return match is_of_socket(&error) {
                        true => Err(error),
                        false => Ok(SpliceEnd::Failed {
                            missing,
                            error: block::Error::host(what, "a socket", None, error),
                        }),
                    };
                }
            }
        }
        Ok(SpliceEnd::Whole)
    }

    /// Puts as much into the pipe as there is room for.
    fn fill(&self, rest: &mut Rest<'_>) -> Result<u64, block::Error> {
        let mut filled = 0;
        while let Some((stored, from)) = rest.next() {
            let (mut at, end) = (from, stored.range().end());
            let Some(file) = stored.file.fast_fd() else {
                return Err(block::Error::refused(Kind::Unsupported, "a file", "has no descriptor"));
            };
            match splice(
                file,
                Some(&mut at),
                &self.writer,
                None,
                (end - from) as usize,
                SpliceFlags::NONBLOCK,
            ) {
                Ok(0) => {
                    let size = stored.file.size().unwrap_or(from);
                    return Err(block::Error::OutOfRange { offset: from, count: end - from, size });
                }
                Ok(count) => {
                    filled += count as u64;
                    rest.went_to(stored, from + count as u64);
                }
                Err(Errno::AGAIN) => {
                    rest.went_to(stored, from);
                    return Ok(filled);
                }
                Err(Errno::INTR) => rest.went_to(stored, from),
                Err(errno) => return Err(block::Error::host("read", "a layer", Some(from), errno.into())),
            }
        }
        Ok(filled)
    }
}
