//! LZO as btrfs frames it: a length, then segments of at most a sector each, with a length before them that never crosses
//! the border of a sector. Written from the kernel's description of the format (`Documentation/staging/lzo.rst`).

use crate::fields::{le16, le32};
use crate::{Error, Result};

/// Decompresses to at most `limit` bytes.
pub(super) fn decompress(packed: &[u8], sector: usize, limit: usize) -> Result<Vec<u8>> {
    let end = le32(packed, 0)? as usize;
    let packed = packed.get(..end).ok_or_else(|| damaged("it is longer than its extent"))?;
    let mut bytes = Vec::with_capacity(limit);
    let mut at = 4;
    while at < packed.len() && bytes.len() < limit {
        let left = sector - at % sector;
        if left < 4 {
            at += left;
        }
        let len = le32(packed, at)? as usize;
        at += 4;
        let segment = packed.get(at..).and_then(|rest| rest.get(..len));
        unpack(segment.ok_or_else(|| damaged("a segment passes its end"))?, sector, &mut bytes)?;
        at += len;
    }
    bytes.truncate(limit);
    Ok(bytes)
}

/// The instructions of one segment, appended to `bytes`.
struct Segment<'a, 'b> {
    packed: &'a [u8],
    at: usize,
    bytes: &'b mut Vec<u8>,
    start: usize,
    limit: usize,
}

fn unpack(packed: &[u8], limit: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let start = bytes.len();
    Segment { packed, at: 0, bytes, start, limit }.run()
}

impl Segment<'_, '_> {
    fn byte(&mut self) -> Result<usize> {
        let byte = self.packed.get(self.at).ok_or_else(|| damaged("an instruction is cut off"))?;
        self.at += 1;
        Ok(usize::from(*byte))
    }

    fn pair(&mut self) -> Result<usize> {
        let pair = le16(self.packed, self.at).map_err(|_| damaged("an instruction is cut off"))?;
        self.at += 2;
        Ok(usize::from(pair))
    }

    /// A length that does not fit its bits: zeros count 255 each.
    fn long(&mut self, base: usize) -> Result<usize> {
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len += 255,
                last => return Ok(len + last),
            }
        }
    }

    fn literals(&mut self, len: usize) -> Result<()> {
        let from = self.packed.get(self.at..).and_then(|rest| rest.get(..len));
        self.bytes.extend_from_slice(from.ok_or_else(|| damaged("literals are cut off"))?);
        self.at += len;
        self.fits()
    }

    fn copy(&mut self, distance: usize, len: usize) -> Result<()> {
        if distance > self.bytes.len() - self.start || len > self.limit {
            return Err(damaged("a copy from before its segment"));
        }
        // one by one: a copy may reach into itself
        for _ in 0..len {
            let byte = self.bytes.get(self.bytes.len() - distance).copied().unwrap_or_default();
            self.bytes.push(byte);
        }
        self.fits()
    }

    fn fits(&self) -> Result<()> {
        if self.bytes.len() - self.start > self.limit {
            return Err(damaged("a segment is too long"));
        }
        Ok(())
    }

    /// `state` is the number of literals the last instruction brought, 4 for any number above 3.
    fn run(&mut self) -> Result<()> {
        let mut state = 0;
        if self.packed.first().is_some_and(|first| *first > 17) {
            let len = self.byte()? - 17;
            self.literals(len)?;
            state = len.min(4);
        }
        loop {
            let code = self.byte()?;
            let (distance, len, after) = match (code, state) {
                (0..16, 0) => {
                    let len = if code == 0 { self.long(15)? } else { code };
                    self.literals(len + 3)?;
                    state = 4;
                    continue;
                }
                (0..16, 4) => (0x801 + (code >> 2) + (self.byte()? << 2), 3, code & 3),
                (0..16, _) => (1 + (code >> 2) + (self.byte()? << 2), 2, code & 3),
                (16..32, _) => {
                    let len = if code & 7 == 0 { self.long(7)? } else { code & 7 };
                    let pair = self.pair()?;
                    let distance = ((code & 8) << 11) + (pair >> 2);
                    if distance == 0 {
                        return Ok(());
                    }
                    (0x4000 + distance, len + 2, pair & 3)
                }
                (32..64, _) => {
                    let len = if code & 31 == 0 { self.long(31)? } else { code & 31 };
                    let pair = self.pair()?;
                    (1 + (pair >> 2), len + 2, pair & 3)
                }
                _ => (1 + (code >> 2 & 7) + (self.byte()? << 3), (code >> 5) + 1, code & 3),
            };
            self.copy(distance, len)?;
            self.literals(after)?;
            state = after;
        }
    }
}

fn damaged(why: &str) -> Error {
    Error::corrupt("content compressed with LZO", why)
}
