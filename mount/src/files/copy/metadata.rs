//! Owner, attributes, permissions and times of a copy: set as far as the host lets this user, and counted where not.
//!
//! The order matters: giving a file away takes its set-id bits and capabilities, and everything touches its times.

use crate::files::{LostKind, Tally};
use crate::guest::{Node, NodeKind, Stamp};
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// Set-user-id and set-group-id.
const SET_ID: u16 = 0o6000;

/// Makes what `file` holds, a descriptor of any kind, like `node`.
pub(super) fn apply(
    file: BorrowedFd<'_>,
    node: &Node,
    attributes: &[(Vec<u8>, Vec<u8>)],
    path: &[u8],
    lost: &mut Tally,
) {
    let owned = own(file, node, path, lost);
    // the one way that leads to what a descriptor holds, be it a link or a device
    let held = format!("/proc/self/fd/{}", file.as_raw_fd());
    for (name, value) in attributes {
        let set = rustix::fs::setxattr(&held, OsStr::from_bytes(name), value, XattrFlags::empty());
        if let Err(errno) = set {
            lost.add(kind(name), path, format!("{}: {errno}", String::from_utf8_lossy(name)));
        }
    }
    if node.kind != NodeKind::Symlink {
        let mut mode = node.perm;
        if !owned && mode & SET_ID != 0 {
            lost.add(LostKind::SetId, path, "they would take effect for another owner");
            mode &= !SET_ID;
        }
        if let Err(errno) = rustix::fs::chmod(&held, Mode::from_raw_mode(mode.into())) {
            lost.add(LostKind::Permissions, path, errno);
        }
    }
    let times = Timestamps { last_access: time(node.atime), last_modification: time(node.mtime) };
    if let Err(errno) = rustix::fs::utimensat(file, "", &times, AtFlags::EMPTY_PATH) {
        lost.add(LostKind::Times, path, errno);
    }
}

/// Gives the file to its owner and group. Whether both have it.
fn own(file: BorrowedFd<'_>, node: &Node, path: &[u8], lost: &mut Tally) -> bool {
    let (uid, gid) = (Uid::from_raw(node.uid), Gid::from_raw(node.gid));
    let give = |uid, gid| rustix::fs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH);
    let Err(errno) = give(Some(uid), Some(gid)) else { return true };
    let group = give(None, Some(gid));
    let kind = match group {
        Err(_) if uid == rustix::process::geteuid() => LostKind::Group,
        _ => LostKind::Owner,
    };
    lost.add(kind, path, errno);
    false
}

fn kind(attribute: &[u8]) -> LostKind {
    match attribute {
        name if name.starts_with(b"system.posix_acl_") => LostKind::AccessLists,
        name if name.starts_with(b"user.") => LostKind::UserAttributes,
        _ => LostKind::OtherAttributes,
    }
}

fn time(stamp: Stamp) -> Timespec {
    Timespec { tv_sec: stamp.seconds, tv_nsec: stamp.nanos.into() }
}

/// Whether an error of the host would come again for every other file.
pub(super) fn is_final(error: &crate::Error) -> bool {
    let crate::Error::Host { source, .. } = error else { return false };
    let met = source.raw_os_error().map(Errno::from_raw_os_error);
    matches!(met, Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::IO))
}
