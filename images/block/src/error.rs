//! What can go wrong at a seam, and the small shared kind every crate's errors map to.

use std::io;

/// A result at a seam.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure, shared by all crates. It maps once to an NBD error, a FUSE errno, an HTTP status and an
/// exit code, each in the crate that speaks that language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request itself makes no sense.
    Invalid,
    /// The request passes the end of what it addresses.
    OutOfRange,
    /// What was named does not exist.
    NotFound,
    /// It exists already, is in use, or changed meanwhile.
    Conflict,
    /// It may not be written.
    ReadOnly,
    /// The host has no room; freeing some heals it.
    NoSpace,
    /// The host failed to read or write.
    Io,
    /// Stored bytes are not what was written.
    Corrupt,
    /// Not something this version or this place can do.
    Unsupported,
    /// Not now: locked, stopping, or out of reach.
    Unavailable,
    /// An earlier sync failed, so nothing written since can be promised. Final until recovered.
    Poisoned,
    /// Somebody asked to stop.
    Cancelled,
}

impl Kind {
    /// Every kind with its name: one word in lower case, the same in every text that carries it.
    const NAMES: [(Self, &str); 12] = [
        (Self::Invalid, "invalid"),
        (Self::OutOfRange, "out-of-range"),
        (Self::NotFound, "not-found"),
        (Self::Conflict, "conflict"),
        (Self::ReadOnly, "read-only"),
        (Self::NoSpace, "no-space"),
        (Self::Io, "io"),
        (Self::Corrupt, "corrupt"),
        (Self::Unsupported, "unsupported"),
        (Self::Unavailable, "unavailable"),
        (Self::Poisoned, "poisoned"),
        (Self::Cancelled, "cancelled"),
    ];

    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().map(|(kind, _)| kind)
    }

    /// The kind's name, such as `not-found`.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].1
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(_, its)| *its == name).map(|(kind, _)| kind)
    }
}

/// An error with a kind; every crate's error enum implements it.
pub trait Failure: std::error::Error + Send + Sync + 'static {
    /// The shared kind of this failure.
    fn kind(&self) -> Kind;
}

/// An error of another crate, carried through a seam with its kind.
#[derive(Debug)]
pub struct Foreign(Box<dyn Failure>);

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Foreign {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// An error at one of the seams. The message says what failed and where; the cause is the `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request passed the end of the disk or file.
    #[error("{count} bytes at offset {offset} pass the end, which is at {size}")]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        count: u64,
        /// Bytes there are.
        size: u64,
    },
    /// A call to the host failed.
    #[error("cannot {op} {path}{}", at(*offset))]
    Host {
        /// What was attempted, as a verb.
        op: &'static str,
        /// The file or directory it was attempted on.
        path: String,
        /// Where in the file, if somewhere.
        offset: Option<u64>,
        /// What the host said.
        source: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{what} is damaged{}: {why}", at(*offset))]
    Corrupt {
        /// The file or object.
        what: String,
        /// Where in it, if known.
        offset: Option<u64>,
        /// What does not fit.
        why: String,
    },
    /// What was named does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// Something stands in the way.
    #[error("{what}: {why}")]
    Conflict {
        /// What it is about.
        what: String,
        /// What stands in the way.
        why: String,
    },
    /// The request cannot be served as it is.
    #[error("{what}: {why}")]
    Refused {
        /// Which kind of refusal.
        kind: Kind,
        /// What it is about.
        what: String,
        /// Why not.
        why: String,
    },
    /// An error of the crate behind the seam.
    #[error(transparent)]
    Other(Foreign),
}

fn at(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default()
}

impl Error {
    /// An error of another crate.
    pub fn other(failure: impl Failure) -> Self {
        Self::Other(Foreign(Box::new(failure)))
    }

    /// A failed host call.
    pub fn host(op: &'static str, path: impl Into<String>, offset: Option<u64>, source: io::Error) -> Self {
        Self::Host { op, path: path.into(), offset, source }
    }

    /// Damaged bytes.
    pub fn corrupt(what: impl Into<String>, offset: Option<u64>, why: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into(), offset, why: why.into() }
    }

    /// A refusal of this kind.
    pub fn refused(kind: Kind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { kind, what: what.into(), why: why.into() }
    }

    /// The shared kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::OutOfRange { .. } => Kind::OutOfRange,
            Self::Host { source, .. } => host_kind(source),
            Self::Corrupt { .. } => Kind::Corrupt,
            Self::NotFound { .. } => Kind::NotFound,
            Self::Conflict { .. } => Kind::Conflict,
            Self::Refused { kind, .. } => *kind,
            Self::Other(Foreign(failure)) => failure.kind(),
        }
    }
}

fn host_kind(source: &io::Error) -> Kind {
    /// ENFILE and EMFILE: no file could be opened, so nothing was done to any.
    const OUT_OF_DESCRIPTORS: [i32; 2] = [23, 24];
    if source.raw_os_error().is_some_and(|errno| OUT_OF_DESCRIPTORS.contains(&errno)) {
        return Kind::Unavailable;
    }
    match source.kind() {
        io::ErrorKind::NotFound => Kind::NotFound,
        io::ErrorKind::AlreadyExists => Kind::Conflict,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Kind::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
        io::ErrorKind::Unsupported => Kind::Unsupported,
        io::ErrorKind::InvalidInput => Kind::Invalid,
        _ => Kind::Io,
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Error::kind(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_their_names() {
        for (index, kind) in Kind::all().enumerate() {
            assert_eq!(kind as usize, index, "the table is in the order of the kinds");
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::Cancelled as usize + 1, Kind::all().count());
        assert_eq!(Kind::named("nothing"), None);
    }

    #[test]
    fn messages_name_the_place_and_keep_the_cause_apart() {
        let error = Error::host("write", "disks/a/l.1", Some(4096), io::Error::from_raw_os_error(28));
        assert_eq!(error.to_string(), "cannot write disks/a/l.1 at offset 4096");
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(std::error::Error::source(&error).is_some());
    }
}
