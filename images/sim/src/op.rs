//! The calls that a fault can hit.

/// What a media or a blob store is asked to do, for choosing the calls a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Opening an existing file.
    Open,
    /// Opening with `Create` or `Truncate`.
    Create,
    /// Making a directory.
    CreateDir,
    /// Listing a directory.
    List,
    /// Renaming; matches by the old or the new path.
    Rename,
    /// Removing a name.
    Remove,
    /// Syncing a directory.
    SyncDir,
    /// Taking a lock.
    Lock,
    /// Asking for space.
    Space,
    /// Finding or making volatile memory.
    Volatile,
    /// Listing volatile memories.
    ListVolatile,
    /// Forgetting volatile memory.
    RemoveVolatile,
    /// Making scratch memory.
    Scratch,
    /// Reserving pages of a memory; matches by its name, `""` for scratch.
    Reserve,
    /// Asking for the session.
    Session,
    /// Reading a file.
    Read,
    /// Writing a file.
    Write,
    /// Syncing a file.
    Sync,
    /// Asking for a file's length.
    Size,
    /// Setting a file's length.
    SetLen,
    /// Allocating.
    Allocate,
    /// Punching.
    Punch,
    /// Asking for data ranges.
    DataRanges,
    /// Storing a blob.
    Put,
    /// Reading a blob.
    Get,
    /// Asking for a blob's length.
    BlobSize,
    /// Listing blobs; matches by the prefix.
    ListBlobs,
    /// Removing a blob.
    Delete,
}

impl Op {
    /// Whether the call changes anything, and so is a step at which the power can go off.
    pub fn is_mutating(self) -> bool {
        !matches!(
            self,
            Self::Open
                | Self::List
                | Self::Space
                | Self::ListVolatile
                | Self::Scratch
                | Self::Reserve
                | Self::Session
                | Self::Read
                | Self::Size
                | Self::DataRanges
                | Self::Get
                | Self::BlobSize
                | Self::ListBlobs
        )
    }

    pub(crate) fn verb(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Create => "create",
            Self::CreateDir => "create directory",
            Self::List | Self::ListVolatile | Self::ListBlobs => "list",
            Self::Rename => "rename",
            Self::Remove | Self::RemoveVolatile | Self::Delete => "remove",
            Self::SyncDir => "sync directory",
            Self::Lock => "lock",
            Self::Space => "ask for space of",
            Self::Volatile => "open volatile memory",
            Self::Scratch => "make a scratch file in",
            Self::Reserve => "reserve memory of",
            Self::Session => "look at",
            Self::Read | Self::Get => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Size | Self::BlobSize => "look at",
            Self::SetLen => "resize",
            Self::Allocate => "allocate space in",
            Self::Put => "store",
            Self::Punch => "punch a hole into",
            Self::DataRanges => "find data in",
        }
    }
}
