//! A directory tree of the host.

use super::file::LinuxFile;
use super::memory::Mapped;
use super::shelf::Shelf;
use crate::media::check_path;
use crate::{
    DirEntry, Error, Kind, Lock, Media, MediaFile, Memory, OpenHow, Result, Session, Shelved, Space,
};
use rustix::fs::{AtFlags, CWD, FlockOperation, StatxFlags, flock, fstatvfs, fsync, statx};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Files below one directory, and volatile memory below another (tmpfs).
pub struct LinuxMedia {
    root: PathBuf,
    volatile: PathBuf,
    // made with the first file for it
    shelf: OnceLock<Option<Arc<Shelf>>>,
}

struct FileLock(#[expect(dead_code, reason = "holding the file holds the lock")] File);

impl Lock for FileLock {}

impl LinuxMedia {
    /// The tree below `root`, which must exist. Volatile memory goes below `volatile`, which must exist, be owned by
    /// this program alone and lie on tmpfs, or at least on a filesystem that is empty after a reboot.
    ///
    /// # Errors
    /// `NotFound` if either directory is missing.
    pub fn new(root: impl Into<PathBuf>, volatile: impl Into<PathBuf>) -> Result<Self> {
        let media = Self { root: root.into(), volatile: volatile.into(), shelf: OnceLock::new() };
        for dir in [&media.root, &media.volatile] {
            fs::read_dir(dir).map_err(|source| Error::host("open directory", show(dir), None, source))?;
        }
        Ok(media)
    }

    fn resolve(&self, path: &str) -> Result<PathBuf> {
        check_path(path)?;
        Ok(if path.is_empty() { self.root.clone() } else { self.root.join(path) })
    }

    fn volatile_path(&self, name: &str) -> Result<PathBuf> {
        check_path(name)?;
        if name.is_empty() || name.contains('/') {
            return Err(Error::refused(
                Kind::Invalid,
                format!("volatile name {name:?}"),
                "must be one segment",
            ));
        }
        Ok(self.volatile.join(name))
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[expect(clippy::disallowed_methods, reason = "this is the media the rule points to")]
impl Media for LinuxMedia {
    fn open(&self, path: &str, how: OpenHow) -> Result<Arc<dyn MediaFile>> {
        let full = self.resolve(path)?;
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        let op = match how {
            OpenHow::Read => "open",
            OpenHow::Write => options.write(true).pick("open"),
            OpenHow::Create => options.write(true).create_new(true).pick("create"),
            OpenHow::Truncate => options.write(true).create(true).truncate(true).pick("create"),
        };
        let file = options.open(&full).map_err(|source| Error::host(op, show(&full), None, source))?;
        Ok(Arc::new(LinuxFile { file, path: show(&full), direct: OnceLock::new() }))
    }

    fn shelve(&self, file: &dyn MediaFile) -> Option<Box<dyn Shelved>> {
        self.shelf.get_or_init(Shelf::make).as_ref()?.put(file.fast_fd()?)
    }

    fn create_dir(&self, path: &str) -> Result<()> {
        let full = self.resolve(path)?;
        match fs::create_dir(&full) {
            Err(source) if source.kind() != std::io::ErrorKind::AlreadyExists || !full.is_dir() => {
                Err(Error::host("create directory", show(&full), None, source))
            }
            _ => Ok(()),
        }
    }

    fn list(&self, dir: &str) -> Result<Vec<DirEntry>> {
        let full = self.resolve(dir)?;
        let failed = |source| Error::host("list", show(&full), None, source);
        let mut entries = Vec::new();
        for entry in fs::read_dir(&full).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            // names that are not UTF-8 are not ours
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir: entry.file_type().map_err(failed)?.is_dir() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (from, to) = (self.resolve(from)?, self.resolve(to)?);
        fs::rename(&from, &to).map_err(|source| Error::host("rename", show(&from), None, source))
    }

    fn remove(&self, path: &str) -> Result<()> {
        let full = self.resolve(path)?;
        let is_dir = full.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir { fs::remove_dir(&full) } else { fs::remove_file(&full) };
        removed.map_err(|source| Error::host("remove", show(&full), None, source))
    }

    fn sync_dir(&self, dir: &str) -> Result<()> {
        let full = self.resolve(dir)?;
        let failed = |source| Error::host("sync directory", show(&full), None, source);
        let dir = File::open(&full).map_err(failed)?;
        fsync(&dir).map_err(|errno| failed(errno.into()))
    }

    fn lock(&self, path: &str) -> Result<Box<dyn Lock>> {
        let full = self.resolve(path)?;
        let failed = |source| Error::host("lock", show(&full), None, source);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&full)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Box::new(FileLock(file))),
            Err(Errno::WOULDBLOCK) => {
                Err(Error::Conflict { what: show(&full), why: "another process holds this lock".to_owned() })
            }
            Err(errno) => Err(failed(errno.into())),
        }
    }

    fn space(&self) -> Result<Space> {
        let failed = |source| Error::host("ask for space of", show(&self.root), None, source);
        let dir = File::open(&self.root).map_err(failed)?;
        let stat = fstatvfs(&dir).map_err(|errno| failed(errno.into()))?;
        Ok(Space {
            total: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn volatile(&self, name: &str, words: usize) -> Result<Arc<dyn Memory>> {
        let path = self.volatile_path(name)?;
        let failed = |source| Error::host("open volatile memory", show(&path), None, source);
        let len = words as u64 * 8;
        let open =
            || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut file = open().map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found != len {
            if found != 0 {
                // somebody may still map the old one: leave it to them and begin a new file
                fs::remove_file(&path).map_err(failed)?;
                file = open().map_err(failed)?;
            }
            file.set_len(len).map_err(failed)?;
        }
        Ok(Arc::new(Mapped::new(file, words, show(&path))?))
    }

    fn list_volatile(&self) -> Result<Vec<String>> {
        let failed = |source| Error::host("list", show(&self.volatile), None, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.volatile).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string().ok());
        }
        names.sort();
        Ok(names)
    }

    fn remove_volatile(&self, name: &str) -> Result<()> {
        let path = self.volatile_path(name)?;
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::host("remove", show(&path), None, source))
            }
            _ => Ok(()),
        }
    }

    fn scratch(&self, words: usize) -> Result<Arc<dyn Memory>> {
        let failed = |source| Error::host("make a scratch file in", show(&self.root), None, source);
        // without a name from the start, so that no crash can leave it behind
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open(&self.root, flags, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(|errno| failed(errno.into()))?;
        let file = File::from(fd);
        file.set_len(words as u64 * 8).map_err(failed)?;
        Ok(Arc::new(Mapped::new(file, words, format!("scratch of {}", show(&self.root)))?))
    }

    fn session(&self) -> Result<Session> {
        Ok(Session { boot: boot_id()?, mount: mount_id(&self.root)? })
    }
}

