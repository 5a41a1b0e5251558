//! The header every file of ours begins with. Its layout is specified in `docs/header.md`.

use crate::{Cursor, Error, Kind, Result};

/// Bytes a header takes.
pub const HEADER_LEN: usize = 32;

/// Identifies a file as ours. The high bit catches transfers that are not 8-bit clean, the line ends catch text-mode
/// conversions, as in PNG.
const MAGIC: [u8; 8] = *b"\x89blkd\r\n\x1a";

/// What a file says of itself in its first [`HEADER_LEN`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHeader {
    /// Which format the rest has.
    pub format: [u8; 4],
    /// The version of that format.
    pub version: u32,
    /// Features a reader may ignore.
    pub compatible: u32,
    /// Features a reader may ignore if it does not write.
    pub read_only_compatible: u32,
    /// Features a reader must know.
    pub incompatible: u32,
}

impl FileHeader {
    /// A header without optional features.
    pub const fn new(format: [u8; 4], version: u32) -> Self {
        Self { format, version, compatible: 0, read_only_compatible: 0, incompatible: 0 }
    }

    /// The stored form.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.format);
        let words = [self.version, self.compatible, self.read_only_compatible, self.incompatible];
        for (field, word) in bytes[12..28].chunks_exact_mut(4).zip(words) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header and checks that this version can read and write what follows: same format, same version, no
    /// unknown feature that matters.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are no header or its checksum disagrees, `Unsupported` if the file is of another format
    /// or a newer version. `what` names the file in the message.
    pub fn check(bytes: &[u8], expected: &Self, what: &str) -> Result<Self> {
        let header = Self::decode(bytes).map_err(|why| Error::corrupt(what, Some(0), why))?;
        let unsupported = |why: String| Err(Error::refused(Kind::Unsupported, what, why));
        if header.format != expected.format {
            return unsupported(format!(
                "is a {:?} file, not {:?}",
                text(header.format),
                text(expected.format)
            ));
        }
        if header.version != expected.version {
            return unsupported(format!(
                "has version {}, this program reads {}",
                header.version, expected.version
            ));
        }
        if header.incompatible & !expected.incompatible != 0
            || header.read_only_compatible & !expected.read_only_compatible != 0
        {
            return unsupported("uses features this program does not know".to_owned());
        }
        Ok(header)
    }

    fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let mut cursor = Cursor::new(bytes);
        let fields = cursor.bytes(HEADER_LEN).map_err(|_| "too short for a file header".to_owned())?;
        let mut cursor = Cursor::new(fields);
        let mut next = || -> std::result::Result<_, crate::Malformed> {
            let magic: [u8; 8] = cursor.array()?;
            let format = cursor.array()?;
            let words = [cursor.u32()?, cursor.u32()?, cursor.u32()?, cursor.u32()?];
            Ok((magic, format, words, cursor.u32()?))
        };
        let (magic, format, words, crc) = next().map_err(|malformed| malformed.to_string())?;
        if magic != MAGIC {
            return Err("does not begin as a blockd file".to_owned());
        }
        if crc != crc32fast::hash(&fields[..28]) {
            return Err("the header's checksum disagrees".to_owned());
        }
        let [version, compatible, read_only_compatible, incompatible] = words;
        Ok(Self { format, version, compatible, read_only_compatible, incompatible })
    }
}

fn text(format: [u8; 4]) -> String {
    String::from_utf8_lossy(&format).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: FileHeader = FileHeader::new(*b"chai", 1);

    #[test]
    fn any_flipped_bit_is_seen() {
        let bytes = EXAMPLE.encode();
        assert_eq!(FileHeader::check(&bytes, &EXAMPLE, "f").ok(), Some(EXAMPLE));
        for bit in 0..HEADER_LEN * 8 {
            let mut hurt = bytes;
            hurt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(
                FileHeader::check(&hurt, &EXAMPLE, "f").unwrap_err().kind(),
                Kind::Corrupt,
                "bit {bit}"
            );
        }
        assert_eq!(FileHeader::check(&bytes[..31], &EXAMPLE, "f").unwrap_err().kind(), Kind::Corrupt);
    }

    #[test]
    fn other_formats_newer_versions_and_unknown_features_are_refused_by_name() {
        for other in [
            FileHeader::new(*b"pack", 1),
            FileHeader::new(*b"chai", 2),
            FileHeader { incompatible: 1, ..EXAMPLE },
            FileHeader { read_only_compatible: 4, ..EXAMPLE },
        ] {
            let error = FileHeader::check(&other.encode(), &EXAMPLE, "disks/a/chain").unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().starts_with("disks/a/chain: "), "{error}");
        }
        let newer = FileHeader { compatible: 1, ..EXAMPLE };
        assert!(FileHeader::check(&newer.encode(), &EXAMPLE, "f").is_ok());
    }

    /// The bytes shown in docs/header.md.
    #[test]
    fn the_documented_bytes_are_the_real_ones() {
        let shown: Vec<u8> = include_str!("../docs/header.md")
            .lines()
            .filter_map(|line| line.strip_prefix("    0"))
            .flat_map(|line| line.split_whitespace().skip(1).take(16))
            .map(|byte| u8::from_str_radix(byte, 16).expect("a hex byte"))
            .collect();
        assert_eq!(shown, EXAMPLE.encode());
    }
}
