//! A server's half of the data phase, as a state machine: bytes in, device calls, bytes out. It knows no socket; the
//! connection's thread feeds it what arrived and sends what it appended.
//!
//! Requests are executed in order of arrival. The payload of a write is handed to the device where it arrived; data
//! of a read is put where it is sent from. Nothing is allocated per request. A read longer than half a megabyte is
//! answered in pieces between which the caller sends, so that memory does not grow with what clients ask for.

mod counters;
mod read;
mod reply;
mod status;

pub use crate::buffer::Outbox;
pub use counters::{Cells, CommandCount, Counts};

use crate::export::Access;
use crate::handshake::{Context, Negotiated};
use crate::limits::{MAX_PAYLOAD, SEND_AT, SEND_AT_REPLIES};
use crate::wire::{self, Errno, Request};
use block::{BlockDevice, ByteOffset, ByteRange, Kind, Provision};
use read::Reading;
use std::sync::Arc;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More bytes, so many at least from the first one not consumed.
    Input(usize),
    /// Send the replies, then go on.
    Send,
    /// The end of the connection. Replies are still to be sent.
    Close(End),
}

/// Why the data phase ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client said good-bye.
    Disconnected,
    /// The client broke a rule of the protocol in a way that leaves the stream out of step.
    Broken(String),
}

/// Why a request fails: the number for the client and a line for people.
pub(crate) type Refused = (Errno, String);

/// The state of one connection.
pub struct Transmission {
    access: Access,
    size: u64,
    structured: bool,
    contexts: Vec<Context>,
    reading: Option<Reading>,
    stopping: bool,
    cells: Arc<Cells>,
}

impl Transmission {
    /// A connection on which no request arrived yet. What it does is counted in `cells`.
    pub fn new(negotiated: Negotiated, cells: Arc<Cells>) -> Self {
        Self {
            access: negotiated.export.access,
            size: negotiated.facts.size,
            structured: negotiated.structured,
            contexts: negotiated.contexts,
            reading: None,
            stopping: false,
            cells,
        }
    }

    /// From now on every request is told that the server is stopping.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Consumes whole requests from the front of `input`, appends replies to `out`, and returns how many bytes it
    /// consumed. It stops early when enough is ready to be sent, or before a request that may take long.
    pub fn advance(&mut self, input: &[u8], out: &mut Outbox) -> (usize, Step) {
        let mut used = 0;
        loop {
            if out.len() >= SEND_AT || out.replies() >= SEND_AT_REPLIES {
                return (used, Step::Send);
            }
            if let Some(reading) = self.reading.take() {
                self.reading = self.read_on(reading, out);
                continue;
            }
            let rest = &input[used..];
            let Some(bytes) = rest.first_chunk::<{ Request::LEN }>() else {
                return (used, Step::Input(Request::LEN));
            };
            let request = match Request::decode(bytes) {
                Ok(request) => request,
                Err(why) => return (used, Step::Close(End::Broken(why.why))),
            };
            if request.payload() > MAX_PAYLOAD {
                let why = format!("a write of {} bytes, at most {MAX_PAYLOAD} are taken", request.length);
                return (used, Step::Close(End::Broken(why)));
            }
            let whole = Request::LEN + request.payload() as usize;
            let Some(payload) = rest.get(Request::LEN..whole) else {
                return (used, Step::Input(whole));
            };
            if may_wait(&request) && !out.is_empty() {
                return (used, Step::Send);
            }
            used += whole;
            if request.command == wire::CMD_DISC {
                return (used, Step::Close(End::Disconnected));
            }
            self.execute(&request, payload, out);
        }
    }

    fn execute(&mut self, request: &Request, payload: &[u8], out: &mut Outbox) {
        self.cells.count(request.command, request.length);
        let done = match self.check(request) {
            Err(refused) => Err(refused),
            Ok(()) if request.command == wire::CMD_READ => return self.read(request, out),
            Ok(()) if request.command == wire::CMD_BLOCK_STATUS && request.length > 0 => {
                return self.status(request, out);
            }
            Ok(()) => self.perform(request, payload, out),
        };
        match done {
            Ok(()) => self.succeed(request.cookie, request.command, out),
            Err((errno, why)) => self.fail(request.cookie, request.command, errno, &why, out),
        }
    }

