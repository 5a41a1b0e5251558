//! How a command fails: a sentence, advice, and the kind that decides the exit code.

use control::{ErrorBody, Kind};
use std::error::Error;
use std::fmt::Display;
use std::io;

/// A result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: Kind,
    /// What failed and why.
    pub message: String,
    /// What to do next.
    pub help: Option<String>,
    is_broken_pipe: bool,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None, is_broken_pipe: false }
    }

    /// Something is wrong with the command itself.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A failed call to the host.
    pub fn host(what: impl Display, source: &io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => Kind::NotFound,
            io::ErrorKind::AlreadyExists => Kind::Conflict,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
            _ => Kind::Io,
        };
        let mut failure = Self::new(kind, format!("{what}: {source}"));
        failure.is_broken_pipe = source.kind() == io::ErrorKind::BrokenPipe;
        failure
    }

    /// The same failure with advice.
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// The same failure, saying first what was attempted.
    pub fn while_doing(self, what: impl Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Whether the reader of our output went away.
    pub fn is_broken_pipe(&self) -> bool {
        self.is_broken_pipe
    }
}

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self { kind: body.kind, message: body.message, help: body.help, is_broken_pipe: false }
    }
}

impl From<control::Error> for Failure {
    fn from(error: control::Error) -> Self {
        Self { help: error.help(), ..Self::new(error.kind(), chain(&error)) }
    }
}

impl From<block::Error> for Failure {
    fn from(error: block::Error) -> Self {
        Self::new(kind(error.kind()), chain(&error))
    }
}

impl From<nbd::Error> for Failure {
    fn from(error: nbd::Error) -> Self {
        Self::new(kind(block::Failure::kind(&error)), chain(&error))
    }
}

impl From<mount::Error> for Failure {
    fn from(error: mount::Error) -> Self {
        Self::new(kind(block::Failure::kind(&error)), chain(&error))
    }
}

/// The message with its causes, each said once.
fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        next = cause.source();
    }
    message
}

fn kind(kind: block::Kind) -> Kind {
    match kind {
        block::Kind::Invalid => Kind::Invalid,
        block::Kind::OutOfRange => Kind::OutOfRange,
        block::Kind::NotFound => Kind::NotFound,
        block::Kind::Conflict => Kind::Conflict,
        block::Kind::ReadOnly => Kind::ReadOnly,
        block::Kind::NoSpace => Kind::NoSpace,
        block::Kind::Io => Kind::Io,
        block::Kind::Corrupt => Kind::Corrupt,
        block::Kind::Unsupported => Kind::Unsupported,
        block::Kind::Unavailable => Kind::Unavailable,
        block::Kind::Poisoned => Kind::Poisoned,
        block::Kind::Cancelled => Kind::Cancelled,
    }
}
