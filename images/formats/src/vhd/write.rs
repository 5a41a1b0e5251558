//! Writing VHDs, fixed and dynamic.

use super::SECTOR;
use super::dynamic::{self, HEADER_BYTES, UNUSED, bitmap_bytes};
use super::footer::{self, checksum};
use crate::writer::UnitWriter;
use block::{Entropy, MediaFile, Result};

/// Bytes a block, as every tool makes them.
const BLOCK: u64 = 2 << 20;

/// The most a geometry can say: such an image's size is taken from its footer by all who look at the geometry.
const LARGEST_GEOMETRY: u32 = 65535 << 16 | 16 << 8 | 255;

/// Where a dynamic image's header and table are.
const HEADER_AT: u64 = SECTOR;
const TABLE_AT: u64 = HEADER_AT + HEADER_BYTES;

/// A VHD's footer. `header_at` is where a dynamic image has its header.
fn footer(size: u64, header_at: Option<u64>, entropy: &dyn Entropy) -> Result<[u8; SECTOR as usize]> {
    let mut id = [0; 16];
    entropy.fill(&mut id)?;
    let mut fields = Vec::with_capacity(SECTOR as usize);
    fields.extend(footer::COOKIE);
    fields.extend(2u32.to_be_bytes()); // features: the bit that is always set
    fields.extend(0x0001_0000u32.to_be_bytes());
    fields.extend(header_at.unwrap_or(u64::MAX).to_be_bytes());
    fields.extend([0; 4]); // seconds since 2000, which nobody needs to know
    fields.extend(b"blkd");
    fields.extend(0x0001_0000u32.to_be_bytes());
    fields.extend(b"Wi2k"); // of the two hosts there are
    fields.extend(size.to_be_bytes());
    fields.extend(size.to_be_bytes());
    fields.extend(LARGEST_GEOMETRY.to_be_bytes());
    fields.extend(if header_at.is_some() { 3u32 } else { 2 }.to_be_bytes());
    fields.extend([0; 4]);
    fields.extend(id);
    fields.resize(SECTOR as usize, 0);
    let sum = checksum(&fields, footer::CHECKSUM_AT);
    fields[footer::CHECKSUM_AT..footer::CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
    let mut footer = [0; SECTOR as usize];
    footer.copy_from_slice(&fields);
    Ok(footer)
}

/// Makes a raw file of `size` bytes a fixed VHD.
pub(crate) fn finish_fixed(to: &dyn MediaFile, size: u64, entropy: &dyn Entropy) -> Result<()> {
    to.write_at(size, &footer(size, None, entropy)?)
}

/// A dynamic VHD being written: blocks are appended as they come.
pub(crate) struct DynamicWriter<'a> {
    to: &'a dyn MediaFile,
    size: u64,
    // big-endian, as it is stored
    table: Vec<u8>,
    next: u64,
    footer: [u8; SECTOR as usize],
}

impl<'a> DynamicWriter<'a> {
    /// `size` is a multiple of a sector and small enough for the format.
    pub(crate) fn new(to: &'a dyn MediaFile, size: u64, entropy: &dyn Entropy) -> Result<Self> {
        let table = vec![0xff; (size.div_ceil(BLOCK) * 4).next_multiple_of(SECTOR) as usize];
        let next = TABLE_AT + table.len() as u64;
        Ok(Self { to, size, table, next, footer: footer(size, Some(HEADER_AT), entropy)? })
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES as usize);
        header.extend(dynamic::COOKIE);
        header.extend(u64::MAX.to_be_bytes());
        header.extend(TABLE_AT.to_be_bytes());
        header.extend(0x0001_0000u32.to_be_bytes());
        header.extend((self.size.div_ceil(BLOCK) as u32).to_be_bytes());
        header.extend((BLOCK as u32).to_be_bytes());
        header.resize(HEADER_BYTES as usize, 0);
        let sum = checksum(&header, dynamic::CHECKSUM_AT);
        header[dynamic::CHECKSUM_AT..dynamic::CHECKSUM_AT + 4].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

impl UnitWriter for DynamicWriter<'_> {
    fn unit(&self) -> u64 {
        BLOCK
    }

    fn put(&mut self, index: u64, bytes: &[u8]) -> Result<()> {
        debug_assert_ne!(self.next / SECTOR, u64::from(UNUSED));
        let at = index as usize * 4;
        self.table[at..at + 4].copy_from_slice(&((self.next / SECTOR) as u32).to_be_bytes());
        let bitmap = vec![0xff; bitmap_bytes(BLOCK) as usize];
        self.to.write_at(self.next, &bitmap)?;
        self.next += bitmap.len() as u64;
        crate::writer::write_sparse(self.to, self.next, bytes)?;
        self.next += BLOCK;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.to.write_at(HEADER_AT, &self.header())?;
        self.to.write_at(TABLE_AT, &self.table)?;
        self.to.write_at(self.next, &self.footer)?;
        self.to.write_at(0, &self.footer)
    }
}
