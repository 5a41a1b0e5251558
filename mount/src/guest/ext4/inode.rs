//! Inodes: the fixed record behind every file.

use crate::fields::{array, le16, le32};
use crate::guest::{Node, NodeKind, Stamp};
use crate::{Error, Result};
use block::crc32c;

pub(super) mod flag {
    pub(in super::super) const ENCRYPT: u32 = 0x800;
    pub(in super::super) const INDEX: u32 = 0x1000;
    pub(in super::super) const HUGE_FILE: u32 = 0x4_0000;
    pub(in super::super) const EXTENTS: u32 = 0x8_0000;
    pub(in super::super) const INLINE_DATA: u32 = 0x1000_0000;
}

/// An inode, with the places where its content may be described.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    pub ino: u32,
    pub kind: NodeKind,
    pub perm: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u16,
    pub size: u64,
    pub blocks: u64,
    pub flags: u32,
    pub generation: u32,
    pub times: [Stamp; 3],
    /// The 60 bytes that hold block pointers, the root of an extent tree, a short link or a device number.
    pub root: [u8; 60],
    /// The block of extended attributes, 0 if there is none.
    pub attribute_block: u64,
    /// The rest of the record behind the known fields: extended attributes kept inside the inode.
    pub inside: Vec<u8>,
}

/// What of the superblock an inode's meaning depends on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub block_size: u32,
    pub large_dir: bool,
    pub huge_file: bool,
    /// Start value of checksums, where the filesystem has them.
    pub checksum_seed: Option<u32>,
}

