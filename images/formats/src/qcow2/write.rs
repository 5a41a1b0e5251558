//! Writing qcow2 version 3 with clusters of 64 KiB.
//!
//! Everything is appended. Reference counts are written as they become final: the block of counts of each run of
//! [`COUNTS`] clusters is the run's first free cluster, so nothing is held in memory but the L1 table and one block.

use super::MAGIC;
use crate::writer::{UnitWriter, write_sparse};
use block::{MediaFile, Result};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;

/// Entries of 8 bytes in an L2 table.
const L2_ENTRIES: u64 = CLUSTER / 8;

/// Reference counts have 2^4 bits each, so a block of them has this many.
const REFCOUNT_ORDER: u32 = 4;
const COUNTS: u64 = CLUSTER / 2;

/// An entry whose cluster has a reference count of one.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

/// Bits of a compressed entry that are an offset; the others count sectors.
const PACKED_OFFSET_BITS: u32 = 62 - (CLUSTER_BITS - 8);

const SECTOR: u64 = 512;

/// A fast level: an export is limited by what is read.
const ZSTD_LEVEL: i32 = 1;

const HEADER_BYTES: u32 = 112;
const FEATURE_COMPRESSION_TYPE: u64 = 1 << 3;

/// Counts references to the file's clusters, and hands them out in order.
struct Clusters<'a> {
    to: &'a dyn MediaFile,
    // the next free cluster
    next: u64,
    // counts of the run that `next` is in
    counts: Vec<u16>,
    // where the block of each run is
    blocks: Vec<u64>,
}

impl Clusters<'_> {
    /// The next cluster, with one reference; gives its offset.
    fn take(&mut self) -> Result<u64> {
        if self.next.is_multiple_of(COUNTS) {
            self.flush()?;
            // cluster 0 is the header's
            let own = self.next + u64::from(self.next == 0);
            self.counts.fill(0);
            self.counts[..=(own % COUNTS) as usize].fill(1);
            self.blocks.push(own * CLUSTER);
            self.next = own + 1;
        }
        let cluster = self.next;
        self.next += 1;
        self.counts[(cluster % COUNTS) as usize] = 1;
        Ok(cluster * CLUSTER)
    }

    /// So many clusters side by side, few enough for one run; gives the offset of the first.
    fn take_side_by_side(&mut self, count: u64) -> Result<u64> {
        if self.next % COUNTS + count > COUNTS {
            // the next run's block of counts would come between: what is left of this run stays free
            self.next = self.next.next_multiple_of(COUNTS);
        }
        let first = self.take()?;
        (1..count).try_for_each(|_| self.take().map(|_| ()))?;
        Ok(first)
    }

    /// One more reference to the cluster that was taken last.
    fn share(&mut self) {
        self.counts[((self.next - 1) % COUNTS) as usize] += 1;
    }

    /// Where so many bytes, less than a cluster, go behind compressed bytes that end at `end`: there, if that is in the
    /// cluster taken last, else into a new one.
    fn pack(&mut self, end: u64, count: u64) -> Result<u64> {
        let room = (self.next * CLUSTER).saturating_sub(end);
        if room == 0 || room >= CLUSTER {
            return self.take();
        }
        if count > room && self.next.is_multiple_of(COUNTS) {
            return self.take();
        }
        self.share();
        if count > room {
            self.take()?;
        }
        Ok(end)
    }

    /// Writes the counts of the current run.
    fn flush(&self) -> Result<()> {
        let Some(&at) = self.blocks.last() else { return Ok(()) };
        let bytes: Vec<u8> = self.counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        self.to.write_at(at, &bytes)
    }

    /// Writes the table of the blocks of counts, and the last block; gives where it is and how many clusters it has.
    fn finish(&mut self) -> Result<(u64, u64)> {
        // its own clusters may begin a run, whose block it has to name as well
        let count = ((self.blocks.len() as u64 + 1) * 8).div_ceil(CLUSTER);
        let at = self.take_side_by_side(count)?;
        let bytes: Vec<u8> = self.blocks.iter().flat_map(|at| at.to_be_bytes()).collect();
        self.to.write_at(at, &bytes)?;
        self.flush()?;
        self.to.set_len(self.next * CLUSTER)?;
        Ok((at, count))
    }
}

/// A qcow2 being written.
pub(crate) struct Qcow2Writer<'a> {
    clusters: Clusters<'a>,
    size: u64,
    l1: Vec<u64>,
    // the table of the clusters that come now: its number and entries
    l2: Option<(u64, Vec<u64>)>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    // behind the last compressed bytes
    packed_end: u64,
}

