//! The files of the host, as the storage side sees them.
//!
//! A [`Media`] is one directory tree; paths are relative to its root, with `/` between segments. Nothing above this
//! seam calls the operating system, so the simulated media of `sim` can lose power at every step.

use crate::sync::Arc;
use crate::sync::atomic::AtomicU64;
use crate::{ByteRange, Error, Kind, Result};
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenHow {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; `Conflict` if the name exists.
    Create,
    /// A file for reading and writing, made empty if it exists and created if not.
    Truncate,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
}

/// Room on the filesystem, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All there is.
    pub total: u64,
    /// What this process may still use.
    pub available: u64,
}

/// Tells one life of the page cache from another: as long as two values are equal, nothing written through this
/// filesystem was forgotten, synced or not. A reboot changes it, and so does a fresh mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session {
    /// The kernel's boot id.
    pub boot: [u8; 16],
    /// The mount, unique since boot.
    pub mount: u64,
}

/// Memory made of 64-bit words that starts as zeros.
pub trait Memory: Send + Sync {
    /// All words. Words outside what [`reserve`](Self::reserve) covered must not be touched: the host may have no
    /// page to give and would end the process.
    fn words(&self) -> &[AtomicU64];

    /// Makes sure the host has pages for these words. Costs a system call; repeated calls are harmless.
    ///
    /// # Errors
    /// `NoSpace` if it has not.
    fn reserve(&self, words: Range<usize>) -> Result<()>;
}

/// A file held open without a descriptor, for reading.
pub trait Shelved: Send + Sync {
    /// Fills the buffer if the host has all of the bytes in memory. Otherwise, and after any failure, false, soon, with
    /// anything in `buf`: then the file must be opened to learn more.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool;
}

/// Held until dropped.
pub trait Lock: Send + Sync {}

/// One directory tree of the host.
pub trait Media: Send + Sync {
    /// Opens a file. A file created is durable under its name only after [`sync_dir`](Self::sync_dir).
    ///
    /// # Errors
    /// `NotFound` or `Conflict` as [`OpenHow`] says, and what the host reports.
    fn open(&self, path: &str, how: OpenHow) -> Result<Arc<dyn MediaFile>>;

    /// Holds a file of this media open without a descriptor, where the host can and has room: descriptors are few.
    fn shelve(&self, _file: &dyn MediaFile) -> Option<Box<dyn Shelved>> {
        None
    }

    /// Makes a directory whose parent exists; an existing directory is success.
    ///
    /// # Errors
    /// What the host reports.
    fn create_dir(&self, path: &str) -> Result<()>;

    /// The names in a directory, ascending.
    ///
    /// # Errors
    /// `NotFound` if there is no such directory.
    fn list(&self, dir: &str) -> Result<Vec<DirEntry>>;

    /// Renames a file, atomically replacing the target. Durable after [`sync_dir`](Self::sync_dir) of both parents.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    fn rename(&self, from: &str, to: &str) -> Result<()>;

    /// Removes a file or an empty directory. Durable after [`sync_dir`](Self::sync_dir) of the parent.
    ///
    /// # Errors
    /// `NotFound` if it does not exist.
    fn remove(&self, path: &str) -> Result<()>;

    /// Makes creations, renames and removals in this directory durable. The root is `""`.
    ///
    /// # Errors
    /// Any error is final for what it covered; see `Poisoned`.
    fn sync_dir(&self, dir: &str) -> Result<()>;

    /// Takes the exclusive lock named by this file, creating it if needed. It ends with the process at the latest.
    ///
    /// # Errors
    /// `Conflict` at once if somebody holds it.
    fn lock(&self, path: &str) -> Result<Box<dyn Lock>>;

    /// Room on the filesystem.
    ///
    /// # Errors
    /// What the host reports.
    fn space(&self) -> Result<Space>;

    /// Memory that outlives the process but not the boot, found again under its name; made if missing. `words` is
    /// its length. A name with another length is made anew.
    ///
    /// # Errors
    /// `NoSpace` where the host cannot hold it.
    fn volatile(&self, name: &str, words: usize) -> Result<Arc<dyn Memory>>;

    /// The names of all volatile memories of this media, ascending.
    ///
    /// # Errors
    /// What the host reports.
    fn list_volatile(&self) -> Result<Vec<String>>;

    /// Forgets a volatile memory; a missing one is success. Those who hold it keep it.
    ///
    /// # Errors
    /// What the host reports.
    fn remove_volatile(&self, name: &str) -> Result<()>;

    /// Anonymous memory that the host may write out to this filesystem; gone when dropped.
    ///
    /// # Errors
    /// What the host reports.
    fn scratch(&self, words: usize) -> Result<Arc<dyn Memory>>;

    /// Which life of the page cache this is.
    ///
    /// # Errors
    /// What the host reports.
    fn session(&self) -> Result<Session>;
}

/// An open file. All offsets are bytes from its start; there is no file position.
pub trait MediaFile: Send + Sync {
    /// Fills the whole buffer.
    ///
    /// # Errors
    /// `OutOfRange` if the file ends before; otherwise what the host reports.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// As [`read_at`](Self::read_at) if the host has the bytes in memory; otherwise false, soon, with anything in
    /// `buf`. Where nothing is ever waited for, or the host cannot say, it reads.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at); a file that ends before is no error here, but false.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }

