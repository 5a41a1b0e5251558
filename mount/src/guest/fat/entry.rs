//! Entries of directories: in FAT a record of 32 bytes after those of its long name, in exFAT a set of such records.

use super::Fat;
use super::boot::Width;
use super::chain::{Area, Span};
use crate::fields::{le16, le32, le64, u8_at};
use crate::guest::utf16::to_bytes;
use crate::guest::{NodeKind, Stamp, days_since_1970, is_name};
use crate::{Error, Result};
use std::ops::ControlFlow;

pub(super) const RECORD: u64 = 32;
/// The largest directory read, in records: 256 MiB, as exFAT allows; FAT stops at 2 MiB.
const MAX_RECORDS: u64 = 8 << 20;
const READ_ONLY: u16 = 0x1;
const LABEL: u16 = 0x8;
const DIRECTORY: u16 = 0x10;
const LONG_NAME: u16 = 0xf;
/// A long name has at most 20 records of 13 characters.
const MAX_LONG: usize = 20;
const SET: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
const IN_A_ROW: u8 = 0x2;
/// Records of a set: itself, its stream, and 17 for a name of 255 characters.
const MAX_SET: usize = 19;

/// A file or directory, as its directory describes it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: Vec<u8>,
    pub kind: NodeKind,
    pub read_only: bool,
    pub size: u64,
    /// Bytes behind this were never written and are zeros.
    pub written: u64,
    pub area: Area,
    pub times: [Stamp; 3],
}

/// An entry and where it was found.
pub(super) struct Found {
    pub entry: Entry,
    /// The byte of the volume its own record begins at.
    pub byte: u64,
    /// The record of the directory after it.
    pub next: u64,
}

/// Whether the walk goes on.
pub(super) type Visit<'a> = dyn FnMut(Found) -> ControlFlow<()> + 'a;

