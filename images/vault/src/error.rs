//! What can go wrong in a vault.

use block::{Failure, Kind, VaultId};

use crate::{ManifestId, SlotId, SweepId};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a vault could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store holds no vault.
    #[error("the store holds no vault")]
    NoVault,
    /// The store holds a vault already.
    #[error("the store holds the vault {0} already")]
    Exists(VaultId),
    /// The key is a key, but not this vault's.
    #[error("wrong key for the vault {vault}")]
    WrongKey {
        /// The vault, as its info blob says.
        vault: VaultId,
    },
    /// A key text or recovery sheet has a mistake in it.
    #[error("the key text is not valid: {why}")]
    KeyText {
        /// What and in which line.
        why: String,
    },
    /// Stored bytes are not what was written.
    #[error("blob {blob} is damaged in its {place}: {why}")]
    Damaged {
        /// The blob's name.
        blob: String,
        /// Which part of it.
        place: String,
        /// What does not fit.
        why: String,
    },
    /// A blob that others rely on is not in the store.
    #[error("blob {blob} is missing, needed for {needed_for}")]
    Missing {
        /// The blob's name, or what stood in it if no blob is known to hold it.
        blob: String,
        /// What relies on it.
        needed_for: String,
    },
    /// There is no such recovery point in the vault.
    #[error("recovery point {0} is not in the vault")]
    NoPoint(ManifestId),
    /// There is no such key slot in the vault.
    #[error("key slot {0} is not in the vault")]
    NoSlot(SlotId),
    /// There is no such sweep in quarantine.
    #[error("sweep {0} is not in the vault: undone already, or its packs were deleted by a later sweep")]
    NoSweep(SweepId),
    /// The request makes no sense.
    #[error("{what}: {why}")]
    Invalid {
        /// What it is about.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The gate does not allow this deletion.
    #[error("{what} may not be deleted: {why}")]
    Refused {
        /// What was to be deleted.
        what: String,
        /// The reason of the policy.
        why: String,
    },
    /// The store failed.
    #[error("cannot {op} blob {blob}: {source}")]
    Store {
        /// What was attempted.
        op: &'static str,
        /// On which blob or prefix.
        blob: String,
        /// What the store said.
        source: block::Error,
    },
    /// A file of the host that caches the index failed.
    #[error("cannot use the cached index: {path}: {source}")]
    Cache {
        /// The file, in the cache's directory.
        path: String,
        /// What the host said.
        source: block::Error,
    },
    /// The disk or image to back up could not be read.
    #[error("cannot read the source of the backup: {0}")]
    Source(#[source] block::Error),
    /// There was no randomness.
    #[error("cannot draw a key or id: {0}")]
    Entropy(#[source] block::Error),
    /// Bytes just encoded do not decode to what they were. Nothing was acknowledged.
    #[error("{what} does not decode to what was encoded: {why}")]
    NotDecodable {
        /// Which object.
        what: String,
        /// What differs.
        why: String,
    },
    /// The blob is of a version or kind this program does not read.
    #[error(transparent)]
    Unsupported(block::Error),
    /// The host has no thread to give.
    #[error("cannot start a thread: {0}")]
    Threads(#[source] std::io::Error),
    /// Somebody asked to stop. Nothing was committed.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    pub(crate) fn damaged(blob: &str, place: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self::Damaged { blob: blob.to_owned(), place: place.into(), why: why.to_string() }
    }

    pub(crate) fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), why: why.into() }
    }

    pub(crate) fn store(op: &'static str, blob: &str) -> impl FnOnce(block::Error) -> Self {
        let blob = blob.to_owned();
        move |source| Self::Store { op, blob, source }
    }

    pub(crate) fn cache(path: &str) -> impl FnOnce(block::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Cache { path, source }
    }

    /// Whether the bytes are at fault, so that another copy of them may do.
    pub(crate) fn is_damage(&self) -> bool {
        self.kind() == Kind::Corrupt
    }
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::NoVault | Self::NoPoint(_) | Self::NoSlot(_) | Self::NoSweep(_) => Kind::NotFound,
            Self::Exists(_) | Self::Refused { .. } => Kind::Conflict,
            Self::KeyText { .. } | Self::Invalid { .. } => Kind::Invalid,
            // nothing is wrong with the vault: it stays locked until its own key comes
            Self::WrongKey { .. } => Kind::Unavailable,
            Self::Damaged { .. } | Self::Missing { .. } | Self::NotDecodable { .. } => Kind::Corrupt,
            Self::Store { source, .. }
            | Self::Cache { source, .. }
            | Self::Source(source)
            | Self::Entropy(source) => source.kind(),
            Self::Unsupported(source) => source.kind(),
            Self::Threads(_) => Kind::Unavailable,
            Self::Cancelled => Kind::Cancelled,
        }
    }
}

impl From<Error> for block::Error {
    fn from(error: Error) -> Self {
        Self::other(error)
    }
}