    /// Everything that is wrong with a request whatever the device says, in the words and numbers of the protocol.
    fn check(&self, request: &Request) -> Result<(), Refused> {
        let Request { command, flags, offset, length, .. } = *request;
        let invalid = |why: String| Err((Errno::INVALID, why));
        if self.stopping {
            return Err((Errno::SHUTDOWN, "the server is stopping".into()));
        }
        let Some(valid) = self.valid_flags(command) else {
            return invalid(format!("unknown command {command}"));
        };
        if flags & !valid != 0 {
            return invalid(format!("flags {flags:#x} on command {command}"));
        }
        let writes = matches!(command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES | wire::CMD_TRIM);
        if writes && self.access.device().is_none() {
            return Err((Errno::PERMISSION, "the export is read-only".into()));
        }
        if command == wire::CMD_FLUSH && (offset, length) != (0, 0) {
            return invalid("a flush has neither offset nor length".into());
        }
        if offset.checked_add(u64::from(length)).is_none_or(|end| end > self.size) {
            let grows = matches!(command, wire::CMD_WRITE | wire::CMD_WRITE_ZEROES);
            let errno = if grows { Errno::NO_SPACE } else { Errno::INVALID };
            return Err((
                errno,
                format!("{length} bytes at offset {offset} pass the end, which is at {}", self.size),
            ));
        }
        if command == wire::CMD_BLOCK_STATUS && self.contexts.is_empty() {
            return invalid("no metadata context was selected".into());
        }
        Ok(())
    }

    /// The flags a command may carry. FUA is valid on all of them once it is advertised.
    fn valid_flags(&self, command: u16) -> Option<u16> {
        let own = match command {
            wire::CMD_READ if self.structured => wire::CMD_FLAG_DF,
            wire::CMD_READ | wire::CMD_WRITE | wire::CMD_FLUSH | wire::CMD_TRIM | wire::CMD_CACHE => 0,
            wire::CMD_WRITE_ZEROES => wire::CMD_FLAG_NO_HOLE | wire::CMD_FLAG_FAST_ZERO,
            wire::CMD_BLOCK_STATUS => wire::CMD_FLAG_REQ_ONE,
            _ => return None,
        };
        Some(own | wire::CMD_FLAG_FUA)
    }

    /// Executes a request that is answered by success or failure only.
    fn perform(&self, request: &Request, payload: &[u8], out: &mut Outbox) -> Result<(), Refused> {
        let start = request.offset;
        let range = ByteRange::between(start, start.saturating_add(u64::from(request.length)));
        if request.command == wire::CMD_CACHE {
            return self.cache(range, out);
        }
        let Some(device) = self.access.device() else {
            // what is read-only has nothing to flush; all else was refused before
            return Ok(());
        };
        let done = match request.command {
            wire::CMD_FLUSH => return device.flush().map_err(refused),
            wire::CMD_WRITE if !payload.is_empty() => device.write_at(ByteOffset::new(start), payload),
            wire::CMD_TRIM if !range.is_empty() => device.discard(range),
            wire::CMD_WRITE_ZEROES => return self.zero(device, range, request.flags),
            _ => Ok(()),
        };
        done.and_then(|()| persist(device, request.flags)).map_err(refused)
    }

    fn zero(&self, device: &dyn BlockDevice, range: ByteRange, flags: u16) -> Result<(), Refused> {
        let keep = flags & wire::CMD_FLAG_NO_HOLE != 0;
        if keep && flags & wire::CMD_FLAG_FAST_ZERO != 0 {
            // allocating may take as long as writing, and nobody knows before
            return Err((Errno::NOT_FAST, "zeros that keep their space may be as slow as writing".into()));
        }
        if !range.is_empty() {
            let provision = if keep { Provision::Allocated } else { Provision::Sparse };
            device.zero(range, provision).map_err(refused)?;
        }
        persist(device, flags).map_err(refused)
    }
}

/// FUA: durable before the answer.
fn persist(device: &dyn BlockDevice, flags: u16) -> Result<(), block::Error> {
    if flags & wire::CMD_FLAG_FUA != 0 { device.flush() } else { Ok(()) }
}

/// Whether replies should not wait for this request.
fn may_wait(request: &Request) -> bool {
    request.command == wire::CMD_FLUSH
        || request.flags & wire::CMD_FLAG_FUA != 0 && request.command != wire::CMD_READ
}

/// How a device's failure is told.
fn refused(error: block::Error) -> Refused {
    let errno = Errno::of(error.kind());
    if matches!(error.kind(), Kind::Corrupt | Kind::Poisoned | Kind::Io) {
        tracing::warn!(error = &error as &dyn std::error::Error, "a request failed");
    }
    (errno, error.to_string())
}
