//! Guest filesystems: what a reader of one answers, whatever its format. One folder per filesystem below.
//!
//! A reader works over any [`BlockSource`] and trusts nothing it reads from it: every answer is
//! either right or an error, in bounded time and memory. It does not return the content of plain files, only where
//! that content lies ([`Piece`]); whoever holds the blocks reads them there. Only content that is stored in another form, compressed,
//! is decoded here ([`Guest::content`]).

pub mod btrfs;
mod entries;
pub mod ext4;
pub mod fat;
pub mod iso;
mod lines;
mod names;
pub mod ntfs;
mod pieces;
mod utf16;
pub mod xfs;

use crate::{Error, Result, luks};
use block::{BlockSource, ByteOffset};
use std::sync::Arc;

/// The longest name of a directory entry, in bytes: 255 characters of Windows take three each. What Linux writes stays
/// within 255 bytes.
pub const MAX_NAME: usize = 765;
/// The longest name of an attribute, in bytes (`XATTR_NAME_MAX`).
pub const MAX_ATTRIBUTE_NAME: usize = 255;
/// The longest target of a symbolic link, in bytes (`PATH_MAX` less its final zero).
pub const MAX_LINK: usize = 4095;
/// The largest value of an extended attribute, in bytes (`XATTR_SIZE_MAX`).
pub const MAX_ATTRIBUTE: usize = 64 << 10;
/// The longest list of attribute names, in bytes (`XATTR_LIST_MAX`).
pub const MAX_ATTRIBUTE_NAMES: usize = 64 << 10;
/// Decoded content in one answer, in bytes.
pub const MAX_CONTENT: usize = 256 << 10;
/// Pieces in one answer: about 100 KiB of them, so that an answer stays small whatever the file.
pub const MAX_PIECES: usize = 4096;
/// Entries in one answer; with their names and nodes about 400 KiB at most.
pub const MAX_ENTRIES: usize = 1024;
/// The largest inode number a reader may give out (48 bits): the number shown to the user carries the partition in
/// the bits above.
pub const MAX_INODE: u64 = (1 << 48) - 1;

/// The furthest moment from 1970, in seconds: beyond what any filesystem means, and far below where arithmetic ends.
pub const MAX_SECONDS: u64 = 1 << 40;

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

impl Stamp {
    /// The moment, or 1970 for one that no interface above could carry.
    pub(crate) fn bounded(seconds: i64, nanos: u32) -> Self {
        match seconds.unsigned_abs() <= MAX_SECONDS && nanos < 1_000_000_000 {
            true => Self { seconds, nanos },
            false => Self::default(),
        }
    }
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
    /// On the volume, but not as they are: compressed. [`Guest::content`] gives them.
    Coded,
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

    /// What whoever reads it should know, in a sentence; nothing of a filesystem in order.
    fn remark(&self) -> Option<String> {
        None
    }

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

    /// The bytes of a plain file from `at` on, where a piece is [`Place::Coded`]: at least one, at most `len` and
    /// [`MAX_CONTENT`].
    ///
    /// # Errors
    /// `Corrupt` if they do not decode; `Invalid` if no piece of this file is coded.
    fn content(&self, ino: u64, at: u64, len: usize) -> Result<Vec<u8>> {
        let (_, _) = (at, len);
        Err(Error::invalid(format!("inode {ino}"), "its content is not coded"))
    }

    /// Names of the extended attributes, with their prefixes (`user.`): 1 to [`MAX_ATTRIBUTE_NAME`] bytes, none of them zero.
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

/// Days since 1970. Years are counted from March on, so that the day of leap years comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468
}

/// Of an encrypted volume that nobody has opened.
const LOCKED: &str = "it is encrypted with LUKS; --passphrase-file FILE gives a passphrase that opens it";

/// Bytes at the start of a volume that tell what it holds.
const MARKS: usize = 68 << 10;

/// Opens the filesystem on a volume.
type Open = fn(Arc<dyn BlockSource>) -> Result<Arc<dyn Guest>>;

/// A filesystem that is read here.
struct Format {
    name: &'static str,
    /// Whether a volume that begins like this holds one.
    detect: fn(&[u8]) -> bool,
    /// What the beginning alone says against reading it.
    check: fn(&[u8]) -> Result<()>,
    open: Open,
}

