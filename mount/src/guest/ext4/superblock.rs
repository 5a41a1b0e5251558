//! The superblock: geometry and features.

use crate::fields::{array, le16, le32, u8_at};
use crate::{Error, Result};
use block::crc32c;

/// Where the superblock begins, in bytes from the start of the volume.
pub(super) const SUPERBLOCK_AT: u64 = 1024;
/// Its length in bytes.
pub(super) const SUPERBLOCK_LEN: usize = 1024;

const MAGIC: u16 = 0xef53;
/// The largest block is 64 KiB: 1024 << 6.
const MAX_LOG_BLOCK_SIZE: u32 = 6;

pub(super) mod compat {
    pub(in super::super) const SPARSE_SUPER2: u32 = 0x200;
}

pub(super) mod incompat {
    pub(in super::super) const FILETYPE: u32 = 0x2;
    pub(in super::super) const RECOVER: u32 = 0x4;
    pub(in super::super) const META_BG: u32 = 0x10;
    pub(in super::super) const IS_64BIT: u32 = 0x80;
    pub(in super::super) const CSUM_SEED: u32 = 0x2000;
    pub(in super::super) const LARGEDIR: u32 = 0x4000;

    /// Every feature that changes how bytes must be read, by its name in mke2fs(8), and whether this reader knows it.
    pub(super) const ALL: [(u32, &str, bool); 18] = [
        (0x1, "compression", false),
        (FILETYPE, "filetype", true),
        (RECOVER, "needs_recovery", true),
        (0x8, "journal_dev", false),
        (META_BG, "meta_bg", true),
        (0x20, "incompat bit 5", false),
        (0x40, "extent", true),
        (IS_64BIT, "64bit", true),
        (0x100, "mmp", true),
        (0x200, "flex_bg", true),
        (0x400, "ea_inode", true),
        (0x800, "incompat bit 11", false),
        (0x1000, "dirdata", false),
        (CSUM_SEED, "metadata_csum_seed", true),
        (LARGEDIR, "large_dir", true),
        (0x8000, "inline_data", true),
        // names and contents of encrypted files are refused one by one
        (0x10000, "encrypt", true),
        // names are found by their exact bytes
        (0x20000, "casefold", true),
    ];
}

pub(super) mod ro_compat {
    pub(in super::super) const SPARSE_SUPER: u32 = 0x1;
    pub(in super::super) const HUGE_FILE: u32 = 0x8;
    pub(in super::super) const BIGALLOC: u32 = 0x200;
    pub(in super::super) const METADATA_CSUM: u32 = 0x400;
}

/// Block numbers have 48 bits wherever ext4 stores them.
const MAX_BLOCKS: u64 = 1 << 48;

/// What the reader needs of the superblock; all of it checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub inodes: u32,
    pub blocks: u64,
    pub free_blocks: u64,
    pub free_inodes: u32,
    pub first_data_block: u32,
    pub block_size: u32,
    pub blocks_per_group: u32,
    pub inodes_per_group: u32,
    pub groups: u32,
    pub inode_size: u16,
    pub desc_size: u16,
    pub compat: u32,
    pub incompat: u32,
    pub ro_compat: u32,
    pub first_meta_bg: u32,
    pub backup_groups: [u32; 2],
    pub journal_inode: u32,
    /// Start value of every metadata checksum.
    pub checksum_seed: u32,
    pub uuid: [u8; 16],
}

/// Whether these bytes, from the start of a volume, look like an ext2, ext3 or ext4 filesystem at all.
pub(super) fn has_magic(start: &[u8]) -> bool {
    le16(start, SUPERBLOCK_AT as usize + 0x38).is_ok_and(|magic| magic == MAGIC)
}

impl Superblock {
    pub(super) fn has_checksums(&self) -> bool {
        self.ro_compat & ro_compat::METADATA_CSUM != 0
    }

