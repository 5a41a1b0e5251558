//! The header and its extensions.

use super::{Backing, MAGIC};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::format::Format;
use crate::limits::check_size;
use crate::pages::Pages;
use block::{ByteCount, Cursor, Malformed};

/// The L1 table is at most this long: qemu's limit, enough for 64 TiB at clusters of 4 KiB and up.
const L1_LIMIT_BYTES: u64 = 32 << 20;

/// The name of a backing file is at most this long, as the format's document says.
const BACKING_NAME_LIMIT: u32 = 1023;

/// Incompatible features: what a reader must know or refuse.
const DIRTY: u64 = 1 << 0;
const CORRUPT: u64 = 1 << 1;
const EXTERNAL_DATA: u64 = 1 << 2;
const COMPRESSION_TYPE: u64 = 1 << 3;
const EXTENDED_L2: u64 = 1 << 4;
/// Read here. Dirty says only that reference counts may be wrong, which a reader never looks at.
const KNOWN: u64 = DIRTY | COMPRESSION_TYPE | EXTENDED_L2;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

pub(super) struct Header {
    pub(super) version: u32,
    pub(super) size: ByteCount,
    pub(super) cluster_bits: u32,
    pub(super) l1_offset: u64,
    pub(super) extended_l2: bool,
    pub(super) codec: Codec,
    pub(super) backing: Option<Backing>,
}

struct Fixed {
    version: u32,
    backing_offset: u64,
    backing_count: u32,
    cluster_bits: u32,
    size: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    incompatible: u64,
    length: u64,
    compression: u8,
}

pub(super) fn read(pages: &Pages) -> Result<Header> {
    let malformed = |error: Malformed| pages.damaged(error.at as u64, error.why);
    // a version 2 file may end right after its header of 72 bytes
    let len = pages.file().size().get().min(112);
    let fixed = fixed(&pages.bytes(0, len)?).map_err(malformed)?;
    check_features(pages, &fixed)?;
    if !(9..=21).contains(&fixed.cluster_bits) {
        return Err(
            pages.damaged(20, format!("clusters of 2^{} bytes; 2^9 to 2^21 are valid", fixed.cluster_bits))
        );
    }
    let extended_l2 = fixed.incompatible & EXTENDED_L2 != 0;
    if extended_l2 && fixed.cluster_bits < 14 {
        return Err(pages.damaged(20, "extended L2 entries need clusters of 16 KiB or more"));
    }
    let header = Header {
        version: fixed.version,
        size: check_size(pages.name(), fixed.size)?,
        cluster_bits: fixed.cluster_bits,
        l1_offset: fixed.l1_offset,
        extended_l2,
        codec: codec(pages, &fixed)?,
        backing: backing(pages, &fixed)?,
    };
    check_l1(pages, &header, &fixed)?;
    Ok(header)
}

fn fixed(bytes: &[u8]) -> Result<Fixed, Malformed> {
    let mut at = Cursor::new(bytes);
    if &at.array::<4>()? != MAGIC {
        return Err(at.malformed("is no qcow2 image: its magic number is another"));
    }
    let mut fixed = Fixed {
        version: at.be_u32()?,
        backing_offset: at.be_u64()?,
        backing_count: at.be_u32()?,
        cluster_bits: at.be_u32()?,
        size: at.be_u64()?,
        encryption: at.be_u32()?,
        l1_entries: at.be_u32()?,
        l1_offset: at.be_u64()?,
        incompatible: 0,
        length: 72,
        compression: 0,
    };
    let _refcounts_and_snapshots = at.bytes(24)?;
    if fixed.version >= 3 {
        fixed.incompatible = at.be_u64()?;
        let _compatible_and_autoclear = at.bytes(16)?;
        let _refcount_order = at.be_u32()?;
        fixed.length = u64::from(at.be_u32()?);
        if fixed.length > 104 {
            fixed.compression = at.u8()?;
        }
    }
    Ok(fixed)
}

