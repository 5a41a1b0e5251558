//! XFS, versions 4 and 5, read-only.
//!
//! Written from the XFS algorithms and data structures document and the kernel's description of its log. What a mount would
//! show after replaying the log is what is shown here; the volume itself is never written. Not read: files on a realtime
//! device, logs on another device, directories of version 1.

mod attributes;
mod directory;
mod fork;
mod inode;
mod log;
mod superblock;

use super::lines::{Bytes, Lines};
use super::pieces::{clip, push};
use super::{Guest, Listing, MAX_INODE, MAX_LINK, MAX_PIECES, Node, NodeKind, Piece, Place, Space};
use crate::fields::{be32, be64};
use crate::{Error, Result};
use block::BlockSource;
use block::sync::{Mutex, lock};
use inode::{FLAG_REALTIME, Format, Inode};
use log::Overlay;
use std::collections::HashSet;
use std::sync::Arc;
use superblock::Superblock;

/// Extents looked at for one answer, however few pieces they make.
const MAX_RUNS: usize = 4 * MAX_PIECES;
/// Numbers of verified blocks kept, about 1 MiB of them.
const MAX_VERIFIED: usize = 1 << 16;
const LINK_MAGIC: u32 = 0x5853_4c4d;
const LINK_HEADER: usize = 56;
const LINK_OWNER_AT: usize = 32;
const LINK_CRC_AT: usize = 12;
/// Targets are shorter in XFS than elsewhere: with the smallest blocks and a header each they take three.
const MAX_LINK_BYTES: usize = 1024;
const MAX_LINK_BLOCKS: u64 = 3;

/// An open filesystem.
pub struct Xfs {
    sb: Superblock,
    lines: Lines,
    overlay: Overlay,
    verified: Mutex<HashSet<u64>>,
}

/// Whether a volume that begins like this is XFS. Says nothing about its health.
pub fn detect(start: &[u8]) -> bool {
    superblock::has_magic(start)
}

/// Checks features and geometry without opening.
///
/// # Errors
/// As [`Xfs::open`].
pub fn check(start: &[u8]) -> Result<()> {
    let sector = superblock::sector_size(start)?;
    superblock::check(start.get(..sector).unwrap_or_default())?;
    Superblock::decode(start).map(|_| ())
}

impl Xfs {
    /// Opens the filesystem that fills `source`, replaying its log in memory if it was not unmounted.
    ///
    /// # Errors
    /// `Unsupported`, naming the feature, if it uses one this reader does not know. `Corrupt` if superblock or log do
    /// not fit together.
    pub fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let lines = Lines::new(source);
        let first = lines.read(0, superblock::LEN)?;
        let sector = lines.read(0, superblock::sector_size(&first)?)?;
        superblock::check(&sector)?;
        let sb = Superblock::decode(&sector)?;
        let overlay = log::replay(&sb, &lines)?;
        let fs = Self { sb, lines, overlay, verified: Mutex::default() };
        // the counters may be newer in the log
        let sb = Superblock::decode(&fs.read(0, superblock::LEN)?)?;
        Ok(Self {
            sb: Superblock {
                free_blocks: sb.free_blocks,
                inodes: sb.inodes,
                free_inodes: sb.free_inodes,
                ..fs.sb
            },
            ..fs
        })
    }

    fn block_size(&self) -> u64 {
        u64::from(self.sb.block_size)
    }

    /// `len` bytes at `at` as a mount would see them, log included.
    fn read(&self, at: u64, len: usize) -> Result<Bytes> {
        self.overlay.over(at, self.lines.read(at, len)?)
    }

    /// The block of this number, group in its high bits.
    fn block(&self, number: u64) -> Result<Bytes> {
        let at = self.sb.byte_of(number);
        let at = at.ok_or_else(|| {
            Error::corrupt("a block number", format!("{number:#x} is outside its filesystem"))
        })?;
        self.read(at, self.sb.block_size as usize)
    }

    /// Calls `fits` for the block of `len` bytes at `at`, unless it was looked at before or is newer in the log.
    fn verify(&self, at: u64, len: usize, fits: impl FnOnce() -> bool) -> Result<()> {
        if lock(&self.verified).contains(&at) || self.overlay.touches(at, len) {
            return Ok(());
        }
        if !fits() {
            return Err(Error::corrupt(format!("the block at {at}"), "it does not fit its checksum"));
        }
        let mut verified = lock(&self.verified);
        if verified.len() >= MAX_VERIFIED {
            verified.clear();
        }
        verified.insert(at);
        Ok(())
    }

    /// Whether a number in a directory can be that of an inode.
    fn is_ino(&self, ino: u64) -> bool {
        ino <= MAX_INODE && self.sb.inode_at(ino).is_some()
    }

    fn inode(&self, ino: u64) -> Result<Inode> {
        let at = self.sb.inode_at(ino).ok_or_else(|| Error::not_found(format!("inode {ino}")))?;
        let size = usize::from(self.sb.inode_size);
        let checked = self.sb.v5 && !self.overlay.touches(at, size);
        Inode::decode(ino, &self.read(at, size)?, &self.sb, checked)
    }

    /// A target that does not fit the inode.
    fn far_link(&self, inode: &Inode, len: usize) -> Result<Vec<u8>> {
        if !self.sb.v5 {
            return fork::read(self, inode, &inode.data, 0, len);
        }
        let (mut target, mut at) = (Vec::with_capacity(len), 0);
        while target.len() < len {
            // every extent has a header, however many blocks it has
            let count = fork::map(self, inode, &inode.data, at)?.count.min(MAX_LINK_BLOCKS);
            let size = (count * self.block_size()) as usize;
            let block = fork::block(self, inode, &inode.data, at * self.block_size(), size, LINK_CRC_AT)?;
            let here = be32(&block, 8)? as usize;
            let sound = be32(&block, 0)? == LINK_MAGIC && be64(&block, LINK_OWNER_AT)? == inode.ino;
            match block.get(LINK_HEADER..LINK_HEADER.saturating_add(here)) {
                Some(part) if sound && !part.is_empty() => target.extend_from_slice(part),
                _ => return Err(inode.damaged("a block of its target does not fit")),
            }
            at += count;
        }
        target.truncate(len);
        Ok(target)
    }
}

