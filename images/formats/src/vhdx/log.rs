//! The log: changes to tables that were not written back. A reader applies them in memory.

use super::header::{Header, checked};
use crate::error::{Error, Result};
use crate::pages::Pages;
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, ExtentKind, Malformed, Visit, check_range};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Log entries and what they change come in sectors of this size.
const SECTOR: u64 = 4096;

/// Logs are 1 MiB; longer ones than this are nobody's.
const LOG_LIMIT_BYTES: u64 = 32 << 20;

/// Sectors a log may change: what a log of the limit can hold, and as much again for runs of zeros.
const CHANGES_LIMIT: usize = 2 * (LOG_LIMIT_BYTES / SECTOR) as usize;

/// Bytes checked in search of the log's sequence, in log lengths. Every entry is checked once in a log that was
/// written in good faith.
const SEARCH_LIMIT: u64 = 4;

/// Bytes of an entry's header, and of each descriptor behind it.
const ENTRY_HEADER: u64 = 64;
const DESCRIPTOR: u64 = 32;

/// What replaces a sector of the file.
enum Change {
    Zeros,
    Bytes(Box<[u8; SECTOR as usize]>),
}

/// A file as it will be when its log is written back.
struct Replayed {
    file: Arc<dyn BlockSource>,
    size: ByteCount,
    // by number of the sector in the file
    changes: BTreeMap<u64, Change>,
}

/// One valid entry.
struct Entry {
    sequence: u64,
    // bytes in the log
    count: u64,
    // where in the log the oldest entry of its sequence is
    tail: u64,
    // the file was this long when the entry was written, and had to be this long after it
    flushed: u64,
    last: u64,
    bytes: Vec<u8>,
    descriptors: u64,
}

/// The log's bytes, which are a ring.
struct Ring<'a> {
    bytes: &'a [u8],
    header: &'a Header,
    // bytes that may still be checked
    budget: u64,
}

/// The file with its log applied; the file itself if there is nothing to apply.
pub(super) fn replay(
    pages: &Pages,
    header: &Header,
    file: Arc<dyn BlockSource>,
) -> Result<Arc<dyn BlockSource>> {
    if header.log_guid == [0; 16] {
        return Ok(file);
    }
    let log = header.log;
    if log.count().get() > LOG_LIMIT_BYTES {
        return Err(Error::unsupported(pages.name(), format!("a log of {} bytes to replay", log.count())));
    }
    if log.is_empty() || !log.count().get().is_multiple_of(SECTOR) {
        return Err(pages.damaged(log.start(), format!("a log of {} bytes", log.count())));
    }
    let bytes = pages.bytes(log.start(), log.count().get())?;
    let budget = SEARCH_LIMIT * log.count().get();
    let entries = Ring { bytes: &bytes, header, budget }.active();
    let mut replayed = Replayed { size: file.size(), file, changes: BTreeMap::new() };
    for entry in entries {
        if entry.flushed > replayed.file.size().get() {
            let why =
                format!("its log was written when it had {} bytes; it was cut short since", entry.flushed);
            return Err(pages.damaged(None, why));
        }
        replayed.size = replayed.size.max(ByteCount::new(entry.last));
        replayed
            .apply(&entry)
            .map_err(|error| pages.damaged(log.start(), format!("a log entry: {error}")))?;
    }
    Ok(Arc::new(replayed))
}

impl Ring<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn copy(&self, at: u64, count: u64) -> Vec<u8> {
        let at = (at % self.len()) as usize;
        let first = self.bytes[at..].iter().chain(&self.bytes[..at]);
        first.take(count as usize).copied().collect()
    }

    /// The entries to apply, oldest first: of all unbroken sequences that reach back to their own tail, the one whose
    /// newest entry is the newest.
    fn active(mut self) -> Vec<Entry> {
        let mut best: Vec<Entry> = Vec::new();
        let mut at = 0;
        while at < self.len() {
            let (start, mut run) = (at, Vec::<Entry>::new());
            while let Some(entry) = self.entry(at) {
                if run.last().is_some_and(|last| entry.sequence != last.sequence + 1)
                    || at - start >= self.len()
                {
                    break;
                }
                at += entry.count;
                run.push(entry);
            }
            if let Some(whole) = since_tail(run, start, self.len())
                && newest(&whole) > newest(&best)
            {
                best = whole;
            }
            if at == start {
                at += SECTOR;
            }
        }
        best
    }

    /// The entry at a place, if there is a valid one.
    fn entry(&mut self, at: u64) -> Option<Entry> {
        let head = self.copy(at, ENTRY_HEADER);
        let count = u64::from(u32::from_le_bytes(head.get(8..12)?.try_into().ok()?));
        let is_possible = head.starts_with(b"loge")
            && count.is_multiple_of(SECTOR)
            && (SECTOR..=self.len()).contains(&count);
        if !is_possible || count > self.budget {
            return None;
        }
        self.budget -= count;
        decode(self.copy(at, count), self.header).ok()
    }
}

fn newest(entries: &[Entry]) -> Option<u64> {
    entries.last().map(|entry| entry.sequence)
}

