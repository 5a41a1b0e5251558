//! The blob `vault`: which vault this is, and whether a key is its key. Specified in `docs/overview.md`.

use block::{BlobStore, ByteRange, Cursor, Kind, Malformed, Time, VaultId};

use crate::front::{FRONT_LEN, Front, INFO};
use crate::key::Keys;
use crate::name::INFO_NAME;
use crate::{Error, Result};

/// Bytes of the blob.
pub(crate) const INFO_LEN: usize = 168;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Info {
    pub(crate) front: Front,
    pub(crate) made: Time,
    check: [u8; 16],
}

fn check_value(keys: &Keys, front: &Front) -> [u8; 16] {
    let mut check = [0; 16];
    check.copy_from_slice(&blake3::keyed_hash(&keys.check, &front.salt).as_bytes()[..16]);
    check
}

impl Info {
    pub(crate) fn new(keys: &Keys, front: Front, made: Time) -> Self {
        Self { check: check_value(keys, &front), front, made }
    }

    pub(crate) fn encode(&self, keys: &Keys) -> Vec<u8> {
        let mut bytes = self.front.encode().to_vec();
        bytes.extend_from_slice(&self.made.unix_ms.to_le_bytes());
        bytes.extend_from_slice(&self.check);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mac = blake3::keyed_hash(&keys.info, &bytes);
        bytes.extend_from_slice(mac.as_bytes());
        bytes
    }

    /// Reads the blob as far as that is possible without a key.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let front = Front::decode(bytes, INFO, INFO_NAME)?;
        let rest = Self::fields(bytes).map_err(|why| Error::damaged(INFO_NAME, "body", why))?;
        if front.address.id.as_bytes() != front.vault.as_bytes() {
            return Err(Error::damaged(INFO_NAME, "front", "blob id and vault id differ"));
        }
        let (made, check) = rest;
        Ok(Self { front, made, check })
    }

    fn fields(bytes: &[u8]) -> Result<(Time, [u8; 16]), Malformed> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(FRONT_LEN)?;
        let made = Time { unix_ms: cursor.u64()? };
        let check = cursor.array()?;
        let covered = cursor.position();
        if cursor.u32()? != crc32fast::hash(&bytes[..covered]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        cursor.bytes(32)?;
        cursor.end()?;
        Ok((made, check))
    }

    /// Whether these are the vault's keys, and the blob is as its maker wrote it.
    pub(crate) fn verify(&self, keys: &Keys, bytes: &[u8]) -> Result<()> {
        if check_value(keys, &self.front) != self.check {
            return Err(Error::WrongKey { vault: self.front.vault });
        }
        // comparing hashes of the blake3 crate takes the same time wherever they differ
        let (covered, mac) = bytes.split_at(INFO_LEN - 32);
        match <[u8; 32]>::try_from(mac).map(blake3::Hash::from) {
            Ok(mac) if blake3::keyed_hash(&keys.info, covered) == mac => Ok(()),
            _ => Err(Error::damaged(INFO_NAME, "mac", "it is not what the vault's maker wrote")),
        }
    }

    /// Reads the blob of a store.
    pub(crate) fn load(store: &dyn BlobStore) -> Result<(Self, Vec<u8>)> {
        let size = store.size(INFO_NAME).map_err(|error| match error.kind() {
            Kind::NotFound => Error::NoVault,
            _ => Error::store("read", INFO_NAME)(error),
        })?;
        if size.get() != INFO_LEN as u64 {
            return Err(Error::damaged(INFO_NAME, "length", format!("{size} bytes, {INFO_LEN} expected")));
        }
        let bytes = store.get(INFO_NAME, ByteRange::whole(size)).map_err(Error::store("read", INFO_NAME))?;
        Ok((Self::decode(&bytes)?, bytes))
    }
}

/// Which vault a store holds, without any key.
///
/// # Errors
/// [`Error::NoVault`] if it holds none, [`Error::Damaged`] if its info blob is damaged.
pub fn describe(store: &dyn BlobStore) -> Result<VaultId> {
    Ok(Info::load(store)?.0.front.vault)
}

/// For fuzzing: decodes any bytes as an info blob.
pub fn fuzz_info(bytes: &[u8]) {
    if let Ok(info) = Info::decode(bytes) {
        assert_eq!(bytes.len(), INFO_LEN);
        assert_eq!(info.front.address.id.as_bytes(), info.front.vault.as_bytes());
    }
}
