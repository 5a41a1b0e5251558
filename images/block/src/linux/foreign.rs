//! Files of somebody else that we stand on and never write: kept from programs that would write to them, and recognised
//! when somebody did all the same.
//!
//! The locks are those that qemu takes on image files: byte-range locks that belong to the open file. A byte from 100 on
//! is locked by whoever uses a permission, a byte from 200 on by whoever does not let others have it; every lock is a
//! shared one, and each side looks whether the other's bytes are locked. So a qemu that writes to the file is seen, and
//! one that would write to it sees us.

use super::file::LinuxFile;
use super::named::open_file;
use crate::{Error, Kind, Result};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Where the bytes of used permissions begin: `RAW_LOCK_PERM_BASE` of qemu's `block/file-posix.c`.
const USED: i64 = 100;
/// Where the bytes of permissions not shared begin: `RAW_LOCK_SHARED_BASE`.
const UNSHARED: i64 = 200;

/// Permissions by their number in qemu's `BLK_PERM_*`.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Its number in its filesystem.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When its bytes were last written, in nanoseconds since 1970.
    pub modified_ns: i64,
    /// When its bytes, its owner, its mode or its links were last changed. No program can set it.
    pub changed_ns: i64,
}

impl Stamp {
    /// The stamp of what a path leads to now.
    ///
    /// # Errors
    /// `NotFound`; what the host reports.
    pub fn of(path: &Path) -> Result<Self> {
        let shown = || path.display().to_string();
        let meta = path.metadata().map_err(|source| Error::host("look at", shown(), None, source))?;
        Ok(Self::from_metadata(&meta))
    }

    fn from_metadata(meta: &std::fs::Metadata) -> Self {
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            inode: meta.ino(),
            size: meta.size(),
            modified_ns: ns(meta.mtime(), meta.mtime_nsec()),
            changed_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// A file that we read and nobody should write; as long as this is kept, programs that heed qemu's locks do not.
#[derive(Debug)]
pub struct ForeignFile {
    file: File,
    path: String,
}

impl ForeignFile {
    /// Opens a regular file for reading and takes the locks.
    ///
    /// # Errors
    /// `Conflict` if another program has it open for writing; `Invalid` if it is no regular file; `Unsupported` if its
    /// filesystem has no such locks.
    pub fn hold(path: &Path) -> Result<Self> {
        let LinuxFile { file, path, .. } = open_file(path)?;
        let held = Self { file, path };
        if !held.file.metadata().map_err(|source| held.failed("look at", source))?.is_file() {
            return Err(Error::refused(Kind::Invalid, &held.path, "is not a regular file"));
        }
        for byte in [USED + CONSISTENT_READ, UNSHARED + WRITE, UNSHARED + RESIZE] {
            held.lock(byte)?;
        }
        for (byte, what) in [
            (USED + WRITE, "another program has it open for writing"),
            (USED + RESIZE, "another program has it open and may resize it"),
            (UNSHARED + CONSISTENT_READ, "another program lets nobody else read it"),
        ] {
            if held.is_locked(byte)? {
                return Err(held.in_use(what));
            }
        }
        held.check_no_writer()?;
        Ok(held)
    }

    /// What the file is now.
    ///
    /// # Errors
    /// What the host reports.
    pub fn stamp(&self) -> Result<Stamp> {
        let meta = self.file.metadata().map_err(|source| self.failed("look at", source))?;
        Ok(Stamp::from_metadata(&meta))
    }

    fn failed(&self, what: &'static str, source: io::Error) -> Error {
        Error::host(what, &self.path, None, source)
    }

    fn in_use(&self, why: &str) -> Error {
        Error::Conflict { what: self.path.clone(), why: why.to_owned() }
    }

    /// Takes a shared lock on a byte.
    fn lock(&self, byte: i64) -> Result<()> {
        let mut wanted = one_byte(libc::F_RDLCK, byte);
        match control(&self.file, libc::F_OFD_SETLK, &mut wanted) {
            Ok(()) => Ok(()),
            Err(error) if is_would_block(&error) => {
                Err(self.in_use("another program holds a lock on it that lets nobody else use it"))
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let why = "its filesystem has no locks that belong to an open file";
                Err(Error::refused(Kind::Unsupported, &self.path, why))
            }
            Err(error) => Err(self.failed("lock", error)),
        }
    }

    /// Whether somebody else has a byte locked.
    fn is_locked(&self, byte: i64) -> Result<bool> {
        let mut asked = one_byte(libc::F_WRLCK, byte);
        control(&self.file, libc::F_OFD_GETLK, &mut asked)
            .map_err(|error| self.failed("look for locks of", error))?;
        Ok(i32::from(asked.l_type) != libc::F_UNLCK)
    }

    /// Looks whether any program of this host has the file open for writing, also one that takes no locks: the kernel
    /// gives a read lease only if none has. The lease is given back at once. Where there are no leases, nothing is known.
    fn check_no_writer(&self) -> Result<()> {
        /// `F_SETSIG`, which the libc crate does not name.
        const SET_SIGNAL: libc::c_int = 10;
        // a writer that comes in between is told by this signal to wait a moment; unlike the usual one it is ignored
        // SAFETY: the descriptor is open, and the argument is a number.
        if unsafe { libc::fcntl(self.file.as_raw_fd(), SET_SIGNAL, libc::SIGURG) } != 0 {
            return Ok(());
        }
        // SAFETY: as above.
        let lease = |kind: libc::c_int| unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETLEASE, kind) };
        if lease(libc::F_RDLCK) == 0 {
            lease(libc::F_UNLCK);
            return Ok(());
        }
        if is_would_block(&io::Error::last_os_error()) {
            return Err(self.in_use("another program has it open for writing"));
        }
        Ok(())
    }
}

