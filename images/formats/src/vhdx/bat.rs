//! The block allocation table.

use super::MIB;
use super::metadata::Metadata;
use crate::error::Result;
use crate::image::{Layout, Piece, Place};
use crate::pages::Pages;
use block::ByteRange;
use std::sync::Arc;

/// States of a payload block, the low three bits of its entry.
pub(super) const FULLY_PRESENT: u64 = 6;
const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;

pub(super) struct Blocks {
    pages: Arc<Pages>,
    table_at: u64,
    block: u64,
    ratio: u64,
}

/// Payload blocks to one block of sector bitmaps, whose entry follows theirs.
pub(super) const fn chunk_ratio(sector: u64, block: u64) -> u64 {
    (1 << 23) * sector / block
}

/// The place of a payload block's entry in the table.
pub(super) const fn entry_index(block: u64, ratio: u64) -> u64 {
    block + block / ratio
}

impl Blocks {
    pub(super) fn new(pages: Arc<Pages>, table: ByteRange, metadata: &Metadata) -> Result<Self> {
        let ratio = chunk_ratio(metadata.sector, metadata.block);
        let blocks = metadata.size.get().div_ceil(metadata.block);
        let needed = if blocks == 0 { 0 } else { (entry_index(blocks - 1, ratio) + 1) * 8 };
        if table.count().get() < needed {
            let why = format!("a table of {} bytes; {needed} are needed", table.count());
            return Err(pages.damaged(table.start(), why));
        }
        Ok(Self { pages, table_at: table.start(), block: metadata.block, ratio })
    }
}

impl Layout for Blocks {
    fn piece(&self, at: u64) -> Result<Piece> {
        let (index, within) = (at / self.block, at % self.block);
        let entry_at = self.table_at + entry_index(index, self.ratio) * 8;
        let entry = self.pages.le_u64(entry_at)?;
        let place = match entry & 7 {
            NOT_PRESENT | UNDEFINED => Place::Absent,
            ZERO | UNMAPPED => Place::Zero,
            // bits 20 to 63 are the offset in MiB
            FULLY_PRESENT => Place::Stored((entry & !(MIB - 1)).saturating_add(within)),
            other => return Err(self.pages.damaged(entry_at, format!("a block in state {other}"))),
        };
        Ok(Piece { place, count: self.block - within })
    }
}
