//! CRC-32C (Castagnoli), the checksum of foreign formats: ext4 and its journal, VHDX. Files of ours have CRC-32.

const TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        tables[0][i] = crc;
        i += 1;
    }
    let mut i = 0;
    while i < 256 {
        let mut n = 1;
        while n < 8 {
            let before = tables[n - 1][i];
            tables[n][i] = before >> 8 ^ tables[0][(before & 0xff) as usize];
            n += 1;
        }
        i += 1;
    }
    tables
}

/// The register after `bytes`, starting from `crc` (all ones for a fresh checksum), without the final inversion.
pub fn crc32c(mut crc: u32, bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let word = u64::from_le_bytes(*word) ^ u64::from(crc);
        crc = (0..8).fold(0, |sum, n| sum ^ TABLES[7 - n][(word >> (8 * n) & 0xff) as usize]);
    }
    rest.iter().fold(crc, |crc, &byte| crc >> 8 ^ TABLES[0][((crc ^ u32::from(byte)) & 0xff) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of RFC 3720, B.4.
    #[test]
    fn agrees_with_the_published_check_value() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
        let split = crc32c(crc32c(!0, b"12345"), b"6789");
        assert_eq!(!split, 0xe306_9283);
    }
}
