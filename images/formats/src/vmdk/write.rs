//! Writing VMDKs of type monolithicSparse.

use super::layout::{HEADER_BYTES, NEW_LINE_TEST, REDUNDANT_TABLES};
use super::{SECTOR, SPARSE_MAGIC};
use crate::writer::{UnitWriter, write_sparse};
use block::{Entropy, MediaFile, Result};

/// Bytes a grain, and grains a table, as every tool makes them.
const GRAIN: u64 = 64 << 10;
const TABLE_ENTRIES: u64 = 512;
const TABLE_BYTES: u64 = TABLE_ENTRIES * 4;

/// Room for the descriptor, behind the header.
const DESCRIPTOR_SECTORS: u64 = 20;

/// A monolithicSparse VMDK being written: both sets of tables are laid out first, grains are appended as they come.
pub(crate) struct VmdkWriter<'a> {
    to: &'a dyn MediaFile,
    name: String,
    size: u64,
    tables: u64,
    // the table of the grains that come now
    table: Option<(u64, Vec<u8>)>,
    next: u64,
    content_id: u32,
}

impl<'a> VmdkWriter<'a> {
    /// `size` is a multiple of a sector and small enough for the format; `name` is the file's.
    pub(crate) fn new(to: &'a dyn MediaFile, name: &str, size: u64, entropy: &dyn Entropy) -> Result<Self> {
        let mut id = [0; 4];
        entropy.fill(&mut id)?;
        // all ones would say: none
        let content_id = u32::from_le_bytes(id) & !(1 << 31);
        let tables = size.div_ceil(GRAIN * TABLE_ENTRIES);
        let mut writer = Self { to, name: name.to_owned(), size, tables, table: None, next: 0, content_id };
        writer.next = writer.end_of_tables();
        Ok(writer)
    }

    /// The grain directory of the redundant (0) or the first (1) set, and of its tables behind it.
    fn directory_at(&self, set: u64) -> u64 {
        let directory = (self.tables * 4).next_multiple_of(SECTOR);
        (1 + DESCRIPTOR_SECTORS) * SECTOR + set * (directory + self.tables * TABLE_BYTES)
    }

    fn table_at(&self, set: u64, table: u64) -> u64 {
        self.directory_at(set) + (self.tables * 4).next_multiple_of(SECTOR) + table * TABLE_BYTES
    }

    /// Where the first grain is.
    fn end_of_tables(&self) -> u64 {
        self.directory_at(2).next_multiple_of(GRAIN)
    }

    fn flush_table(&mut self) -> Result<()> {
        if let Some((table, bytes)) = self.table.take() {
            for set in [0, 1] {
                self.to.write_at(self.table_at(set, table), &bytes)?;
            }
        }
        Ok(())
    }

    fn header(&self) -> Vec<u8> {
        let mut header = SPARSE_MAGIC.to_vec();
        header.extend(1u32.to_le_bytes());
        header.extend((NEW_LINE_TEST | REDUNDANT_TABLES).to_le_bytes());
        header.extend((self.size / SECTOR).to_le_bytes());
        header.extend((GRAIN / SECTOR).to_le_bytes());
        header.extend(1u64.to_le_bytes());
        header.extend(DESCRIPTOR_SECTORS.to_le_bytes());
        header.extend((TABLE_ENTRIES as u32).to_le_bytes());
        header.extend((self.directory_at(0) / SECTOR).to_le_bytes());
        header.extend((self.directory_at(1) / SECTOR).to_le_bytes());
        header.extend((self.end_of_tables() / SECTOR).to_le_bytes());
        header.push(0); // closed cleanly
        header.extend(b"\n \r\n");
        header.resize(HEADER_BYTES as usize, 0);
        header
    }

    fn descriptor(&self) -> String {
        let sectors = self.size / SECTOR;
        let cylinders = (sectors / (16 * 63)).clamp(1, 16383);
        // the name is for people: an embedded descriptor's extent is the file itself
        let name: String = self.name.chars().filter(|c| !c.is_control() && *c != '"').take(255).collect();
        format!(
            "# Disk DescriptorFile\nversion=1\nCID={:08x}\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\n\n\
             # Extent description\nRW {sectors} SPARSE \"{name}\"\n\n# The Disk Data Base\n#DDB\n\n\
             ddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"{cylinders}\"\nddb.geometry.heads = \"16\"\n\
             ddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n",
            self.content_id,
        )
    }
}

impl UnitWriter for VmdkWriter<'_> {
    fn unit(&self) -> u64 {
        GRAIN
    }

    fn put(&mut self, index: u64, bytes: &[u8]) -> Result<()> {
        let (table, entry) = (index / TABLE_ENTRIES, (index % TABLE_ENTRIES) as usize * 4);
        if self.table.as_ref().is_some_and(|(current, _)| *current != table) {
            self.flush_table()?;
        }
        let sector = (self.next / SECTOR) as u32;
        let (_, entries) = self.table.get_or_insert_with(|| (table, vec![0; TABLE_BYTES as usize]));
        entries[entry..entry + 4].copy_from_slice(&sector.to_le_bytes());
        write_sparse(self.to, self.next, bytes)?;
        self.next += GRAIN;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.flush_table()?;
        self.to.set_len(self.next)?;
        for set in [0, 1] {
            let sector = |table| ((self.table_at(set, table) / SECTOR) as u32).to_le_bytes();
            let directory: Vec<u8> = (0..self.tables).flat_map(sector).collect();
            self.to.write_at(self.directory_at(set), &directory)?;
        }
        self.to.write_at(SECTOR, self.descriptor().as_bytes())?;
        self.to.write_at(0, &self.header())
    }
}
