//! Values of attributes wherever they are: inside a record, or in runs of clusters that several records may describe.

use super::Ntfs;
use super::boot::Boot;
use super::record::{Attribute, REFERENCE, Record, kind};
use crate::Result;
use crate::fields::{array, le16, le32, le64, u8_at};

pub(super) const COMPRESSED: u16 = 0x00ff;
pub(super) const ENCRYPTED: u16 = 0x4000;
const SPARSE: u16 = 0x8000;
/// Runs of one value; a file of them would have a million fragments.
const MAX_RUNS: usize = 1 << 20;
/// The largest list of attributes (Windows stops at 256 KiB).
const MAX_LIST: u64 = 1 << 20;
const MAX_UNIT: u8 = 8;

/// Clusters in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// The first one's place in the value.
    pub first: u64,
    pub count: u64,
    /// The first one's place on the volume, or `None` for zeros.
    pub cluster: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Resident(Vec<u8>),
    Runs(Vec<Run>),
}

/// A value.
#[derive(Debug, Clone)]
pub(super) struct Stream {
    pub flags: u16,
    pub size: u64,
    /// Bytes behind this were never written and are zeros.
    pub written: u64,
    pub allocated: u64,
    /// Clusters compressed together, as a power of two.
    pub unit: u8,
    pub content: Content,
}

impl Stream {
    pub(super) fn is_compressed(&self) -> bool {
        self.flags & COMPRESSED != 0 && self.unit > 0
    }

    /// The run that holds this cluster of the value.
    pub(super) fn run(&self, at: u64) -> Option<Run> {
        let Content::Runs(runs) = &self.content else { return None };
        let place = runs.partition_point(|run| run.first + run.count <= at);
        runs.get(place).copied().filter(|run| run.first <= at)
    }
}

/// The value of this kind and name, or `None`.
pub(super) fn find(fs: &Ntfs, record: &Record, kind: u32, name: &[u8]) -> Result<Option<Stream>> {
    let mut stream: Option<Stream> = None;
    each(fs, record, &mut |attribute| {
        if attribute.kind()? != kind || attribute.name()? != name {
            return Ok(());
        }
        match &mut stream {
            None => stream = Some(begin(fs, record, attribute)?),
            Some(stream) => go_on(fs, record, stream, attribute)?,
        }
        Ok(())
    })?;
    Ok(stream)
}

/// Names and sizes of all values of a kind; a value counts where it begins.
pub(super) fn names(fs: &Ntfs, record: &Record, kind: u32) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    each(fs, record, &mut |attribute| {
        if attribute.kind()? == kind && attribute.first()? == 0 {
            names.push(attribute.name()?.to_vec());
        }
        Ok(())
    })?;
    Ok(names)
}

/// The small values of a kind.
pub(super) fn residents(fs: &Ntfs, record: &Record, kind: u32) -> Result<Vec<Vec<u8>>> {
    let mut values = Vec::new();
    each(fs, record, &mut |attribute| {
        if attribute.kind()? == kind
            && let Some(value) = attribute.resident()?
        {
            values.push(value.to_vec());
        }
        Ok(())
    })?;
    Ok(values)
}

