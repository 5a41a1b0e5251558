//! What can go wrong between a server and its clients.

use crate::wire::Errno;
use block::{Failure, Kind};
use std::io;

/// An error of the NBD server or client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call on a socket failed.
    #[error("cannot {op} {at}")]
    Socket {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The address or path.
        at: String,
        /// What the host said.
        source: io::Error,
    },
    /// Another server answers at the address.
    #[error("another server listens on {at}")]
    Taken {
        /// The path of the socket.
        at: String,
    },
    /// TLS cannot be spoken as configured.
    #[error("cannot use {what} for TLS: {why}")]
    Tls {
        /// What does not fit.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// The other end did not answer in time.
    #[error("{at} did not answer within {after_ms} ms")]
    Timeout {
        /// The server.
        at: String,
        /// How long was waited.
        after_ms: u64,
    },
    /// The other end closed the connection.
    #[error("{at} closed the connection")]
    Closed {
        /// The server.
        at: String,
    },
    /// The other end sent what it must not.
    #[error("{at} does not speak the protocol: {why}")]
    Protocol {
        /// The server.
        at: String,
        /// What does not fit.
        why: String,
    },
    /// The server refused an option, an export for instance.
    #[error("{at} refuses {what}: {why}")]
    Refused {
        /// The server.
        at: String,
        /// What was asked for.
        what: String,
        /// Which kind of refusal.
        kind: Kind,
        /// The server's reason.
        why: String,
    },
    /// The server could not execute a request.
    #[error("{at} cannot {op} {count} bytes at offset {offset}: {why}")]
    Failed {
        /// The server.
        at: String,
        /// The request, as a verb.
        op: &'static str,
        /// First byte of the request.
        offset: u64,
        /// Bytes of the request.
        count: u64,
        /// The error number on the wire.
        errno: Errno,
        /// The server's reason.
        why: String,
    },
    /// The export may not be written.
    #[error("{at} is read-only")]
    ReadOnly {
        /// The export.
        at: String,
    },
    /// The server lacks something that is needed.
    #[error("{at} does not offer {what}")]
    Lacks {
        /// The server.
        at: String,
        /// What it lacks.
        what: &'static str,
    },
    /// A text is not an NBD URI.
    #[error("{text:?} is not an NBD URI: {why}")]
    Uri {
        /// The text.
        text: String,
        /// What does not fit.
        why: String,
    },
}

impl Error {
    /// A failed socket call.
    pub(crate) fn socket(op: &'static str, at: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Socket { op, at: at.into(), source: source.into() }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Socket { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => Kind::ReadOnly,
                io::ErrorKind::AddrInUse => Kind::Conflict,
                io::ErrorKind::InvalidInput => Kind::Invalid,
                _ => Kind::Unavailable,
            },
            Self::Taken { .. } => Kind::Conflict,
            Self::Timeout { .. } | Self::Closed { .. } => Kind::Unavailable,
            Self::Protocol { .. } => Kind::Io,
            Self::Refused { kind, .. } => *kind,
            Self::Failed { errno, .. } => errno.kind(),
            Self::ReadOnly { .. } => Kind::ReadOnly,
            Self::Lacks { .. } => Kind::Unsupported,
            Self::Uri { .. } | Self::Tls { .. } => Kind::Invalid,
        }
    }
}
