//! A server's half of option haggling, as a state machine: bytes in, bytes and a decision out. It opens exports and
//! knows no socket, no clock and no thread, so that a fuzzer can be its client.
//!
//! Everything a client sends here is untrusted: lengths are checked before anything is kept, and at most one option
//! of 32 KiB is looked at at a time.

mod context;
mod options;

pub use context::Context;

use crate::export::{Access, Export, Exports, Peer};
use crate::limits::{MAX_OPTION_LEN, MAX_OPTIONS};
use crate::wire::{
    self, ExportFacts, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, GREETING_LEN, Greeting, OptionHeader,
    OptionReply, Refusal, ReplyStyle,
};

/// What comes next.
pub enum Step {
    /// More bytes, so many at least from the first one not consumed.
    Input(usize),
    /// The data phase.
    Transmission(Box<Negotiated>),
    /// TLS, once the replies are sent: from then on both sides speak it. What else the client sent before it must be
    /// thrown away, or somebody on the way could put words into its mouth. Go on with [`Handshake::secured`].
    StartTls,
    /// The end of the connection. Replies are still to be sent.
    Close(End),
}

/// What a handshake says about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tls {
    /// This server has none here.
    Unsupported,
    /// Nothing is told or done before it.
    Required,
    /// It is spoken already.
    Active,
}

/// Why a handshake ended without an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client said good-bye.
    Aborted,
    /// The client broke a rule of the protocol.
    Broken(String),
    /// The export was refused, and the client chose the option that has no way to say so.
    Refused(String),
}

/// What client and server agreed upon.
pub struct Negotiated {
    /// The name of the export.
    pub name: String,
    /// The export.
    pub export: Export,
    /// What the client was told of it.
    pub facts: ExportFacts,
    /// How requests and replies look.
    pub style: ReplyStyle,
    /// The metadata contexts of block status requests.
    pub contexts: Vec<Context>,
    /// The client's place inside the export's gate, if it has one.
    pub entered: Option<Box<dyn Send>>,
}

/// The state of one handshake.
pub struct Handshake<'a> {
    exports: &'a dyn Exports,
    peer: &'a Peer,
    flags: Option<u32>,
    tls: Tls,
    style: ReplyStyle,
    // the contexts last selected, and for which export
    selected: Option<(String, Vec<Context>)>,
    // the export last looked at, so that INFO and GO give the same answer and it is opened once
    opened: Option<(String, Export)>,
    entered: Option<Box<dyn Send>>,
    options: u32,
    stopping: bool,
}

impl<'a> Handshake<'a> {
    /// A handshake with a client that has sent nothing yet.
    pub fn new(exports: &'a dyn Exports, peer: &'a Peer, tls: Tls) -> Self {
        Self {
            exports,
            peer,
            flags: None,
            tls,
            style: ReplyStyle::Simple,
            selected: None,
            opened: None,
            entered: None,
            options: 0,
            stopping: false,
        }
    }

    /// The handshake that goes on inside TLS, with a client now known as `peer`. Only the client's flags are left of
    /// `plain`: everything it negotiated must be negotiated again.
    pub fn secured(plain: Handshake<'_>, exports: &'a dyn Exports, peer: &'a Peer) -> Self {
        let options = plain.options;
        Self {
            flags: plain.flags,
            options,
            stopping: plain.stopping,
            ..Self::new(exports, peer, Tls::Active)
        }
    }

    /// What a server says first.
    pub fn greeting() -> [u8; GREETING_LEN] {
        Greeting::OURS.encode()
    }

