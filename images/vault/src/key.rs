//! The vault key, its sub-keys and its text forms. Specified in `docs/keys.md`.

use block::{Entropy, VaultId};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Error, Result, key_text};

#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

/// The one secret of a vault: 256 random bits. Its memory is cleared when it is dropped.
pub struct VaultKey(Box<Secret>);

impl std::fmt::Debug for VaultKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VaultKey(..)")
    }
}

impl VaultKey {
    /// A fresh key. In production the entropy is the kernel's.
    ///
    /// # Errors
    /// [`Error::Entropy`] if there is none.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self> {
        let mut key = Self(Box::new(Secret([0; 32])));
        entropy.fill(&mut key.0.0).map_err(Error::Entropy)?;
        Ok(key)
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Box::new(Secret(bytes)))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    /// The text of a key file. It must be stored where only its owner reads it, and never in the vault.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        key_text::file(self)
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`Error::KeyText`] naming the line with the mistake.
    pub fn from_file_text(text: &str) -> Result<Self> {
        key_text::read_file(text)
    }

    /// The sheet to print and keep: the key, the vault it is for, and what to do with it. `name` is what people call
    /// the vault, `place` where its store is.
    pub fn recovery_sheet(&self, vault: VaultId, name: &str, place: &str) -> Zeroizing<String> {
        key_text::sheet(self, vault, name, place)
    }

    /// Reads whichever a person has: a key file, a sheet, or the four key lines alone. A sheet also names its vault.
    ///
    /// # Errors
    /// [`Error::KeyText`] naming the line with the mistake.
    pub fn from_text(text: &str) -> Result<(Self, Option<VaultId>)> {
        key_text::read_any(text)
    }

    /// Reads a sheet, typed or scanned.
    ///
    /// # Errors
    /// [`Error::KeyText`] naming the line with the mistake.
    pub fn from_sheet(text: &str) -> Result<(Self, VaultId)> {
        key_text::read_sheet(text)
    }
}

/// The sub-keys, each for one use.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Keys {
    pub(crate) chunk: [u8; 32],
    pub(crate) check: [u8; 32],
    pub(crate) info: [u8; 32],
    pub(crate) blob: [u8; 32],
}

impl Keys {
    pub(crate) fn derive(key: &VaultKey) -> Self {
        let sub = |context: &str| blake3::derive_key(context, key.bytes());
        Self {
            chunk: sub("blockd vault v1 chunk fingerprint"),
            check: sub("blockd vault v1 key check"),
            info: sub("blockd vault v1 info mac"),
            blob: sub("blockd vault v1 blob key"),
        }
    }
}