/// Calls `visit` for the entries of a directory from record `from` on.
pub(super) fn walk(fs: &Fat, dir: Area, from: u64, visit: &mut Visit<'_>) -> Result<()> {
    let mut reader = Reader { fs, pending: Vec::new(), from, visit };
    let start = from * RECORD;
    fs.spans(dir, start, &mut |at, span| {
        let into = start.saturating_sub(at) / RECORD * RECORD;
        for place in (into..span.len / RECORD * RECORD).step_by(RECORD as usize) {
            let position = (at + place) / RECORD;
            if position >= MAX_RECORDS {
                return Err(Error::unsupported(
                    "a directory",
                    format!("it has more than {MAX_RECORDS} records"),
                ));
            }
            let record = fs.lines.read(span.byte + place, RECORD as usize)?;
            if reader.record(position, Span { byte: span.byte + place, len: RECORD }, &record)?.is_break() {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

struct Reader<'a, 'b> {
    fs: &'a Fat,
    /// Records before the one that ends the entry.
    pending: Vec<(u64, Vec<u8>)>,
    from: u64,
    visit: &'a mut Visit<'b>,
}

impl Reader<'_, '_> {
    /// Takes the next record; breaks at the end of the directory, or when the visitor has enough.
    fn record(&mut self, position: u64, span: Span, record: &[u8]) -> Result<ControlFlow<()>> {
        if position < self.from {
            return Ok(ControlFlow::Continue(()));
        }
        let kind = u8_at(record, 0)?;
        if kind == 0 {
            return Ok(ControlFlow::Break(()));
        }
        let found = match self.fs.boot.width {
            Width::Exfat => self.exfat(kind, span.byte, record)?,
            _ => self.classic(kind, span.byte, record)?,
        };
        match found.filter(|(_, entry)| is_name(&entry.name)) {
            Some((byte, entry)) => Ok((self.visit)(Found { entry, byte, next: position + 1 })),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    fn classic(&mut self, first: u8, byte: u64, record: &[u8]) -> Result<Option<(u64, Entry)>> {
        let attributes = u16::from(u8_at(record, 11)?);
        if first == 0xe5 {
            self.pending.clear();
            return Ok(None);
        }
        if attributes & 0x3f == LONG_NAME {
            if first & 0x40 != 0 {
                self.pending.clear();
            }
            if self.pending.len() < MAX_LONG {
                self.pending.push((byte, record.to_vec()));
            }
            return Ok(None);
        }
        let long = std::mem::take(&mut self.pending);
        if attributes & LABEL != 0 {
            return Ok(None);
        }
        let name = match long_name(&long, record)? {
            Some(name) => name,
            None => short_name(record)?,
        };
        Ok(Some((byte, classic(record, name)?)))
    }

    fn exfat(&mut self, kind: u8, byte: u64, record: &[u8]) -> Result<Option<(u64, Entry)>> {
        if kind == SET {
            self.pending.clear();
        } else if self.pending.is_empty() || kind & 0x40 == 0 {
            self.pending.clear();
            return Ok(None);
        }
        self.pending.push((byte, record.to_vec()));
        let count = match self.pending.first() {
            Some((_, first)) => usize::from(u8_at(first, 1)?) + 1,
            None => return Ok(None),
        };
        if self.pending.len() < count.min(MAX_SET) {
            return Ok(None);
        }
        let set = std::mem::take(&mut self.pending);
        let byte = set.first().map_or(0, |(byte, _)| *byte);
        let records: Vec<u8> = set.into_iter().flat_map(|(_, record)| record).collect();
        Ok(exfat(&records)?.map(|entry| (byte, entry)))
    }
}

/// The record at this byte of the volume, for who knows it as a number.
pub(super) fn at(fs: &Fat, byte: u64) -> Result<Entry> {
    let record = fs.lines.read(byte, RECORD as usize)?;
    let missing = || Error::not_found(format!("the entry at {byte}"));
    if fs.boot.width != Width::Exfat {
        if matches!(u8_at(&record, 0)?, 0 | 0xe5) || u16::from(u8_at(&record, 11)?) & LABEL != 0 {
            return Err(missing());
        }
        return classic(&record, Vec::new());
    }
    if u8_at(&record, 0)? != SET {
        return Err(missing());
    }
    let len = (usize::from(u8_at(&record, 1)?) + 1).min(MAX_SET) * RECORD as usize;
    let inside = byte.checked_sub(fs.boot.clusters_at).ok_or_else(missing)?;
    let left = (fs.boot.cluster - inside % fs.boot.cluster) as usize;
    if len <= left {
        return exfat(&fs.lines.read(byte, len)?)?.ok_or_else(missing);
    }
    // the set goes on in the next cluster: of the chain, or of the row, whichever fits its checksum
    let cluster = (inside / fs.boot.cluster) as u32 + 2;
    let start = fs.lines.read(byte, left)?;
    for next in [fs.next(cluster)?, Some(cluster + 1)].into_iter().flatten() {
        let at = u64::from(next).checked_sub(2).map(|index| fs.boot.clusters_at + index * fs.boot.cluster);
        let Some(Ok(rest)) = at.map(|at| fs.lines.read(at, len - left)) else { continue };
        if let Ok(Some(entry)) = exfat(&[&*start, &*rest].concat()) {
            return Ok(entry);
        }
    }
    Err(missing())
}

fn classic(record: &[u8], name: Vec<u8>) -> Result<Entry> {
    let attributes = u16::from(u8_at(record, 11)?);
    let first = u32::from(le16(record, 20)?) << 16 | u32::from(le16(record, 26)?);
    let is_directory = attributes & DIRECTORY != 0;
    let size = if is_directory { 0 } else { u64::from(le32(record, 28)?) };
    let written = stamp(le16(record, 24)?, le16(record, 22)?, 0);
    let read = stamp(le16(record, 18)?, 0, 0);
    Ok(Entry {
        name,
        kind: if is_directory { NodeKind::Directory } else { NodeKind::File },
        read_only: attributes & READ_ONLY != 0,
        size,
        written: size,
        area: if first == 0 { Area::Empty } else { Area::Chain(first) },
        times: [read, written, written],
    })
}

/// A set of records, or `None` if it is not whole.
fn exfat(set: &[u8]) -> Result<Option<Entry>> {
    let stream = set.get(RECORD as usize..).unwrap_or_default();
    if stream.first() != Some(&STREAM) || checksum(set) != le16(set, 2)? {
        return Ok(None);
    }
    let mut name = Vec::new();
    for record in set.chunks_exact(RECORD as usize).skip(2).filter(|record| record.first() == Some(&NAME)) {
        name.extend_from_slice(record.get(2..).unwrap_or_default());
    }
    name.truncate(usize::from(u8_at(stream, 3)?) * 2);
    let attributes = le16(set, 4)?;
    let (first, size) = (le32(stream, 20)?, le64(stream, 24)?);
    if i64::try_from(size).is_err() {
        return Ok(None);
    }
    let area = match (first, u8_at(stream, 1)? & IN_A_ROW != 0) {
        (0, _) => Area::Empty,
        (first, true) => Area::Row(first, size),
        (first, false) => Area::Chain(first),
    };
    let time = |at: usize, hundredths: Option<usize>, zone: usize| -> Result<Stamp> {
        let more = hundredths.map_or(Ok(0), |at| u8_at(set, at))?;
        let mut stamp = stamp(le16(set, at + 2)?, le16(set, at)?, more);
        stamp.seconds -= zone_of(u8_at(set, zone)?);
        Ok(stamp)
    };
    let (created, modified, read) = (time(8, Some(20), 22)?, time(12, Some(21), 23)?, time(16, None, 24)?);
    let is_directory = attributes & DIRECTORY != 0;
    Ok(Some(Entry {
        name: to_bytes(&name),
        kind: if is_directory { NodeKind::Directory } else { NodeKind::File },
        read_only: attributes & READ_ONLY != 0,
        size,
        written: if is_directory { size } else { le64(stream, 8)?.min(size) },
        area,
        times: [read, modified, created.max(modified)],
    }))
}

/// Over the whole set but the sum itself.
fn checksum(set: &[u8]) -> u16 {
    let bytes = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    bytes.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)))
}

/// Seconds east of Greenwich, from quarters of an hour in seven bits; none if it is not known.
fn zone_of(stored: u8) -> i64 {
    if stored & 0x80 == 0 {
        return 0;
    }
    let quarters = i64::from(stored & 0x7f);
    (if quarters >= 64 { quarters - 128 } else { quarters }) * 900
}

/// The long name before a short one, if all of it is there and belongs to it.
fn long_name(records: &[(u64, Vec<u8>)], short: &[u8]) -> Result<Option<Vec<u8>>> {
    let base = short.get(..11).unwrap_or_default();
    let sum = base.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let mut name = Vec::new();
    let count = records.len();
    for (i, (_, record)) in records.iter().rev().enumerate() {
        let order = usize::from(u8_at(record, 0)?);
        let expected = if i + 1 == count { (i + 1) | 0x40 } else { i + 1 };
        if order != expected || u8_at(record, 13)? != sum {
            return Ok(None);
        }
        for part in [1..11, 14..26, 28..32] {
            name.extend_from_slice(record.get(part).unwrap_or_default());
        }
    }
    let end = name.as_chunks::<2>().0.iter().position(|unit| *unit == [0, 0]).map_or(name.len(), |at| at * 2);
    name.truncate(end);
    Ok((!name.is_empty()).then(|| to_bytes(&name)))
}

/// A name of eight and three characters, in lower case where the entry says so.
fn short_name(record: &[u8]) -> Result<Vec<u8>> {
    let flags = u8_at(record, 12)?;
    let part = |range: std::ops::Range<usize>, lower: bool| -> String {
        let bytes = record.get(range).unwrap_or_default();
        let end = bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
        let text = bytes.get(..end).unwrap_or_default().iter().map(|byte| character(*byte));
        if lower { text.flat_map(char::to_lowercase).collect() } else { text.collect() }
    };
    let (mut name, extension) = (part(0..8, flags & 0x08 != 0), part(8..11, flags & 0x10 != 0));
    // a name that begins with 0xe5, the mark of what was deleted, is kept with 5 there
    if record.first() == Some(&5) {
        name.replace_range(..1, "\u{3c3}");
    }
    if !extension.is_empty() {
        name = format!("{name}.{extension}");
    }
    Ok(name.into_bytes())
}

/// Short names are in the code page of the system that wrote them; of these, the first PC's is the usual one.
fn character(byte: u8) -> char {
    const UPPER: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
                         αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";
    match byte {
        0..0x80 => char::from(byte),
        _ => UPPER.chars().nth(usize::from(byte - 0x80)).unwrap_or('?'),
    }
}

/// A local time without a zone, shown as if it were universal.
fn stamp(date: u16, time: u16, hundredths: u8) -> Stamp {
    let (day, month, year) =
        (i64::from(date & 0x1f), i64::from(date >> 5 & 0xf), i64::from(date >> 9) + 1980);
    if date == 0 || day == 0 || !(1..=12).contains(&month) {
        return Stamp::default();
    }
    let (second, minute, hour) =
        (i64::from(time & 0x1f) * 2, i64::from(time >> 5 & 0x3f), i64::from(time >> 11));
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    let hundredths = u32::from(hundredths.min(199));
    Stamp { seconds: seconds + i64::from(hundredths / 100), nanos: hundredths % 100 * 10_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_over_leap_years() {
        for (date, expected) in
            [((1970, 1, 1), 0), ((1980, 1, 1), 3652), ((2000, 2, 29), 11_016), ((2107, 12, 31), 50_402)]
        {
            assert_eq!(days_since_1970(date.0, date.1, date.2), expected, "{date:?}");
        }
        let stamp = stamp(0x5000 | 3 << 5 | 4, 13 << 11 | 5 << 5 | 3, 150);
        assert_eq!(stamp, Stamp { seconds: 1_583_327_107, nanos: 500_000_000 });
        assert_eq!((zone_of(0x84), zone_of(0xfc), zone_of(4)), (3600, -3600, 0));
    }

    #[test]
    fn short_names_have_a_case_and_a_code_page() {
        let name = |bytes: &[u8; 11], flags: u8| {
            let mut record = bytes.to_vec();
            record.extend([0x20, flags]);
            String::from_utf8(short_name(&record).unwrap()).unwrap()
        };
        assert_eq!(name(b"README  TXT", 0), "README.TXT");
        assert_eq!(name(b"README  TXT", 0x18), "readme.txt");
        assert_eq!(name(b"A B        ", 0), "A B");
        assert_eq!(name(b"\x81BER       ", 0), "üBER");
    }
}
