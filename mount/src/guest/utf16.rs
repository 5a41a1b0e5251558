//! Names in UTF-16 on the volume, in bytes for everybody else.

/// UTF-8; half of a pair, which Windows allows, becomes the three bytes its number would have.
pub(super) fn to_bytes(utf16: &[u8]) -> Vec<u8> {
    let units = utf16.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
    let mut bytes = Vec::with_capacity(utf16.len());
    for character in char::decode_utf16(units) {
        match character {
            Ok(character) => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let half = half.unpaired_surrogate();
                let low = |shift: u16| 0x80 | (half >> shift & 0x3f) as u8;
                bytes.extend([0xe0 | (half >> 12) as u8, low(6), low(0)]);
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_are_kept_apart() {
        let utf16: Vec<u8> =
            [0x61_u16, 0xd83e, 0xdd80, 0xd800, 0x7a].into_iter().flat_map(u16::to_le_bytes).collect();
        assert_eq!(to_bytes(&utf16), b"a\xf0\x9f\xa6\x80\xed\xa0\x80z");
    }
}