    /// Decodes and checks the 1024 bytes of the superblock.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        if le16(bytes, 0x38)? != MAGIC {
            return Err(damaged("it has no ext4 magic number"));
        }
        let features = Features::decode(bytes)?;
        features.check(bytes)?;
        let log_block_size = le32(bytes, 0x18)?;
        if log_block_size > MAX_LOG_BLOCK_SIZE {
            return Err(damaged(format!("a block size of 1024 << {log_block_size}")));
        }
        let uuid = array(bytes, 0x68)?;
        let is_64bit = features.incompat & incompat::IS_64BIT != 0;
        let wide = |low: usize, high: usize| -> Result<u64> {
            let high = if is_64bit { le32(bytes, high)? } else { 0 };
            Ok(u64::from(high) << 32 | u64::from(le32(bytes, low)?))
        };
        let superblock = Self {
            inodes: le32(bytes, 0x0)?,
            blocks: wide(0x4, 0x150)?,
            free_blocks: wide(0xc, 0x158)? << features.cluster_shift(bytes, log_block_size)?,
            free_inodes: le32(bytes, 0x10)?,
            first_data_block: le32(bytes, 0x14)?,
            block_size: 1024 << log_block_size,
            blocks_per_group: le32(bytes, 0x20)?,
            inodes_per_group: le32(bytes, 0x28)?,
            groups: 0,
            inode_size: if le32(bytes, 0x4c)? == 0 { 128 } else { le16(bytes, 0x58)? },
            desc_size: if is_64bit { le16(bytes, 0xfe)? } else { 32 },
            compat: features.compat,
            incompat: features.incompat,
            ro_compat: features.ro_compat,
            first_meta_bg: le32(bytes, 0x104)?,
            backup_groups: [le32(bytes, 0x24c)?, le32(bytes, 0x250)?],
            journal_inode: le32(bytes, 0xe0)?,
            checksum_seed: match features.incompat & incompat::CSUM_SEED {
                0 => crc32c(!0, &uuid),
                _ => le32(bytes, 0x270)?,
            },
            uuid,
        };
        superblock.with_groups()
    }

    /// Checks the geometry and works out the number of groups.
    fn with_groups(mut self) -> Result<Self> {
        let block_size = u64::from(self.block_size);
        if !(128..=block_size).contains(&u64::from(self.inode_size)) || !self.inode_size.is_power_of_two() {
            return Err(damaged(format!("an inode size of {}", self.inode_size)));
        }
        let is_64bit = self.incompat & incompat::IS_64BIT != 0;
        let least = if is_64bit { 64 } else { 32 };
        if !(least..=block_size).contains(&u64::from(self.desc_size)) || !self.desc_size.is_power_of_two() {
            return Err(damaged(format!("a group descriptor size of {}", self.desc_size)));
        }
        if self.inodes_per_group == 0 || u64::from(self.inodes_per_group) > block_size * 8 {
            return Err(damaged(format!("{} inodes in a group", self.inodes_per_group)));
        }
        let data = self.blocks.checked_sub(u64::from(self.first_data_block));
        let groups = match (data, self.blocks_per_group) {
            (Some(data @ 1..MAX_BLOCKS), 1..) => data.div_ceil(u64::from(self.blocks_per_group)),
            _ => {
                return Err(damaged(format!(
                    "{} blocks in groups of {}",
                    self.blocks, self.blocks_per_group
                )));
            }
        };
        self.groups = u32::try_from(groups).map_err(|_| damaged(format!("{groups} groups")))?;
        if u64::from(self.inodes) > groups * u64::from(self.inodes_per_group) || self.inodes == 0 {
            return Err(damaged(format!("{} inodes in {groups} groups", self.inodes)));
        }
        Ok(self)
    }

    /// Whether a group begins with a copy of the superblock.
    pub(super) fn group_has_super(&self, group: u32) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & compat::SPARSE_SUPER2 != 0 {
            return self.backup_groups.contains(&group);
        }
        let sparse = self.ro_compat & ro_compat::SPARSE_SUPER != 0;
        !sparse || group == 1 || [3, 5, 7].into_iter().any(|base| is_power_of(group, base))
    }
}

fn is_power_of(mut number: u32, base: u32) -> bool {
    while number > 1 && number.is_multiple_of(base) {
        number /= base;
    }
    number == 1
}

struct Features {
    compat: u32,
    incompat: u32,
    ro_compat: u32,
}

impl Features {
    fn decode(bytes: &[u8]) -> Result<Self> {
        if le32(bytes, 0x4c)? == 0 {
            // revision 0 has no feature words
            return Ok(Self { compat: 0, incompat: 0, ro_compat: 0 });
        }
        Ok(Self { compat: le32(bytes, 0x5c)?, incompat: le32(bytes, 0x60)?, ro_compat: le32(bytes, 0x64)? })
    }

    /// Refuses what cannot be read, by name, and a superblock whose checksum does not fit.
    fn check(&self, bytes: &[u8]) -> Result<()> {
        let known: u32 = incompat::ALL.iter().filter(|(_, _, known)| *known).map(|(bit, _, _)| bit).sum();
        let unknown = self.incompat & !known;
        if unknown != 0 {
            let bit = 1 << unknown.trailing_zeros();
            let named = incompat::ALL.iter().find(|(mask, _, _)| *mask == bit);
            let name = named.map_or_else(|| format!("incompat {bit:#x}"), |(_, name, _)| (*name).to_owned());
            return Err(Error::unsupported("this ext4 filesystem", format!("it uses the feature {name}")));
        }
        if self.ro_compat & ro_compat::METADATA_CSUM != 0 {
            if u8_at(bytes, 0x175)? != 1 {
                return Err(Error::unsupported("this ext4 filesystem", "its checksums are not CRC-32C"));
            }
            let stored = le32(bytes, 0x3fc)?;
            let computed = crc32c(!0, bytes.get(..0x3fc).unwrap_or_default());
            if stored != computed {
                return Err(damaged(format!("its checksum is {stored:08x}, its bytes give {computed:08x}")));
            }
        }
        Ok(())
    }

    /// Free space is counted in clusters; how far to shift for blocks.
    fn cluster_shift(&self, bytes: &[u8], log_block_size: u32) -> Result<u32> {
        if self.ro_compat & ro_compat::BIGALLOC == 0 {
            return Ok(0);
        }
        match le32(bytes, 0x1c)?.checked_sub(log_block_size) {
            Some(shift @ 0..=20) => Ok(shift),
            _ => Err(damaged("its clusters have no possible size")),
        }
    }
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the ext4 superblock", why)
}
