//! Inodes: the fixed record behind every file, and its two forks.

use super::superblock::{Superblock, fits};
use crate::fields::{be16, be32, be64, u8_at};
use crate::guest::{Node, NodeKind, Stamp};
use crate::{Error, Result};

const MAGIC: u16 = 0x494e;
const CRC_AT: usize = 100;
/// Where the forks begin, without and with the fields of version 3.
const FORKS_V2: usize = 100;
const FORKS_V3: usize = 176;

pub(super) const FLAG_REALTIME: u16 = 0x1;
const FLAG2_BIGTIME: u64 = 0x8;
const FLAG2_NREXT64: u64 = 0x10;
/// Times with more range count from here, in seconds.
const BIGTIME_EPOCH: i64 = -(1 << 31);

/// How a fork keeps what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Device,
    Local,
    Extents,
    Btree,
}

/// One fork of an inode: its bytes in the record, and how many extents they or the tree below them have.
#[derive(Debug, Clone)]
pub(super) struct Fork {
    pub format: Format,
    pub bytes: Vec<u8>,
    pub extents: u64,
}

/// An inode.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub ino: u64,
    pub kind: NodeKind,
    perm: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    pub size: u64,
    blocks: u64,
    pub flags: u16,
    generation: u32,
    times: [Stamp; 3],
    pub data: Fork,
    /// Extended attributes, if there are any.
    pub attributes: Option<Fork>,
}

impl Inode {
    /// Decodes the record of inode `ino`; whether it must fit its checksum is for the caller to say.
    pub(super) fn decode(ino: u64, record: &[u8], sb: &Superblock, checked: bool) -> Result<Self> {
        let mode = be16(record, 2)?;
        if be16(record, 0)? != MAGIC || mode == 0 {
            return Err(Error::not_found(format!("inode {ino}")));
        }
        let version = u8_at(record, 4)?;
        let fits = !checked || fits(record, CRC_AT);
        if sb.v5 && (version != 3 || be64(record, 152)? != ino || !fits) {
            return Err(damaged(ino, "it does not fit its checksum or its place"));
        }
        let kind = kind(mode).ok_or_else(|| damaged(ino, format!("mode {mode:#o}")))?;
        let size = be64(record, 56)?;
        if i64::try_from(size).is_err() {
            return Err(damaged(ino, format!("a size of {size}")));
        }
        let flags2 = if version == 3 { be64(record, 120)? } else { 0 };
        let (data, attributes) = forks(ino, record, version, flags2)?;
        let stamp = |at| stamp(record, at, flags2 & FLAG2_BIGTIME != 0);
        Ok(Self {
            ino,
            kind,
            perm: mode & 0o7777,
            uid: be32(record, 8)?,
            gid: be32(record, 12)?,
            nlink: if version == 1 { u32::from(be16(record, 6)?) } else { be32(record, 16)? },
            size,
            blocks: be64(record, 64)?.saturating_mul(u64::from(sb.block_size / 512)),
            flags: be16(record, 90)?,
            generation: be32(record, 92)?,
            times: [stamp(32)?, stamp(40)?, stamp(48)?],
            data,
            attributes,
        })
    }

    /// What `stat` tells of it.
    pub(super) fn node(&self) -> Result<Node> {
        let rdev = match self.kind {
            NodeKind::CharDevice | NodeKind::BlockDevice if self.data.format == Format::Device => {
                device(be32(&self.data.bytes, 0)?)
            }
            _ => 0,
        };
        let [atime, mtime, ctime] = self.times;
        Ok(Node {
            ino: self.ino,
            kind: self.kind,
            perm: self.perm,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            blocks: self.blocks,
            rdev,
            atime,
            mtime,
            ctime,
            generation: self.generation,
        })
    }

    pub(super) fn damaged(&self, why: impl Into<String>) -> Error {
        damaged(self.ino, why)
    }
}

fn damaged(ino: u64, why: impl Into<String>) -> Error {
    Error::corrupt(format!("inode {ino}"), why)
}

fn forks(ino: u64, record: &[u8], version: u8, flags2: u64) -> Result<(Fork, Option<Fork>)> {
    let start = if version == 3 { FORKS_V3 } else { FORKS_V2 };
    let attributes_at = usize::from(u8_at(record, 82)?) * 8;
    let split = if attributes_at == 0 { record.len() } else { start + attributes_at };
    let (Some(data), Some(attributes)) = (record.get(start..split), record.get(split..)) else {
        return Err(damaged(ino, format!("its attributes begin behind its end, at {split}")));
    };
    let wide = flags2 & FLAG2_NREXT64 != 0;
    let extents = if wide { be64(record, 24)? } else { u64::from(be32(record, 76)?) };
    let data = Fork { format: format(ino, u8_at(record, 5)?)?, bytes: data.to_vec(), extents };
    if attributes_at == 0 {
        return Ok((data, None));
    }
    let extents = if wide { u64::from(be32(record, 76)?) } else { u64::from(be16(record, 80)?) };
    let format = format(ino, u8_at(record, 83)?)?;
    Ok((data, Some(Fork { format, bytes: attributes.to_vec(), extents })))
}

fn format(ino: u64, stored: u8) -> Result<Format> {
    match stored {
        0 => Ok(Format::Device),
        1 => Ok(Format::Local),
        2 => Ok(Format::Extents),
        3 => Ok(Format::Btree),
        other => Err(damaged(ino, format!("a fork of the format {other}"))),
    }
}

fn kind(mode: u16) -> Option<NodeKind> {
    Some(match mode >> 12 {
        0x1 => NodeKind::Fifo,
        0x2 => NodeKind::CharDevice,
        0x4 => NodeKind::Directory,
        0x6 => NodeKind::BlockDevice,
        0x8 => NodeKind::File,
        0xa => NodeKind::Symlink,
        0xc => NodeKind::Socket,
        _ => return None,
    })
}

/// A device number has 14 bits of major and 18 of minor; `Node` has the kernel's form.
fn device(stored: u32) -> u32 {
    let (major, minor) = (stored >> 18 & 0xfff, stored & 0x3_ffff);
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// A time: seconds and nanoseconds, or all nanoseconds since 1901.
fn stamp(record: &[u8], at: usize, big: bool) -> Result<Stamp> {
    if big {
        let nanos = be64(record, at)?;
        let seconds = (nanos / 1_000_000_000).cast_signed() + BIGTIME_EPOCH;
        return Ok(Stamp { seconds, nanos: (nanos % 1_000_000_000) as u32 });
    }
    let nanos = be32(record, at + 4)?;
    let seconds = i64::from(be32(record, at)?.cast_signed());
    Ok(Stamp { seconds, nanos: if nanos < 1_000_000_000 { nanos } else { 0 } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_two_forms() {
        let plain = [(-5_i32).to_be_bytes(), 7_i32.to_be_bytes()].concat();
        assert_eq!(stamp(&plain, 0, false).unwrap(), Stamp { seconds: -5, nanos: 7 });
        for (stored, seconds, nanos) in [(0, -0x8000_0000, 0), (0x8000_0000_u64 * 1_000_000_000 + 9, 0, 9)] {
            assert_eq!(stamp(&stored.to_be_bytes(), 0, true).unwrap(), Stamp { seconds, nanos });
        }
    }

    #[test]
    fn devices_are_split_at_18_bits() {
        assert_eq!(device(1 << 18 | 3), 0x103);
        assert_eq!(device(259 << 18 | 70_000), 70_000 & 0xff | 259 << 8 | (70_000 & !0xff) << 12);
    }
}
