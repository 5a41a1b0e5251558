//! Checked reading of stored bytes. Decoders never cast and never index; they ask a cursor.

/// Why bytes cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why} (at byte {at})")]
pub struct Malformed {
    /// What does not fit.
    pub why: String,
    /// How far decoding came.
    pub at: usize,
}

/// Reads fields, little-endian where not said otherwise, from the front of a byte slice; every step is checked.
pub struct Cursor<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// A cursor at the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Bytes read so far.
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                self.at += count;
                Ok(taken)
            }
            None => Err(self.malformed(format!("{count} bytes wanted, {} left", self.rest.len()))),
        }
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`Malformed`] at the end.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    /// The next two bytes as a number.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes as a number.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes as a number.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// The next two bytes as a big-endian number, as some foreign formats have them.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn be_u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// The next four bytes as a big-endian number, as some foreign formats have them.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn be_u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// The next eight bytes as a big-endian number, as some foreign formats have them.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn be_u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A number of entries, at most `limit` and at most what the remaining bytes can hold at `each` bytes an entry,
    /// so that allocating for it is safe.
    ///
    /// # Errors
    /// [`Malformed`] if it passes either.
    pub fn count_u32(&mut self, limit: usize, each: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count > limit || count.saturating_mul(each.max(1)) > self.remaining() {
            return Err(self.malformed(format!("{count} entries do not fit here")));
        }
        Ok(count)
    }

    /// A text: a length (u16) and that many bytes of UTF-8, at most `limit` of them.
    ///
    /// # Errors
    /// [`Malformed`] if it is longer or not UTF-8.
    pub fn text(&mut self, limit: usize) -> Result<&'a str, Malformed> {
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(self.malformed(format!("a text of {len} bytes, at most {limit} are valid")));
        }
        let bytes = self.bytes(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    /// Succeeds only at the end of the bytes.
    ///
    /// # Errors
    /// [`Malformed`] if some are left.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(self.malformed(format!("{left} bytes too many"))),
        }
    }

    /// An error at the current position.
    pub fn malformed(&self, why: impl Into<String>) -> Malformed {
        Malformed { why: why.into(), at: self.at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_checked() {
        let mut cursor = Cursor::new(&[1, 0, 2, 3, 0, b'a', b'b', b'c']);
        assert_eq!(cursor.u16(), Ok(1));
        assert_eq!(cursor.u8(), Ok(2));
        assert_eq!(cursor.text(3), Ok("abc"));
        assert_eq!(cursor.end(), Ok(()));
        assert!(cursor.u8().is_err());
        assert_eq!(Cursor::new(&[1, 2]).be_u16(), Ok(0x0102));
        assert_eq!(Cursor::new(&[0, 0, 1, 2]).be_u32(), Ok(0x0102));
        assert!(Cursor::new(&[0; 7]).be_u64().is_err());
        assert!(Cursor::new(&[9, 0, 0, 0, 1]).count_u32(100, 1).is_err());
        assert!(Cursor::new(&[9, 0, 0, 0]).count_u32(8, 0).is_err());
        assert!(Cursor::new(&[2, 0, 0xff, 0xff]).text(9).is_err());
    }
}
