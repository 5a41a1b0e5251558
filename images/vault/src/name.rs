//! Names of blobs and ids of what is in them.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::str::FromStr;

use block::{Cursor, Entropy, Malformed};

use crate::{Error, Result};

/// The name of the blob that says which vault this is.
pub(crate) const INFO_NAME: &str = "vault";

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let valid = text.len() == 2 * N && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2).filter(|_| valid)?, 16).ok()?;
    }
    Some(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $vis:vis $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name([u8; $len]);

        #[allow(dead_code, reason = "every kind of id has the same methods")]
        impl $name {
            /// A fresh id.
            $vis fn random(entropy: &dyn Entropy) -> Result<Self> {
                let mut bytes = [0; $len];
                entropy.fill(&mut bytes).map_err(Error::Entropy)?;
                Ok(Self(bytes))
            }

            /// The id with these bytes.
            $vis const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes, as stored.
            $vis const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                unhex(text).map(Self).ok_or_else(|| {
                    let shown: String = text.chars().take(64).collect();
                    Error::invalid(format!("id {shown:?}"), format!("{} hex digits are valid", 2 * $len))
                })
            }
        }
    };
}

id!(
    /// One recovery point in one vault: the id of its point blob.
    pub ManifestId, 16
);
id!(
    /// One sweep of one vault: the id of its list of packs.
    pub SweepId, 16
);
id!(
    /// The part of the name space one appliance writes to.
    pub ApplianceId, 8
);
id!(
    /// A way to open the vault with something other than its key.
    pub SlotId, 16
);
id!(
    /// A pack or an index blob.
    pub(crate) BlobId, 16
);
id!(
    /// What a chunk is found by: 128 bits of the keyed BLAKE3 of its bytes.
    pub(crate) Fingerprint, 16
);

/// One fingerprint in this many is a sample. A power of two.
const SAMPLED: u8 = 32;

impl Fingerprint {
    /// What an index has of it.
    pub(crate) fn key(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Whether it stands in an index wherever its chunk is in a pack. Judged by bits the key has not, so that keys of samples are
    /// spread as evenly as all others.
    pub(crate) fn is_sample(&self) -> bool {
        self.0[15].is_multiple_of(SAMPLED)
    }
}

/// Hashes fingerprints and their keys by taking them as they are: they are the output of a keyed hash, so nobody can choose ones that collide.
#[derive(Default)]
pub(crate) struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        if let Some((first, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    /// The length of an array of bytes, which comes before them.
    fn write_usize(&mut self, _len: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by fingerprints or their keys.
pub(crate) type ByPrint<K, V> = HashMap<K, V, BuildHasherDefault<AsItIs>>;

/// Which of the vault's objects a blob is. The text is the first segment of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shelf {
    Packs,
    Index,
    Points,
    Writers,
    Slots,
    Quarantine,
    Moved,
}

impl Shelf {
    pub(crate) fn prefix(self) -> &'static str {
        match self {
            Self::Packs => "packs/",
            Self::Index => "index/",
            Self::Points => "points/",
            Self::Writers => "writers/",
            Self::Slots => "keys/",
            Self::Quarantine => "quarantine/",
            Self::Moved => "moved/",
        }
    }
}

/// Who wrote a blob and which one it is; with its shelf, its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) appliance: ApplianceId,
    pub(crate) id: BlobId,
}

/// Bytes of a stored address.
pub(crate) const ADDRESS_LEN: usize = 24;

impl Address {
    pub(crate) fn encode(&self) -> [u8; ADDRESS_LEN] {
        let mut bytes = [0; ADDRESS_LEN];
        bytes[..8].copy_from_slice(self.appliance.as_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        bytes
    }

    pub(crate) fn decode(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let appliance = ApplianceId::from_bytes(cursor.array()?);
        Ok(Self { appliance, id: BlobId::from_bytes(cursor.array()?) })
    }

    pub(crate) fn name(&self, shelf: Shelf) -> String {
        let Self { appliance, id } = self;
        match shelf {
            Shelf::Packs | Shelf::Moved => {
                format!("{}{appliance}/{:02x}/{id}", shelf.prefix(), id.as_bytes()[0])
            }
            _ => format!("{}{appliance}/{id}", shelf.prefix()),
        }
    }

    /// The address in a name of this shelf, or `None` if no writer of ours made the name.
    pub(crate) fn parse(shelf: Shelf, name: &str) -> Option<Self> {
        let mut segments = name.strip_prefix(shelf.prefix())?.split('/');
        let appliance = segments.next()?.parse().ok()?;
        let id = segments.next_back()?.parse().ok()?;
        let address = Self { appliance, id };
        (address.name(shelf) == name).then_some(address)
    }
}

/// Where something is: in which pack, in which entry of it, and which chunk of that frame; for a node the chunk is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Spot {
    pub(crate) pack: Address,
    pub(crate) entry: u32,
    pub(crate) chunk: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_no_addresses() {
        let address =
            Address { appliance: ApplianceId::from_bytes([0xab; 8]), id: BlobId::from_bytes([0x5c; 16]) };
        let shelves = [
            Shelf::Packs,
            Shelf::Index,
            Shelf::Points,
            Shelf::Writers,
            Shelf::Slots,
            Shelf::Quarantine,
            Shelf::Moved,
        ];
        for shelf in shelves {
            let name = address.name(shelf);
            assert!(block::check_blob_name(&name).is_ok(), "{name}");
            assert_eq!(Address::parse(shelf, &name), Some(address));
            for stranger in
                [format!("{name}0"), format!("{name}/x"), name.replace('c', "C"), name.replace("ab", "zz")]
            {
                assert_eq!(Address::parse(shelf, &stranger), None, "{stranger}");
            }
        }
        assert_eq!(Address::parse(Shelf::Packs, &address.name(Shelf::Packs).replace("/5c/", "/5d/")), None);
    }

    #[test]
    fn ids_are_strict() {
        let id = ManifestId::from_bytes([0x0f; 16]);
        assert_eq!(id.to_string().parse::<ManifestId>().ok(), Some(id));
        for bad in ["", "0f", &"0F".repeat(16), &"é".repeat(16), &"+f".repeat(16)] {
            assert!(bad.parse::<ManifestId>().is_err(), "{bad}");
        }
    }
}