impl Inode {
    /// Decodes the record of inode `ino`; `record` is a whole record (128 bytes or more).
    pub(super) fn decode(ino: u32, record: &[u8], rules: Rules) -> Result<Self> {
        let mode = le16(record, 0x0)?;
        if mode == 0 {
            return Err(Error::not_found(format!("inode {ino}")));
        }
        if let Some(seed) = rules.checksum_seed {
            check(ino, record, seed)?;
        }
        let kind = kind(mode).ok_or_else(|| damaged(ino, format!("mode {mode:#o}")))?;
        let large = kind == NodeKind::File || rules.large_dir && kind == NodeKind::Directory;
        let size_high = if large { le32(record, 0x6c)? } else { 0 };
        let size = u64::from(size_high) << 32 | u64::from(le32(record, 0x4)?);
        if i64::try_from(size).is_err() {
            return Err(damaged(ino, format!("a size of {size}")));
        }
        let flags = le32(record, 0x20)?;
        let extra = extra_size(ino, record)?;
        Ok(Self {
            ino,
            kind,
            perm: mode & 0o7777,
            uid: u32::from(le16(record, 0x78)?) << 16 | u32::from(le16(record, 0x2)?),
            gid: u32::from(le16(record, 0x7a)?) << 16 | u32::from(le16(record, 0x18)?),
            nlink: le16(record, 0x1a)?,
            size,
            blocks: sectors(record, flags, rules)?.saturating_add(inline_sectors(kind, flags, size)),
            flags,
            generation: le32(record, 0x64)?,
            times: [
                stamp(record, 0x8, 0x8c, extra)?,
                stamp(record, 0x10, 0x88, extra)?,
                stamp(record, 0xc, 0x84, extra)?,
            ],
            root: array(record, 0x28)?,
            attribute_block: u64::from(le16(record, 0x76)?) << 32 | u64::from(le32(record, 0x68)?),
            inside: record.get(128 + extra..).unwrap_or_default().to_vec(),
        })
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// What `stat` tells of it.
    pub(super) fn node(&self) -> Result<Node> {
        let rdev = match self.kind {
            NodeKind::CharDevice | NodeKind::BlockDevice => self.device()?,
            _ => 0,
        };
        let [atime, mtime, ctime] = self.times;
        Ok(Node {
            ino: u64::from(self.ino),
            kind: self.kind,
            perm: self.perm,
            uid: self.uid,
            gid: self.gid,
            nlink: u32::from(self.nlink),
            size: self.size,
            blocks: self.blocks,
            rdev,
            atime,
            mtime,
            ctime,
            generation: self.generation,
        })
    }

    /// The old form has 8 bits each for major and minor, which the new form contains.
    fn device(&self) -> Result<u32> {
        match le32(&self.root, 0)? {
            0 => le32(&self.root, 4),
            old => Ok(old & 0xffff),
        }
    }

    /// Start value of the checksums of this inode's own blocks.
    pub(super) fn checksum_seed(&self, seed: u32) -> u32 {
        seed_of(self.ino, self.generation, seed)
    }

    pub(super) fn damaged(&self, why: impl Into<String>) -> Error {
        damaged(self.ino, why)
    }
}

fn damaged(ino: u32, why: impl Into<String>) -> Error {
    Error::corrupt(format!("inode {ino}"), why)
}

fn seed_of(ino: u32, generation: u32, seed: u32) -> u32 {
    crc32c(crc32c(seed, &ino.to_le_bytes()), &generation.to_le_bytes())
}

/// Bytes of fields behind the first 128.
fn extra_size(ino: u32, record: &[u8]) -> Result<usize> {
    if record.len() <= 128 {
        return Ok(0);
    }
    let extra = usize::from(le16(record, 0x80)?);
    if extra > record.len() - 128 || !extra.is_multiple_of(4) {
        return Err(damaged(ino, format!("{extra} bytes of extra fields")));
    }
    Ok(extra)
}

fn check(ino: u32, record: &[u8], seed: u32) -> Result<()> {
    let mut blank = record.to_vec();
    let mut stored = u32::from(le16(record, 0x7c)?);
    let mut mask = 0xffff;
    blank.get_mut(0x7c..0x7e).unwrap_or_default().fill(0);
    if record.len() > 128 && le16(record, 0x80)? >= 4 {
        stored |= u32::from(le16(record, 0x82)?) << 16;
        mask = !0;
        blank.get_mut(0x82..0x84).unwrap_or_default().fill(0);
    }
    let computed = crc32c(seed_of(ino, le32(record, 0x64)?, seed), &blank) & mask;
    if stored != computed {
        return Err(damaged(ino, format!("its checksum is {stored:08x}, its bytes give {computed:08x}")));
    }
    Ok(())
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

/// Allocated space in 512-byte units.
fn sectors(record: &[u8], flags: u32, rules: Rules) -> Result<u64> {
    let low = u64::from(le32(record, 0x1c)?);
    if !rules.huge_file {
        return Ok(low);
    }
    let count = u64::from(le16(record, 0x74)?) << 32 | low;
    let unit = if flags & flag::HUGE_FILE != 0 { u64::from(rules.block_size / 512) } else { 1 };
    Ok(count * unit)
}

/// Content inside the inode takes no block, but a file with content and no space would pass for a hole.
fn inline_sectors(kind: NodeKind, flags: u32, size: u64) -> u64 {
    if kind == NodeKind::File && flags & flag::INLINE_DATA != 0 { size.div_ceil(512) } else { 0 }
}

/// A time: 32 signed bits of seconds, and where the record has the extra word, 2 bits above them and nanoseconds.
fn stamp(record: &[u8], at: usize, extra_at: usize, extra: usize) -> Result<Stamp> {
    let seconds = i64::from(le32(record, at)?.cast_signed());
    if extra_at + 4 > 128 + extra {
        return Ok(Stamp { seconds, nanos: 0 });
    }
    let word = le32(record, extra_at)?;
    let nanos = word >> 2;
    if nanos >= 1_000_000_000 {
        // a kernel shows such a time unchanged, but no interface above can carry it
        return Ok(Stamp { seconds, nanos: 0 });
    }
    Ok(Stamp { seconds: seconds + (i64::from(word & 3) << 32), nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seconds: i32, extra: u32) -> Vec<u8> {
        let mut record = vec![0; 256];
        record[0x10..0x14].copy_from_slice(&seconds.to_le_bytes());
        record[0x88..0x8c].copy_from_slice(&extra.to_le_bytes());
        record
    }

    /// The table of the kernel's documentation: epoch bits extend the signed seconds.
    #[test]
    fn times_reach_from_1901_to_2446() {
        for (seconds, epoch, expected) in [
            (i32::MIN, 0, -0x8000_0000),
            (-1, 0, -1),
            (0, 0, 0),
            (i32::MAX, 0, 0x7fff_ffff),
            (i32::MIN, 1, 0x8000_0000),
            (-1, 1, 0xffff_ffff),
            (0, 1, 0x1_0000_0000),
            (i32::MAX, 3, 0x3_7fff_ffff_i64),
        ] {
            let stamp = stamp(&record(seconds, 7 << 2 | epoch), 0x10, 0x88, 32).unwrap();
            assert_eq!((stamp.seconds, stamp.nanos), (expected, 7), "{seconds} {epoch}");
        }
        let short = stamp(&record(5, 7 << 2), 0x10, 0x88, 4).unwrap();
        assert_eq!(short, Stamp { seconds: 5, nanos: 0 });
    }

    #[test]
    fn devices_have_two_forms() {
        let rules = Rules { block_size: 4096, large_dir: false, huge_file: false, checksum_seed: None };
        let mut record = vec![0; 128];
        record[..2].copy_from_slice(&0x2180_u16.to_le_bytes());
        record[0x28..0x2c].copy_from_slice(&0x0103_u32.to_le_bytes());
        let old = Inode::decode(12, &record, rules).unwrap().node().unwrap();
        assert_eq!(old.rdev, 0x103);
        record[0x28..0x30].copy_from_slice(&[0, 0, 0, 0, 0x39, 0x05, 0x10, 0]);
        let new = Inode::decode(12, &record, rules).unwrap().node().unwrap();
        assert_eq!(new.rdev, 0x0010_0539);
    }
}
