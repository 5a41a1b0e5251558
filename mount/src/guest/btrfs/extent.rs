//! The content of files: extents, plain or compressed, or bytes inside the tree.

use super::superblock::Root;
use super::tree::{EXTENT, Key};
use super::{Btrfs, lzo};
use crate::fields::{le16, le64, u8_at};
use crate::guest::Place;
use crate::{Error, Result};
use std::io::Read;
use std::ops::ControlFlow;

pub(super) const INLINE: u8 = 0;
const REGULAR: u8 = 1;
const PREALLOCATED: u8 = 2;
const INLINE_AT: usize = 21;
const ZLIB: u8 = 1;
const LZO: u8 = 2;
const ZSTD: u8 = 3;
/// The most bytes one compressed extent has before or after; the kernel stops at 128 KiB.
const MAX_CODED: u64 = 1 << 20;
/// Above the 128 KiB that btrfs writes with.
const MAX_WINDOW_LOG: u32 = 20;

/// An extent of a file.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    /// Its first byte of the file.
    pub at: u64,
    pub len: u64,
    kind: u8,
    compression: u8,
    /// Bytes it has before compression.
    plain_len: u64,
    /// Address and length on disk; 0 for a hole.
    disk: (u64, u64),
    /// Where in the plain bytes this part begins.
    into: u64,
    inside: Vec<u8>,
}

impl Extent {
    fn decode(at: u64, item: &[u8], sector: u64) -> Result<Self> {
        let (plain_len, compression, kind) = (le64(item, 8)?, u8_at(item, 16)?, u8_at(item, 20)?);
        if u8_at(item, 17)? != 0 || le16(item, 18)? != 0 {
            return Err(Error::unsupported(
                "an extent of a file",
                "it is encrypted or coded in an unknown way",
            ));
        }
        let inline = kind == INLINE;
        let field = |place: usize| if inline { Ok(0) } else { le64(item, place) };
        let extent = Self {
            at,
            // whole sectors belong to it: what is not stored is zeros
            len: if inline { plain_len.checked_next_multiple_of(sector).unwrap_or(0) } else { field(45)? },
            kind,
            compression,
            plain_len,
            disk: (field(21)?, field(29)?),
            into: field(37)?,
            inside: if inline { item.get(INLINE_AT..).unwrap_or_default().to_vec() } else { Vec::new() },
        };
        let coded = compression != 0 && (plain_len > MAX_CODED || extent.disk.1 > MAX_CODED);
        let sane = kind <= PREALLOCATED && compression <= ZSTD && extent.len > 0 && !coded;
        let ends = at.checked_add(extent.len).is_some_and(|end| i64::try_from(end).is_ok());
        if !sane || !ends || inline && plain_len > MAX_CODED {
            return Err(Error::corrupt("an extent of a file", format!("{} bytes at {at}", extent.len)));
        }
        Ok(extent)
    }

    pub(super) fn end(&self) -> u64 {
        self.at + self.len
    }

    fn is_hole(&self) -> bool {
        self.kind == PREALLOCATED || self.kind == REGULAR && self.disk.0 == 0
    }

    /// Where its bytes from `from` on lie.
    pub(super) fn place(&self, fs: &Btrfs, from: u64) -> Result<Place> {
        if self.is_hole() {
            return Ok(Place::Zero);
        }
        if self.compression != 0 || self.kind == INLINE {
            return Ok(Place::Coded);
        }
        let address = self.disk.0.checked_add(self.into).and_then(|at| at.checked_add(from - self.at));
        let address = address.ok_or_else(|| Error::corrupt("an extent of a file", "it has no end"))?;
        let byte = fs.chunks.byte(address, self.len - (from - self.at))?;
        if byte.checked_add(self.end() - from).is_none_or(|end| end > fs.lines.size()) {
            return Err(Error::corrupt("an extent of a file", "it lies behind the end of the volume"));
        }
        Ok(Place::Volume(byte))
    }

    /// Its bytes from `at` on, decompressed; at most `len`.
    pub(super) fn content(&self, fs: &Btrfs, at: u64, len: usize) -> Result<Vec<u8>> {
        let plain_len = self.plain_len as usize;
        let mut bytes = if self.kind == INLINE {
            decode(self.compression, &self.inside, plain_len, fs.sb.sector as usize)?
        } else {
            let byte = fs.chunks.byte(self.disk.0, self.disk.1)?;
            let packed = fs.lines.read(byte, self.disk.1 as usize)?;
            decode(self.compression, &packed, plain_len, fs.sb.sector as usize)?
        };
        let whole = self.into.saturating_add(self.len);
        bytes
            .resize(usize::try_from(whole).ok().filter(|_| whole <= 2 * MAX_CODED).unwrap_or(bytes.len()), 0);
        let into = at.checked_sub(self.at);
        let into = into.ok_or_else(|| Error::corrupt("an extent of a file", "it begins too late"))?;
        let from = self.into.saturating_add(into) as usize;
        let end = from.saturating_add(len).min(bytes.len());
        Ok(bytes.get(from..end).unwrap_or_default().to_vec())
    }
}

/// The extents of an inode from the one that holds `from` on.
pub(super) fn each(
    fs: &Btrfs,
    root: Root,
    ino: u64,
    from: u64,
    visit: &mut dyn FnMut(Extent) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let sector = u64::from(fs.sb.sector);
    fs.each(root, Key::new(ino, EXTENT, from), &mut |key, item| {
        let extent = Extent::decode(key.offset, item, sector)?;
        if extent.end() <= from { Ok(ControlFlow::Continue(())) } else { visit(extent) }
    })
}

/// Decompresses to at most `len` bytes.
fn decode(compression: u8, packed: &[u8], len: usize, sector: usize) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Error::corrupt("compressed content", error.to_string());
    let mut bytes = Vec::with_capacity(len);
    match compression {
        0 => bytes.extend_from_slice(packed.get(..len).unwrap_or(packed)),
        // what follows the stream, up to the end of the sector, is of no meaning
        ZLIB => {
            let stream = flate2::bufread::ZlibDecoder::new(packed);
            stream.take(len as u64).read_to_end(&mut bytes).map_err(failed)?;
        }
        LZO => bytes = lzo::decompress(packed, sector, len)?,
        _ => {
            let mut stream = zstd::stream::read::Decoder::with_buffer(packed).map_err(failed)?.single_frame();
            stream.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
            stream.take(len as u64).read_to_end(&mut bytes).map_err(failed)?;
        }
    }
    Ok(bytes)
}
