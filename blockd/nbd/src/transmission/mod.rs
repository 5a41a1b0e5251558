//! A server's half of the data phase, as a state machine: bytes in, device calls, bytes out. It knows no socket; the
//! connection's thread feeds it what arrived and sends what it appended.
//!
//! Requests are executed in order of arrival, but for those that need what is far away (`far`). The payload of a write is handed to the device where it arrived; data
//! of a read is put where it is sent from, or left in the file it is in for the caller to send from there. A read whose
//! bytes the host must fetch first is handed to the caller and answered when they came, so that it holds up nobody.
//! Nothing is allocated per request. Long reads are answered in pieces between which the caller sends, and long writes
//! placed in pieces as they arrive, so that memory does not grow with what clients ask for.

mod check;
mod counters;
mod far;
mod latency;
mod read;
mod reply;
mod status;
mod write;

pub use crate::outbox::{Fetch, Outbox, Splice};
pub use counters::{Cells, CommandCount, Counts};
pub use far::Far;
pub use latency::Latency;

use crate::export::Access;
use crate::handshake::{Context, Negotiated};
use crate::limits::{INPUT_BUFFER, MAX_FETCH_BYTES, MAX_FETCHES, MAX_PAYLOAD, SEND_AT, SEND_AT_REPLIES};
use crate::wire::{self, Errno, ReplyStyle, Request};
use block::{BlockDevice, ByteOffset, ByteRange, Kind, Provision};
use read::Reading;
use std::ops::ControlFlow;
use std::sync::Arc;
use write::Writing;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More bytes, so many at least from the first one not consumed.
    Input(usize),
    /// Send the replies, then go on.
    Send,
    /// Nothing is consumed before a [`Fetch`] or a [`Far`] request is completed: enough of them are under way.
    Fetched,
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
    /// A read failed after its reply had begun, and replies have no room to say so.
    Failed(String),
}

/// Why a request fails: the number for the client and a line for people.
pub(crate) type Refused = (Errno, String);

/// The state of one connection.
pub struct Transmission {
    access: Access,
    size: u64,
    style: ReplyStyle,
    contexts: Vec<Context>,
    reading: Option<Reading>,
    writing: Option<Writing>,
    // what the caller can do beside sending bytes
    shortcuts: Shortcuts,
    fetches: usize,
    fetched_bytes: u64,
    // requests that wait for what is far away
    far: usize,
    far_bytes: u64,
    // there were such
    has_far: bool,
    // a read lately was not in memory: to ask for each one alone costs the host more than to begin them together
    is_cold: bool,
    stopping: bool,
    cells: Arc<Cells>,
    // last: the client is gone only after what it used is released
    _entered: Option<Box<dyn Send>>,
}

/// What the caller can do beside sending bytes that are in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shortcuts {
    /// It can send from a file of the host ([`Splice`]).
    pub splice: bool,
    /// It can fetch bytes of a file while other requests go on ([`Fetch`]).
    pub fetch: bool,
    /// It can bring what is far away near while other requests go on ([`Far`]).
    pub far: bool,
}

impl Transmission {
    /// A connection on which no request arrived yet. What it does is counted in `cells`.
    pub fn new(negotiated: Negotiated, cells: Arc<Cells>) -> Self {
        Self {
            access: negotiated.export.access,
            size: negotiated.facts.size,
            style: negotiated.style,
            contexts: negotiated.contexts,
            reading: None,
            writing: None,
            shortcuts: Shortcuts::default(),
            fetches: 0,
            fetched_bytes: 0,
            far: 0,
            far_bytes: 0,
            has_far: false,
            is_cold: false,
            stopping: false,
            cells,
            _entered: negotiated.entered,
        }
    }

    /// From now on these shortcuts are taken. Without a call there are none.
    pub fn allow(&mut self, shortcuts: Shortcuts) {
        self.shortcuts = shortcuts;
    }

    /// From now on no read is left to the caller.
    pub fn forbid_fetches(&mut self) {
        self.shortcuts.fetch = false;
    }

