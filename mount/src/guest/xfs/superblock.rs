//! The superblock: geometry and features.

use crate::fields::{array, be16, be32, be64, le32, u8_at};
use crate::{Error, Result};
use block::crc32c;

/// Its length in bytes; sectors are never smaller.
pub(super) const LEN: usize = 512;
const MAGIC: &[u8] = b"XFSB";
const CRC_AT: usize = 224;

pub(super) mod incompat {
    pub(in super::super) const FTYPE: u32 = 0x1;
    pub(in super::super) const META_UUID: u32 = 0x4;

    /// Every feature that changes how bytes must be read, and whether this reader knows it.
    pub(super) const ALL: [(u32, &str, bool); 11] = [
        (FTYPE, "ftype", true),
        (0x2, "sparse inodes", true),
        (META_UUID, "meta_uuid", true),
        (0x8, "bigtime", true),
        (0x10, "needsrepair (it must be repaired with xfs_repair first)", false),
        (0x20, "nrext64", true),
        (0x40, "exchange", true),
        (0x80, "parent", true),
        (0x100, "metadir", false),
        (0x200, "zoned", false),
        (0x400, "zone gaps", false),
    ];
}

const FEATURES2_FTYPE: u32 = 0x200;
const VERSION_MORE_BITS: u16 = 0x8000;
const VERSION_DIRECTORY_2: u16 = 0x2000;

/// What the reader needs of the superblock; all of it checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub block_size: u32,
    pub blocks: u64,
    pub free_blocks: u64,
    pub inodes: u64,
    pub free_inodes: u64,
    pub root: u64,
    pub group_blocks: u32,
    pub groups: u32,
    pub group_log: u32,
    pub inode_size: u16,
    pub inodes_per_block_log: u32,
    /// Bytes in a block of a directory.
    pub directory_block: u32,
    /// Version 5: everything has a checksum.
    pub v5: bool,
    /// Directories say what their entries are.
    pub ftype: bool,
    /// The identifier inside metadata.
    pub uuid: [u8; 16],
    /// The one people see, which is also that of the log; it may be changed later.
    pub visible_uuid: [u8; 16],
    /// Where the log begins, as a block number of the filesystem; 0 if it is on another device.
    pub log_start: u64,
    pub log_blocks: u32,
}

