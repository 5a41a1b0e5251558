//! Unmounting by directory, from any process.

use crate::serve::SOURCE;
use crate::tree::fuse::SUPERVISOR;
use crate::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long the serving process may take to let go of the recovery point after the unmount.
const END: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// Unmounts what [`run`](crate::run) mounted at `dir`. When it returns, the process that served it has let go of the
/// recovery point. A mount whose process died is removed as well.
///
/// # Errors
/// `NotFound` if the directory does not exist, `Conflict` if it is no mount of ours or in use.
pub fn umount(dir: &Path) -> Result<()> {
    let path = resolve(dir)?;
    let top = mounts_at(&path)?.pop();
    if !top.is_some_and(|mount| mount.source.starts_with(SOURCE)) {
        return Err(Error::Conflict {
            what: dir.display().to_string(),
            why: "no recovery point is mounted there".to_owned(),
        });
    }
    let supervisor = supervisor(&path);
    // of a dead mount nothing is in use that could still be served
    let dead =
        fs::metadata(&path).is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()));
    remove(dir, &path, if dead { UnmountFlags::DETACH } else { UnmountFlags::empty() })?;
    match supervisor {
        Some(process) => await_end(dir, &process),
        None => Ok(()),
    }
}

/// Where recovery points are mounted whose NBD URI contains `part`.
///
/// # Errors
/// The mount table cannot be read.
pub fn mounted_from(part: &str) -> Result<Vec<PathBuf>> {
    let ours = |entry: &Entry| entry.source.strip_prefix(SOURCE).is_some_and(|uri| uri.contains(part));
    Ok(mounts()?.into_iter().filter(ours).map(|entry| entry.point).collect())
}

/// Ends a mount of this process, as often as it takes: a file in use is an error now and may be closed a moment later.
#[derive(Clone)]
pub struct Unmounter {
    dir: PathBuf,
    path: PathBuf,
    device: Vec<u8>,
}

impl Unmounter {
    /// Of what this process has just mounted at `dir`, which was resolved before.
    pub(crate) fn new(dir: &Path, path: PathBuf) -> Result<Self> {
        let lost = || Error::not_found(format!("the mount just made at {}", dir.display()));
        let device = mounts_at(&path)?.pop().ok_or_else(lost)?.device;
        Ok(Self { dir: dir.to_owned(), path, device })
    }

    /// Unmounts; [`Mount::wait`](crate::Mount::wait) returns after it. Nothing is left to do if somebody else was faster.
    ///
    /// # Errors
    /// `Conflict`, most often because a file in it is in use.
    pub fn unmount(&self) -> Result<()> {
        let mut mounts = mounts_at(&self.path)?;
        match mounts.pop() {
            Some(top) if top.device == self.device => remove(&self.dir, &self.path, UnmountFlags::empty()),
            _ if mounts.iter().any(|below| below.device == self.device) => Err(busy(&self.dir)),
            _ => Ok(()),
        }
    }
}

fn remove(dir: &Path, path: &Path, flags: UnmountFlags) -> Result<()> {
    match unmount(path, flags) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => fusermount(dir, path),
        Err(Errno::BUSY) => Err(busy(dir)),
        Err(errno) => Err(Error::host("unmount", dir, errno)),
    }
}

fn busy(dir: &Path) -> Error {
    let why = "a file or directory in it is in use";
    Error::Conflict { what: dir.display().to_string(), why: why.to_owned() }
}

/// The path as the mount table has it. The last component of a dead mount cannot be looked at, so only its parent is
/// resolved.
pub(crate) fn resolve(dir: &Path) -> Result<PathBuf> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("the directory {}", dir.display())),
        _ => Error::host("find", dir, error),
    };
    match fs::canonicalize(dir) {
        Ok(path) => Ok(path),
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            let path = std::path::absolute(dir).map_err(failed)?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
            Ok(fs::canonicalize(parent).map_err(failed)?.join(name))
        }
        Err(error) => Err(failed(error)),
    }
}

/// A line of the mount table (proc_pid_mountinfo(5)).
struct Entry {
    /// `MAJOR:MINOR`, of this mount alone as long as it lives.
    device: Vec<u8>,
    point: PathBuf,
    source: String,
}

/// What is mounted at this path, the topmost last.
fn mounts_at(path: &Path) -> Result<Vec<Entry>> {
    Ok(mounts()?.into_iter().filter(|entry| entry.point == path).collect())
}

fn mounts() -> Result<Vec<Entry>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = fs::read(TABLE).map_err(|error| Error::host("read", TABLE, error))?;
    let lines = table.split(|byte| *byte == b'\n');
    Ok(lines.filter_map(entry).collect())
}

fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?.to_owned();
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let mut rest = fields.skip_while(|field| *field != b"-");
    let source = String::from_utf8_lossy(&unescape(rest.nth(2)?)).into_owned();
    Some(Entry { device, point, source })
}

/// Spaces and the like are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', left @ ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = left;
            }
            _ => plain.push(byte),
        }
    }
    plain
}

/// The process that serves the mount, if it is alive and this user may ask it.
fn supervisor(path: &Path) -> Option<OwnedFd> {
    let mut value = [0; 32];
    let len = rustix::fs::getxattr(path, SUPERVISOR, &mut value).ok()?;
    let number: i32 = std::str::from_utf8(value.get(..len)?).ok()?.parse().ok()?;
    let process = Pid::from_raw(number)?;
    // a mount served by threads of this very process ends without the process
    (process != rustix::process::getpid()).then(|| pidfd_open(process, PidfdFlags::empty()).ok())?
}

fn await_end(dir: &Path, process: &OwnedFd) -> Result<()> {
    let mut wait = [PollFd::new(process, PollFlags::IN)];
    match poll(&mut wait, Some(&END)) {
        Ok(0) => Err(Error::Conflict {
            what: dir.display().to_string(),
            why: "it is unmounted, but the process that served it has not ended".to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(errno) => Err(Error::host("wait for the process that served", dir, errno)),
    }
}

/// For users other than root, who may unmount only through the program that mounted.
fn fusermount(dir: &Path, path: &Path) -> Result<()> {
    let output = Command::new("fusermount3").arg("-u").arg("--").arg(path).output();
    let output = output.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Fuse {
            path: dir.to_owned(),
            why: "fusermount3 is missing; install the package fuse3".to_owned(),
        },
        _ => Error::host("run fusermount3 for", dir, error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if told.contains("busy") {
        return Err(busy(dir));
    }
    Err(Error::Conflict { what: dir.display().to_string(), why: told })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_mount_table() {
        let line =
            b"36 35 98:0 /mnt1 /mnt/a\\040b\\134 rw,noatime master:1 shared:2 - fuse blockd:nbd://h/x rw";
        let Entry { device, point, source } = entry(line).unwrap();
        let found = (device.as_slice(), point.as_path(), source.as_str());
        assert_eq!(found, (&b"98:0"[..], Path::new("/mnt/a b\\"), "blockd:nbd://h/x"));
        for short in [&b""[..], b"1 2 3", b"36 35 98:0 / /mnt rw - fuse"] {
            assert!(entry(short).is_none());
        }
    }
}
