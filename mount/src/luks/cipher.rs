//! Decryption of sectors: AES in the modes of disks. Only this way round; nothing here encrypts a guest's bytes.

use super::Hash;
use super::open::digest;
use aes::cipher::{Array, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use zeroize::Zeroizing;

const BLOCK: usize = 16;
/// Numbers of sectors count these, whatever the sector.
const UNIT: u64 = 512;

/// A cipher with its mode and what makes its starting values. All are AES; the length of the key tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Cipher {
    XtsPlain64,
    /// The number of the sector is cut to 32 bits.
    XtsPlain,
    CbcEssivSha256,
    CbcPlain64,
    CbcPlain,
}

impl Cipher {
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("aes-xts-plain64", Self::XtsPlain64),
        ("aes-xts-plain", Self::XtsPlain),
        ("aes-cbc-essiv:sha256", Self::CbcEssivSha256),
        ("aes-cbc-plain64", Self::CbcPlain64),
        ("aes-cbc-plain", Self::CbcPlain),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(its, _)| *its == name).map(|(_, cipher)| *cipher)
    }

    fn is_xts(self) -> bool {
        matches!(self, Self::XtsPlain64 | Self::XtsPlain)
    }

    /// Whether a key may have so many bytes.
    pub fn takes(self, key_len: usize) -> bool {
        let each = if self.is_xts() { key_len / 2 } else { key_len };
        [16, 24, 32].contains(&each) && (!self.is_xts() || key_len.is_multiple_of(2))
    }
}

/// AES with a key of any length. It wipes its round keys when it goes.
enum Aes {
    Short(Aes128),
    Middle(Aes192),
    Long(Aes256),
}

impl Aes {
    fn new(key: &[u8]) -> Option<Self> {
        Some(match key.len() {
            16 => Self::Short(Aes128::new_from_slice(key).ok()?),
            24 => Self::Middle(Aes192::new_from_slice(key).ok()?),
            32 => Self::Long(Aes256::new_from_slice(key).ok()?),
            _ => return None,
        })
    }

    fn encrypt(&self, block: &mut [u8; BLOCK]) {
        let block: &mut Array<u8, _> = block.into();
        match self {
            Self::Short(aes) => aes.encrypt_block(block),
            Self::Middle(aes) => aes.encrypt_block(block),
            Self::Long(aes) => aes.encrypt_block(block),
        }
    }

    /// Many blocks, each for itself.
    fn decrypt(&self, blocks: &mut [[u8; BLOCK]]) {
        let blocks = Array::cast_slice_from_core_mut(blocks);
        match self {
            Self::Short(aes) => aes.decrypt_blocks(blocks),
            Self::Middle(aes) => aes.decrypt_blocks(blocks),
            Self::Long(aes) => aes.decrypt_blocks(blocks),
        }
    }
}

/// Decrypts the sectors of one volume or area.
pub struct SectorCipher {
    mode: Cipher,
    content: Aes,
    /// Makes the starting value of a sector, where that takes a key.
    start: Option<Aes>,
}

impl SectorCipher {
    /// `None` if the cipher takes no key of this length.
    pub fn new(mode: Cipher, key: &[u8]) -> Option<Self> {
        if !mode.takes(key.len()) {
            return None;
        }
        let (content, start) = match mode {
            Cipher::XtsPlain64 | Cipher::XtsPlain => {
                let (content, start) = key.split_at(key.len() / 2);
                (content, Some(Aes::new(start)?))
            }
            Cipher::CbcEssivSha256 => {
                let hashed = Zeroizing::new(digest(Hash::Sha256, &[key]));
                (key, Some(Aes::new(&hashed)?))
            }
            Cipher::CbcPlain64 | Cipher::CbcPlain => (key, None),
        };
        Some(Self { mode, content: Aes::new(content)?, start })
    }

    /// Decrypts whole sectors of `sector` bytes in place; `first` is the number of the first, in units of 512 bytes. A part of a
    /// sector at the end is left as it is.
    pub fn decrypt(&self, first: u64, sector: usize, bytes: &mut [u8]) {
        let each = sector as u64 / UNIT;
        for (place, sector) in (0..).zip(bytes.chunks_exact_mut(sector)) {
            let start = self.start(first.wrapping_add(place * each));
            let blocks = sector.as_chunks_mut::<BLOCK>().0;
            if self.mode.is_xts() {
                self.xts(start, blocks);
            } else {
                self.cbc(start, blocks);
            }
        }
    }

    fn start(&self, number: u64) -> [u8; BLOCK] {
        let number = match self.mode {
            Cipher::XtsPlain | Cipher::CbcPlain => number & 0xffff_ffff,
            _ => number,
        };
        let mut start = u128::from(number).to_le_bytes();
        if let Some(aes) = &self.start {
            aes.encrypt(&mut start);
        }
        start
    }

    fn xts(&self, start: [u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
        let tweak = |blocks: &mut [[u8; BLOCK]]| {
            let mut tweak = u128::from_le_bytes(start);
            for block in blocks {
                *block = (u128::from_le_bytes(*block) ^ tweak).to_le_bytes();
                // multiplied by x in the field of 2^128 elements
                tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
            }
        };
        tweak(blocks);
        self.content.decrypt(blocks);
        tweak(blocks);
    }

    fn cbc(&self, start: [u8; BLOCK], blocks: &mut [[u8; BLOCK]]) {
        let mut before = u128::from_le_bytes(start);
        let chained: Vec<[u8; BLOCK]> = blocks.to_vec();
        self.content.decrypt(blocks);
        for (block, encrypted) in blocks.iter_mut().zip(chained) {
            *block = (u128::from_le_bytes(*block) ^ before).to_le_bytes();
            before = u128::from_le_bytes(encrypted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// The first two vectors of IEEE 1619 for AES-128, the second with a number of its own.
    #[test]
    fn sectors_decrypt_as_the_standard_says() {
        for (key, number, plain, encrypted) in [
            (
                "00".repeat(32),
                0,
                "00".repeat(32),
                "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e",
            ),
            (
                "11".repeat(16) + &"22".repeat(16),
                0x33_3333_3333,
                "44".repeat(32),
                "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0",
            ),
        ] {
            let cipher = SectorCipher::new(Cipher::XtsPlain64, &bytes(&key)).unwrap();
            let mut sector = bytes(encrypted);
            cipher.xts(cipher.start(number), sector.as_chunks_mut::<BLOCK>().0);
            assert_eq!(sector, bytes(&plain));
        }
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        for (cipher, len) in [
            (Cipher::XtsPlain64, 16),
            (Cipher::XtsPlain64, 33),
            (Cipher::CbcPlain, 64),
            (Cipher::CbcPlain, 0),
        ] {
            assert!(SectorCipher::new(cipher, &vec![0; len]).is_none(), "{cipher:?} {len}");
        }
    }
}