/// Whether these bytes, from the start of a volume, look like XFS at all.
pub(super) fn has_magic(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

impl Superblock {
    /// Decodes and checks the superblock; `sector` is its whole sector.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        if !has_magic(bytes) {
            return Err(damaged("it has no XFS magic number"));
        }
        let version = be16(bytes, 100)?;
        let v5 = match version & 0xf {
            4 => false,
            5 => true,
            other => {
                return Err(Error::unsupported("this XFS filesystem", format!("it is of version {other}")));
            }
        };
        if v5 {
            check_features(be32(bytes, 216)?)?;
        } else if version & VERSION_DIRECTORY_2 == 0 {
            return Err(Error::unsupported("this XFS filesystem", "its directories are of version 1"));
        }
        let features = if v5 { be32(bytes, 216)? } else { 0 };
        let features2 = if version & VERSION_MORE_BITS != 0 { be32(bytes, 200)? } else { 0 };
        let block_size = be32(bytes, 4)?;
        let uuid_at = if features & incompat::META_UUID != 0 { 248 } else { 32 };
        let directory_log = u32::from(u8_at(bytes, 192)?);
        let superblock = Self {
            block_size,
            blocks: be64(bytes, 8)?,
            free_blocks: be64(bytes, 144)?,
            inodes: be64(bytes, 128)?,
            free_inodes: be64(bytes, 136)?,
            root: be64(bytes, 56)?,
            group_blocks: be32(bytes, 84)?,
            groups: be32(bytes, 88)?,
            group_log: u32::from(u8_at(bytes, 124)?),
            inode_size: be16(bytes, 104)?,
            inodes_per_block_log: u32::from(u8_at(bytes, 123)?),
            directory_block: block_size.checked_shl(directory_log).unwrap_or(0),
            v5,
            ftype: features & incompat::FTYPE != 0 || !v5 && features2 & FEATURES2_FTYPE != 0,
            uuid: array(bytes, uuid_at)?,
            visible_uuid: array(bytes, 32)?,
            log_start: be64(bytes, 48)?,
            log_blocks: be32(bytes, 96)?,
        };
        superblock.checked(directory_log)
    }

    /// Refuses a geometry that cannot be.
    fn checked(self, directory_log: u32) -> Result<Self> {
        let size = self.block_size;
        if !size.is_power_of_two() || !(512..=65536).contains(&size) {
            return Err(damaged(format!("a block size of {size}")));
        }
        let inode = u32::from(self.inode_size);
        if !inode.is_power_of_two() || !(256..=2048).contains(&inode) || inode > size {
            return Err(damaged(format!("an inode size of {inode}")));
        }
        if size / inode != 1_u32.checked_shl(self.inodes_per_block_log).unwrap_or(0) {
            return Err(damaged(format!("2^{} inodes in a block", self.inodes_per_block_log)));
        }
        if directory_log > 8 || self.directory_block > 65536 || self.directory_block < size {
            return Err(damaged(format!("directory blocks of {size} << {directory_log} bytes")));
        }
        let log_fits = self.group_log < 32 && u64::from(self.group_blocks) <= 1 << self.group_log;
        if self.group_blocks == 0 || self.groups == 0 || !log_fits {
            return Err(damaged(format!(
                "{} groups of {} blocks (at most 2^{})",
                self.groups, self.group_blocks, self.group_log
            )));
        }
        let all = u64::from(self.groups) * u64::from(self.group_blocks);
        let bytes = self.blocks.checked_mul(u64::from(size)).filter(|bytes| i64::try_from(*bytes).is_ok());
        if self.blocks > all || bytes.is_none() {
            return Err(damaged(format!("{} blocks in {} groups", self.blocks, self.groups)));
        }
        Ok(self)
    }

    /// The byte a block number of the filesystem stands for: group in the high bits, block in it below.
    pub(super) fn byte_of(&self, block: u64) -> Option<u64> {
        let (group, inside) = (block >> self.group_log, block & ((1 << self.group_log) - 1));
        let inside_group = inside < u64::from(self.group_blocks) && group < u64::from(self.groups);
        let linear = inside_group.then(|| group * u64::from(self.group_blocks) + inside);
        linear.filter(|linear| *linear < self.blocks).map(|linear| linear * u64::from(self.block_size))
    }

    /// The byte an inode's record begins at.
    pub(super) fn inode_at(&self, ino: u64) -> Option<u64> {
        let block = self.byte_of(ino >> self.inodes_per_block_log)?;
        let inside = ino & ((1 << self.inodes_per_block_log) - 1);
        Some(block + inside * u64::from(self.inode_size))
    }
}

/// Whether the sector of a version 5 superblock fits its checksum.
pub(super) fn check(sector: &[u8]) -> Result<()> {
    if be16(sector, 100)? & 0xf == 5 && !fits(sector, CRC_AT) {
        return Err(damaged("it does not fit its checksum"));
    }
    Ok(())
}

/// Bytes of a sector, as the first superblock says, without believing anything else of it.
pub(super) fn sector_size(bytes: &[u8]) -> Result<usize> {
    match usize::from(be16(bytes, 102)?) {
        size @ 512..=32768 if size.is_power_of_two() => Ok(size),
        size => Err(damaged(format!("sectors of {size} bytes"))),
    }
}

/// Whether bytes fit the checksum at `at` among them, which counts as zero.
pub(super) fn fits(bytes: &[u8], at: usize) -> bool {
    let (Some(before), Some(after), Ok(stored)) = (bytes.get(..at), bytes.get(at + 4..), le32(bytes, at))
    else {
        return false;
    };
    !crc32c(crc32c(crc32c(!0, before), &[0; 4]), after) == stored
}

fn check_features(features: u32) -> Result<()> {
    let known = |bit: u32| incompat::ALL.iter().find(|(mask, _, _)| *mask == bit);
    for bit in (0..32).map(|bit| 1 << bit).filter(|bit| features & bit != 0) {
        match known(bit) {
            Some((_, _, true)) => {}
            Some((_, name, false)) => {
                return Err(Error::unsupported("this XFS filesystem", format!("it has the feature {name}")));
            }
            None => {
                return Err(Error::unsupported(
                    "this XFS filesystem",
                    format!("it has the feature {bit:#x}"),
                ));
            }
        }
    }
    Ok(())
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the XFS superblock", why)
}
