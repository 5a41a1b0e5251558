//! Sealing: AES-256-GCM with a key for each blob and a counter for each place in it. Specified in `docs/keys.md`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::front::{Front, VERSION};
use crate::key::Keys;

/// Bytes a seal adds.
pub(crate) const TAG_LEN: usize = 16;

/// Where in a blob something is sealed. Each place is sealed once in a blob's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) part: u8,
    pub(crate) number: u64,
}

impl Place {
    pub(crate) const fn new(part: u8, number: u64) -> Self {
        Self { part, number }
    }

    fn nonce(self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[0] = self.part;
        nonce[4..].copy_from_slice(&self.number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The key of one blob, bound to what the blob is and is called.
pub(crate) struct BlobKey {
    key: LessSafeKey,
    bound: [u8; 48],
}

/// The seal does not open: the bytes, their place, the blob's name or the key are others than when it was sealed.
#[derive(Debug)]
pub(crate) struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the seal is broken")
    }
}

impl BlobKey {
    pub(crate) fn derive(keys: &Keys, front: &Front) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&keys.blob);
        hasher.update(&front.salt);
        if !block::planted!("vault-place-unbound") {
            hasher.update(&front.format).update(front.vault.as_bytes());
            hasher.update(front.address.appliance.as_bytes()).update(front.address.id.as_bytes());
        }
        let raw = Zeroizing::new(*hasher.finalize().as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, &*raw).expect("AES-256 takes any 32 bytes as its key");
        let mut bound = [0; 48];
        bound[..4].copy_from_slice(&front.format);
        bound[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bound[8..24].copy_from_slice(front.vault.as_bytes());
        bound[24..32].copy_from_slice(front.address.appliance.as_bytes());
        bound[32..].copy_from_slice(front.address.id.as_bytes());
        Self { key: LessSafeKey::new(key), bound }
    }

    fn aad(&self, place: Place, extra: &[u8]) -> Aad<Vec<u8>> {
        if block::planted!("vault-place-unbound") {
            return Aad::from(Vec::new());
        }
        let mut aad = Vec::with_capacity(self.bound.len() + 12 + extra.len());
        aad.extend_from_slice(&self.bound);
        aad.extend_from_slice(&[place.part, 0, 0, 0]);
        aad.extend_from_slice(&place.number.to_le_bytes());
        aad.extend_from_slice(extra);
        Aad::from(aad)
    }

    /// Seals `bytes` and appends them to `out`.
    pub(crate) fn seal(&self, place: Place, extra: &[u8], bytes: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(bytes);
        let tag = self
            .key
            .seal_in_place_separate_tag(place.nonce(), self.aad(place, extra), &mut out[start..])
            .expect("a piece of a blob is far below the cipher's limit");
        out.extend_from_slice(tag.as_ref());
    }

    /// Opens a sealed piece in place and gives the bytes in it.
    pub(crate) fn open<'a>(
        &self,
        place: Place,
        extra: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], Broken> {
        if block::planted!("vault-seal-unchecked") {
            return Ok(self.open_unchecked(place, extra, sealed));
        }
        match self.key.open_in_place(place.nonce(), self.aad(place, extra), sealed) {
            Ok(bytes) => Ok(bytes),
            Err(_) => Err(Broken),
        }
    }

    /// The planted bug: the cipher's keystream is applied whether the tag fits or not.
    fn open_unchecked<'a>(&self, place: Place, extra: &[u8], sealed: &'a mut [u8]) -> &'a [u8] {
        let len = sealed.len().saturating_sub(TAG_LEN);
        let body = &mut sealed[..len];
        // counter mode: sealing what was sealed gives the bytes back
        if self.key.seal_in_place_separate_tag(place.nonce(), self.aad(place, extra), body).is_err() {
            body.fill(0);
        }
        body
    }
}
