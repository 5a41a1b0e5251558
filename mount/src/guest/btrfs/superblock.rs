//! The superblock: features, and where the first trees are.

use crate::fields::{array, le16, le32, le64, u8_at};
use crate::{Error, Result};
use block::crc32c;

/// Where the superblock begins, in bytes from the start of the volume, and its length.
pub(super) const AT: usize = 64 << 10;
pub(super) const LEN: usize = 4096;
const MAGIC: &[u8] = b"_BHRfS_M";
const SYSTEM_CHUNKS_AT: usize = 0x32b;
const SYSTEM_CHUNKS_LEN: usize = 2048;
const CRC32C: u16 = 0;

/// Every feature that changes how bytes must be read, and whether this reader knows it.
const FEATURES: [(u64, &str, bool); 16] = [
    (0x1, "mixed backrefs", true),
    (0x2, "default subvolume", true),
    (0x4, "mixed groups", true),
    (0x8, "lzo", true),
    (0x10, "zstd", true),
    (0x20, "big metadata", true),
    (0x40, "extended irefs", true),
    (0x80, "raid56", true),
    (0x100, "skinny metadata", true),
    (0x200, "no holes", true),
    (0x400, "metadata uuid", true),
    (0x800, "raid1c34", true),
    (0x1000, "zoned", false),
    (0x2000, "extent tree v2", false),
    (0x4000, "raid stripe tree", false),
    (0x1_0000, "simple quotas", true),
];

/// The place of a tree: the address of its root, and how many levels lie below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Root {
    pub at: u64,
    pub level: u8,
}

impl Root {
    /// The place that an item of a tree of roots gives.
    pub(super) fn of_item(item: &[u8]) -> Result<Self> {
        Ok(Self { at: le64(item, 176)?, level: u8_at(item, 238)? })
    }
}

/// What the reader needs of the superblock; all of it checked.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub roots: Root,
    pub chunks: Root,
    /// What was synced since the last commit: a tree of the logs of all subvolumes.
    pub log: Option<Root>,
    /// The number of the last commit.
    pub generation: u64,
    pub total: u64,
    pub used: u64,
    pub sector: u32,
    pub node: u32,
    /// Whether blocks have the checksum this reader knows.
    pub checked: bool,
    pub device: u64,
    /// The chunks that hold the tree of chunks.
    pub system_chunks: Vec<u8>,
}

/// Whether a volume that begins like this is btrfs.
pub(super) fn has_magic(start: &[u8]) -> bool {
    start.get(AT + 0x40..AT + 0x48) == Some(MAGIC)
}

impl Superblock {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.get(0x40..0x48) != Some(MAGIC) {
            return Err(damaged("it has no btrfs magic number"));
        }
        let checked = le16(bytes, 0xc4)? == CRC32C;
        if checked && !fits(bytes) {
            return Err(damaged("it does not fit its checksum"));
        }
        check_features(le64(bytes, 0xbc)?)?;
        let (sector, node) = (le32(bytes, 0x90)?, le32(bytes, 0x94)?);
        let sane = sector.is_power_of_two()
            && node.is_power_of_two()
            && (4096..=65536).contains(&sector)
            && (sector..=65536).contains(&node);
        if !sane {
            return Err(damaged(format!("sectors of {sector} bytes, nodes of {node}")));
        }
        let (len, log) = (le32(bytes, 0xa0)? as usize, le64(bytes, 0x60)?);
        let system = bytes.get(SYSTEM_CHUNKS_AT..SYSTEM_CHUNKS_AT + len.min(SYSTEM_CHUNKS_LEN));
        Ok(Self {
            roots: Root { at: le64(bytes, 0x50)?, level: u8_at(bytes, 0xc6)? },
            chunks: Root { at: le64(bytes, 0x58)?, level: u8_at(bytes, 0xc7)? },
            log: (log != 0).then_some(Root { at: log, level: u8_at(bytes, 0xc8)? }),
            generation: le64(bytes, 0x48)?,
            total: le64(bytes, 0x70)?,
            used: le64(bytes, 0x78)?,
            sector,
            node,
            checked,
            device: le64(bytes, 0xc9)?,
            system_chunks: system.unwrap_or_default().to_vec(),
        })
    }
}

/// Whether a block of metadata fits the checksum at its start.
pub(super) fn fits(bytes: &[u8]) -> bool {
    let stored = array::<4>(bytes, 0).map(u32::from_le_bytes);
    let computed = !crc32c(!0, bytes.get(32..).unwrap_or_default());
    stored.is_ok_and(|stored| stored == computed)
}

fn check_features(features: u64) -> Result<()> {
    for bit in (0..64).map(|bit| 1_u64 << bit).filter(|bit| features & bit != 0) {
        let name = match FEATURES.iter().find(|(mask, _, _)| *mask == bit) {
            Some((_, _, true)) => continue,
            Some((_, name, false)) => (*name).to_owned(),
            None => format!("{bit:#x}"),
        };
        return Err(Error::unsupported("this btrfs filesystem", format!("it has the feature {name}")));
    }
    Ok(())
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the btrfs superblock", why)
}
