//! A tree as a FUSE filesystem. The content of a recovery point never changes, so the kernel may keep everything.

use super::shown::{Add, Shown};
use crate::guest::{Node, NodeKind, Stamp};
use crate::{Error, Result};
use block::Kind;
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The top directory.
const TOP: u64 = 1;
/// Not at all: ask again.
const NEVER: Duration = Duration::ZERO;
/// The root of the mount tells the process that serves it under this name, for those who wait for its end.
pub(crate) const SUPERVISOR: &str = "user.blockd.supervisor";
/// Requests of read-ahead in flight.
const BACKGROUND: u16 = 64;
/// Offsets below are `.` and `..`.
const DOTS: u64 = 2;

thread_local! {
    /// Where a read is put together; grows to the largest read the kernel makes.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A tree as a filesystem.
pub(crate) struct Served(pub(crate) Arc<dyn Shown>);

impl Served {
    fn extended(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>> {
        match ino {
            TOP if name == SUPERVISOR => Ok(std::process::id().to_string().into_bytes()),
            ino => self.0.attribute(ino, name.as_bytes()),
        }
    }

    fn extended_names(&self, ino: u64) -> Result<Vec<u8>> {
        let names = self.0.attribute_names(ino)?;
        Ok(names.into_iter().flat_map(|name| [name, vec![0]].concat()).collect())
    }

    /// Calls `add` with (inode, offset of the next, kind, name, node) until it says that the reply is full.
    fn list(&self, ino: u64, offset: u64, add: &mut Add<'_>) -> Result<()> {
        for (at, name) in [(1, "."), (2, "..")] {
            if offset < at && add(ino, at, NodeKind::Directory, name.as_bytes(), None) {
                return Ok(());
            }
        }
        self.0.list(ino, offset.saturating_sub(DOTS), &mut |ino, next, kind, name, node| {
            add(ino, next.saturating_add(DOTS), kind, name, node)
        })
    }
}

impl Filesystem for Served {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            // always, not only where the kernel guesses that it pays: the nodes of a page cost one question
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            // lists of an item's points are kept until their time changes
            InitFlags::FUSE_AUTO_INVAL_DATA,
        ];
        for flag in wanted {
            if let Err(missing) = config.add_capabilities(flag) {
                tracing::debug!("this kernel's FUSE lacks {missing:?}");
            }
        }
        if let Err(nearest) = config.set_max_background(BACKGROUND) {
            tracing::debug!("this kernel's FUSE takes {nearest} requests in the background");
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let keep = self.0.keep(parent.0);
        match self.0.lookup(parent.0, name.as_bytes()) {
            Ok(Some(node)) => {
                self.0.remember(node.ino);
                reply.entry(&keep, &attr(&node), Generation(u64::from(node.generation)));
            }
            // that a name is missing may be kept as well
            Ok(None) => reply.entry(&keep, &missing(), Generation(0)),
            Err(error) => reply.error(errno("look up", &error)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, times: u64) {
        self.0.forget(ino.0, times);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.node(ino.0) {
            Ok(node) => reply.attr(&self.0.keep(ino.0), &attr(&node)),
            Err(error) => reply.error(errno("stat", &error)),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.link(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno("read a link", &error)),
        }
    }

    /// Not needed: tells the kernel to open without asking, and to keep the content it has.
    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size as usize {
                buffer.resize(size as usize, 0);
            }
            let buffer = &mut buffer[..size as usize];
            match self.0.read(ino.0, offset, buffer) {
                Ok(count) => reply.data(&buffer[..count]),
                Err(error) => reply.error(errno("read", &error)),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.list(ino.0, offset, &mut |ino, next, kind, name, _| {
            reply.add(INodeNo(ino), next, file_type(kind), OsStr::from_bytes(name))
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("list", &error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let keep = self.0.keep(ino.0);
        let listed = self.list(ino.0, offset, &mut |number, next, kind, name, node| {
            let ino = INodeNo(number);
            let (ttl, attr, generation) = match node {
                Some(node) => (keep, attr(node), node.generation),
                // a name whose inode cannot be read: asking for it gives the error
                None => (NEVER, FileAttr { ino, kind: file_type(kind), ..missing() }, 0),
            };
            let generation = Generation(u64::from(generation));
            let full = reply.add(ino, next, OsStr::from_bytes(name), &ttl, &attr, generation);
            // the kernel holds what it was given with its attributes, but for `.` and `..`
            if !full && next > DOTS {
                self.0.remember(number);
            }
            full
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno("list", &error)),
        }
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.0.space(ino.0) {
            Ok(space) => reply.statfs(
                space.blocks,
                space.free,
                space.free,
                space.inodes,
                space.free_inodes,
                space.block_size,
                crate::guest::MAX_NAME as u32,
                space.block_size,
            ),
            Err(error) => reply.error(errno("tell the space of", &error)),
        }
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.extended(ino.0, name) {
            Ok(value) => sized(&value, size, reply),
            Err(error) if error.kind() == Kind::NotFound => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno("read an attribute", &error)),
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.extended_names(ino.0) {
            Ok(names) => sized(&names, size, reply),
            Err(error) => reply.error(errno("list attributes", &error)),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let data = match whence {
            libc::SEEK_DATA => true,
            libc::SEEK_HOLE => false,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.0.seek(ino.0, offset, data) {
            // sizes are below 2^63, checked where nodes come from
            Ok(Some(found)) => reply.offset(found.cast_signed()),
            Ok(None) => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno("seek", &error)),
        }
    }
}

/// Attributes are asked for twice: how large, then what.
fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match size as usize {
        0 => reply.size(value.len() as u32),
        room if room < value.len() => reply.error(Errno::ERANGE),
        _ => reply.data(value),
    }
}

fn errno(op: &str, error: &Error) -> Errno {
    if !matches!(error.kind(), Kind::NotFound | Kind::Invalid) {
        tracing::warn!("cannot {op}: {}", error.with_causes());
    }
    match error.kind() {
        Kind::Invalid => Errno::EINVAL,
        Kind::NotFound => Errno::ENOENT,
        Kind::Unsupported => Errno::EOPNOTSUPP,
        Kind::ReadOnly => Errno::EROFS,
        Kind::Conflict
        | Kind::OutOfRange
        | Kind::NoSpace
        | Kind::Io
        | Kind::Corrupt
        | Kind::Unavailable
        | Kind::Poisoned
        | Kind::Cancelled => Errno::EIO,
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::File => FileType::RegularFile,
        NodeKind::Directory => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
        NodeKind::Fifo => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::CharDevice => FileType::CharDevice,
        NodeKind::BlockDevice => FileType::BlockDevice,
    }
}

fn attr(node: &Node) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.ino),
        size: node.size,
        blocks: node.blocks,
        atime: time(node.atime),
        mtime: time(node.mtime),
        ctime: time(node.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(node.kind),
        perm: node.perm,
        nlink: node.nlink,
        uid: node.uid,
        gid: node.gid,
        rdev: node.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// Inode 0: there is nothing.
fn missing() -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Times before 1970 count backwards, their nanoseconds forwards.
fn time(stamp: Stamp) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(stamp.nanos));
    let seconds = Duration::from_secs(stamp.seconds.unsigned_abs());
    match stamp.seconds {
        0.. => SystemTime::UNIX_EPOCH + seconds + nanos,
        _ => SystemTime::UNIX_EPOCH - seconds + nanos,
    }
}