    /// From now on only tells the client that the server is stopping.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.opened = None;
    }

    /// Consumes what it can of `input`, appends replies to `out`, and returns how many bytes it consumed.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Step) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let (count, step) = match self.flags {
                None => self.client_flags(rest),
                Some(_) => self.option(rest, out),
            };
            used += count;
            if let Some(step) = step {
                return (used, step);
            }
        }
    }

    fn client_flags(&mut self, rest: &[u8]) -> (usize, Option<Step>) {
        let Some(bytes) = rest.first_chunk::<4>() else {
            return (0, Some(Step::Input(4)));
        };
        let flags = u32::from_be_bytes(*bytes);
        if flags & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
            return (4, Some(Step::Close(End::Broken(format!("unknown client flags {flags:#x}")))));
        }
        self.flags = Some(flags);
        (4, None)
    }

    fn option(&mut self, rest: &[u8], out: &mut Vec<u8>) -> (usize, Option<Step>) {
        let Some(bytes) = rest.first_chunk::<{ OptionHeader::LEN }>() else {
            return (0, Some(Step::Input(OptionHeader::LEN)));
        };
        let broken = |why: String| (rest.len(), Some(Step::Close(End::Broken(why))));
        let header = match OptionHeader::decode(bytes) {
            Ok(header) => header,
            Err(why) => return broken(why.why),
        };
        if header.length > MAX_OPTION_LEN {
            return broken(format!("option {} with {} bytes of data", header.option, header.length));
        }
        if self.options == MAX_OPTIONS {
            return broken(format!("more than {MAX_OPTIONS} options"));
        }
        let whole = OptionHeader::LEN + header.length as usize;
        let Some(data) = rest.get(OptionHeader::LEN..whole) else {
            return (0, Some(Step::Input(whole)));
        };
        self.options += 1;
        (whole, self.execute(header.option, data, out))
    }

    fn execute(&mut self, option: u32, data: &[u8], out: &mut Vec<u8>) -> Option<Step> {
        if self.stopping && !matches!(option, wire::OPT_ABORT | wire::OPT_EXPORT_NAME) {
            OptionReply::refuse(out, option, Refusal::Shutdown, "the server is stopping");
            return None;
        }
        if self.tls == Tls::Required && !matches!(option, wire::OPT_STARTTLS | wire::OPT_ABORT) {
            if option == wire::OPT_EXPORT_NAME {
                return Some(Step::Close(End::Refused("not without TLS".into())));
            }
            OptionReply::refuse(out, option, Refusal::TlsRequired, "not without TLS");
            return None;
        }
        match option {
            wire::OPT_EXPORT_NAME => return Some(self.export_name(data, out)),
            wire::OPT_STARTTLS => return self.start_tls(data, out),
            wire::OPT_ABORT => {
                OptionReply::ack(out, option);
                return Some(Step::Close(End::Aborted));
            }
            wire::OPT_LIST => self.list(data, out),
            wire::OPT_INFO => {
                self.info(option, data, out);
            }
            wire::OPT_GO => return self.info(option, data, out).then(|| self.transmission()),
            wire::OPT_STRUCTURED_REPLY => self.structured_reply(data, out),
            wire::OPT_EXTENDED_HEADERS => self.extended_headers(data, out),
            wire::OPT_LIST_META_CONTEXT | wire::OPT_SET_META_CONTEXT => self.meta_context(option, data, out),
            _ => OptionReply::refuse(out, option, Refusal::Unsupported, "not an option of this server"),
        }
        None
    }

    /// The data phase with the export that was opened last.
    fn transmission(&mut self) -> Step {
        match self.opened.take() {
            Some((name, export)) => {
                let contexts = match self.selected.take() {
                    Some((of, contexts)) if of == name => contexts,
                    _ => Vec::new(),
                };
                let (style, facts) = (self.style, facts(&export, self.style, !contexts.is_empty()));
                let entered = self.entered.take();
                Step::Transmission(Box::new(Negotiated { name, export, facts, style, contexts, entered }))
            }
            None => Step::Close(End::Refused("no export is open".into())),
        }
    }

    /// Opens the export of this name, unless it is the one open already.
    fn open(&mut self, name: &str) -> Result<&Export, block::Error> {
        if self.opened.as_ref().is_none_or(|(open, _)| open != name) {
            // released before the next is opened: a client may have swapped one name of it for another
            self.opened = None;
            let export = self.exports.open(name, self.peer)?;
            self.opened = Some((name.to_owned(), export));
        }
        match &self.opened {
            Some((_, export)) => Ok(export),
            None => Err(block::Error::NotFound { what: format!("export {name:?}") }),
        }
    }

    /// Goes through the gate of the export that is open.
    fn enter(&mut self) -> Result<(), block::Error> {
        let gate = self.opened.as_ref().and_then(|(_, export)| export.gate.as_ref());
        self.entered = gate.map(|gate| gate.enter(self.peer)).transpose()?;
        Ok(())
    }

    fn no_zeroes(&self) -> bool {
        self.flags.is_some_and(|flags| flags & u32::from(FLAG_NO_ZEROES) != 0)
    }
}

/// What a client is told of an export. The flags stand in one table, so that none is forgotten.
fn facts(export: &Export, style: ReplyStyle, has_contexts: bool) -> ExportFacts {
    let both =
        wire::SEND_HAS_FLAGS | wire::SEND_FLUSH | wire::SEND_FUA | wire::SEND_CACHE | wire::SEND_MULTI_CONN;
    let access = match export.access {
        Access::ReadOnly(_) => wire::SEND_READ_ONLY,
        Access::ReadWrite(_) => wire::SEND_TRIM | wire::SEND_WRITE_ZEROES | wire::SEND_FAST_ZERO,
    };
    let df = if style > ReplyStyle::Simple { wire::SEND_DF } else { 0 };
    let payload = style == ReplyStyle::Extended && has_contexts;
    let payload = if payload { wire::SEND_BLOCK_STATUS_PAYLOAD } else { 0 };
    ExportFacts { size: export.access.size().get(), flags: both | access | df | payload }
}

#[cfg(test)]
mod tests;
