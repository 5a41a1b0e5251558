//! What can go wrong with a disk.

use crate::HurtBlock;
use block::{DiskId, Failure, Kind, StateId};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the instant tier.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host failed, or a request passed the end; see the inner error.
    #[error(transparent)]
    Block(#[from] block::Error),
    /// A sync failed earlier. Nothing acknowledged since the last good flush is promised.
    #[error(
        "disk {disk} stopped after a failed sync: {why}; it must be recovered to its last committed state"
    )]
    Poisoned {
        /// Which disk.
        disk: DiskId,
        /// What the host said at the time.
        why: String,
    },
    /// The size asked for does not exist.
    #[error("a disk has 1 to {max} bytes, not {asked}")]
    BadSize {
        /// Bytes asked for.
        asked: u64,
        /// The largest size there is.
        max: u64,
    },
    /// No recovery point has this state.
    #[error("disk {disk} has no recovery point with state {state}")]
    NoSuchPoint {
        /// Which disk.
        disk: DiskId,
        /// The state asked for.
        state: StateId,
    },
    /// The state is not in the recorded history, so nothing is known of what changed since.
    #[error(
        "state {state} is not an ancestor of what was asked for on disk {disk}: only a full comparison can tell"
    )]
    NotAnAncestor {
        /// Which disk.
        disk: DiskId,
        /// The state asked for.
        state: StateId,
    },
    /// What the disk is opened on is not what it was made on.
    #[error("disk {disk}: {why}")]
    WrongBase {
        /// Which disk.
        disk: DiskId,
        /// What does not fit.
        why: String,
    },
    /// The disk was closed.
    #[error("disk {disk} is closed")]
    Closed {
        /// Which disk.
        disk: DiskId,
    },
    /// A block of a sealed layer is not what was sealed.
    #[error("disk {disk}: {hurt}")]
    Hurt {
        /// Which disk.
        disk: DiskId,
        /// Which block, where, and who has it.
        hurt: HurtBlock,
    },
    /// A limit of the format.
    #[error("disk {disk} cannot have more than {limit} {what}")]
    TooMany {
        /// Which disk.
        disk: DiskId,
        /// Of what.
        what: &'static str,
        /// How many at most.
        limit: usize,
    },
}

impl Error {
    /// The disk it is about, where it is about one.
    pub fn disk(&self) -> Option<DiskId> {
        match self {
            Self::Block(_) | Self::BadSize { .. } => None,
            Self::Poisoned { disk, .. }
            | Self::NoSuchPoint { disk, .. }
            | Self::NotAnAncestor { disk, .. }
            | Self::WrongBase { disk, .. }
            | Self::Closed { disk }
            | Self::Hurt { disk, .. }
            | Self::TooMany { disk, .. } => Some(*disk),
        }
    }

    /// The shared kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Block(error) => error.kind(),
            Self::Poisoned { .. } => Kind::Poisoned,
            Self::BadSize { .. } => Kind::Invalid,
            Self::NoSuchPoint { .. } => Kind::NotFound,
            Self::NotAnAncestor { .. } | Self::WrongBase { .. } => Kind::Conflict,
            Self::Closed { .. } => Kind::Unavailable,
            Self::Hurt { .. } => Kind::Corrupt,
            Self::TooMany { .. } => Kind::Unsupported,
        }
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        Error::kind(self)
    }
}

impl From<Error> for block::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Block(error) => error,
            error => block::Error::other(error),
        }
    }
}
