//! The ring of records: where it begins and ends, and its records in order.

use super::damaged;
use super::overlay::SECTOR;
use crate::fields::{array, be32, be64, le32, u8_at};
use crate::guest::lines::Lines;
use crate::guest::xfs::superblock::Superblock;
use crate::{Error, Result};
use block::crc32c;

const MAGIC: u32 = 0xfeed_babe;
const VERSION_2: u32 = 2;
/// Records are written in one byte order; this is the one that is read.
const LITTLE_ENDIAN: u32 = 1;
/// Bytes of a record whose first words one header holds.
const PER_HEADER: u64 = 32 << 10;
const WORDS: usize = (PER_HEADER / SECTOR) as usize;
/// The largest record: 256 KiB, and its headers.
const MAX_RECORD: u64 = 256 << 10;
/// The largest log (`XFS_MAX_LOG_BYTES`), in sectors.
const MAX_LOG: u64 = (2 << 30) / SECTOR;
/// How far behind the head a record may be missing or torn: eight are written at once.
const IN_FLIGHT: u64 = 8 * (MAX_RECORD + 16 * SECTOR) / SECTOR;
const CRC_AT: usize = 32;
/// Length of the header as its checksum sees it, which depends on the machine that wrote it.
const CHECKED: [usize; 2] = [328, 324];
const CHECKED_MORE: usize = 260;
const UNMOUNT: u8 = 0x20;

/// A record with its content.
pub(super) struct Record {
    pub lsn: u64,
    pub operations: u32,
    pub content: Vec<u8>,
}

/// A record's header.
struct Header {
    lsn: u64,
    tail: u64,
    len: u64,
    /// Sectors of headers.
    headers: u64,
    operations: u32,
    crc: u32,
    format: u32,
    uuid: [u8; 16],
}

/// A log that has something to replay.
pub(super) struct Ring<'a> {
    lines: &'a Lines,
    /// First byte on the volume.
    start: u64,
    /// Sectors in it.
    size: u64,
    /// The first record that counts.
    tail: u64,
    /// The last one.
    last: u64,
}

fn cycle_of(lsn: u64) -> u32 {
    (lsn >> 32) as u32
}

fn sector_of(lsn: u64) -> u64 {
    lsn & 0xffff_ffff
}

impl<'a> Ring<'a> {
    /// The log of a filesystem, or `None` if nothing in it waits.
    pub(super) fn open(sb: &Superblock, lines: &'a Lines) -> Result<Option<Self>> {
        if sb.log_start == 0 {
            return Err(Error::unsupported("this XFS filesystem", "its log is on another device"));
        }
        let start = sb.byte_of(sb.log_start).ok_or_else(|| damaged("it is outside its filesystem"))?;
        let size = u64::from(sb.log_blocks) * u64::from(sb.block_size) / SECTOR;
        let fits = size > 0 && size <= MAX_LOG && start + size * SECTOR <= lines.size();
        if !fits {
            return Err(damaged(format!("{size} sectors at {start}")));
        }
        let mut ring = Self { lines, start, size, tail: 0, last: 0 };
        let Some(head) = ring.head()? else { return Ok(None) };
        let (last, header) = ring.last_record(head)?;
        if header.format != LITTLE_ENDIAN {
            return Err(Error::unsupported(
                "the XFS log",
                "it was written by a machine of another byte order",
            ));
        }
        if header.uuid != sb.visible_uuid {
            return Err(damaged("it belongs to another filesystem"));
        }
        if ring.is_unmount(last, &header)? {
            return Ok(None);
        }
        (ring.tail, ring.last) = (sector_of(header.tail), last);
        if ring.tail >= ring.size {
            return Err(damaged(format!("its tail is at sector {} of {}", ring.tail, ring.size)));
        }
        Ok(Some(ring))
    }

