//! How a command fails: a sentence, advice, and the kind that decides the exit code.

use control::{ErrorBody, Kind, with_causes};
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
        // files are opened here, and the daemon knows nothing of them
        failure.help = (kind == Kind::NotFound).then(|| "check the path; it is one of this host".to_owned());
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
        Self { help: error.help(), ..Self::new(error.kind(), with_causes(&error)) }
    }
}

impl From<block::Error> for Failure {
    fn from(error: block::Error) -> Self {
        let failure = Self::new(kind(error.kind()), with_causes(&error));
        match failure.kind {
            // files are opened here, and the daemon knows nothing of them
            Kind::NotFound => failure.with_help("check the path; the directory it is in must exist"),
            _ => failure,
        }
    }
}

impl From<nbd::Error> for Failure {
    fn from(error: nbd::Error) -> Self {
        let failure = Self::new(kind(block::Failure::kind(&error)), with_causes(&error));
        match failure.kind {
            Kind::Unavailable => {
                failure.with_help("see whether the NBD server runs, with `blockctl status` if it is blockd")
            }
            _ => failure,
        }
    }
}

impl From<formats::Error> for Failure {
    fn from(error: formats::Error) -> Self {
        let help = error.help().map(str::to_owned);
        Self { help, ..Self::new(kind(block::Failure::kind(&error)), with_causes(&error)) }
    }
}

impl From<vault::Error> for Failure {
    fn from(error: vault::Error) -> Self {
        Self::new(kind(block::Failure::kind(&error)), with_causes(&error))
    }
}

impl From<mount::Error> for Failure {
    fn from(error: mount::Error) -> Self {
        Self::new(kind(block::Failure::kind(&error)), with_causes(&error))
    }
}

/// The wire's word for a kind of the storage side.
fn kind(kind: block::Kind) -> Kind {
    Kind::named(kind.name())
}
