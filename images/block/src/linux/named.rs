//! Files that are not ours: a person named them, or an image that a person named.

use super::file::LinuxFile;
use crate::{Error, Kind, MediaFile, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;

/// Opens a file that a person named, for reading: a regular file or a block device, by any path.
///
/// # Errors
/// `NotFound` if there is none, `Invalid` for a directory or anything else that has no bytes of its own.
pub fn open_named(path: &Path) -> Result<Arc<dyn MediaFile>> {
    Ok(Arc::new(open_file(path)?))
}

/// As [`open_named`].
pub(super) fn open_file(path: &Path) -> Result<LinuxFile> {
    open(CWD, path, path, ResolveFlags::empty())
}

/// Opens a file below a directory, for reading, whoever named it: no `..`, no absolute path and no link leads out of
/// the directory, not even for a moment. Devices, sockets and pipes are refused.
///
/// # Errors
/// `NotFound` if there is none, `Invalid` for a name that leads out and for what is no regular file.
pub fn open_below(dir: &Path, name: &Path) -> Result<Arc<dyn MediaFile>> {
    let folder = File::open(dir).map_err(|source| Error::host("open", show(dir), None, source))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(Arc::new(open(&folder, name, &dir.join(name), resolve)?))
}

fn open(at: impl AsFd, name: &Path, shown: &Path, resolve: ResolveFlags) -> Result<LinuxFile> {
    // not blocking: a pipe would wait for its writer
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat2(at, name, flags, Mode::empty(), resolve) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::XDEV) => {
            let why = format!("leads out of the directory of {}", show(name));
            return Err(Error::refused(Kind::Invalid, show(shown), why));
        }
        Err(errno) => return Err(Error::host("open", show(shown), None, errno.into())),
    };
    let kind =
        file.metadata().map_err(|source| Error::host("look at", show(shown), None, source))?.file_type();
    let is_device = kind.is_block_device() && resolve.is_empty();
    if kind.is_file() || is_device {
        return Ok(LinuxFile { file, path: show(shown), direct: OnceLock::new() });
    }
    let why = if kind.is_dir() { "is a directory, not a file" } else { "is not a regular file" };
    Err(Error::refused(Kind::Invalid, show(shown), why))
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn kind(opened: Result<Arc<dyn MediaFile>>) -> Option<Kind> {
        opened.err().map(|error| error.kind())
    }

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let top = tempfile::tempdir().expect("a directory");
        let dir = top.path().join("dir");
        std::fs::create_dir_all(dir.join("sub")).expect("made");
        std::fs::write(top.path().join("secret"), "x").expect("written");
        std::fs::write(dir.join("mine"), "abc").expect("written");
        symlink("../secret", dir.join("out")).expect("linked");
        symlink("mine", dir.join("in")).expect("linked");
        let open = |name: &str| open_below(&dir, Path::new(name));
        let absolute = top.path().join("secret");
        for out in ["../secret", "out", "sub/../../secret", &absolute.display().to_string()] {
            assert_eq!(kind(open(out)), Some(Kind::Invalid), "{out}");
        }
        for inside in ["mine", "in", "sub/../mine"] {
            assert_eq!(open(inside).expect("inside").size().expect("a size"), 3, "{inside}");
        }
        assert_eq!(kind(open("sub")), Some(Kind::Invalid));
        assert_eq!(kind(open("nothing")), Some(Kind::NotFound));
    }

    #[test]
    fn a_person_names_files_not_directories_or_pipes() {
        let dir = tempfile::tempdir().expect("a directory");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .expect("made");
        assert_eq!(kind(open_named(&pipe)), Some(Kind::Invalid));
        assert_eq!(kind(open_named(dir.path())), Some(Kind::Invalid));
        assert_eq!(kind(open_named(Path::new("/dev/null"))), Some(Kind::Invalid));
        assert_eq!(kind(open_named(&dir.path().join("nothing"))), Some(Kind::NotFound));
    }
}
