//! The front of every blob: what it is, readable without the key. Specified in `docs/overview.md`.

use block::{Cursor, Entropy, FileHeader, HEADER_LEN, Kind, Malformed, VaultId};

use crate::name::{Address, ApplianceId, BlobId, Shelf};
use crate::{Error, Result};

/// Bytes of a front.
pub(crate) const FRONT_LEN: usize = 108;
/// The version of all formats of this crate.
pub(crate) const VERSION: u32 = 1;

pub(crate) const PACK: [u8; 4] = *b"pack";
pub(crate) const INDEX: [u8; 4] = *b"pidx";
pub(crate) const POINT: [u8; 4] = *b"mnfs";
pub(crate) const INFO: [u8; 4] = *b"vinf";
pub(crate) const WRITER: [u8; 4] = *b"vwrt";
pub(crate) const SLOT: [u8; 4] = *b"vkey";
pub(crate) const QUARANTINE: [u8; 4] = *b"qtne";
pub(crate) const MOVED: [u8; 4] = *b"move";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Front {
    pub(crate) format: [u8; 4],
    pub(crate) vault: VaultId,
    pub(crate) address: Address,
    pub(crate) salt: [u8; 32],
}

impl Front {
    /// The front of a new blob, with a fresh salt.
    pub(crate) fn fresh(
        format: [u8; 4],
        vault: VaultId,
        address: Address,
        entropy: &dyn Entropy,
    ) -> Result<Self> {
        let mut salt = [0; 32];
        entropy.fill(&mut salt).map_err(Error::Entropy)?;
        Ok(Self { format, vault, address, salt })
    }

    pub(crate) fn encode(&self) -> [u8; FRONT_LEN] {
        let mut bytes = [0; FRONT_LEN];
        bytes[..32].copy_from_slice(&FileHeader::new(self.format, VERSION).encode());
        bytes[32..48].copy_from_slice(self.vault.as_bytes());
        bytes[48..56].copy_from_slice(self.address.appliance.as_bytes());
        bytes[56..72].copy_from_slice(self.address.id.as_bytes());
        bytes[72..104].copy_from_slice(&self.salt);
        let crc = crc32fast::hash(&bytes[..104]);
        bytes[104..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the front at the beginning of `bytes`. `blob` names it in errors.
    pub(crate) fn decode(bytes: &[u8], format: [u8; 4], blob: &str) -> Result<Self> {
        FileHeader::check(bytes, &FileHeader::new(format, VERSION), blob).map_err(|error| {
            match error.kind() {
                Kind::Unsupported => Error::Unsupported(error),
                _ => Error::damaged(blob, "header", why(error)),
            }
        })?;
        Self::fields(bytes, format).map_err(|why| Error::damaged(blob, "front", why))
    }

    fn fields(bytes: &[u8], format: [u8; 4]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        cursor.bytes(HEADER_LEN)?;
        let vault = VaultId::from_bytes(cursor.array()?);
        let appliance = ApplianceId::from_bytes(cursor.array()?);
        let id = BlobId::from_bytes(cursor.array()?);
        let salt = cursor.array()?;
        if cursor.u32()? != crc32fast::hash(&bytes[..104]) {
            return Err(cursor.malformed("its checksum disagrees"));
        }
        Ok(Self { format, vault, address: Address { appliance, id }, salt })
    }

    /// Reads a front and checks that it is the one of this place in this vault.
    pub(crate) fn expect(
        bytes: &[u8],
        format: [u8; 4],
        vault: VaultId,
        address: Address,
        shelf: Shelf,
    ) -> Result<Self> {
        let name = address.name(shelf);
        let front = Self::decode(bytes, format, &name)?;
        if front.vault != vault {
            return Err(Error::damaged(&name, "front", format!("it belongs to the vault {}", front.vault)));
        }
        if front.address != address {
            return Err(Error::damaged(
                &name,
                "front",
                format!("it was written as {}", front.address.name(shelf)),
            ));
        }
        Ok(front)
    }
}

/// The reason inside an error of the seam, without what it is about.
fn why(error: block::Error) -> String {
    match error {
        block::Error::Corrupt { why, .. } => why,
        other => other.to_string(),
    }
}