impl<'a> Qcow2Writer<'a> {
    /// `size` is a multiple of a sector.
    pub(crate) fn new(to: &'a dyn MediaFile, size: u64, compressed: bool) -> Result<Self> {
        let compressor = compressed.then(|| zstd::bulk::Compressor::new(ZSTD_LEVEL)).transpose();
        let compressor =
            compressor.map_err(|source| block::Error::host("set up", "a zstd compressor", None, source))?;
        let clusters = Clusters { to, next: 0, counts: vec![0; COUNTS as usize], blocks: Vec::new() };
        let l1 = vec![0; size.div_ceil(CLUSTER * L2_ENTRIES) as usize];
        Ok(Self { clusters, size, l1, l2: None, compressor, packed_end: 0 })
    }

    /// Writes a cluster compressed and gives its entry, or nothing if it does not get smaller.
    fn put_packed(&mut self, bytes: &[u8]) -> Result<Option<u64>> {
        let Some(compressor) = &mut self.compressor else { return Ok(None) };
        let mut packed = vec![0; CLUSTER as usize - 1];
        // the one way to fail is that the result has no room
        let Ok(count) = compressor.compress_to_buffer(bytes, &mut packed) else { return Ok(None) };
        let at = self.clusters.pack(self.packed_end, count as u64)?;
        self.clusters.to.write_at(at, &packed[..count])?;
        self.packed_end = at + count as u64;
        let more_sectors = (self.packed_end - 1) / SECTOR - at / SECTOR;
        Ok(Some(COMPRESSED | more_sectors << PACKED_OFFSET_BITS | at))
    }

    fn put_plain(&mut self, bytes: &[u8]) -> Result<u64> {
        let at = self.clusters.take()?;
        write_sparse(self.clusters.to, at, bytes)?;
        Ok(at | COPIED)
    }

    fn flush_l2(&mut self) -> Result<()> {
        let Some((table, entries)) = self.l2.take() else { return Ok(()) };
        let at = self.clusters.take()?;
        self.l1[table as usize] = at | COPIED;
        let bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.clusters.to.write_at(at, &bytes)
    }

    fn header(&self, l1_at: u64, counts_at: u64, counts_clusters: u64) -> Vec<u8> {
        let zstd = self.compressor.is_some();
        let mut header = MAGIC.to_vec();
        header.extend(3u32.to_be_bytes());
        header.extend([0; 12]); // no backing file
        header.extend(CLUSTER_BITS.to_be_bytes());
        header.extend(self.size.to_be_bytes());
        header.extend([0; 4]); // no encryption
        header.extend((self.l1.len() as u32).to_be_bytes());
        header.extend(l1_at.to_be_bytes());
        header.extend(counts_at.to_be_bytes());
        header.extend((counts_clusters as u32).to_be_bytes());
        header.extend([0; 12]); // no snapshots
        header.extend(if zstd { FEATURE_COMPRESSION_TYPE } else { 0 }.to_be_bytes());
        header.extend([0; 16]); // no other features
        header.extend(REFCOUNT_ORDER.to_be_bytes());
        header.extend(HEADER_BYTES.to_be_bytes());
        header.push(u8::from(zstd));
        header.resize(HEADER_BYTES as usize + 8, 0); // and the end of header extensions
        header
    }
}

impl UnitWriter for Qcow2Writer<'_> {
    fn unit(&self) -> u64 {
        CLUSTER
    }

    fn put(&mut self, index: u64, bytes: &[u8]) -> Result<()> {
        let (table, entry) = (index / L2_ENTRIES, (index % L2_ENTRIES) as usize);
        if self.l2.as_ref().is_some_and(|(current, _)| *current != table) {
            self.flush_l2()?;
        }
        let place = match self.put_packed(bytes)? {
            Some(place) => place,
            None => self.put_plain(bytes)?,
        };
        let (_, entries) = self.l2.get_or_insert_with(|| (table, vec![0; L2_ENTRIES as usize]));
        entries[entry] = place;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.flush_l2()?;
        let bytes: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let l1_at = self.clusters.take_side_by_side((bytes.len() as u64).div_ceil(CLUSTER).max(1))?;
        self.clusters.to.write_at(l1_at, &bytes)?;
        let (counts_at, counts_clusters) = self.clusters.finish()?;
        self.clusters.to.write_at(0, &self.header(l1_at, counts_at, counts_clusters))
    }
}