/// `mount` in [`Session`]: the kernel's mount id that is never reused since boot (Linux 6.8), else the older id mixed
/// with the device number, which a remount may in theory repeat.
fn mount_id(root: &Path) -> Result<u64> {
    const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    let failed = |source| Error::host("look at", show(root), None, source);
    let dir = File::open(root).map_err(failed)?;
    let seen = statx(dir.as_fd(), "", AtFlags::EMPTY_PATH, MNT_ID_UNIQUE | StatxFlags::MNT_ID)
        .or_else(|_| statx(CWD, root, AtFlags::empty(), StatxFlags::MNT_ID))
        .map_err(|errno| failed(errno.into()))?;
    if StatxFlags::from_bits_retain(seen.stx_mask).contains(MNT_ID_UNIQUE) {
        return Ok(seen.stx_mnt_id);
    }
    Ok(seen.stx_mnt_id ^ dir.metadata().map_err(failed)?.dev().rotate_left(32))
}

fn boot_id() -> Result<[u8; 16]> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(PATH).map_err(|source| Error::host("read", PATH, None, source))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let id: crate::StateId =
        digits.parse().map_err(|_| Error::corrupt(PATH, None, format!("{:?} is no boot id", text.trim())))?;
    Ok(*id.as_bytes())
}

/// Ends a builder chain with the verb to use in an error message.
trait Pick {
    fn pick(&mut self, op: &'static str) -> &'static str;
}

impl Pick for OpenOptions {
    fn pick(&mut self, op: &'static str) -> &'static str {
        op
    }
}
