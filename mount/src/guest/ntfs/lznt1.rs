//! LZNT1, the compression of NTFS: chunks of 4 KiB, each stored as it is or as literals and copies from before. Written from
//! the description in MS-XCA, section 2.5.

use crate::{Error, Result};

const CHUNK: usize = 4096;

/// Decompresses a unit into exactly `len` bytes; what is missing at the end of a chunk or of the unit is zeros.
pub(super) fn decompress(mut packed: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let Some((header, rest)) = packed.split_first_chunk::<2>() else { break };
        let header = u16::from_le_bytes(*header);
        if header == 0 {
            break;
        }
        let size = usize::from(header & 0xfff) + 1;
        let (chunk, rest) = rest.split_at_checked(size).ok_or_else(|| damaged("a chunk passes its end"))?;
        let start = bytes.len();
        match header & 0x8000 {
            0 => bytes.extend_from_slice(chunk),
            _ => unpack(chunk, &mut bytes)?,
        }
        if bytes.len() - start > CHUNK {
            return Err(damaged("a chunk is too long"));
        }
        bytes.resize((start + CHUNK).min(len), 0);
        packed = rest;
    }
    bytes.resize(len, 0);
    Ok(bytes)
}

/// One compressed chunk: a byte of eight flags, then eight literals or copies.
fn unpack(chunk: &[u8], bytes: &mut Vec<u8>) -> Result<()> {
    let start = bytes.len();
    let mut at = 0;
    while at < chunk.len() {
        let flags = chunk.get(at).copied().unwrap_or_default();
        at += 1;
        for bit in 0..8 {
            let Some(byte) = chunk.get(at) else { break };
            if flags >> bit & 1 == 0 {
                bytes.push(*byte);
                at += 1;
            } else {
                let high = chunk.get(at + 1).ok_or_else(|| damaged("a copy is cut off"))?;
                copy(u16::from_le_bytes([*byte, *high]), start, bytes)?;
                at += 2;
            }
            if bytes.len() - start > CHUNK {
                return Err(damaged("a chunk is too long"));
            }
        }
    }
    Ok(())
}

/// A distance back and a length share 16 bits; the further into the chunk, the more of them the distance has.
fn copy(token: u16, start: usize, bytes: &mut Vec<u8>) -> Result<()> {
    let position = bytes.len() - start;
    let mut length_bits = 12;
    while length_bits > 4 && position > 1 << (16 - length_bits) {
        length_bits -= 1;
    }
    let distance = usize::from(token >> length_bits) + 1;
    let length = usize::from(token & ((1 << length_bits) - 1)) + 3;
    if distance > position {
        return Err(damaged("a copy from before its chunk"));
    }
    // one by one: a copy may reach into itself
    for _ in 0..length {
        let byte = bytes.get(bytes.len() - distance).copied().unwrap_or_default();
        bytes.push(byte);
    }
    Ok(())
}

fn damaged(why: &str) -> Error {
    Error::corrupt("compressed content", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_document_decompress() {
        // MS-XCA 3.3
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text =
            b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E \
                     F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let bytes = decompress(&packed, text.len()).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(text));
        let ones = [0x03, 0xb0, 0x02, b'a', 0xfc, 0x0f, 0, 0];
        assert_eq!(decompress(&ones, 4096).unwrap(), [b'a'; 4096]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for packed in [&[0x03, 0xb0, 0x01, 0, 0, 0][..], &[0xff, 0xbf, 0], &[0x02, 0xb0, 0x02, b'a', 0]] {
            assert!(decompress(packed, 4096).is_err(), "{packed:x?}");
        }
    }
}