/// The part of a run of entries, the first of which is at `start`, from the newest entry's tail on.
fn since_tail(mut run: Vec<Entry>, start: u64, ring: u64) -> Option<Vec<Entry>> {
    let tail = run.last()?.tail;
    let mut at = start;
    let first = run.iter().position(|entry| {
        let found = at % ring == tail;
        at += entry.count;
        found
    })?;
    Some(run.split_off(first))
}

fn decode(bytes: Vec<u8>, header: &Header) -> Result<Entry, Malformed> {
    let mut at = checked(&bytes, b"loge", "log entry")?;
    let count = u64::from(at.u32()?);
    let tail = u64::from(at.u32()?);
    let sequence = at.u64()?;
    let descriptors = u64::from(at.u32()?);
    let _reserved = at.u32()?;
    if at.array()? != header.log_guid || sequence == 0 || sequence == u64::MAX {
        return Err(at.malformed("of another log"));
    }
    let (flushed, last) = (at.u64()?, at.u64()?);
    if last > i64::MAX as u64 {
        return Err(at.malformed("a file longer than any file"));
    }
    if ENTRY_HEADER + descriptors * DESCRIPTOR > count {
        return Err(at.malformed("its descriptors pass its end"));
    }
    Ok(Entry { sequence, count, tail, flushed, last, descriptors, bytes })
}

impl Replayed {
    fn apply(&mut self, entry: &Entry) -> Result<(), Malformed> {
        let described = (ENTRY_HEADER + entry.descriptors * DESCRIPTOR).next_multiple_of(SECTOR);
        let mut descriptors = block::Cursor::new(&entry.bytes);
        let _header = descriptors.bytes(ENTRY_HEADER as usize)?;
        let mut data = block::Cursor::new(&entry.bytes);
        let _descriptors = data.bytes(described as usize)?;
        for _ in 0..entry.descriptors {
            let signature = descriptors.array::<4>()?;
            let trailing = descriptors.array::<4>()?;
            let leading = descriptors.array::<8>()?;
            let (offset, sequence) = (descriptors.u64()?, descriptors.u64()?);
            if sequence != entry.sequence || !offset.is_multiple_of(SECTOR) {
                return Err(descriptors.malformed("a descriptor of another entry"));
            }
            match &signature {
                b"desc" => self.set(offset, sector(&mut data, sequence, leading, trailing)?),
                b"zero" => self.zero(offset, u64::from_le_bytes(leading))?,
                _ => return Err(descriptors.malformed("an unknown descriptor")),
            }
        }
        Ok(())
    }

    fn set(&mut self, offset: u64, bytes: Box<[u8; SECTOR as usize]>) {
        self.changes.insert(offset / SECTOR, Change::Bytes(bytes));
    }

    fn zero(&mut self, offset: u64, count: u64) -> Result<(), Malformed> {
        let sectors = count / SECTOR;
        if !count.is_multiple_of(SECTOR)
            || sectors as usize > CHANGES_LIMIT - self.changes.len().min(CHANGES_LIMIT)
        {
            return Err(Malformed { why: format!("{count} zeros"), at: 0 });
        }
        for sector in 0..sectors {
            self.changes.insert(offset / SECTOR + sector, Change::Zeros);
        }
        Ok(())
    }
}

/// The next data sector: the descriptor holds its first eight and last four bytes.
fn sector(
    data: &mut block::Cursor<'_>,
    sequence: u64,
    leading: [u8; 8],
    trailing: [u8; 4],
) -> Result<Box<[u8; SECTOR as usize]>, Malformed> {
    let mut bytes = Box::new(data.array::<{ SECTOR as usize }>()?);
    let mut at = block::Cursor::new(&bytes[..]);
    let signature = at.array::<4>()?;
    let high = at.u32()?;
    let _content = at.bytes(SECTOR as usize - 12)?;
    let low = at.u32()?;
    if &signature != b"data" || (u64::from(high) << 32 | u64::from(low)) != sequence {
        return Err(data.malformed("a data sector of another entry"));
    }
    bytes[..8].copy_from_slice(&leading);
    bytes[SECTOR as usize - 4..].copy_from_slice(&trailing);
    Ok(bytes)
}

impl BlockSource for Replayed {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        check_range(offset, buf.len() as u64, self.size)?;
        let wanted = ByteRange::between(offset.get(), offset.get() + buf.len() as u64);
        let in_file = self.file.size().get().saturating_sub(wanted.start()).min(buf.len() as u64) as usize;
        if in_file > 0 {
            self.file.read_at(offset, &mut buf[..in_file])?;
        }
        buf[in_file..].fill(0);
        let sectors = wanted.start() / SECTOR..wanted.end().div_ceil(SECTOR);
        for (number, change) in self.changes.range(sectors) {
            let sector = ByteRange::between(number * SECTOR, (number + 1) * SECTOR);
            let both = sector.intersect(wanted);
            let to = (both.start() - wanted.start()) as usize..(both.end() - wanted.start()) as usize;
            let from = (both.start() - sector.start()) as usize..(both.end() - sector.start()) as usize;
            match change {
                Change::Zeros => buf[to].fill(0),
                Change::Bytes(bytes) => buf[to].copy_from_slice(&bytes[from]),
            }
        }
        Ok(())
    }

    /// All of it is data: only tables and blocks that tables name are read of it.
    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        block::visit_last(range, ExtentKind::Data, visit);
        Ok(())
    }
}
