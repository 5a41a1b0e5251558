//! The descriptor: a text that names extents and a parent. It stands in a file of its own or inside a sparse extent.

use super::SECTOR;
use crate::error::{Error, Result};
use crate::pages::Pages;
use block::ByteRange;

/// A descriptor is at most this long: a thousand extents of 2 GiB take a tenth of it.
const LIMIT_BYTES: u64 = 1 << 20;

/// A content id that says: no parent.
const NO_PARENT: u32 = u32::MAX;

/// Kinds of images that are read. The others keep their data in ways of their own.
const TYPES: [&str; 6] = [
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
    "vmfs",
];

/// What a descriptor says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) content_id: u32,
    /// The parent's content id when this image was made on it.
    pub(super) parent_id: Option<u32>,
    pub(super) parent_name: Option<String>,
    pub(super) extents: Vec<Extent>,
}

/// A part of the disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) bytes: u64,
    pub(super) kind: Kind,
}

/// Where a part's bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In a file as they are, from this byte on.
    Flat { file: String, offset: u64 },
    /// In a sparse extent.
    Sparse { file: String },
    /// Nowhere: zeros.
    Zero,
}

/// The descriptor that is the whole file.
pub(super) fn of_file(pages: &Pages) -> Result<Descriptor> {
    let len = pages.file().size().get();
    if len > LIMIT_BYTES {
        return Err(pages.damaged(None, "is neither a sparse VMDK extent nor a descriptor"));
    }
    parse(pages, &pages.bytes(0, len)?)
}

/// The descriptor inside a sparse extent, if it has one; extents of a descriptor file have none.
pub(super) fn embedded(pages: &Pages, range: ByteRange) -> Result<Option<Descriptor>> {
    if range.is_empty() || range.start() == 0 {
        return Ok(None);
    }
    if range.count().get() > LIMIT_BYTES {
        return Err(pages.damaged(range.start(), format!("a descriptor of {} bytes", range.count())));
    }
    let bytes = pages.bytes(range.start(), range.count().get())?;
    parse(pages, &bytes).map(Some)
}

fn parse(pages: &Pages, bytes: &[u8]) -> Result<Descriptor> {
    // zeros fill the room behind an embedded descriptor
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let text = std::str::from_utf8(text)
        .map_err(|_| Error::unsupported(pages.name(), "a descriptor in another encoding than UTF-8"))?;
    let damaged = |why: String| pages.damaged(None, format!("its descriptor: {why}"));
    if !text.starts_with("# Disk DescriptorFile") {
        return Err(damaged("is none".to_owned()));
    }
    let id = |key: &str| -> Result<u32> {
        let value = value(text, key).ok_or_else(|| damaged(format!("has no {key}")))?;
        u32::from_str_radix(value, 16).map_err(|_| damaged(format!("{key} is {value:?}")))
    };
    let kind = value(text, "createType").ok_or_else(|| damaged("has no createType".to_owned()))?;
    if !TYPES.contains(&kind) {
        return Err(Error::unsupported(pages.name(), format!("a VMDK of type {kind:?}"))
            .with_help("`qemu-img convert` or the tool that made it may turn it into another type"));
    }
    let lines = text.lines().map(str::trim).filter(|line| is_extent(line));
    Ok(Descriptor {
        content_id: id("CID")?,
        parent_id: Some(id("parentCID")?).filter(|&id| id != NO_PARENT),
        parent_name: value(text, "parentFileNameHint").map(str::to_owned),
        extents: lines.map(|line| extent(pages, line)).collect::<Result<_>>()?,
    })
}

/// The value of `key=value`, without quotes.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"'))
}

fn is_extent(line: &str) -> bool {
    ["RW ", "RDONLY ", "NOACCESS "].iter().any(|access| line.starts_with(access))
}

/// A line such as `RW 4192256 SPARSE "disk-s001.vmdk"` or `RW 63 FLAT "disk-flat.vmdk" 0`.
fn extent(pages: &Pages, line: &str) -> Result<Extent> {
    let damaged = |why: &str| pages.damaged(None, format!("its descriptor: the extent {line:?} {why}"));
    let count = |text: &str, what: &str| -> Result<u64> {
        let sectors: u64 = text.parse().map_err(|_| damaged(&format!("has no number as its {what}")))?;
        let bytes = sectors.checked_mul(SECTOR).filter(|&bytes| i64::try_from(bytes).is_ok());
        bytes.ok_or_else(|| damaged(&format!("has {sectors} sectors as its {what}, more than any file has")))
    };
    let (plain, quoted) = line.split_once('"').map_or((line, None), |(plain, rest)| (plain, Some(rest)));
    let words: Vec<&str> = plain.split_whitespace().collect();
    let [access, sectors, kind] = words[..] else {
        return Err(damaged("is not an access, a count of sectors, a type and a file"));
    };
    if access == "NOACCESS" {
        return Err(Error::unsupported(pages.name(), "an extent that must not be read"));
    }
    let bytes = count(sectors, "size")?;
    let file = quoted.and_then(|rest| rest.rsplit_once('"'));
    let named = || file.map(|(file, _)| file.to_owned()).ok_or_else(|| damaged("names no file"));
    let kind = match kind {
        "ZERO" => Kind::Zero,
        "SPARSE" => Kind::Sparse { file: named()? },
        "FLAT" | "VMFS" => {
            let offset = file.map_or("", |(_, offset)| offset.trim());
            let offset = if offset.is_empty() { 0 } else { count(offset, "offset")? };
            Kind::Flat { file: named()?, offset }
        }
        other => return Err(Error::unsupported(pages.name(), format!("an extent of type {other}"))),
    };
    Ok(Extent { bytes, kind })
}
