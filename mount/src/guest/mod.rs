//! Guest filesystems: what a reader of one answers, whatever its format. One folder per filesystem below.
//!
//! A reader works over any [`BlockSource`](block::BlockSource) and trusts nothing it reads from it: every answer is
//! either right or an error, in bounded time and memory. It never returns the content of plain files, only where
//! that content lies ([`Piece`]); whoever holds the blocks reads them there.

pub mod ext4;

use crate::Result;
use std::sync::Arc;

/// The longest name of a directory entry or of an attribute, in bytes; every filesystem Linux mounts stays within it.
pub const MAX_NAME: usize = 255;
/// The longest target of a symbolic link, in bytes (`PATH_MAX` less its final zero).
pub const MAX_LINK: usize = 4095;
/// The largest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const MAX_ATTRIBUTE: usize = 64 << 10;
/// The longest list of attribute names, in bytes (`XATTR_LIST_MAX`).
pub const MAX_ATTRIBUTE_NAMES: usize = 64 << 10;
/// Pieces in one answer: about 100 KiB of them, so that an answer stays small whatever the file.
pub const MAX_PIECES: usize = 4096;
/// Entries in one answer; with their names and nodes about 400 KiB at most.
pub const MAX_ENTRIES: usize = 1024;
/// The largest inode number a reader may give out (48 bits): the number shown to the user carries the partition in
/// the bits above.
pub const MAX_INODE: u64 = (1 << 48) - 1;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum NodeKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A moment: seconds since 1970 (negative before) and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Stamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanos: u32,
}

/// Everything `stat` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The inode's number within its filesystem, at most [`MAX_INODE`].
    pub ino: u64,
    /// What it is.
    pub kind: NodeKind,
    /// Permissions with set-id and sticky bits: the low 12 bits of the mode.
    pub perm: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Bytes of content, at most `i64::MAX`.
    pub size: u64,
    /// Allocated space in units of 512 bytes.
    pub blocks: u64,
    /// Device number of a device node, in the kernel's 32-bit form (12 bits major, 20 bits minor).
    pub rdev: u32,
    /// Last access.
    pub atime: Stamp,
    /// Last change of content.
    pub mtime: Stamp,
    /// Last change of the inode.
    pub ctime: Stamp,
    /// Tells apart files that used the same number one after the other.
    pub generation: u32,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// 1 to [`MAX_NAME`] bytes, no slash, no zero byte; not necessarily UTF-8. Never `.` or `..`.
    pub name: Vec<u8>,
    /// The inode it names.
    pub ino: u64,
    /// What the directory says it is, where it says so.
    pub kind: Option<NodeKind>,
    /// Where to continue a listing after this entry.
    pub next: u64,
}

/// A page of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// In the directory's own order.
    pub entries: Vec<Entry>,
    /// Where to continue, or `None` at the end. A page may be empty and still have a continuation.
    pub next: Option<u64>,
}

/// Where some bytes of a file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the volume, from this byte on.
    Volume(u64),
    /// Nowhere: they are zeros that were never written.
    Zero,
    /// Here: they are stored inside metadata.
    Bytes(Arc<[u8]>),
}

/// A run of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// First byte within the file.
    pub at: u64,
    /// How many; never zero.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

/// What `statfs` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks there are.
    pub blocks: u64,
    /// Blocks nobody uses.
    pub free: u64,
    /// Inodes there are.
    pub inodes: u64,
    /// Inodes nobody uses.
    pub free_inodes: u64,
}

/// A reader of one filesystem. All inode numbers are the filesystem's own.
pub trait Guest: Send + Sync {
    /// The number of the root directory.
    fn root(&self) -> u64;

    /// Size and use.
    fn space(&self) -> Space;

    /// The inode of this number.
    ///
    /// # Errors
    /// `NotFound` if it is not in use, `Corrupt` if it cannot be one.
    fn node(&self, ino: u64) -> Result<Node>;

    /// The inode a directory names `name`, or `None`.
    ///
    /// # Errors
    /// `Invalid` if `dir` is no directory.
    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>>;

    /// A page of a directory from `cookie` on (0 at the start), of at most [`MAX_ENTRIES`].
    ///
    /// # Errors
    /// `Invalid` if `dir` is no directory.
    fn list(&self, dir: u64, cookie: u64) -> Result<Listing>;

    /// The target of a symbolic link, at most [`MAX_LINK`] bytes.
    ///
    /// # Errors
    /// `Invalid` if it is no symbolic link.
    fn link(&self, ino: u64) -> Result<Vec<u8>>;

    /// Where the bytes `from..to` of a plain file lie, clipped to its size. The pieces tile the file from `from`
    /// (rounded down as the reader likes) without gap; at most [`MAX_PIECES`] of them, so they may end before `to`,
    /// but they always pass `from` unless that is at or after the end.
    ///
    /// # Errors
    /// `Invalid` if it is no plain file.
    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>>;

    /// Names of the extended attributes, with their prefixes (`user.`): 1 to [`MAX_NAME`] bytes, none of them zero.
    ///
    /// # Errors
    /// `Corrupt` if their storage cannot be read.
    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>>;

    /// The value of one extended attribute, at most [`MAX_ATTRIBUTE`] bytes.
    ///
    /// # Errors
    /// `NotFound` if there is none of this name.
    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>>;
}

/// Whether these bytes may be shown as a name in a directory.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}
