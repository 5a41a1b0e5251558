//! What is asked and said of vaults beyond their making: keys, copies, writers, repair.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One of several copies of a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultCopy {
    /// Which copy, from 1.
    pub number: u8,
    /// The directory it is in; empty if nobody said.
    pub place: String,
    /// `good`, `behind` (it lacks something), `failed` or `absent`.
    pub state: String,
    /// Why it is not good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Blobs given to it since the start, because they were missing or damaged.
    pub repaired: u64,
}

/// An appliance that may write to a vault in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultWriter {
    /// Its identity in the vault.
    pub appliance: String,
    /// What it calls itself; absent if its registration is damaged.
    pub label: Option<String>,
    /// Since when, by its own clock.
    pub since: Option<String>,
    /// Whether it is this one.
    pub own: bool,
}

/// What a repair of a vault's copies did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultRepair {
    /// The vault.
    pub vault: String,
    /// Blobs looked at.
    pub blobs: u64,
    /// Bytes read from all copies.
    pub bytes_read: u64,
    /// Copies of blobs that were missing or damaged and are right again.
    pub repaired: u64,
    /// Damaged packs whose content was written anew.
    #[serde(default)]
    pub packs_healed: Vec<String>,
    /// Damaged chunks of them that another pack of the vault had.
    #[serde(default)]
    pub chunks_from_vault: u64,
    /// Those that a disk or one of its instant recovery points had.
    #[serde(default)]
    pub chunks_from_disks: u64,
    /// Blobs that nothing could make right.
    pub hopeless: u64,
    /// The first of them, with the reason.
    pub problems: Vec<super::Problem>,
}

/// `POST /v1/vaults/{name}/repair`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepairVault {
    /// Read and prove every byte of every copy, instead of comparing names and lengths.
    #[serde(default)]
    pub all: bool,
    /// The copy that is lost and gets a new place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<u8>,
    /// That place: an empty directory, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
}

/// Whether the points of a vault can be deleted before their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Immutability {
    /// They can be.
    #[default]
    Off,
    /// They cannot be, until that is turned off.
    On,
    /// They cannot be, and nobody can change that; the days can only become more.
    Locked,
}

impl Immutability {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Locked => "locked",
        }
    }
}

/// `PUT /v1/vaults/{vault}/protection`: what is to change of it
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VaultProtection {
    /// For how many days a deletion can be undone: 14 to 180.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_delete_days: Option<u32>,
    /// Whether points can be deleted before their time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutability: Option<Immutability>,
    /// For how many days after it was made no point can be deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable_days: Option<u32>,
}

/// Something that opens a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultKeySlot {
    /// Its id.
    pub slot: String,
    /// `key-file`, `passphrase`, `command`, or `damaged`.
    pub kind: String,
    /// When it was made.
    pub made: Option<String>,
}

/// `POST /v1/vaults/{name}/keys`
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    /// `key-file`, `passphrase` or `command`.
    pub kind: String,
    /// The new passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
    /// The text of a key that opens the vault now; else the daemon uses its own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub current_key: String,
    /// Or a passphrase that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_passphrase: Option<String>,
}

/// Shows nothing of the secrets.
impl std::fmt::Debug for AddKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddKey").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// A slot that was added.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyAdded {
    /// Its id.
    pub slot: String,
    /// The text of the new key file, which is kept nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// Shows nothing of the key.
impl std::fmt::Debug for KeyAdded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyAdded").field("slot", &self.slot).finish_non_exhaustive()
    }
}
