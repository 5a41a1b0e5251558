//! The boot sectors of FAT and exFAT: geometry.

use crate::fields::{le16, le32, le64, u8_at};
use crate::{Error, Result};

/// Bytes of the boot sector that are read.
pub(super) const LEN: usize = 512;
/// Clusters there are below which numbers have 12 or 16 bits.
const MIN_16: u64 = 4085;
const MIN_32: u64 = 65525;
const MAX_32: u64 = 0x0fff_fff5;

/// How wide the numbers in the table are, and so which of the four formats it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Fat12,
    Fat16,
    Fat32,
    Exfat,
}

/// What the boot sector says; all of it checked. Places are bytes of the volume.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub width: Width,
    pub table: u64,
    /// Where cluster 2, the first, begins.
    pub clusters_at: u64,
    pub cluster: u64,
    /// How many clusters there are; their numbers begin with 2.
    pub clusters: u64,
    /// The first cluster of the root directory; where that has a place of its own, its place and length.
    pub root: Result<u32, (u64, u64)>,
    /// It was in use and not unmounted.
    pub dirty: bool,
}

fn is_exfat(start: &[u8]) -> bool {
    start.get(3..11) == Some(b"EXFAT   ")
}

/// Whether a volume that begins like this is FAT or exFAT.
pub(super) fn detect(start: &[u8]) -> bool {
    is_exfat(start) || classic(start).is_ok()
}

impl Boot {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        if is_exfat(bytes) { exfat(bytes) } else { classic(bytes) }
    }
}

fn classic(bytes: &[u8]) -> Result<Boot> {
    let signed = le16(bytes, 510)? == 0xaa55 && matches!(u8_at(bytes, 0)?, 0xeb | 0xe9 | 0);
    let sector = u64::from(le16(bytes, 11)?);
    let per_cluster = u64::from(u8_at(bytes, 13)?);
    let (reserved, tables) = (u64::from(le16(bytes, 14)?), u64::from(u8_at(bytes, 16)?));
    let sane = signed
        && sector.is_power_of_two()
        && (512..=4096).contains(&sector)
        && per_cluster.is_power_of_two()
        && reserved > 0
        && (1..=2).contains(&tables)
        && u8_at(bytes, 21)? >= 0xf0;
    if !sane {
        return Err(damaged("it is not one"));
    }
    let either = |short: u16, long: u32| if short == 0 { u64::from(long) } else { u64::from(short) };
    let sectors = either(le16(bytes, 19)?, le32(bytes, 32)?);
    let is_32 = le16(bytes, 22)? == 0;
    let table_len = either(le16(bytes, 22)?, le32(bytes, 36)?);
    let root_len = u64::from(le16(bytes, 17)?) * 32;
    let root_at = reserved + tables * table_len;
    let data = root_at + root_len.div_ceil(sector);
    let clusters = sectors.checked_sub(data).map(|sectors| sectors / per_cluster).filter(|count| *count > 0);
    let clusters =
        clusters.ok_or_else(|| damaged(format!("{sectors} sectors, {data} of them without content")))?;
    let width = match clusters {
        _ if is_32 => Width::Fat32,
        count if count < MIN_16 => Width::Fat12,
        count if count < MIN_32 => Width::Fat16,
        count => return Err(damaged(format!("{count} clusters in 16 bits"))),
    };
    let entry_bits = if is_32 {
        32
    } else if width == Width::Fat16 {
        16
    } else {
        12
    };
    if table_len * sector * 8 < (clusters + 2) * entry_bits || clusters > MAX_32 {
        return Err(damaged(format!("{clusters} clusters in a table of {table_len} sectors")));
    }
    let flags = if is_32 { le16(bytes, 40)? } else { 0 };
    // with mirroring off, one of the tables is the right one
    let active = if flags & 0x80 != 0 { u64::from(flags & 0xf) } else { 0 };
    if active >= tables {
        return Err(damaged(format!("table {active} of {tables}")));
    }
    Ok(Boot {
        width,
        table: (reserved + active * table_len) * sector,
        clusters_at: data * sector,
        cluster: per_cluster * sector,
        clusters,
        root: if is_32 { Ok(le32(bytes, 44)?) } else { Err((root_at * sector, root_len)) },
        dirty: u8_at(bytes, if is_32 { 65 } else { 37 })? & 1 != 0,
    })
}

fn exfat(bytes: &[u8]) -> Result<Boot> {
    let (sector_log, cluster_log) = (u32::from(u8_at(bytes, 108)?), u32::from(u8_at(bytes, 109)?));
    if !(9..=12).contains(&sector_log) || sector_log + cluster_log > 25 {
        return Err(damaged(format!("sectors of 2^{sector_log} bytes, clusters of 2^{cluster_log} sectors")));
    }
    let at = |sectors: u32| u64::from(sectors) << sector_log;
    let (table, table_len) = (le32(bytes, 80)?, u64::from(le32(bytes, 84)?));
    let (tables, flags) = (u8_at(bytes, 110)?, le16(bytes, 106)?);
    let clusters = u64::from(le32(bytes, 92)?);
    if clusters == 0 || clusters > 0xffff_fff5 || table_len << sector_log < (clusters + 2) * 4 {
        return Err(damaged(format!("{clusters} clusters in a table of {table_len} sectors")));
    }
    let second = if flags & 1 != 0 && tables == 2 { table_len << sector_log } else { 0 };
    Ok(Boot {
        width: Width::Exfat,
        table: at(table) + second,
        clusters_at: at(le32(bytes, 88)?),
        cluster: 1 << (sector_log + cluster_log),
        clusters,
        root: Ok(le32(bytes, 96)?),
        dirty: flags & 2 != 0 || le64(bytes, 72)? == 0,
    })
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the boot sector of a FAT filesystem", why)
}
