//! What can go wrong with a machine.

use block::{Failure, Kind};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a machine was not looked at or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A machine's definition is not one, or has in it what cannot be dealt with.
    #[error("machine's definition: {0}")]
    Definition(String),
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A program said no.
    #[error("{program}: {said}")]
    Said {
        /// What was called.
        program: String,
        /// What it said.
        said: String,
        /// What kind of no that is.
        kind: Kind,
    },
    /// A program did not end in time, and was ended.
    #[error("{program}: did not answer within {seconds} s")]
    TimedOut {
        /// What was called.
        program: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A program cannot be started or spoken to.
    #[error("{program}: {source}")]
    Host {
        /// What was called.
        program: String,
        /// What the host says.
        source: std::io::Error,
    },
    /// Nobody is at a socket.
    #[error("{what} cannot be reached")]
    Unreachable {
        /// Who.
        what: String,
        /// What the host says.
        source: std::io::Error,
    },
    /// What is answered cannot be.
    #[error("{what} {why}")]
    Garbage {
        /// Who.
        what: String,
        /// What it did.
        why: String,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Definition(_) | Self::Garbage { .. } => Kind::Corrupt,
            Self::Invalid(_) => Kind::Invalid,
            Self::Said { kind, .. } => *kind,
            Self::TimedOut { .. } | Self::Unreachable { .. } => Kind::Unavailable,
            Self::Host { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Kind::Unsupported,
            Self::Host { .. } => Kind::Io,
        }
    }
}
