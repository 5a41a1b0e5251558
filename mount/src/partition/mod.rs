//! Partition tables: which ranges of a disk are partitions.
//!
//! A disk without a table that holds a filesystem directly is one volume with the number 0. Damage of a table is not
//! an error here: what can be read of it is returned, with a sentence about the rest.

mod gpt;
mod mbr;

use crate::Result;
use block::{BlockSource, ByteOffset, ByteRange};

/// The highest partition number shown; Linux gives a disk 255 at most, `sgdisk` makes 128 places by default.
pub const MAX_NUMBER: u32 = 1023;
/// Bytes of sector size tried for a GPT, in this order.
const SECTOR_SIZES: [u64; 2] = [512, 4096];

/// Which kind of table was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// No table: the disk itself is the only volume.
    None,
    /// A master boot record.
    Mbr,
    /// A GUID partition table, from its primary copy.
    Gpt,
    /// A GUID partition table, from the copy at the end of the disk: the primary is damaged.
    GptBackup,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// As the kernel numbers it: 1 to 4 and, for logical ones, from 5 on with an MBR; the place in a GPT.
    pub number: u32,
    /// Its bytes on the disk; within the disk, not empty.
    pub range: ByteRange,
}

/// What a disk's table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which kind.
    pub scheme: Scheme,
    /// In ascending order of their numbers, each number once.
    pub partitions: Vec<Partition>,
    /// What of it could not be used, in sentences; empty for a sound table.
    pub remarks: Vec<String>,
}

impl Table {
    fn new(scheme: Scheme) -> Self {
        Self { scheme, partitions: Vec::new(), remarks: Vec::new() }
    }

    /// Adds a partition given in sectors, or a remark if it is not on the disk.
    fn add(&mut self, number: u32, first: u64, count: u64, sector: u64, disk: u64) {
        let start = first.checked_mul(sector).filter(|start| *start < disk);
        let len = count.checked_mul(sector).filter(|len| *len > 0);
        let (Some(start), Some(len)) = (start, len) else {
            self.remarks.push(format!("partition {number} is not on the disk"));
            return;
        };
        let end = start.saturating_add(len);
        if end > disk {
            self.remarks.push(format!("partition {number} ends {} bytes behind the disk", end - disk));
        }
        self.partitions.push(Partition { number, range: ByteRange::between(start, end.min(disk)) });
    }

    fn sorted(mut self) -> Self {
        self.partitions.sort_by_key(|partition| partition.number);
        self.partitions.dedup_by_key(|partition| partition.number);
        self
    }
}

/// Reads the partition table of a disk.
///
/// # Errors
/// Only what reading the blocks reports.
pub fn read_table(disk: &dyn BlockSource) -> Result<Table> {
    let mut remarks = Vec::new();
    let boot = sectors(disk, 0, 512)?;
    let protective = boot.as_deref().is_some_and(mbr::is_protective);
    for sector in SECTOR_SIZES {
        if let Some(table) = gpt::read(disk, sector, protective, &mut remarks)? {
            return Ok(table.sorted());
        }
    }
    let mut table = match boot {
        Some(boot) => mbr::read(disk, &boot)?,
        None => Table::new(Scheme::None),
    };
    if protective && table.partitions.is_empty() {
        remarks.push(
            "the disk is marked as having a GUID partition table, but neither copy is readable".to_owned(),
        );
    }
    table.remarks.append(&mut remarks);
    Ok(table.sorted())
}

/// `len` bytes at `at`, or `None` if the disk ends before.
fn sectors(disk: &dyn BlockSource, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
    if at.checked_add(len as u64).is_none_or(|end| end > disk.size().get()) {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    disk.read_at(ByteOffset::new(at), &mut bytes)?;
    Ok(Some(bytes))
}
