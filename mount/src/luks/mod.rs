//! Volumes encrypted with LUKS, of either version, and what opens them.
//!
//! The two halves live in two processes. The header is a guest's bytes, so the parser reads it ([`header`]) and tells what it
//! says as numbers within limits ([`Luks`]). Passphrases and keys stay with the supervisor, which tries the one on the other
//! (`Passphrases::open`) and decrypts what anybody reads of the volume (`SectorCipher`): the parser has neither passphrase
//! nor key, and sees of a volume that was opened what it sees of any other.

mod cipher;
pub mod header;
pub mod metadata;
mod open;
mod passphrases;

pub use cipher::{Cipher, SectorCipher};
pub(crate) use open::Opened;
pub use passphrases::Passphrases;

use block::ByteRange;

/// Key slots of a header: LUKS2 has so many at most, LUKS1 eight.
pub const MAX_SLOTS: usize = 32;
/// The longest salt, in bytes; 32 and 64 are written.
pub const MAX_SALT: usize = 128;
/// The longest key, in bytes: two of AES-256 for XTS.
pub const MAX_KEY: usize = 64;
/// Stripes a key is spread over; 4000 are written.
pub const MAX_STRIPES: u32 = 16_000;
/// The largest sector, in bytes.
pub const MAX_SECTOR: u32 = 4096;
/// Rounds of PBKDF2 that are tried: some minutes on one core, a hundred times what the tools choose.
pub const MAX_ROUNDS: u32 = 1 << 30;
/// Memory of Argon2 that is tried, in KiB: 4 GiB, the most the tools take.
pub const MAX_MEMORY_KIB: u32 = 4 << 20;
/// Memory times passes of Argon2, in KiB: some minutes on one core.
pub const MAX_WORK_KIB: u64 = 128 << 20;

/// A function that makes a digest of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Hash {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(crate) const ALL: [(&'static str, Self); 4] =
        [("sha1", Self::Sha1), ("sha256", Self::Sha256), ("sha384", Self::Sha384), ("sha512", Self::Sha512)];

    fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(its, _)| *its == name).map(|(_, hash)| *hash)
    }
}

/// How a passphrase becomes a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kdf {
    /// Rounds from 1 to [`MAX_ROUNDS`].
    Pbkdf2 { hash: Hash, rounds: u32 },
    /// Passes and lanes from 1 on, memory up to [`MAX_MEMORY_KIB`]; `id` tells Argon2id from Argon2i.
    Argon2 { id: bool, passes: u32, memory_kib: u32, lanes: u32 },
}

/// One place where the volume's key lies, under one passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Makes the key of the area.
    pub kdf: Kdf,
    /// Goes into it.
    pub salt: Vec<u8>,
    /// Encrypts the area, with a key of [`area_key`](Self::area_key) bytes.
    pub cipher: Cipher,
    /// Bytes of the key of the area.
    pub area_key: usize,
    /// Where in the volume the area is: the volume's key, spread over the stripes.
    pub area: ByteRange,
    /// How many stripes, 1 to [`MAX_STRIPES`].
    pub stripes: u32,
    /// Spreads them.
    pub spread: Hash,
}

/// What a header says of the volume and of the ways to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Luks {
    /// 1 or 2.
    pub version: u8,
    /// Encrypts the content.
    pub cipher: Cipher,
    /// Bytes of the volume's key.
    pub key_len: usize,
    /// The unit of encryption, a power of two from 512 to [`MAX_SECTOR`].
    pub sector: u32,
    /// Where in the volume the encrypted content is; a multiple of the sector.
    pub content: ByteRange,
    /// The number of its first sector, in units of 512 bytes.
    pub tweak: u64,
    /// The digest that tells the right key: PBKDF2 of it with this function, rounds and salt.
    pub digest: Digest,
    /// At most [`MAX_SLOTS`].
    pub slots: Vec<Slot>,
}

/// Tells whether a key is the right one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Digest {
    pub hash: Hash,
    pub rounds: u32,
    pub salt: Vec<u8>,
    /// At least 16 bytes, so that no other key passes by chance.
    pub value: Vec<u8>,
}

impl Luks {
    /// Whether all of it is within the limits, and within a volume of `len` bytes. Whoever reads a header and whoever is told
    /// of one both ask.
    pub fn is_possible(&self, len: u64) -> bool {
        let inside = |range: &ByteRange| !range.is_empty() && range.end() <= len;
        let salt = |salt: &[u8]| !salt.is_empty() && salt.len() <= MAX_SALT;
        let slot = |slot: &Slot| {
            let kdf = match slot.kdf {
                Kdf::Pbkdf2 { rounds, .. } => (1..=MAX_ROUNDS).contains(&rounds),
                Kdf::Argon2 { passes, memory_kib, lanes, .. } => {
                    passes > 0
                        && (1..=64).contains(&lanes)
                        && (8 * lanes..=MAX_MEMORY_KIB).contains(&memory_kib)
                        && u64::from(passes) * u64::from(memory_kib) <= MAX_WORK_KIB
                }
            };
            let stripes = (1..=MAX_STRIPES).contains(&slot.stripes);
            let spread = (self.key_len * slot.stripes as usize).next_multiple_of(512);
            kdf && salt(&slot.salt)
                && slot.cipher.takes(slot.area_key)
                && stripes
                && inside(&slot.area)
                && slot.area.count().get() == spread as u64
        };
        let sector = u64::from(self.sector);
        // first: the lengths of slots are multiples of that of the key
        self.cipher.takes(self.key_len)
            && (512..=MAX_SECTOR).contains(&self.sector)
            && self.sector.is_power_of_two()
            && inside(&self.content)
            && self.content.count().get().is_multiple_of(sector)
            && (1..=MAX_ROUNDS).contains(&self.digest.rounds)
            && salt(&self.digest.salt)
            && (16..=64).contains(&self.digest.value.len())
            && self.slots.len() <= MAX_SLOTS
            && self.slots.iter().all(slot)
    }
}