fn is_would_block(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

fn one_byte(kind: libc::c_int, byte: i64) -> libc::flock {
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: byte, l_len: 1, l_pid: 0 }
}

/// A lock command of `fcntl(2)`.
fn control(file: &File, command: libc::c_int, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the pointer leads to a lock that outlives the call.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    fn image() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        std::fs::write(&path, [7; 4096]).expect("written");
        (dir, path)
    }

    /// As qemu's raw driver does it: takes its own bytes, then looks for those of others.
    fn as_qemu(file: &File, used: &[i64], unshared: &[i64]) -> bool {
        let own = used.iter().map(|bit| USED + bit).chain(unshared.iter().map(|bit| UNSHARED + bit));
        for byte in own {
            control(file, libc::F_OFD_SETLK, &mut one_byte(libc::F_RDLCK, byte)).expect("a shared lock");
        }
        let others = used.iter().map(|bit| UNSHARED + bit).chain(unshared.iter().map(|bit| USED + bit));
        others.into_iter().all(|byte| {
            let mut asked = one_byte(libc::F_WRLCK, byte);
            control(file, libc::F_OFD_GETLK, &mut asked).expect("asked");
            i32::from(asked.l_type) == libc::F_UNLCK
        })
    }

    #[test]
    fn a_writer_sees_us_and_we_see_a_writer() {
        let (_dir, path) = image();
        let held = ForeignFile::hold(&path).expect("nobody uses it");
        let _also = ForeignFile::hold(&path).expect("readers do not mind each other");
        let reader = File::open(&path).expect("opened");
        assert!(as_qemu(&reader, &[CONSISTENT_READ], &[WRITE, RESIZE]), "a reader does not mind us");
        let writer = OpenOptions::new().read(true).write(true).open(&path).expect("opened");
        assert!(!as_qemu(&writer, &[CONSISTENT_READ, WRITE], &[WRITE, RESIZE]), "a writer is kept out");
        drop((held, _also, reader));
        let error = ForeignFile::hold(&path).expect_err("the writer is still there");
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.to_string().contains("open for writing"), "{error}");
        drop(writer);
        ForeignFile::hold(&path).expect("nobody writes any more");
    }

    #[test]
    fn a_writer_without_locks_is_seen_too() {
        let (_dir, path) = image();
        let writer = OpenOptions::new().append(true).open(&path).expect("opened");
        let error = ForeignFile::hold(&path).expect_err("somebody writes");
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        drop(writer);
        ForeignFile::hold(&path).expect("nobody writes any more");
    }

    #[test]
    fn whoever_writes_changes_the_stamp_even_if_the_time_is_set_back() {
        let (_dir, path) = image();
        let before = Stamp::of(&path).expect("a stamp");
        assert_eq!(ForeignFile::hold(&path).and_then(|held| held.stamp()).expect("a stamp"), before);
        let modified = path.metadata().and_then(|meta| meta.modified()).expect("a time");
        // the clock of a filesystem ticks every few milliseconds
        let changed = (0..10_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            let file = OpenOptions::new().write(true).open(&path).expect("opened");
            std::os::unix::fs::FileExt::write_all_at(&file, &[8], 0).expect("written");
            file.set_modified(modified).expect("set back");
            let after = Stamp::of(&path).expect("a stamp");
            assert_eq!(
                (after.inode, after.size, after.modified_ns),
                (before.inode, before.size, before.modified_ns)
            );
            after != before
        });
        assert!(changed);
    }

    #[test]
    fn only_regular_files_are_held() {
        let (dir, _) = image();
        for path in [dir.path(), Path::new("/dev/null")] {
            assert_eq!(ForeignFile::hold(path).expect_err("refused").kind(), Kind::Invalid);
        }
        assert_eq!(ForeignFile::hold(&dir.path().join("nothing")).expect_err("none").kind(), Kind::NotFound);
    }
}
