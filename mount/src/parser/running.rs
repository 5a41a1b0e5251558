//! One parser process and the conversation with it. The process is hostile until proven otherwise, and it never is.

use super::ARGUMENT;
use super::wire::{Answer, FromParser, MAX_FRAME, Request, ToParser, VERSION};
use crate::{Error, Result};
use block::linux::SystemClock;
use block::{BlockSource, ByteOffset, Clock, Malformed};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a parser may compute for one answer, reads not counted: at first so that one that hangs is replaced within
/// a second, then again so that one that was only slow, as on a busy host, gets there.
pub(super) const ANSWER_NS: [u64; 2] = [1_000_000_000, 10_000_000_000];
/// How long it may take until it takes a message.
const SEND_NS: u64 = 1_000_000_000;
/// How long it may take to start and lock itself in.
const START_NS: u64 = 10_000_000_000;
/// Bytes read for one answer.
const READ_LIMIT: u64 = 4 << 30;

/// Why a parser is of no more use.
#[derive(Debug)]
pub(super) enum Ended {
    Died(std::io::Error),
    TooSlow,
    ReadTooMuch,
    Malformed(Malformed),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died(error) => write!(f, "died ({error})"),
            Self::TooSlow => write!(f, "took too long"),
            Self::ReadTooMuch => write!(f, "read more than {READ_LIMIT} bytes"),
            Self::Malformed(malformed) => write!(f, "sent what it may not send: {malformed}"),
        }
    }
}

impl From<Malformed> for Ended {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// A parser that said hello.
pub(super) struct Running {
    process: Child,
    pipe: UnixStream,
    frame: Vec<u8>,
}

impl Running {
    pub(super) fn start(executable: &Path) -> Result<Self> {
        let failed = |source| Error::host("start a parser from", executable, source);
        let (pipe, theirs) = UnixStream::pair().map_err(failed)?;
        let end = || -> Result<Stdio> { Ok(OwnedFd::from(theirs.try_clone().map_err(failed)?).into()) };
        let process = Command::new(executable)
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .spawn()
            .map_err(failed)?;
        drop(theirs);
        let mut running = Self { process, pipe, frame: Vec::new() };
        match running.receive(&mut Deadline::new(START_NS)) {
            Ok(FromParser::Hello { version: VERSION }) => Ok(running),
            Ok(FromParser::Refused { text }) => Err(Error::Sandbox { why: text }),
            Ok(_) => Err(Error::Sandbox { why: "the parser is of another version".to_owned() }),
            Err(end) => Err(Error::Sandbox { why: format!("the parser {end} while starting") }),
        }
    }

    pub(super) fn process(&self) -> u32 {
        self.process.id()
    }

    /// False once the process has ended, as far as the kernel has told.
    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// One question, for which it may compute so long; reads are served in between. The outer error means that the
    /// parser must go.
    pub(super) fn ask(
        &mut self,
        source: &dyn BlockSource,
        request: &Request,
        patience_ns: u64,
    ) -> Result<Result<Answer>, Ended> {
        self.send(&ToParser::Ask(request.clone()))?;
        let mut deadline = Deadline::new(patience_ns);
        let mut left = READ_LIMIT;
        loop {
            match self.receive(&mut deadline)? {
                FromParser::Read { offset, count } => {
                    left = left.checked_sub(u64::from(count)).ok_or(Ended::ReadTooMuch)?;
                    let message = fetch(source, offset, count as usize);
                    self.send(&message)?;
                }
                FromParser::Answer(answer) if answer.fits(request) => return Ok(Ok(answer)),
                FromParser::Failed { kind, text } => return Ok(Err(Error::Reported { kind, text })),
                FromParser::Answer(_) | FromParser::Hello { .. } | FromParser::Refused { .. } => {
                    return Err(Malformed { why: "no answer to the question".to_owned(), at: 0 }.into());
                }
            }
        }
    }

    fn send(&mut self, message: &ToParser) -> Result<(), Ended> {
        let body = message.encode();
        let mut frame = Vec::with_capacity(body.len() + 4);
        frame.extend((body.len() as u32).to_le_bytes());
        frame.extend(body);
        // a parser that does not take what it asked for must not hold the supervisor
        let patience = Some(Duration::from_nanos(SEND_NS));
        self.pipe.set_write_timeout(patience).map_err(Ended::Died)?;
        self.pipe.write_all(&frame).map_err(ended)
    }

    fn receive(&mut self, deadline: &mut Deadline) -> Result<FromParser, Ended> {
        let mut len = [0; 4];
        self.fill(&mut len, deadline)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_FRAME {
            return Err(Malformed { why: format!("a frame of {len} bytes"), at: 0 }.into());
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(len, 0);
        self.fill(&mut frame, deadline)?;
        let message = FromParser::decode(&frame);
        self.frame = frame;
        Ok(message?)
    }

    fn fill(&mut self, mut buf: &mut [u8], deadline: &mut Deadline) -> Result<(), Ended> {
        while !buf.is_empty() {
            let started = SystemClock.monotonic_ns();
            let patience = deadline.left().ok_or(Ended::TooSlow)?;
            self.pipe.set_read_timeout(Some(patience)).map_err(Ended::Died)?;
            match self.pipe.read(buf) {
                Ok(0) => return Err(Ended::Died(ErrorKind::UnexpectedEof.into())),
                Ok(read) => buf = buf.get_mut(read..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ended(error)),
            }
            deadline.spend(SystemClock.monotonic_ns().saturating_sub(started));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // it may be gone already, which is what is wanted
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait().map(|_| ())) {
            tracing::warn!("cannot end a parser: {error}");
        }
    }
}

fn ended(error: std::io::Error) -> Ended {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Ended::TooSlow,
        _ => Ended::Died(error),
    }
}

fn fetch(source: &dyn BlockSource, offset: u64, count: usize) -> ToParser {
    let mut bytes = vec![0; count];
    match source.read_at(ByteOffset::new(offset), &mut bytes) {
        Ok(()) => ToParser::Data(bytes),
        Err(error) => ToParser::NoData { kind: error.kind(), text: error.to_string() },
    }
}

/// Time a parser has left; only time spent waiting for it counts.
struct Deadline(u64);

impl Deadline {
    fn new(ns: u64) -> Self {
        Self(ns)
    }

    fn left(&self) -> Option<Duration> {
        (self.0 > 0).then(|| Duration::from_nanos(self.0))
    }

    fn spend(&mut self, ns: u64) {
        self.0 = self.0.saturating_sub(ns);
    }
}
