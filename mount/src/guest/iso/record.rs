//! Directory records: a name, where its content is, and what extensions add behind.

use super::Iso;
use super::rock::Rock;
use crate::fields::{array, be16, le32, u8_at};
use crate::guest::utf16::to_bytes;
use crate::guest::{NodeKind, Stamp};
use crate::{Error, Result};

pub(super) const SECTOR: u64 = 2048;
const NAME_AT: usize = 33;
const DIRECTORY: u8 = 0x2;
const MORE: u8 = 0x80;

/// How names and the rest are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Names of eight and three characters, or a little more.
    Plain,
    /// Names in UTF-16.
    Joliet,
    /// Everything a system of the Unix family wants; the number of bytes to pass over before each part of it.
    RockRidge(usize),
}

/// A record, decoded.
#[derive(Debug, Clone)]
pub(super) struct Record {
    /// The byte of the volume it begins at, its file's number.
    pub byte: u64,
    pub len: u64,
    pub name: Vec<u8>,
    /// It stands for the directory itself, or the one above.
    pub is_dot: bool,
    pub is_directory: bool,
    /// More of the same file follows in the next record.
    pub more: bool,
    pub extent: u64,
    pub size: u64,
    pub time: Stamp,
    pub rock: Rock,
}

impl Record {
    /// The record at a byte of the volume, or `None` where the rest of the sector is unused.
    pub(super) fn at(iso: &Iso, byte: u64) -> Result<Option<Self>> {
        let left = (SECTOR - byte % SECTOR) as usize;
        let bytes = iso.lines.read(byte, left)?;
        let len = usize::from(u8_at(&bytes, 0)?);
        if len == 0 {
            return Ok(None);
        }
        let damaged =
            || Error::corrupt(format!("the directory record at {byte}"), format!("it has {len} bytes"));
        let bytes = bytes.get(..len).filter(|_| len > NAME_AT).ok_or_else(damaged)?;
        let name_len = usize::from(u8_at(bytes, 32)?);
        let raw = bytes.get(NAME_AT..NAME_AT + name_len).ok_or_else(damaged)?;
        let system = (NAME_AT + name_len).next_multiple_of(2);
        let rock = match iso.dialect {
            Dialect::RockRidge(skip) => Rock::read(iso, bytes.get(system + skip..).unwrap_or_default())?,
            _ => Rock::default(),
        };
        let flags = u8_at(bytes, 25)?;
        let is_dot = matches!(raw, [0 | 1]);
        let name = match (&rock.name, iso.dialect) {
            (Some(name), _) => name.clone(),
            (None, Dialect::Joliet) => joliet(raw),
            _ => plain(raw),
        };
        Ok(Some(Self {
            byte,
            len: len as u64,
            name,
            is_dot,
            is_directory: flags & DIRECTORY != 0,
            more: flags & MORE != 0,
            // the extent begins with attributes, where there are any
            extent: (u64::from(le32(bytes, 2)?) + u64::from(u8_at(bytes, 1)?)) * iso.block,
            size: u64::from(le32(bytes, 10)?),
            time: short_time(&array(bytes, 18)?),
            rock,
        }))
    }

    pub(super) fn kind(&self) -> NodeKind {
        match self.rock.kind {
            _ if self.rock.child.is_some() => NodeKind::Directory,
            Some(kind) => kind,
            None if self.is_directory => NodeKind::Directory,
            None => NodeKind::File,
        }
    }
}

/// Characters of two bytes, high byte first; versions are not part of the name.
fn joliet(raw: &[u8]) -> Vec<u8> {
    let units = raw.as_chunks::<2>().0.iter().flat_map(|[high, low]| [*low, *high]).collect::<Vec<_>>();
    without_version(&to_bytes(&units)).to_vec()
}

/// In lower case, without version and without the dot of a name that has no extension, as others show it.
fn plain(raw: &[u8]) -> Vec<u8> {
    let name = without_version(raw);
    name.strip_suffix(b".").unwrap_or(name).to_ascii_lowercase()
}

fn without_version(name: &[u8]) -> &[u8] {
    let version = name.iter().rposition(|byte| *byte == b';');
    let version = version.filter(|at| {
        name.get(at + 1..).is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
    });
    version.and_then(|at| name.get(..at)).unwrap_or(name)
}

/// Years since 1900, month, day, hour, minute, second, quarters of an hour east of Greenwich.
pub(super) fn short_time(bytes: &[u8; 7]) -> Stamp {
    let [year, month, day, hour, minute, second, zone] = *bytes;
    let part = |byte: u8| i64::from(byte);
    if month == 0 {
        return Stamp::default();
    }
    let zone = i64::from(i8::from_le_bytes([zone])) * 900;
    civil([part(year) + 1900, part(month), part(day), part(hour), part(minute), part(second)], zone)
}

/// Sixteen digits: year, month, day, hour, minute, second and hundredths; then the zone.
pub(super) fn long_time(bytes: &[u8; 17]) -> Stamp {
    let number = |at: usize, len: usize| -> Option<i64> {
        std::str::from_utf8(bytes.get(at..at + len)?).ok()?.parse().ok()
    };
    let fields = [(0, 4), (4, 2), (6, 2), (8, 2), (10, 2), (12, 2)].map(|(at, len)| number(at, len));
    let [Some(year @ 1..), Some(month), Some(day), Some(hour), Some(minute), Some(second)] = fields else {
        return Stamp::default();
    };
    let zone = i64::from(i8::from_le_bytes([bytes[16]])) * 900;
    let stamp = civil([year, month, day, hour, minute, second], zone);
    Stamp { nanos: number(14, 2).unwrap_or(0).clamp(0, 99) as u32 * 10_000_000, ..stamp }
}

fn civil([year, month, day, hour, minute, second]: [i64; 6], zone: i64) -> Stamp {
    let days = crate::guest::days_since_1970(year, month.clamp(1, 12), day);
    Stamp { seconds: days * 86_400 + hour * 3600 + minute * 60 + second - zone, nanos: 0 }
}

/// A number stored in both byte orders: the second half of it tells that it is one.
pub(super) fn both16(bytes: &[u8], at: usize) -> Result<u16> {
    be16(bytes, at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_versions() {
        assert_eq!(plain(b"README.TXT;1"), b"readme.txt");
        assert_eq!(plain(b"NOTHING.;12"), b"nothing");
        assert_eq!(plain(b"A;B"), b"a;b");
        assert_eq!(joliet(b"\0A\0\xfc\0;\x001"), "A\u{fc}".as_bytes());
    }

    #[test]
    fn times_have_two_forms() {
        assert_eq!(short_time(&[121, 7, 4, 15, 5, 6, 8]).seconds, 1_625_403_906);
        let long = *b"2021070415050650\x08";
        assert_eq!(long_time(&long), Stamp { seconds: 1_625_403_906, nanos: 500_000_000 });
        assert_eq!(long_time(b"0000000000000000\0"), Stamp::default());
    }
}
