//! The boot sector: geometry.

use crate::fields::{array, le16, le64, u8_at};
use crate::{Error, Result};

/// Bytes of the boot sector that are read.
pub(super) const LEN: usize = 512;
/// Windows makes clusters of up to 2 MiB.
const MAX_CLUSTER: u64 = 2 << 20;
/// Records of files have 1 KiB, 4 KiB on disks with such sectors; of directories 4 KiB.
const MAX_RECORD: usize = 64 << 10;

/// What the boot sector says; all of it checked.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub cluster: u64,
    /// Clusters of the volume.
    pub clusters: u64,
    /// The cluster the table of files begins at.
    pub table: u64,
    /// Bytes of a record of that table.
    pub record: usize,
    /// Bytes of a block of a directory.
    pub index: usize,
}

pub(super) fn has_magic(start: &[u8]) -> bool {
    start.get(3..11) == Some(b"NTFS    ")
}

impl Boot {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        if !has_magic(bytes) {
            return Err(damaged("it has no NTFS signature"));
        }
        let sector = u64::from(le16(bytes, 11)?);
        if !sector.is_power_of_two() || !(256..=4096).contains(&sector) {
            return Err(damaged(format!("sectors of {sector} bytes")));
        }
        // beyond 128 the number is the negative power of two
        let per_cluster = match u64::from(u8_at(bytes, 13)?) {
            count @ 1..=128 => count,
            power => 1 << (256 - power).min(63),
        };
        let cluster =
            sector.checked_mul(per_cluster).filter(|size| *size <= MAX_CLUSTER && size.is_power_of_two());
        let cluster = cluster.ok_or_else(|| damaged(format!("{per_cluster} sectors in a cluster")))?;
        let size = |at: usize| -> Result<usize> {
            let [stored] = array(bytes, at)?;
            let size = match i8::from_le_bytes([stored]) {
                clusters @ 1.. => cluster * u64::from(clusters.unsigned_abs()),
                power => 1 << power.unsigned_abs().min(63),
            };
            let size = usize::try_from(size).ok().filter(|size| (512..=MAX_RECORD).contains(size));
            size.filter(|size| size.is_multiple_of(512))
                .ok_or_else(|| damaged(format!("records of size {stored}")))
        };
        let sectors = le64(bytes, 40)?;
        Ok(Self {
            cluster,
            clusters: sectors.checked_mul(sector).ok_or_else(|| damaged(format!("{sectors} sectors")))?
                / cluster,
            table: le64(bytes, 48)?,
            record: size(64)?,
            index: size(68)?,
        })
    }
}

fn damaged(why: impl Into<String>) -> Error {
    Error::corrupt("the NTFS boot sector", why)
}
