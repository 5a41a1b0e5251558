//! From a passphrase to the content of a volume: key derivation, the key's stripes, the digest of the key.

use super::{Digest, Hash, Kdf, Luks, SectorCipher, Slot};
use crate::{Error, Result};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::pbkdf2;
use block::{BlockSource, ByteOffset};
use std::num::NonZeroU32;
use zeroize::{Zeroize, Zeroizing};

/// The unit of encryption of key areas, in bytes.
const AREA_SECTOR: usize = 512;

/// A key of a volume.
pub(super) type Key = Zeroizing<Vec<u8>>;

/// The encrypted content of a volume that was opened: where it is and what decrypts it.
pub(crate) struct Opened {
    /// The address of its first byte.
    pub(crate) below: u64,
    /// The unit of encryption, in bytes.
    pub(crate) sector: u32,
    /// The number of the first sector.
    pub(crate) tweak: u64,
    pub(crate) cipher: SectorCipher,
}

impl Opened {
    /// Decrypts bytes that begin so many bytes into the content, a multiple of the sector.
    pub(crate) fn decrypt(&self, at: u64, bytes: &mut [u8]) {
        self.cipher.decrypt(self.tweak.wrapping_add(at / 512), self.sector as usize, bytes);
    }
}

pub(super) fn digest(hash: Hash, parts: &[&[u8]]) -> Vec<u8> {
    use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256, SHA384, SHA512};
    let mut context = Context::new(match hash {
        Hash::Sha1 => &SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &SHA256,
        Hash::Sha384 => &SHA384,
        Hash::Sha512 => &SHA512,
    });
    parts.iter().for_each(|part| context.update(part));
    context.finish().as_ref().to_vec()
}

fn pbkdf2(hash: Hash) -> pbkdf2::Algorithm {
    match hash {
        Hash::Sha1 => pbkdf2::PBKDF2_HMAC_SHA1,
        Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
        Hash::Sha384 => pbkdf2::PBKDF2_HMAC_SHA384,
        Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
    }
}

impl Digest {
    /// Whether this is the key it was made of.
    pub(super) fn is_of(&self, key: &[u8]) -> bool {
        let rounds = NonZeroU32::new(self.rounds);
        rounds.is_some_and(|rounds| {
            pbkdf2::verify(pbkdf2(self.hash), rounds, &self.salt, key, &self.value).is_ok()
        })
    }
}

impl Luks {
    /// What decrypts the content of this volume, which begins at address `below`.
    pub(super) fn opened(&self, key: &[u8], below: u64) -> Option<Opened> {
        let cipher = SectorCipher::new(self.cipher, key)?;
        Some(Opened { below, sector: self.sector, tweak: self.tweak, cipher })
    }

    /// The volume's key out of a slot, if the passphrase is that slot's.
    ///
    /// # Errors
    /// `NoSpace` if there is not the memory the slot asks for; the area cannot be read.
    pub(super) fn try_slot(
        &self,
        slot: &Slot,
        passphrase: &[u8],
        volume: &dyn BlockSource,
    ) -> Result<Option<Key>> {
        let derived = derive(slot, passphrase)?;
        let Some(cipher) = SectorCipher::new(slot.cipher, &derived) else { return Ok(None) };
        let mut area = Zeroizing::new(vec![0; slot.area.count().get() as usize]);
        volume.read_at(ByteOffset::new(slot.area.start()), &mut area)?;
        cipher.decrypt(0, AREA_SECTOR, &mut area);
        let key = merge(&area, self.key_len, slot.stripes as usize, slot.spread);
        Ok(self.digest.is_of(&key).then_some(key))
    }
}

/// The key of a slot's area.
fn derive(slot: &Slot, passphrase: &[u8]) -> Result<Key> {
    let mut key = Zeroizing::new(vec![0; slot.area_key]);
    match slot.kdf {
        Kdf::Pbkdf2 { hash, rounds } => {
            let rounds = NonZeroU32::new(rounds).ok_or_else(|| impossible("no rounds"))?;
            pbkdf2::derive(pbkdf2(hash), rounds, &slot.salt, passphrase, &mut key);
        }
        Kdf::Argon2 { id, passes, memory_kib, lanes } => {
            let params = Params::new(memory_kib, passes, lanes, Some(slot.area_key)).map_err(impossible)?;
            let kind = if id { Algorithm::Argon2id } else { Algorithm::Argon2i };
            let argon2 = Argon2::new(kind, Version::V0x13, params);
            argon2.hash_password_into(passphrase, &slot.salt, &mut key).map_err(|error| match error {
                // a header may ask for more than this host has
                argon2::Error::OutOfMemory => Error::Reported {
                    kind: block::Kind::NoSpace,
                    text: format!(
                        "trying a passphrase takes {} MiB of memory, which this host does not give",
                        memory_kib >> 10
                    ),
                },
                error => impossible(error),
            })?;
        }
    }
    Ok(key)
}

fn impossible(why: impl ToString) -> Error {
    Error::corrupt("a key slot of LUKS", why.to_string())
}

/// Puts a key together from its stripes: each is hidden by what the ones before it make.
fn merge(area: &[u8], len: usize, stripes: usize, hash: Hash) -> Key {
    let mut key = Zeroizing::new(vec![0; len]);
    for (place, stripe) in area.chunks_exact(len).take(stripes).enumerate() {
        key.iter_mut().zip(stripe).for_each(|(byte, other)| *byte ^= other);
        if place + 1 < stripes {
            diffuse(&mut key, hash);
        }
    }
    key
}

/// Replaces each part of the length of a digest by the digest of its number and itself.
fn diffuse(key: &mut [u8], hash: Hash) {
    let each = digest(hash, &[]).len();
    for (number, part) in (0_u32..).zip(key.chunks_mut(each)) {
        let mut mixed = digest(hash, &[&number.to_be_bytes(), part]);
        part.copy_from_slice(&mixed[..part.len()]);
        mixed.zeroize();
    }
}