fn check_features(pages: &Pages, fixed: &Fixed) -> Result<()> {
    let unsupported = |what: &str| Error::unsupported(pages.name(), what);
    if !matches!(fixed.version, 2 | 3) {
        return Err(unsupported(&format!("qcow2 version {}", fixed.version)));
    }
    if fixed.encryption != 0 {
        return Err(unsupported("encryption")
            .with_help("decrypt it first: `qemu-img convert` with its --object secret"));
    }
    if fixed.incompatible & CORRUPT != 0 {
        return Err(Error::refused(pages.name(), "is marked corrupt")
            .with_help("`qemu-img check -r all` repairs what can be repaired"));
    }
    if fixed.incompatible & EXTERNAL_DATA != 0 {
        return Err(
            unsupported("an external data file").with_help("`qemu-img convert` makes one file of both")
        );
    }
    match fixed.incompatible & !KNOWN {
        0 => Ok(()),
        unknown => Err(unsupported(&format!("incompatible feature bit {}", unknown.trailing_zeros()))),
    }
}

fn codec(pages: &Pages, fixed: &Fixed) -> Result<Codec> {
    match (fixed.compression, fixed.incompatible & COMPRESSION_TYPE != 0) {
        (0, _) => Ok(Codec::Deflate),
        (1, true) => Ok(Codec::Zstd),
        (1, false) => Err(pages.damaged(104, "a compression type without its feature bit")),
        (other, _) => Err(Error::unsupported(pages.name(), format!("compression type {other}"))),
    }
}

/// The table that the size needs must be there, and in the file.
fn check_l1(pages: &Pages, header: &Header, fixed: &Fixed) -> Result<()> {
    let entry_bits = if header.extended_l2 { 4 } else { 3 };
    let needed = header.size.get().div_ceil(1 << (2 * header.cluster_bits - entry_bits));
    if u64::from(fixed.l1_entries) < needed {
        return Err(
            pages.damaged(36, format!("an L1 table of {} entries; {needed} are needed", fixed.l1_entries))
        );
    }
    if needed * 8 > L1_LIMIT_BYTES {
        return Err(Error::unsupported(pages.name(), format!("an L1 table of {needed} entries")));
    }
    if !header.l1_offset.is_multiple_of(1 << header.cluster_bits) {
        return Err(pages.damaged(40, "the L1 table is not at the beginning of a cluster"));
    }
    pages.holds(header.l1_offset, needed * 8, "the L1 table")
}

fn backing(pages: &Pages, fixed: &Fixed) -> Result<Option<Backing>> {
    if fixed.backing_offset == 0 {
        return Ok(None);
    }
    let cluster = 1 << fixed.cluster_bits;
    let end = fixed.backing_offset.saturating_add(u64::from(fixed.backing_count));
    if fixed.backing_count > BACKING_NAME_LIMIT || end > cluster {
        return Err(pages.damaged(8, "the backing file's name is too long or outside the first cluster"));
    }
    let name = pages.bytes(fixed.backing_offset, u64::from(fixed.backing_count))?;
    let name = String::from_utf8(name)
        .map_err(|_| Error::unsupported(pages.name(), "a backing file's name that is not UTF-8"))?;
    let format = backing_format(pages, fixed, cluster.min(fixed.backing_offset))?;
    Ok(Some(Backing { name, format }))
}

/// Looks for the format's name among the header extensions, which end before `end`.
fn backing_format(pages: &Pages, fixed: &Fixed, end: u64) -> Result<Option<Format>> {
    let mut at = fixed.length;
    while at + 8 <= end {
        let (kind, count) = (pages.be_u32(at)?, u64::from(pages.be_u32(at + 4)?));
        at += 8;
        if kind == EXTENSION_END {
            break;
        }
        if count > end.saturating_sub(at) {
            return Err(pages.damaged(at, "a header extension passes the end of the header"));
        }
        if kind == EXTENSION_BACKING_FORMAT {
            let name = pages.bytes(at, count)?;
            let name = String::from_utf8_lossy(&name);
            return Format::of_qemu(&name).map(Some).ok_or_else(|| {
                Error::unsupported(pages.name(), format!("a backing file of format {name:?}"))
            });
        }
        at += count.next_multiple_of(8);
    }
    Ok(None)
}
