//! The footer: 512 bytes at the end of every image, and at the beginning of a dynamic one.

use super::SECTOR;
use crate::error::{Error, Result};
use crate::limits::check_size;
use crate::pages::Pages;
use block::{BlockSource, ByteCount, ByteOffset, Cursor, Malformed};

pub(super) const COOKIE: &[u8; 8] = b"conectix";

/// Where the checksum is among the footer's bytes.
pub(super) const CHECKSUM_AT: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Footer {
    pub(super) kind: Kind,
    pub(super) size: ByteCount,
    /// Where the dynamic header is.
    pub(super) header_at: u64,
}

/// One's complement of the sum of all bytes, the checksum's own taken as zeros.
pub(super) fn checksum(bytes: &[u8], checksum_at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
    !sum(&bytes[..checksum_at]).wrapping_add(sum(&bytes[checksum_at + 4..]))
}

pub(super) fn is_marked(file: &dyn BlockSource) -> Result<bool> {
    let Some(end) = file.size().get().checked_sub(SECTOR) else { return Ok(false) };
    for at in [end, 0] {
        let mut cookie = [0; COOKIE.len()];
        file.read_at(ByteOffset::new(at), &mut cookie)?;
        if cookie == *COOKIE {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The footer at the end; where that is broken, the copy at the beginning. The copy of a fixed image would be its
/// guest's bytes and is not believed.
pub(super) fn find(pages: &Pages) -> Result<Footer> {
    let size = pages.file().size().get();
    let Some(end) = size.checked_sub(SECTOR) else {
        return Err(pages.damaged(None, format!("{size} bytes are too few for a VHD's footer")));
    };
    let at_end = read(pages, end);
    match at_end {
        Err(Error::Damaged { .. }) => match read(pages, 0) {
            Ok(copy) if copy.kind != Kind::Fixed => Ok(copy),
            _ => at_end,
        },
        read => read,
    }
}

fn read(pages: &Pages, at: u64) -> Result<Footer> {
    let bytes = pages.bytes(at, SECTOR)?;
    let (footer, kind) = decode(&bytes).map_err(|error| pages.damaged(at + error.at as u64, error.why))?;
    let kind = match kind {
        2 => Kind::Fixed,
        3 => Kind::Dynamic,
        4 => Kind::Differencing,
        other => return Err(Error::unsupported(pages.name(), format!("VHD disk type {other}"))),
    };
    let (size, header_at) = footer;
    Ok(Footer { kind, size: check_size(pages.name(), size)?, header_at })
}

/// ((size, where the dynamic header is), type)
fn decode(bytes: &[u8]) -> Result<((u64, u64), u32), Malformed> {
    let mut at = Cursor::new(bytes);
    if &at.array::<8>()? != COOKIE {
        return Err(at.malformed("there is no VHD footer"));
    }
    let _features = at.be_u32()?;
    let version = at.be_u32()?;
    let header_at = at.be_u64()?;
    let _made_by = at.bytes(16)?;
    let _original_size = at.be_u64()?;
    let size = at.be_u64()?;
    let _geometry = at.be_u32()?;
    let kind = at.be_u32()?;
    if at.be_u32()? != checksum(bytes, CHECKSUM_AT) {
        return Err(at.malformed("the footer's checksum does not match"));
    }
    if version >> 16 != 1 {
        return Err(at.malformed(format!("VHD version {}.{}", version >> 16, version & 0xffff)));
    }
    Ok(((size, header_at), kind))
}
