//! Random 128-bit names. Every kind of id is its own type; all share one text form, 32 lower-case hex digits.

use crate::{Entropy, Result};
use std::fmt;
use std::str::FromStr;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hex digits, this is {0:?}")]
pub struct NotAnId(pub String);

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh id. With the appliance's entropy two equal ones do not happen.
            ///
            /// # Errors
            /// What the source of randomness reports.
            pub fn random(entropy: &dyn Entropy) -> Result<Self> {
                let mut bytes = [0; 16];
                entropy.fill(&mut bytes)?;
                Ok(Self(bytes))
            }

            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes, as stored in files.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> std::result::Result<Self, NotAnId> {
                parse(text).map(Self).ok_or_else(|| NotAnId(text.chars().take(64).collect()))
            }
        }
    };
}

id128!(
    /// A disk, whatever it is called today.
    DiskId
);
id128!(
    /// One state of a disk's content: drawn at its seal, equal wherever a copy of that state lives.
    StateId
);
id128!(
    /// A vault.
    VaultId
);
id128!(
    /// A job.
    JobId
);

fn parse(text: &str) -> Option<[u8; 16]> {
    let digits: [u8; 32] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_is_strict() {
        let id = DiskId::from_bytes([0xa5; 16]);
        assert_eq!(id.to_string().parse::<DiskId>(), Ok(id));
        for bad in ["", "a5", &"A5".repeat(16), &"zz".repeat(16), &"a5".repeat(17)] {
            assert!(bad.parse::<DiskId>().is_err(), "{bad:?}");
        }
    }
}
