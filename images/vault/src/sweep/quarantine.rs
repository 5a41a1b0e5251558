//! The list of the packs a sweep put into quarantine. Specified in `docs/sweep.md`.

use block::{Cursor, Malformed, Time, VaultId};

use crate::front::{FRONT_LEN, Front, QUARANTINE};
use crate::key::Keys;
use crate::name::{ADDRESS_LEN, Address, Shelf};
use crate::seal::{BlobKey, Place, TAG_LEN};
use crate::{Error, Result};

const PART_BODY: u8 = 1;
const ROW_LEN: usize = ADDRESS_LEN + 9;
const HEAD_LEN: usize = 12;
/// The most packs in one list; a sweep with more puts the rest into the next run's.
pub(crate) const MAX_ROWS: usize = 1 << 18;
/// No valid list is longer.
pub(crate) const MAX_QUARANTINE_LEN: u64 = (FRONT_LEN + HEAD_LEN + MAX_ROWS * ROW_LEN + TAG_LEN) as u64;

/// A pack in quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quarantined {
    pub(crate) pack: Address,
    pub(crate) len: u64,
    /// Whether something reaches what was in it, which is elsewhere now; otherwise nothing does.
    pub(crate) is_moved: bool,
}

/// What one sweep put into quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quarantine {
    pub(crate) made: Time,
    /// Ascending.
    pub(crate) packs: Vec<Quarantined>,
}

impl Quarantine {
    fn body(&self) -> Vec<u8> {
        let mut bytes = self.made.unix_ms.to_le_bytes().to_vec();
        bytes.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        for one in &self.packs {
            bytes.extend_from_slice(&one.pack.encode());
            bytes.extend_from_slice(&one.len.to_le_bytes());
            bytes.push(u8::from(one.is_moved));
        }
        bytes
    }

    pub(crate) fn encode(&self, keys: &Keys, front: &Front) -> Vec<u8> {
        let mut out = front.encode().to_vec();
        BlobKey::derive(keys, front).seal(Place::new(PART_BODY, 0), &[], &self.body(), &mut out);
        out
    }

    pub(crate) fn decode(keys: &Keys, vault: VaultId, address: Address, bytes: &[u8]) -> Result<Self> {
        let name = address.name(Shelf::Quarantine);
        let front = Front::expect(bytes, QUARANTINE, vault, address, Shelf::Quarantine)?;
        let mut sealed = bytes[FRONT_LEN..].to_vec();
        let plain = BlobKey::derive(keys, &front)
            .open(Place::new(PART_BODY, 0), &[], &mut sealed)
            .map_err(|why| Error::damaged(&name, "body", why))?;
        decode_body(plain).map_err(|why| Error::damaged(&name, "body", why))
    }
}

fn decode_body(bytes: &[u8]) -> Result<Quarantine, Malformed> {
    let mut cursor = Cursor::new(bytes);
    let made = Time { unix_ms: cursor.u64()? };
    let count = cursor.count_u32(MAX_ROWS, ROW_LEN)?;
    let mut packs: Vec<Quarantined> = Vec::with_capacity(count);
    for _ in 0..count {
        let (pack, len) = (Address::decode(&mut cursor)?, cursor.u64()?);
        let is_moved = match cursor.u8()? {
            0 => false,
            1 => true,
            why => return Err(cursor.malformed(format!("{why} is no reason"))),
        };
        let one = Quarantined { pack, len, is_moved };
        if packs.last().is_some_and(|last| last.pack >= one.pack) {
            return Err(cursor.malformed("packs out of order"));
        }
        packs.push(one);
    }
    cursor.end()?;
    Ok(Quarantine { made, packs })
}

/// For fuzzing: whatever decodes as the body of a list must encode to the same bytes.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(quarantine) = decode_body(bytes) {
        assert_eq!(quarantine.body(), bytes);
    }
}