    /// The open file behind one that opens itself when it is read, for a read of so many bytes; `None` for all others,
    /// which are open, and where the read is better made without opening it.
    ///
    /// # Errors
    /// What the host reports.
    fn opened(&self, _count: u64) -> Result<Option<Arc<dyn MediaFile>>> {
        Ok(None)
    }

    /// Whether the host surely has the whole range in memory now.
    fn is_cached(&self, _range: ByteRange) -> bool {
        false
    }

    /// Writes the whole buffer, growing the file if needed. Durable after [`sync`](Self::sync).
    ///
    /// # Errors
    /// `NoSpace` heals once space is freed; a part may have been written.
    fn write_at(&self, offset: u64, buf: &[u8]) -> Result<()>;

    /// As [`write_at`](Self::write_at), for much that nobody reads soon: past the host's memory to the medium where the host can,
    /// which spares it a copy and what it holds for others. As durable as any other write: after [`sync`](Self::sync).
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_past(&self, offset: u64, buf: &[u8]) -> Result<()> {
        self.write_at(offset, buf)
    }

    /// Makes every completed write and length change of this file durable (`fdatasync`).
    ///
    /// # Errors
    /// Any error is final: the host may have dropped the pages it could not write, so a later success proves nothing.
    fn sync(&self) -> Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// What the host reports.
    fn size(&self) -> Result<u64>;

    /// Sets the length; new bytes are a hole.
    ///
    /// # Errors
    /// What the host reports.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Gives the range real blocks without changing what is read, growing the file if needed.
    ///
    /// # Errors
    /// `NoSpace` if the host has no room.
    fn allocate(&self, range: ByteRange) -> Result<()>;

    /// Turns the range into a hole that reads as zeros; the length stays.
    ///
    /// # Errors
    /// `Unsupported` where the host filesystem cannot.
    fn punch(&self, range: ByteRange) -> Result<()>;

    /// Copies bytes to another file of the same media, by reference where the host can.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at) and [`write_at`](Self::write_at).
    fn copy_range(&self, range: ByteRange, to: &dyn MediaFile, to_offset: u64) -> Result<()> {
        copy_bytes(self, range, to, to_offset)
    }

    /// The parts of the range that may hold something else than a hole, ascending.
    ///
    /// # Errors
    /// What the host reports.
    fn data_ranges(&self, range: ByteRange) -> Result<Vec<ByteRange>>;

    /// The descriptor, for `sendfile` and rings; none where there is no real file.
    fn fast_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Bytes copied at a time where the host cannot copy by reference: large enough to be sequential, small enough to
/// be nothing beside the daemon's memory limit.
const COPY_STEP: u64 = 1 << 20;

/// Copies by reading and writing.
pub(crate) fn copy_bytes<F: MediaFile + ?Sized>(
    from: &F,
    range: ByteRange,
    to: &dyn MediaFile,
    to_offset: u64,
) -> Result<()> {
    let mut buf = vec![0; COPY_STEP.min(range.count().get()) as usize];
    let mut done = 0;
    while done < range.count().get() {
        let step = (range.count().get() - done).min(COPY_STEP);
        let piece = &mut buf[..step as usize];
        from.read_at(range.start() + done, piece)?;
        to.write_at(to_offset + done, piece)?;
        done += step;
    }
    Ok(())
}

impl dyn Media + '_ {
    /// Reads a whole small file.
    ///
    /// # Errors
    /// `Corrupt` if it is longer than `limit_bytes`; nothing is allocated then. Otherwise as
    /// [`open`](Media::open).
    pub fn read_whole(&self, path: &str, limit_bytes: u64) -> Result<Vec<u8>> {
        let file = self.open(path, OpenHow::Read)?;
        let len = file.size()?;
        if len > limit_bytes {
            return Err(Error::corrupt(
                path,
                None,
                format!("{len} bytes long, at most {limit_bytes} are valid"),
            ));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Replaces a small file atomically and durably: written under `path` + `.new`, synced, renamed, directory synced.
    /// After an error before the rename the old file stands; after a failed sync of the directory either may.
    ///
    /// # Errors
    /// As the calls it is made of.
    pub fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let fresh = format!("{path}.new");
        let file = self.open(&fresh, OpenHow::Truncate)?;
        file.write_at(0, bytes)?;
        if !crate::planted!("replace-without-sync") {
            file.sync()?;
        }
        self.rename(&fresh, path)?;
        if crate::planted!("replace-without-dir-sync") {
            return Ok(());
        }
        self.sync_dir(parent(path))
    }
}

/// The directory part of a path, `""` for the root.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Checks that a path stays inside the media: relative, without empty, `.` or `..` segments.
///
/// # Errors
/// `Invalid` naming the path.
pub fn check_path(path: &str) -> Result<()> {
    let fits = |segment: &str| !matches!(segment, "" | "." | "..") && !segment.contains('\0');
    if path.is_empty() || path.split('/').all(fits) {
        return Ok(());
    }
    let shown: String = path.chars().take(200).collect();
    Err(Error::refused(Kind::Invalid, format!("path {shown:?}"), "must be relative and free of '.' and '..'"))
}