/// In the order they are looked for.
const FORMATS: [Format; 6] = [
    Format {
        name: "ext4",
        detect: ext4::detect,
        check: ext4::check,
        open: |source| Ok(Arc::new(ext4::Ext4::open(source)?)),
    },
    Format {
        name: "XFS",
        detect: xfs::detect,
        check: xfs::check,
        open: |source| Ok(Arc::new(xfs::Xfs::open(source)?)),
    },
    Format {
        name: "NTFS",
        detect: ntfs::detect,
        check: ntfs::check,
        open: |source| Ok(Arc::new(ntfs::Ntfs::open(source)?)),
    },
    Format {
        name: "btrfs",
        detect: btrfs::detect,
        check: btrfs::check,
        open: |source| Ok(Arc::new(btrfs::Btrfs::open(source)?)),
    },
    Format {
        name: "ISO 9660",
        detect: iso::detect,
        check: |_| Ok(()),
        open: |source| Ok(Arc::new(iso::Iso::open(source)?)),
    },
    // the last, since its mark is the weakest
    Format {
        name: "FAT",
        detect: fat::detect,
        check: fat::check,
        open: |source| Ok(Arc::new(fat::Fat::open(source)?)),
    },
];

fn start_of(source: &dyn BlockSource) -> Result<Vec<u8>> {
    let mut start = vec![0; source.size().as_usize().unwrap_or(MARKS).min(MARKS)];
    source.read_at(ByteOffset::ZERO, &mut start)?;
    Ok(start)
}

fn format_of(start: &[u8]) -> Result<&'static Format> {
    if luks::header::detect(start) {
        // before all others: what a volume held before it was encrypted may have left its mark
        return Err(Error::unsupported("this volume", LOCKED));
    }
    let found = FORMATS.iter().find(|format| (format.detect)(start));
    found.ok_or_else(|| Error::unsupported("this volume", foreign(start)))
}

/// Opens whatever filesystem the volume holds.
///
/// # Errors
/// `Unsupported` saying what it is instead, if it is none that is read here; else as its reader.
pub fn open(source: Arc<dyn BlockSource>) -> Result<Arc<dyn Guest>> {
    let format = format_of(&start_of(&*source)?)?;
    (format.open)(source)
}

/// The name of the filesystem on a volume, without opening it.
///
/// # Errors
/// `Unsupported` or `Corrupt`, saying why the volume cannot be read as files, as far as its beginning shows.
pub fn recognise(source: &dyn BlockSource) -> Result<&'static str> {
    let start = start_of(source)?;
    let format = format_of(&start)?;
    (format.check)(&start)?;
    Ok(format.name)
}

/// What else a volume may be, by the marks other software looks for.
fn foreign(start: &[u8]) -> &'static str {
    const MARKS: [(usize, &[u8], &str); 16] = [
        (512, b"LABELONE", "it is a disk of LVM"),
        (3, b"-FVE-FS-", "it is encrypted with BitLocker"),
        (0, b"SnAp", "it holds the changes of an LVM snapshot, which is not readable in this version"),
        (4086, b"SWAPSPACE2", "it is swap space"),
        (3, b"ReFS\0", "ReFS is not readable in this version"),
        (1024, b"\x10\x20\xf5\xf2", "F2FS is not readable in this version"),
        (1024, b"\xe2\xe1\xf5\xe0", "EROFS is not readable in this version"),
        (0, b"hsqs", "squashfs is not readable in this version"),
        (32, b"NXSB", "APFS is not readable in this version"),
        (1024, b"H+\0\x04", "HFS+ is not readable in this version"),
        (1024, b"HX\0\x05", "HFS+ is not readable in this version"),
        (32 << 10, b"JFS1", "JFS is not readable in this version"),
        (0x1_0034, b"ReIsEr", "ReiserFS is not readable in this version"),
        (4096, b"\xfc\x4e\x2b\xa9", "it is a member of an MD array that could not be read"),
        (0, b"\xfc\x4e\x2b\xa9", "it is a member of an MD array that could not be read"),
        (0, b"conectix", "it is an image of a virtual disk itself"),
    ];
    let says = |at: usize, text: &[u8]| start.get(at..at + text.len()) == Some(text);
    let found = MARKS.iter().find(|(at, text, _)| says(*at, text));
    match found {
        Some((_, _, what)) => what,
        None if start.iter().all(|byte| *byte == 0) => "it begins with zeros, there is no filesystem on it",
        None => "no filesystem this version knows is on it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::{BlockDevice, ByteCount, MemoryDisk};

    #[test]
    fn what_is_not_read_is_named() {
        let marks: [(u64, &[u8], &str); 5] = [
            (3, b"-FVE-FS-", "BitLocker"),
            (0, b"LUKS\xba\xbe", "LUKS"),
            (4086, b"SWAPSPACE2", "swap space"),
            (0x1_0034, b"ReIsEr2Fs", "ReiserFS"),
            (0, b"", "begins with zeros"),
        ];
        for (at, mark, name) in marks {
            let disk = MemoryDisk::new(ByteCount::new(1 << 17));
            disk.write_at(ByteOffset::new(at), mark).unwrap();
            let why = recognise(&disk).unwrap_err().to_string();
            assert!(why.contains(name), "{why}");
        }
        assert!(recognise(&MemoryDisk::new(ByteCount::new(100))).is_err());
    }
}