    fn sectors(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (count * SECTOR) as usize];
        // it may pass the end and go on at the beginning
        let first = count.min(self.size - at);
        let (before, after) = bytes.split_at_mut((first * SECTOR) as usize);
        self.lines.read_once(self.start + at * SECTOR, before)?;
        if !after.is_empty() {
            self.lines.read_once(self.start, after)?;
        }
        Ok(bytes)
    }

    /// The cycle a sector was written in.
    fn cycle(&self, at: u64) -> Result<u32> {
        let sector = self.lines.read(self.start + at * SECTOR, 8)?;
        match be32(&sector, 0)? {
            MAGIC => be32(&sector, 4),
            cycle => Ok(cycle),
        }
    }

    fn forward(&self, at: u64, count: u64) -> u64 {
        (at + count) % self.size
    }

    fn back(&self, at: u64, count: u64) -> u64 {
        (at + self.size - count % self.size) % self.size
    }

    /// The first sector that is older than the one before it; `None` if nothing was ever written.
    fn head(&self) -> Result<Option<u64>> {
        let (first, last) = (self.cycle(0)?, self.cycle(self.size - 1)?);
        if first == 0 {
            return Ok(None);
        }
        if first == last {
            return Ok(Some(0));
        }
        let (mut newer, mut older) = (0, self.size - 1);
        while newer + 1 < older {
            let middle = (newer + older) / 2;
            if self.cycle(middle)? == first { newer = middle } else { older = middle }
        }
        Ok(Some(older))
    }

    /// The header in this sector, if there is one that belongs there.
    fn header(&self, at: u64) -> Result<Option<Header>> {
        let sector = self.lines.read(self.start + at * SECTOR, SECTOR as usize)?;
        let (version, len, size) =
            (be32(&sector, 8)?, u64::from(be32(&sector, 12)?), u64::from(be32(&sector, 320)?));
        let lsn = be64(&sector, 16)?;
        let place = be32(&sector, 0)? == MAGIC && sector_of(lsn) == at && cycle_of(lsn) == be32(&sector, 4)?;
        if !place || len > MAX_RECORD || size > MAX_RECORD {
            return Ok(None);
        }
        let headers = if version & VERSION_2 != 0 { size.div_ceil(PER_HEADER).max(1) } else { 1 };
        if len > headers * PER_HEADER || headers + len.div_ceil(SECTOR) >= self.size {
            return Ok(None);
        }
        Ok(Some(Header {
            lsn,
            tail: be64(&sector, 24)?,
            len,
            headers,
            operations: be32(&sector, 40)?,
            crc: le32(&sector, CRC_AT)?,
            format: be32(&sector, 300)?,
            uuid: array(&sector, 304)?,
        }))
    }

    /// The last record written whole, all before it being whole too. Several are written at once, so the last ones may
    /// be torn, or there while one before them is not.
    fn last_record(&self, head: u64) -> Result<(u64, Header)> {
        let mut found: Option<(u64, Header)> = None;
        let mut at = self.oldest_in_flight(head)?;
        let mut gone = 0;
        while gone < 2 * IN_FLIGHT && gone < self.size {
            let Some(header) = self.header(at)? else { break };
            // a record of the cycle before is no more than what has not been written over yet
            if found.as_ref().is_some_and(|(_, before)| before.lsn >= header.lsn)
                || self.record(at, &header)?.is_none()
            {
                break;
            }
            let len = header.headers + header.len.div_ceil(SECTOR);
            found = Some((at, header));
            gone += len;
            at = self.forward(at, len);
        }
        found.ok_or_else(|| damaged("no whole record is before its head"))
    }

    /// A record so far behind the head that all before it are surely whole, or the oldest one there is.
    fn oldest_in_flight(&self, head: u64) -> Result<u64> {
        let mut oldest = None;
        let mut newest_lsn = u64::MAX;
        for gone in 1..=self.size.min(2 * IN_FLIGHT) {
            let at = self.back(head, gone);
            // behind sector 0 lies the cycle before, unless nothing was ever written there
            if let Some(header) = self.header(at)?
                && header.lsn < newest_lsn
            {
                oldest = Some(at);
                newest_lsn = header.lsn;
                if gone > IN_FLIGHT {
                    break;
                }
            }
        }
        oldest.ok_or_else(|| damaged("no record is before its head"))
    }

    /// The record at `at`, or `None` if it does not fit its checksum.
    fn record(&self, at: u64, header: &Header) -> Result<Option<Record>> {
        let headers = self.sectors(at, header.headers)?;
        let count = header.len.div_ceil(SECTOR);
        let mut content = self.sectors(self.forward(at, header.headers), count)?;
        content.truncate(header.len as usize);
        // the record that mkfs writes has none
        if header.crc != 0 && !checksum_fits(&headers, &content, header)? {
            return Ok(None);
        }
        // the first word of each sector was put into a header, and the cycle in its place
        for (i, sector) in content.chunks_mut(SECTOR as usize).enumerate() {
            let from = match i / WORDS {
                0 => 44 + i * 4,
                more => more * SECTOR as usize + 4 + i % WORDS * 4,
            };
            let word: [u8; 4] = array(&headers, from)?;
            let len = sector.len().min(4);
            let target = sector.get_mut(..len).unwrap_or_default();
            target.copy_from_slice(word.get(..len).unwrap_or_default());
        }
        Ok(Some(Record { lsn: header.lsn, operations: header.operations, content }))
    }

    /// Whether the last record says that the filesystem was unmounted.
    fn is_unmount(&self, at: u64, header: &Header) -> Result<bool> {
        if header.operations != 1 {
            return Ok(false);
        }
        let record = self.record(at, header)?;
        let flags = record.map(|record| u8_at(&record.content, 9)).transpose()?;
        Ok(flags.is_some_and(|flags| flags & UNMOUNT != 0))
    }

    /// Calls `visit` for every record that counts, from the tail on.
    pub(super) fn records(&self, visit: &mut dyn FnMut(&Record) -> Result<()>) -> Result<()> {
        let (mut at, mut gone) = (self.tail, 0);
        loop {
            let header =
                self.header(at)?.ok_or_else(|| damaged(format!("no record is at its sector {at}")))?;
            let record = self.record(at, &header)?;
            visit(
                &record
                    .ok_or_else(|| damaged(format!("its record at sector {at} does not fit its checksum")))?,
            )?;
            if at == self.last {
                return Ok(());
            }
            let len = header.headers + header.len.div_ceil(SECTOR);
            gone += len;
            if gone > self.size {
                return Err(damaged("its records do not lead from its tail to its head"));
            }
            at = self.forward(at, len);
        }
    }
}

/// Headers without their own checksum, then the content as it is stored.
fn checksum_fits(headers: &[u8], content: &[u8], header: &Header) -> Result<bool> {
    let part =
        |from: usize, to: usize| headers.get(from..to).ok_or_else(|| damaged("a header that is cut off"));
    for checked in CHECKED {
        let mut crc = crc32c(crc32c(!0, part(0, CRC_AT)?), &[0; 4]);
        crc = crc32c(crc, part(CRC_AT + 4, checked)?);
        for more in 1..header.len.div_ceil(PER_HEADER) as usize {
            let at = more * SECTOR as usize;
            crc = crc32c(crc, part(at, at + CHECKED_MORE)?);
        }
        if !crc32c(crc, content) == header.crc {
            return Ok(true);
        }
    }
    Ok(false)
}