impl Guest for Xfs {
    fn root(&self) -> u64 {
        self.sb.root
    }

    fn space(&self) -> Space {
        Space {
            block_size: self.sb.block_size,
            blocks: self.sb.blocks,
            free: self.sb.free_blocks,
            inodes: self.sb.inodes,
            free_inodes: self.sb.free_inodes,
        }
    }

    fn node(&self, ino: u64) -> Result<Node> {
        self.inode(ino)?.node()
    }

    fn lookup(&self, dir: u64, name: &[u8]) -> Result<Option<u64>> {
        directory::lookup(self, &self.inode(dir)?, name)
    }

    fn list(&self, dir: u64, cookie: u64) -> Result<Listing> {
        directory::list(self, &self.inode(dir)?, cookie)
    }

    fn link(&self, ino: u64) -> Result<Vec<u8>> {
        let inode = self.inode(ino)?;
        if inode.kind != NodeKind::Symlink {
            return Err(Error::invalid(format!("inode {ino}"), "it is not a symbolic link"));
        }
        let len = usize::try_from(inode.size).ok().filter(|len| *len <= MAX_LINK.min(MAX_LINK_BYTES));
        let len = len.ok_or_else(|| inode.damaged(format!("a target of {} bytes", inode.size)))?;
        let target = match inode.data.format {
            Format::Local => inode.data.bytes.get(..len).unwrap_or_default().to_vec(),
            _ => self.far_link(&inode, len)?,
        };
        if target.is_empty() || target.contains(&0) {
            return Err(inode.damaged("its target is no path"));
        }
        Ok(target)
    }

    fn pieces(&self, ino: u64, from: u64, to: u64) -> Result<Vec<Piece>> {
        let inode = self.inode(ino)?;
        if inode.kind != NodeKind::File {
            return Err(Error::invalid(format!("inode {ino}"), "it is not a plain file"));
        }
        if inode.flags & FLAG_REALTIME != 0 {
            return Err(Error::unsupported(format!("inode {ino}"), "its content is on the realtime device"));
        }
        let (size, to) = (self.block_size(), to.min(inode.size));
        if from >= to {
            return Ok(Vec::new());
        }
        let (mut logical, end) = (from / size, to.div_ceil(size));
        let mut pieces = Vec::new();
        // extents that go on alike melt into one piece, so their number needs a bound of its own
        for _ in 0..MAX_RUNS {
            if logical >= end || pieces.len() >= MAX_PIECES {
                break;
            }
            let run = match fork::map(self, &inode, &inode.data, logical) {
                Ok(run) => run,
                // what lies before the damage can still be read
                Err(_) if !pieces.is_empty() => break,
                Err(error) => return Err(error),
            };
            let count = run.count.min(end - logical);
            let place = run.byte.map_or(Place::Zero, Place::Volume);
            if run.byte.is_some_and(|byte| byte + count * size > self.lines.size()) {
                return Err(inode.damaged("its content lies behind the end of the volume"));
            }
            push(&mut pieces, logical * size, count * size, place);
            logical += count;
        }
        clip(&mut pieces, inode.size);
        Ok(pieces)
    }

    fn attributes(&self, ino: u64) -> Result<Vec<Vec<u8>>> {
        attributes::names(self, &self.inode(ino)?)
    }

    fn attribute(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        attributes::value(self, &self.inode(ino)?, name)
    }
}