    /// The reads last handed out were all in memory: from now on they are looked for there again.
    pub fn found_cached(&mut self) {
        self.is_cold = false;
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
            match self.step(&input[used..], out) {
                ControlFlow::Continue(consumed) => used += consumed,
                ControlFlow::Break(step) => return (used, step),
            }
        }
    }

    /// Does the next thing there is to do; says how much of `input` it took.
    fn step(&mut self, input: &[u8], out: &mut Outbox) -> ControlFlow<Step, usize> {
        if out.to_send() >= SEND_AT || out.replies() >= SEND_AT_REPLIES {
            return ControlFlow::Break(Step::Send);
        }
        if let Some(reading) = self.reading.take() {
            return self.read_on(reading, out);
        }
        if let Some(writing) = self.writing.take() {
            return self.write_on(writing, input, out);
        }
        if self.fetches >= MAX_FETCHES || self.fetched_bytes >= MAX_FETCH_BYTES || self.is_full_of_far() {
            return ControlFlow::Break(Step::Fetched);
        }
        let (request, payload) = self.next(input)?;
        if may_wait(&request) && !out.is_empty() {
            return ControlFlow::Break(Step::Send);
        }
        let header = Request::len(self.style);
        if request.command == wire::CMD_DISC {
            return ControlFlow::Break(Step::Close(End::Disconnected));
        }
        let Some(payload) = payload else {
            self.begin_write(&request);
            return ControlFlow::Continue(header);
        };
        self.execute(&request, payload, out);
        ControlFlow::Continue(header + payload.len())
    }

    /// The request at the front of `rest` and its payload, if all of it is there. A payload larger than a connection's
    /// buffer is none here: it is taken in pieces.
    fn next<'a>(&self, rest: &'a [u8]) -> ControlFlow<Step, (Request, Option<&'a [u8]>)> {
        let decoded = match self.style {
            ReplyStyle::Extended => rest.first_chunk().map(Request::decode_extended),
            ReplyStyle::Simple | ReplyStyle::Structured => rest.first_chunk().map(Request::decode),
        };
        let header = Request::len(self.style);
        let request = match decoded {
            None => return ControlFlow::Break(Step::Input(header)),
            Some(Err(why)) => return ControlFlow::Break(Step::Close(End::Broken(why.why))),
            Some(Ok(request)) => request,
        };
        let payload = request.payload(self.style);
        if payload > u64::from(MAX_PAYLOAD) {
            let why = format!("a payload of {payload} bytes, at most {MAX_PAYLOAD} are taken");
            return ControlFlow::Break(Step::Close(End::Broken(why)));
        }
        let whole = header + payload as usize;
        if whole > INPUT_BUFFER {
            return ControlFlow::Continue((request, None));
        }
        match rest.get(header..whole) {
            Some(payload) => ControlFlow::Continue((request, Some(payload))),
            None => ControlFlow::Break(Step::Input(whole)),
        }
    }

    fn execute(&mut self, request: &Request, payload: &[u8], out: &mut Outbox) {
        let checked = self.check(request);
        self.cells.count(request.command, if checked.is_ok() { request.length } else { 0 });
        let done = match checked {
            Err(refused) => Err(refused),
            Ok(()) if self.is_far(request) => return self.hand_out(request, payload, out),
            Ok(()) if request.command == wire::CMD_READ => return self.read(request, out),
            Ok(()) => self.answer(request, payload, out),
        };
        if let Err((errno, why)) = done {
            self.fail(request, errno, &why, out);
        }
    }

    /// Executes a request that is answered by success or failure only.
    fn perform(&self, request: &Request, payload: &[u8], out: &mut Outbox) -> Result<(), Refused> {
        let start = request.offset;
        let range = ByteRange::between(start, start.saturating_add(request.length));
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
    (errno, with_causes(&error))
}

/// An error's message, and those of what caused it.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // one that only passes its cause on says the same twice
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
