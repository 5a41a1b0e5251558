//! Why something could not be read, for whoever looks after the mount: a program that reads a file only learns "input/output
//! error". In the foreground the reasons go to standard error, in the background to a file of the mount's own.

use crate::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tracing_subscriber::EnvFilter;

/// A damaged filesystem that is read again and again must not fill the host's memory or disk.
pub(crate) const LIMIT_BYTES: u64 = 1 << 20;

/// Names tried: as many mounts of one process may leave their file behind.
const NAMES: u32 = 1000;

/// Makes the file of a mount in the background: in the user's runtime directory, else in `/run` for root, else where
/// temporary files go. Nobody else can read it.
///
/// # Errors
/// [`Error::Host`] if the directory cannot be written.
pub(crate) fn create() -> Result<(PathBuf, File)> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_dir());
    let for_root = || rustix::process::geteuid().is_root().then(|| PathBuf::from("/run"));
    let dir = runtime.or_else(for_root).unwrap_or_else(std::env::temp_dir);
    create_in(&dir)
}

fn create_in(dir: &Path) -> Result<(PathBuf, File)> {
    let mut path = PathBuf::new();
    let mut taken = io::ErrorKind::AlreadyExists.into();
    for number in 1..=NAMES {
        path = dir.join(format!("blockd-mount-{}-{number}.log", std::process::id()));
        // never through a link somebody else laid there
        match OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(Error::host("make the log", path, error)),
        }
    }
    Err(Error::host("make the log", path, taken))
}

/// From here on what is logged goes to standard error; at most `limit` bytes of it, if one is given.
pub(crate) fn start(limit: Option<u64>) {
    let writer = move || Writer { limit: limit.unwrap_or(u64::MAX) };
    // what the FUSE library says of itself explains nothing to a reader of files
    let filter = EnvFilter::new("warn,fuser=off");
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let log = log.with_target(false).with_ansi(false);
    // a program that has a log of its own keeps it
    if let Err(error) = log.try_init() {
        tracing::debug!("{error}");
    }
}

/// Removes the log of a mount that had nothing to say.
#[expect(
    clippy::disallowed_methods,
    reason = "a file for people, outside of any media; nothing depends on it"
)]
pub(crate) fn remove_if_empty(path: &Path) {
    let is_empty = path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.len() == 0);
    if is_empty && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!("cannot remove {}: {error}", path.display());
    }
}

/// Bytes written by this process so far.
static WRITTEN: AtomicU64 = AtomicU64::new(0);

struct Writer {
    limit: u64,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let before = WRITTEN.fetch_add(line.len() as u64, Ordering::Relaxed);
        if before.saturating_add(line.len() as u64) <= self.limit {
            io::stderr().write_all(line)?;
        } else if before <= self.limit {
            io::stderr().write_all(b"the log is full: what follows is not written\n")?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_is_a_fresh_file_that_goes_when_it_is_empty() {
        let dir = tempfile::tempdir().expect("a directory");
        let (first, mut file) = create_in(dir.path()).expect("a file");
        let (second, _) = create_in(dir.path()).expect("another");
        assert_ne!(first, second);
        file.write_all(b"reason").expect("written");
        remove_if_empty(&first);
        remove_if_empty(&second);
        assert!(first.exists() && !second.exists());
        assert!(create_in(&dir.path().join("none")).is_err());
    }
}
