//! The daemon's error: what it was doing, and what the storage side said.

use control::{ErrorBody, Kind, with_causes};
use std::error::Error as StdError;

/// A result of the daemon.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the daemon did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon itself says no.
    #[error("{what}: {why}")]
    Said {
        /// Which kind of no.
        kind: Kind,
        /// What it is about.
        what: String,
        /// Why.
        why: String,
        /// What to do next.
        help: Option<String>,
    },
    /// Something below failed.
    #[error("{what}")]
    Below {
        /// What was attempted, with the name of the thing.
        what: String,
        /// The kind of the failure below.
        kind: Kind,
        /// The failure.
        source: Box<dyn StdError + Send + Sync>,
        /// What to do next.
        help: Option<String>,
    },
}

impl Error {
    /// A refusal of this kind.
    pub fn said(kind: Kind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Said { kind, what: what.into(), why: why.into(), help: None }
    }

    /// Nothing of this name.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::said(Kind::NotFound, what, "does not exist")
    }

    /// What was said before of a thing that cannot be used.
    pub fn said_before(what: impl Into<String>, body: &ErrorBody) -> Self {
        Self::Said { kind: body.kind, what: what.into(), why: body.message.clone(), help: body.help.clone() }
    }

    /// The same error with advice.
    pub fn with_help(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Said { kind, what, why, .. } => Self::Said { kind, what, why, help: Some(advice.into()) },
            Self::Below { what, kind, source, .. } => {
                Self::Below { what, kind, source, help: Some(advice.into()) }
            }
        }
    }

    /// A failure of a lower crate.
    pub fn below(what: impl Into<String>, failure: impl block::Failure) -> Self {
        Self::Below {
            what: what.into(),
            kind: wire_kind(failure.kind()),
            source: Box::new(failure),
            help: None,
        }
    }

    /// A failed call to the host that did not go through a seam.
    pub fn host(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Below { what: what.into(), kind: host_kind(&source), source: Box::new(source), help: None }
    }

    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Said { kind, .. } | Self::Below { kind, .. } => *kind,
        }
    }

    /// What a client is told.
    pub fn body(&self) -> ErrorBody {
        let help = match self {
            Self::Said { help, .. } | Self::Below { help, .. } => help.clone(),
        };
        let help = help.or_else(|| self.kind().advice().map(str::to_owned));
        ErrorBody { kind: self.kind(), message: with_causes(self), help }
    }
}

/// Adds what was attempted to a failure of a lower crate.
pub trait Doing<T> {
    /// Fails with `what` and the failure below.
    ///
    /// # Errors
    /// The failure, if it is one.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: block::Failure> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|failure| Error::below(what(), failure))
    }
}

/// The wire's word for a kind of the storage side: they are called the same.
pub fn wire_kind(kind: block::Kind) -> Kind {
    Kind::named(kind.name())
}

/// The storage side's word for a kind of the wire.
pub fn storage_kind(kind: Kind) -> block::Kind {
    // the one kind only a service has
    block::Kind::named(kind.name()).unwrap_or(block::Kind::ReadOnly)
}

/// Our errors pass through the storage seams too, where an export is opened.
impl block::Failure for Error {
    fn kind(&self) -> block::Kind {
        storage_kind(Error::kind(self))
    }
}

fn host_kind(source: &std::io::Error) -> Kind {
    match source.kind() {
        std::io::ErrorKind::NotFound => Kind::NotFound,
        std::io::ErrorKind::AlreadyExists | std::io::ErrorKind::AddrInUse => Kind::Conflict,
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        std::io::ErrorKind::InvalidInput => Kind::Invalid,
        std::io::ErrorKind::PermissionDenied => Kind::Refused,
        _ => Kind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_the_whole_chain_once() {
        let below = block::Error::host("write", "disks/a", Some(0), std::io::Error::from_raw_os_error(28));
        let body = Error::below("back up web-root@3", block::Error::other(below)).body();
        assert_eq!(
            body.message,
            "back up web-root@3: cannot write disks/a at offset 0: No space left on device (os error 28)"
        );
        assert_eq!(body.kind, Kind::NoSpace);
        assert!(body.help.is_some());
    }

    #[test]
    fn the_wire_has_the_kinds_of_the_storage_side_and_one_more() {
        for kind in block::Kind::all() {
            assert_eq!((wire_kind(kind).name(), storage_kind(wire_kind(kind))), (kind.name(), kind));
        }
        let own = Kind::ALL.into_iter().filter(|kind| block::Kind::named(kind.name()).is_none());
        assert_eq!(own.collect::<Vec<_>>(), [Kind::Refused]);
    }
}
