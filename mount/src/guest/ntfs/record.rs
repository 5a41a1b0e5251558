//! Records of the table of files, and the attributes in them.

use crate::fields::{array, le16, le32, le64, u8_at};
use crate::{Error, Result};

/// Protected blocks keep their last two bytes of each of these elsewhere, and a number in their place.
const SECTOR: usize = 512;
const IN_USE: u16 = 0x1;
const DIRECTORY: u16 = 0x2;
const END: u32 = 0xffff_ffff;
/// Numbers of records have 48 bits, the use of the record is counted above.
pub(super) const REFERENCE: u64 = (1 << 48) - 1;

pub(super) mod kind {
    pub(in super::super) const STANDARD: u32 = 0x10;
    pub(in super::super) const LIST: u32 = 0x20;
    pub(in super::super) const NAME: u32 = 0x30;
    pub(in super::super) const DATA: u32 = 0x80;
    pub(in super::super) const INDEX_ROOT: u32 = 0x90;
    pub(in super::super) const INDEX: u32 = 0xa0;
    pub(in super::super) const BITMAP: u32 = 0xb0;
    pub(in super::super) const REPARSE: u32 = 0xc0;
}

/// The name of the parts of a directory's index, `$I30`.
pub(super) const I30: &[u8] = b"$\0I\x003\x000\0";

/// Puts the protected bytes back. A block torn by a power cut does not fit.
pub(super) fn unprotect(bytes: &mut [u8], magic: &[u8], what: &str) -> Result<()> {
    let damaged = |why: &str| Err(Error::corrupt(what, why));
    if !bytes.starts_with(magic) {
        return damaged("it does not begin as one");
    }
    let (at, count) = (usize::from(le16(bytes, 4)?), usize::from(le16(bytes, 6)?));
    if count != bytes.len() / SECTOR + 1 || at + count * 2 > bytes.len() {
        return damaged("its protection does not fit its size");
    }
    let number: [u8; 2] = array(bytes, at)?;
    for i in 1..count {
        let kept: [u8; 2] = array(bytes, at + i * 2)?;
        let Some(tail) = bytes.get_mut(i * SECTOR - 2..i * SECTOR) else { return damaged("it is cut off") };
        if tail != number {
            return damaged("it was not written whole");
        }
        tail.copy_from_slice(&kept);
    }
    Ok(())
}

/// A record, unprotected.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub number: u64,
    bytes: Vec<u8>,
    flags: u16,
    pub sequence: u16,
}

impl Record {
    pub(super) fn decode(number: u64, mut bytes: Vec<u8>) -> Result<Self> {
        let what = format!("file record {number}");
        unprotect(&mut bytes, b"FILE", &what)?;
        let flags = le16(&bytes, 22)?;
        if flags & IN_USE == 0 {
            return Err(Error::not_found(what));
        }
        Ok(Self { number, flags, sequence: le16(&bytes, 16)?, bytes })
    }

    pub(super) fn is_directory(&self) -> bool {
        self.flags & DIRECTORY != 0
    }

    /// Whether it only carries attributes of another.
    pub(super) fn is_extension(&self) -> Result<bool> {
        Ok(le64(&self.bytes, 32)? & REFERENCE != 0)
    }

    /// Its attributes, in stored order.
    pub(super) fn attributes(&self) -> Result<Vec<Attribute<'_>>> {
        let mut at = usize::from(le16(&self.bytes, 20)?);
        let mut found = Vec::new();
        while le32(&self.bytes, at)? != END {
            let len = le32(&self.bytes, at + 4)? as usize;
            let bytes = self.bytes.get(at..).and_then(|rest| rest.get(..len)).filter(|_| len >= 24);
            let bytes = bytes.ok_or_else(|| self.damaged(format!("an attribute of {len} bytes at {at}")))?;
            found.push(Attribute { bytes });
            at += len;
        }
        Ok(found)
    }

    pub(super) fn damaged(&self, why: impl Into<String>) -> Error {
        Error::corrupt(format!("file record {}", self.number), why)
    }
}

/// An attribute in place: its header and, if it is small, its value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    bytes: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(super) fn kind(self) -> Result<u32> {
        le32(self.bytes, 0)
    }

    /// Its name in UTF-16, little-endian; empty for most.
    pub(super) fn name(self) -> Result<&'a [u8]> {
        let (len, at) = (usize::from(u8_at(self.bytes, 9)?) * 2, usize::from(le16(self.bytes, 10)?));
        let name = self.bytes.get(at..at + len);
        name.ok_or_else(|| Error::corrupt("an attribute of a file", "its name passes its end"))
    }

    pub(super) fn flags(self) -> Result<u16> {
        le16(self.bytes, 12)
    }

    /// Its value, or `None` if that lies elsewhere.
    pub(super) fn resident(self) -> Result<Option<&'a [u8]>> {
        if u8_at(self.bytes, 8)? != 0 {
            return Ok(None);
        }
        let (len, at) = (le32(self.bytes, 16)? as usize, usize::from(le16(self.bytes, 20)?));
        let value = at.checked_add(len).and_then(|end| self.bytes.get(at..end));
        value.map(Some).ok_or_else(|| Error::corrupt("an attribute of a file", "its value passes its end"))
    }

    /// The first cluster of the value that its own runs describe.
    pub(super) fn first(self) -> Result<u64> {
        if self.resident()?.is_some() { Ok(0) } else { le64(self.bytes, 16) }
    }

    /// Sizes: allocated, real, written.
    pub(super) fn sizes(self) -> Result<[u64; 3]> {
        Ok([le64(self.bytes, 40)?, le64(self.bytes, 48)?, le64(self.bytes, 56)?])
    }

    /// Space that is taken, where holes are not.
    pub(super) fn taken(self) -> Result<u64> {
        le64(self.bytes, 64)
    }

    /// Clusters compressed together, as a power of two; 0 if none are.
    pub(super) fn unit(self) -> Result<u8> {
        u8_at(self.bytes, 34)
    }

    /// The packed runs.
    pub(super) fn runs(self) -> Result<&'a [u8]> {
        let at = usize::from(le16(self.bytes, 32)?);
        Ok(self.bytes.get(at..).unwrap_or_default())
    }
}
