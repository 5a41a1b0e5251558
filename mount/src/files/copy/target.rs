//! Where copies go. Every call here works on one name in a directory that is held open, and follows no link: whatever
//! the guest named its files, and whoever else writes in the target, nothing is made outside of it.

use super::Taken;
use crate::files::lossy;
use crate::{Error, Result};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How directories below the target are opened: within the one they are in, and only directories.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// A directory of this host that copies go to.
pub struct Target {
    dir: OwnedFd,
    path: PathBuf,
}

impl Target {
    /// The directory at a path, which the person chose: links on the way to it are followed.
    ///
    /// # Errors
    /// `NotFound`, or what the host says.
    pub fn open(path: &Path) -> Result<Self> {
        let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, how, Mode::empty());
        let dir = dir.map_err(|errno| Error::host("open the directory", path, errno))?;
        Ok(Self { dir, path: path.to_owned() })
    }

    /// Makes everything that was copied durable.
    pub(super) fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.dir).map_err(|errno| Error::host("sync", &self.path, errno))
    }

    /// A directory below it by its path.
    pub(super) fn below(&self, path: &[u8]) -> Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&self.dir, path, how, Mode::empty(), BENEATH)
            .map_err(|errno| at("open", path, errno))
    }
}

impl AsFd for Target {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The directory `name`, made if there is none.
pub(super) fn directory(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(at("make the directory", name, errno)),
    }
    match rustix::fs::openat2(dir, name, DIRECTORY, Mode::empty(), BENEATH) {
        Err(Errno::NOTDIR | Errno::LOOP) => Err(taken(name, "something that is no directory has this name")),
        opened => opened.map_err(|errno| at("open the directory", name, errno)),
    }
}

/// Something new that is no directory. It goes again unless it is [kept](Self::keep).
pub(super) struct New<'a> {
    dir: BorrowedFd<'a>,
    name: &'a [u8],
    made_as: Vec<u8>,
    kept: bool,
    file: OwnedFd,
}

impl<'a> New<'a> {
    /// Calls `make` for the name, or for another if the name is taken and may be replaced. `make` fails if its name is
    /// taken.
    pub(super) fn make(
        dir: BorrowedFd<'a>,
        name: &'a [u8],
        how: Taken,
        make: impl Fn(&[u8]) -> Result<OwnedFd, Errno>,
    ) -> Result<Self> {
        let mut made_as = name.to_vec();
        let mut made = make(name);
        if made.as_ref().is_err_and(|errno| *errno == Errno::EXIST) {
            if how == Taken::Keep {
                return Err(taken(name, "the name is taken"));
            }
            let there = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
            let there = there.map_err(|errno| at("look at", name, errno))?;
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                return Err(taken(name, "a directory has this name"));
            }
            made_as = beside();
            made = make(&made_as);
        }
        let file = made.map_err(|errno| at("make", name, errno))?;
        Ok(Self { dir, name, made_as, kept: false, file })
    }

    /// Gives it its name for good.
    pub(super) fn keep(mut self) -> Result<()> {
        if self.made_as != self.name {
            rustix::fs::renameat(self.dir, &self.made_as, self.dir, self.name)
                .map_err(|errno| at("rename to", self.name, errno))?;
            // two names of one file stay two names whatever is renamed
            match rustix::fs::unlinkat(self.dir, &self.made_as, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(at("remove", &self.made_as, errno)),
            }
        }
        self.kept = true;
        Ok(())
    }
}

impl AsFd for New<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for New<'_> {
    fn drop(&mut self) {
        if !self.kept
            && let Err(errno) = rustix::fs::unlinkat(self.dir, &self.made_as, AtFlags::empty())
        {
            tracing::warn!("{} is left behind: {errno}", lossy(&self.made_as));
        }
    }
}

/// Opens an empty file of this name, which must be free.
pub(super) fn open_new(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let how = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, how, Mode::RUSR | Mode::WUSR)
}

/// Holds what was just made under this name, if it is of the kind that was made.
pub(super) fn hold(dir: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<OwnedFd, Errno> {
    let how = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::openat(dir, name, how, Mode::empty())?;
    let is = FileType::from_raw_mode(rustix::fs::fstat(&held)?.st_mode);
    if is == kind { Ok(held) } else { Err(Errno::AGAIN) }
}

/// A name that nobody has, for as long as it takes.
fn beside() -> Vec<u8> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    format!(".blockd-{}-{number}.part", std::process::id()).into_bytes()
}

fn taken(name: &[u8], why: &str) -> Error {
    Error::Conflict { what: lossy(name), why: why.to_owned() }
}

pub(super) fn at(op: &'static str, name: &[u8], errno: Errno) -> Error {
    Error::host(op, OsStr::from_bytes(name), errno)
}
