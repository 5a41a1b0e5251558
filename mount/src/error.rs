//! What can go wrong while showing the files of a recovery point.

use block::{Failure, Kind, Malformed};
use std::path::PathBuf;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of this crate. The message says what failed and where; a cause, if any, is the `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The blocks below could not be read.
    #[error(transparent)]
    Blocks(#[from] block::Error),
    /// Bytes of the guest are not what a filesystem or a partition table may hold.
    #[error("{what} is damaged: {why}")]
    Corrupt {
        /// The structure, with its number.
        what: String,
        /// What does not fit.
        why: String,
    },
    /// The guest uses something this version does not read.
    #[error("{what} cannot be read: {why}")]
    Unsupported {
        /// The filesystem, file or structure.
        what: String,
        /// What it uses.
        why: String,
    },
    /// No such file, attribute or partition.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// The question makes no sense for this file, or the caller's arguments do not fit.
    #[error("{what}: {why}")]
    Invalid {
        /// What it is about.
        what: String,
        /// Why not.
        why: String,
    },
    /// Something stands in the way, such as a directory that is not empty.
    #[error("{what}: {why}")]
    Conflict {
        /// What it is about.
        what: String,
        /// What stands in the way.
        why: String,
    },
    /// A call to the host failed.
    #[error("cannot {op} {}", path.display())]
    Host {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory it was attempted on.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// FUSE is not usable on this host.
    #[error("cannot mount {}: {why}", path.display())]
    Fuse {
        /// Where the mount should have appeared.
        path: PathBuf,
        /// What is missing and what to do about it.
        why: String,
    },
    /// The sandboxed parser died, or took too long, over one request.
    #[error("the parser of guest filesystems {how} while asked for {what}")]
    ParserLost {
        /// What it was asked for.
        what: String,
        /// How it ended.
        how: String,
    },
    /// The sandboxed parser reported a failure; text and kind are its own.
    #[error("{text}")]
    Reported {
        /// The shared kind.
        kind: Kind,
        /// The parser's sentence.
        text: String,
    },
    /// The two sides of the parser's pipe do not understand each other.
    #[error("the parser of guest filesystems sent what it may not send")]
    Protocol(#[from] Malformed),
    /// The parser could not lock itself in, so it was not used.
    #[error("the parser of guest filesystems cannot be sandboxed: {why}")]
    Sandbox {
        /// Which part of the sandbox could not be applied.
        why: String,
    },
    /// The server of the recovery point could not be reached, or refused.
    #[error("cannot open {uri}: {why}")]
    Connect {
        /// Where the recovery point should be.
        uri: String,
        /// What happened.
        why: String,
        /// The shared kind.
        kind: Kind,
    },
}

impl Error {
    /// Damaged guest bytes.
    pub fn corrupt(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), why: why.into() }
    }

    /// Something not read by this version.
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into(), why: why.into() }
    }

    /// A question that makes no sense.
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    /// Something that is not there.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::NotFound { what: what.into() }
    }

    /// A failed call to the host.
    pub fn host(op: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::Host { op, path: path.into(), source: source.into() }
    }

    /// The message with its causes, `what failed: why: why`.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// The shared kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Blocks(error) => error.kind(),
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::Unsupported { .. } => Kind::Unsupported,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Invalid { .. } => Kind::Invalid,
            Self::Conflict { .. } => Kind::Conflict,
            Self::Host { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::AlreadyExists => Kind::Conflict,
                _ => Kind::Io,
            },
            Self::Fuse { .. } | Self::Sandbox { .. } => Kind::Unavailable,
            Self::ParserLost { .. } | Self::Protocol(_) => Kind::Io,
            Self::Reported { kind, .. } | Self::Connect { kind, .. } => *kind,
        }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Error::kind(self)
    }
}
