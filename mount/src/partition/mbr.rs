//! The master boot record: four primary entries, one of which may lead to a chain of logical ones.

use super::{Scheme, Table, sectors};
use crate::Result;
use crate::fields::{le16, le32, u8_at};
use block::BlockSource;
use std::collections::HashSet;

const SECTOR: u64 = 512;
const ENTRIES_AT: usize = 446;
const ENTRY: usize = 16;
/// Logical partitions followed, so that a chain that loops or never ends is left. Linux shows 251 of them.
const MAX_LOGICAL: u32 = 251;
const FIRST_LOGICAL: u32 = 5;
const PROTECTIVE: u8 = 0xee;

#[derive(Clone, Copy)]
struct Entry {
    status: u8,
    kind: u8,
    first: u64,
    count: u64,
}

impl Entry {
    fn is_used(self) -> bool {
        self.kind != 0 && self.count != 0
    }

    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// The four entries of a boot record, if it is signed.
fn entries(sector: &[u8]) -> Option<[Entry; 4]> {
    if le16(sector, 510).ok()? != 0xaa55 {
        return None;
    }
    let entry = |i: usize| -> Option<Entry> {
        let at = ENTRIES_AT + i * ENTRY;
        Some(Entry {
            status: u8_at(sector, at).ok()?,
            kind: u8_at(sector, at + 4).ok()?,
            first: u64::from(le32(sector, at + 8).ok()?),
            count: u64::from(le32(sector, at + 12).ok()?),
        })
    };
    Some([entry(0)?, entry(1)?, entry(2)?, entry(3)?])
}

/// Whether the boot record only protects a GUID partition table.
pub(super) fn is_protective(sector: &[u8]) -> bool {
    entries(sector).is_some_and(|entries| entries.iter().any(|entry| entry.kind == PROTECTIVE))
}

/// The table in this boot sector; none if it is the boot sector of a filesystem or not signed.
pub(super) fn read(disk: &dyn BlockSource, boot: &[u8]) -> Result<Table> {
    let Some(entries) = entries(boot).filter(|_| !is_filesystem(boot)) else {
        return Ok(Table::new(Scheme::None));
    };
    // random bytes behind a signature are not a table: its status byte has two values
    let sane = entries.iter().all(|entry| matches!(entry.status, 0 | 0x80));
    if !sane || !entries.iter().any(|entry| entry.is_used()) {
        return Ok(Table::new(Scheme::None));
    }
    let size = disk.size().get();
    let mut table = Table::new(Scheme::Mbr);
    for (number, entry) in (1..).zip(entries).filter(|(_, entry)| entry.is_used()) {
        if entry.kind == PROTECTIVE {
            continue;
        }
        if entry.is_extended() {
            logical(disk, &mut table, entry)?;
        } else {
            table.add(number, entry.first, entry.count, SECTOR, size);
        }
    }
    Ok(table)
}

/// Boot sectors of FAT and NTFS carry the same signature where they have code, not entries.
fn is_filesystem(boot: &[u8]) -> bool {
    let says = |at: usize, text: &[u8]| boot.get(at..at + text.len()) == Some(text);
    says(3, b"NTFS    ") || says(3, b"EXFAT   ") || says(54, b"FAT1") || says(82, b"FAT32   ")
}

/// Follows the chain. Each link names one partition, relative to itself, and the next link, relative to the first.
fn logical(disk: &dyn BlockSource, table: &mut Table, extended: Entry) -> Result<()> {
    let mut seen = HashSet::new();
    let mut at = extended.first;
    for number in FIRST_LOGICAL..FIRST_LOGICAL + MAX_LOGICAL {
        let sector = match at.checked_mul(SECTOR).filter(|_| seen.insert(at)) {
            Some(offset) => sectors(disk, offset, SECTOR as usize)?,
            None => None,
        };
        let Some([partition, next, ..]) = sector.as_deref().and_then(entries) else {
            table.remarks.push(format!("the chain of logical partitions breaks before partition {number}"));
            return Ok(());
        };
        if partition.is_used() {
            table.add(number, at + partition.first, partition.count, SECTOR, disk.size().get());
        }
        if !next.is_used() || !next.is_extended() {
            return Ok(());
        }
        at = extended.first + next.first;
    }
    table.remarks.push(format!("only the first {MAX_LOGICAL} logical partitions are read"));
    Ok(())
}
