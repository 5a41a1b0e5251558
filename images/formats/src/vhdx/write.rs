//! Writing dynamic VHDXs.

use super::bat::{FULLY_PRESENT, chunk_ratio, entry_index};
use super::guid::{self, Guid};
use super::header::{HEADER_BYTES, HEADERS_AT, REGION_TABLE_BYTES, REGION_TABLES_AT, checksum};
use super::metadata::TABLE_BYTES;
use super::{MAGIC, MIB};
use crate::writer::{UnitWriter, write_sparse};
use block::{Entropy, MediaFile, Result};

/// Bytes a sector of the disk; every guest takes these.
pub(super) const SECTOR: u64 = 512;

/// Bytes a physical sector, a hint for guests: our blocks.
const PHYSICAL_SECTOR: u32 = 4096;

const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
const TABLE_AT: u64 = 3 * MIB;

/// Bytes a payload block, by the size of the disk: small ones keep a small disk sparse, and no table passes 4 MiB.
fn block_for(size: u64) -> u64 {
    let mut block = MIB;
    while size / block > 1 << 19 {
        block *= 2;
    }
    block
}

/// A VHDX being written: blocks are appended as they come.
pub(crate) struct VhdxWriter<'a> {
    to: &'a dyn MediaFile,
    size: u64,
    block: u64,
    // little-endian, as it is stored
    table: Vec<u8>,
    next: u64,
    ids: [Guid; 3],
}

impl<'a> VhdxWriter<'a> {
    /// `size` is a multiple of a sector and small enough for the format.
    pub(crate) fn new(to: &'a dyn MediaFile, size: u64, entropy: &dyn Entropy) -> Result<Self> {
        let block = block_for(size);
        let ratio = chunk_ratio(SECTOR, block);
        let blocks = size.div_ceil(block);
        // a table ends with an entry of sector bitmaps only where a chunk is full; room for one more does no harm
        let table = vec![0; ((entry_index(blocks, ratio) + 1) * 8).next_multiple_of(MIB) as usize];
        let mut ids = [Guid::default(); 3];
        ids.iter_mut().try_for_each(|id| entropy.fill(id))?;
        let next = TABLE_AT + table.len() as u64;
        Ok(Self { to, size, block, table, next, ids })
    }

    fn header(&self, sequence: u64) -> Vec<u8> {
        let [file_write, data_write, _] = self.ids;
        let mut header = b"head\0\0\0\0".to_vec();
        header.extend(sequence.to_le_bytes());
        header.extend(file_write);
        header.extend(data_write);
        header.extend([0; 16]); // no log to replay
        header.extend(0u16.to_le_bytes());
        header.extend(1u16.to_le_bytes());
        header.extend((MIB as u32).to_le_bytes());
        header.extend(LOG_AT.to_le_bytes());
        sealed(header, HEADER_BYTES)
    }

    fn regions(&self) -> Vec<u8> {
        let mut regions = b"regi\0\0\0\0".to_vec();
        regions.extend(2u32.to_le_bytes());
        regions.extend([0; 4]);
        for (id, at, count) in
            [(guid::BAT, TABLE_AT, self.table.len() as u64), (guid::METADATA, METADATA_AT, MIB)]
        {
            regions.extend(id);
            regions.extend(at.to_le_bytes());
            regions.extend((count as u32).to_le_bytes());
            regions.extend(1u32.to_le_bytes()); // required
        }
        sealed(regions, REGION_TABLE_BYTES)
    }

    fn metadata(&self) -> Vec<u8> {
        let [.., disk_id] = self.ids;
        let parameters = [(self.block as u32).to_le_bytes(), [0; 4]].concat();
        // what describes the virtual disk carries flag 2, what a reader must know flag 4
        let items: [(Guid, Vec<u8>, u32); 5] = [
            (guid::FILE_PARAMETERS, parameters, 4),
            (guid::DISK_SIZE, self.size.to_le_bytes().to_vec(), 6),
            (guid::DISK_ID, disk_id.to_vec(), 6),
            (guid::LOGICAL_SECTOR, (SECTOR as u32).to_le_bytes().to_vec(), 6),
            (guid::PHYSICAL_SECTOR, PHYSICAL_SECTOR.to_le_bytes().to_vec(), 6),
        ];
        let mut table = b"metadata\0\0".to_vec();
        table.extend((items.len() as u16).to_le_bytes());
        table.extend([0; 20]);
        let mut values = Vec::new();
        for (id, value, flags) in items {
            table.extend(id);
            table.extend((TABLE_BYTES as u32 + values.len() as u32).to_le_bytes());
            table.extend((value.len() as u32).to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend([0; 4]);
            values.extend(value);
        }
        table.resize(TABLE_BYTES as usize, 0);
        table.extend(values);
        table
    }
}

/// A structure of `count` bytes with its checksum, four bytes from 4 on.
fn sealed(mut bytes: Vec<u8>, count: u64) -> Vec<u8> {
    bytes.resize(count as usize, 0);
    let sum = checksum(&bytes);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

impl UnitWriter for VhdxWriter<'_> {
    fn unit(&self) -> u64 {
        self.block
    }

    fn put(&mut self, index: u64, bytes: &[u8]) -> Result<()> {
        let at = entry_index(index, chunk_ratio(SECTOR, self.block)) as usize * 8;
        self.table[at..at + 8].copy_from_slice(&(self.next | FULLY_PRESENT).to_le_bytes());
        write_sparse(self.to, self.next, bytes)?;
        self.next += self.block;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        let regions = self.regions();
        self.to.set_len(self.next)?;
        REGION_TABLES_AT.into_iter().try_for_each(|at| self.to.write_at(at, &regions))?;
        self.to.write_at(METADATA_AT, &self.metadata())?;
        write_sparse(self.to, TABLE_AT, &self.table)?;
        for (sequence, at) in (1..).zip(HEADERS_AT) {
            self.to.write_at(at, &self.header(sequence))?;
        }
        self.to.write_at(0, MAGIC)
    }
}