/// Calls `visit` for every attribute of a file, also those in other records, in the order of their kind, name and place.
fn each(fs: &Ntfs, record: &Record, visit: &mut dyn FnMut(Attribute<'_>) -> Result<()>) -> Result<()> {
    let own = record.attributes()?;
    let mut list = None;
    for attribute in &own {
        if attribute.kind()? == kind::LIST {
            list = Some(begin(fs, record, *attribute)?);
        }
    }
    let Some(list) = list else { return own.into_iter().try_for_each(visit) };
    if list.size > MAX_LIST {
        return Err(record.damaged(format!("a list of attributes of {} bytes", list.size)));
    }
    let list = fs.read_stream(&list, 0, list.size as usize)?;
    let mut at = 0;
    let mut other: Option<Record> = None;
    while at + 26 <= list.len() {
        let len = usize::from(le16(&list, at + 4)?);
        if len < 26 {
            return Err(record.damaged(format!("an entry of {len} bytes in its list of attributes")));
        }
        let (wanted, first, number) =
            (le32(&list, at)?, le64(&list, at + 8)?, le64(&list, at + 16)? & REFERENCE);
        let (name_len, name_at) =
            (usize::from(u8_at(&list, at + 6)?) * 2, usize::from(u8_at(&list, at + 7)?));
        let name = list.get(at + name_at..at + name_at + name_len).unwrap_or_default();
        at += len;
        let holder = if number == record.number {
            record
        } else {
            if other.as_ref().is_none_or(|other| other.number != number) {
                other = Some(fs.record(number)?);
            }
            match &other {
                Some(other) if other.is_extension()? => other,
                _ => {
                    return Err(
                        record.damaged(format!("its attributes are in record {number}, another file"))
                    );
                }
            }
        };
        for attribute in holder.attributes()? {
            if attribute.kind()? == wanted && attribute.first()? == first && attribute.name()? == name {
                visit(attribute)?;
            }
        }
    }
    Ok(())
}

/// The value whose first part this attribute is.
pub(super) fn begin(fs: &Ntfs, record: &Record, attribute: Attribute<'_>) -> Result<Stream> {
    let flags = attribute.flags()?;
    if let Some(value) = attribute.resident()? {
        let size = value.len() as u64;
        let allocated = size.next_multiple_of(8);
        let content = Content::Resident(value.to_vec());
        return Ok(Stream { flags, size, written: size, allocated, unit: 0, content });
    }
    let [allocated, size, written] = attribute.sizes()?;
    let unit = attribute.unit()?;
    if i64::try_from(size).is_err() || unit > MAX_UNIT || unit > 0 && fs.boot.cluster << unit > 1 << 20 {
        return Err(record.damaged(format!("a value of {size} bytes, units of 2^{unit} clusters")));
    }
    let sparse = flags & (SPARSE | COMPRESSED) != 0 && unit > 0;
    let allocated = if sparse { attribute.taken()? } else { allocated };
    let mut stream = Stream { flags, size, written, allocated, unit, content: Content::Runs(Vec::new()) };
    go_on(fs, record, &mut stream, attribute)?;
    Ok(stream)
}

/// Adds the runs of a further attribute of the same value.
fn go_on(fs: &Ntfs, record: &Record, stream: &mut Stream, attribute: Attribute<'_>) -> Result<()> {
    let Content::Runs(runs) = &mut stream.content else {
        return Err(record.damaged("a value that is twice in its record"));
    };
    let first = attribute.first()?;
    if first != runs.last().map_or(0, |run| run.first + run.count) {
        return Err(record.damaged(format!("the runs of a value leave a gap before its cluster {first}")));
    }
    unpack(attribute.runs()?, first, &fs.boot, runs).map_err(|why| record.damaged(why))
}

/// Packed runs: a byte with the widths of a length and of a signed distance from the run before, then these.
fn unpack(packed: &[u8], mut first: u64, boot: &Boot, runs: &mut Vec<Run>) -> Result<(), String> {
    let (mut at, mut place) = (0, 0_i64);
    while let Some(widths @ 1..) = packed.get(at).copied() {
        let (len_width, place_width) = (usize::from(widths & 0xf), usize::from(widths >> 4));
        at += 1;
        let count = number(packed, at, len_width, false);
        let distance = number(packed, at + len_width, place_width, true);
        at += len_width + place_width;
        let (Some(count @ 1..), Some(distance)) = (count, distance) else {
            return Err(format!("a run of widths {widths:#x}"));
        };
        let count = count.cast_unsigned();
        let end = first.checked_add(count).filter(|end| *end <= i64::MAX as u64 / boot.cluster);
        let end = end.ok_or_else(|| format!("a run of {count} clusters"))?;
        let cluster = if place_width == 0 {
            None
        } else {
            place = place.checked_add(distance).ok_or("a run outside the volume")?;
            let cluster = u64::try_from(place).ok();
            let fits = cluster
                .and_then(|cluster| cluster.checked_add(count))
                .is_some_and(|end| end <= boot.clusters);
            if !fits {
                return Err(format!("a run of {count} clusters at {place}, outside the volume"));
            }
            cluster
        };
        runs.push(Run { first, count, cluster });
        if runs.len() > MAX_RUNS {
            return Err(format!("more than {MAX_RUNS} runs"));
        }
        first = end;
    }
    Ok(())
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, width: usize, signed: bool) -> Option<i64> {
    let stored = bytes.get(at..at + width).filter(|_| width <= 8)?;
    let negative = signed && stored.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut wide = if negative { [0xff; 8] } else { [0; 8] };
    wide.get_mut(..width)?.copy_from_slice(stored);
    Some(i64::from_le_bytes(array(&wide, 0).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_unpacked() {
        // 0x18 clusters at 0x5634, a hole of 5, 0x10 clusters 4 before
        let packed = [0x21, 0x18, 0x34, 0x56, 0x01, 5, 0x11, 0x10, 0xfc, 0];
        let mut runs = Vec::new();
        let boot = |clusters| Boot { cluster: 4096, clusters, table: 0, record: 1024, index: 4096 };
        unpack(&packed, 0, &boot(1 << 20), &mut runs).unwrap();
        let run = |first, count, cluster| Run { first, count, cluster };
        let expected = [run(0, 0x18, Some(0x5634)), run(0x18, 5, None), run(0x1d, 0x10, Some(0x5630))];
        assert_eq!(runs, expected);
        for wrong in [&[0x11, 0, 1][..], &[0x11, 1], &[0xff, 1], &[0x21, 1, 0xff, 0xff], &[0x11, 0x7f, 0x7f]]
        {
            assert!(unpack(wrong, 0, &boot(0x90), &mut Vec::new()).is_err(), "{wrong:x?}");
        }
    }
}
