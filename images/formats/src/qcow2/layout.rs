//! From a byte of the disk to a place in the file: L1 table, L2 table, cluster, subcluster.

use super::header::Header;
use crate::codec::Codec;
use crate::error::Result;
use crate::image::{Layout, Packed, Piece, Place};
use crate::pages::Pages;
use std::sync::Arc;

/// Bits 9 to 55 of an entry: an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const READS_AS_ZERO: u64 = 1;

/// An extended entry divides its cluster into this many subclusters.
const SUBCLUSTERS: u32 = 32;

pub(super) struct Clusters {
    pages: Arc<Pages>,
    version: u32,
    cluster_bits: u32,
    // 2^this bytes an entry
    entry_bits: u32,
    l1_offset: u64,
    codec: Codec,
}

impl Clusters {
    pub(super) fn new(header: Header, pages: Arc<Pages>) -> Self {
        Self {
            pages,
            version: header.version,
            cluster_bits: header.cluster_bits,
            entry_bits: if header.extended_l2 { 4 } else { 3 },
            l1_offset: header.l1_offset,
            codec: header.codec,
        }
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Fails unless an offset is a cluster's.
    fn aligned(&self, offset: u64, entry_at: u64) -> Result<u64> {
        if offset.is_multiple_of(self.cluster()) {
            return Ok(offset);
        }
        Err(self.pages.damaged(entry_at, format!("offset {offset} is not at the beginning of a cluster")))
    }

    fn packed(&self, entry: u64) -> Packed {
        let shift = 62 - (self.cluster_bits - 8);
        let at = entry & ((1 << shift) - 1);
        let sectors = (entry >> shift & ((1 << (self.cluster_bits - 8)) - 1)) + 1;
        let count = sectors * 512 - at % 512;
        // the last sector may be cut off by the end of the file
        let in_file = self.pages.file().size().get().saturating_sub(at);
        Packed { at, count: count.min(in_file), unit: self.cluster(), codec: self.codec }
    }

    fn plain(&self, entry: u64, entry_at: u64, within: u64) -> Result<Place> {
        if entry & READS_AS_ZERO != 0 {
            return if self.version >= 3 {
                Ok(Place::Zero)
            } else {
                Err(self.pages.damaged(entry_at, "a zero cluster in a version 2 image"))
            };
        }
        Ok(match self.aligned(entry & OFFSET, entry_at)? {
            0 => Place::Absent,
            host => Place::Stored(host + within),
        })
    }

    /// An entry with a bitmap: each subcluster is allocated, zero or neither.
    fn extended(&self, entry: u64, entry_at: u64, within: u64) -> Result<Piece> {
        let bitmap = self.pages.be_u64(entry_at + 8)?;
        let (stored, zero) = (bitmap as u32, (bitmap >> 32) as u32);
        if stored & zero != 0 {
            return Err(self.pages.damaged(entry_at + 8, "a subcluster is both stored and zero"));
        }
        let host = self.aligned(entry & OFFSET, entry_at)?;
        if stored != 0 && host == 0 {
            return Err(self.pages.damaged(entry_at, "subclusters are stored, but nowhere"));
        }
        let subcluster_bits = self.cluster_bits - SUBCLUSTERS.trailing_zeros();
        let first = (within >> subcluster_bits) as u32;
        let kind = |index: u32| (stored >> index & 1, zero >> index & 1);
        let like = (first..SUBCLUSTERS).take_while(|&index| kind(index) == kind(first)).count() as u64;
        let end = (u64::from(first) + like) << subcluster_bits;
        let place = match kind(first) {
            (0, 0) => Place::Absent,
            (0, _) => Place::Zero,
            _ => Place::Stored(host + within),
        };
        Ok(Piece { place, count: end - within })
    }
}

impl Layout for Clusters {
    fn piece(&self, at: u64) -> Result<Piece> {
        let l2_bits = self.cluster_bits - self.entry_bits;
        let table_span = 1u64 << (l2_bits + self.cluster_bits);
        let l1_at = self.l1_offset + at / table_span * 8;
        let table = self.aligned(self.pages.be_u64(l1_at)? & OFFSET, l1_at)?;
        if table == 0 {
            return Ok(Piece { place: Place::Absent, count: table_span - at % table_span });
        }
        let entry_at = table + (((at % table_span) >> self.cluster_bits) << self.entry_bits);
        let entry = self.pages.be_u64(entry_at)?;
        let within = at % self.cluster();
        let count = self.cluster() - within;
        if entry & COMPRESSED != 0 {
            return Ok(Piece { place: Place::Packed(self.packed(entry), within), count });
        }
        if self.entry_bits == 4 {
            return self.extended(entry, entry_at, within);
        }
        Ok(Piece { place: self.plain(entry, entry_at, within)?, count })
    }
}
