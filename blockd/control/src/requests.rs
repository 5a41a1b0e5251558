//! Bodies and queries of requests. Unknown fields are refused, so that a misspelt one does not pass unseen.

use crate::{Consistency, Tier};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/disks`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDisk {
    /// The new disk's name.
    pub name: String,
    /// Its size in bytes. 0, or left away, for that of what it is made on.
    #[serde(default)]
    pub size: u64,
    /// Whether a client is going to fill it over NBD: until `POST /v1/disks/{name}/ready` it takes connections and nothing
    /// else, and a restart of the daemon removes it.
    #[serde(default)]
    pub fill: bool,
    /// What it is made on, without copying it; it shows until it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<NewBase>,
}

/// What a new disk is made on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NewBase {
    /// A recovery point of another disk, by its name.
    Point(String),
    /// An image file of the host, by its absolute path: it is read and never written, and must stay as it is.
    Image {
        /// Where it is.
        path: String,
        /// Its format; without it, the one that its name ends like and its bytes begin like.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<String>,
        /// Whether it may name files outside of its folder.
        #[serde(default)]
        follow: bool,
    },
    /// A raw file of the host, by its absolute path, which becomes the disk's own. It is never written, and stays when the
    /// disk is deleted.
    Adopt(String),
}

/// `POST /v1/disks/{name}/recover`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverQuery {
    /// Take the image that the disk stands on as it is now, although it changed.
    #[serde(default)]
    pub accept_base: bool,
}

/// `DELETE /v1/disks/{name}`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteDiskQuery {
    /// Only if nothing was written to it since this recovery point of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unchanged_since: Option<String>,
    /// Together with the file it adopted.
    #[serde(default)]
    pub adopted_file: bool,
}

/// `POST /v1/disks/{name}/resize`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResizeDisk {
    /// The new size in bytes.
    pub size: u64,
    /// Shrink also while clients are connected. Each keeps the size it was told; what it asks for past the new end fails.
    #[serde(default)]
    pub attached: bool,
}

/// `POST /v1/disks/{name}/rename`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameDisk {
    /// Its new name.
    pub to: String,
}

/// `POST /v1/disks/{name}/share`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareDisk {
    /// Whether several clients may write.
    pub shared: bool,
}

/// `GET /v1/disks/{name}/changes`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    /// The recovery point to compare with; without it, everything ever written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The recovery point to stop at; without it, the live disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// `POST /v1/snapshots`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// The disks, machines and groups, all sealed at one instant.
    pub disks: Vec<String>,
    /// Make no point that is less consistent than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<Consistency>,
}

/// `GET /v1/points`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PointsQuery {
    /// Only points of this item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// Those that were deleted and can come back, instead of those that are there.
    #[serde(default)]
    pub deleted: bool,
    /// At most so many; the answer says whether there are more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those behind this one, the `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// `GET /v1/jobs` and `GET /v1/items`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Only those behind this one: a job's whole id, an item's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// `DELETE /v1/points/{point}`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeletePointQuery {
    /// Only from this tier; without it, from every tier that holds the point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Also if that leaves only copies that are known to be damaged.
    #[serde(default)]
    pub last_copy: bool,
}

impl DeletePointQuery {
    /// Only from this tier.
    pub const fn from(tier: Tier) -> Self {
        Self { tier: Some(tier), last_copy: false }
    }
}

/// `POST /v1/backups`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// What to back up.
    pub item: String,
    /// Where to; the vault `main` if not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
    /// Read everything, whatever the vault holds already.
    #[serde(default)]
    pub full: bool,
    /// Keep the point for so many seconds at least, whatever a policy says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_seconds: Option<u64>,
    /// Make no point that is less consistent than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require: Option<Consistency>,
}

/// `POST /v1/vaults/{name}/scrub`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScrubVault {
    /// Read at most so much.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Begin anew, whatever was read by a scrub that was cut off.
    #[serde(default)]
    pub restart: bool,
}

/// `POST /v1/vaults`
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateVault {
    /// The new vault's name.
    pub name: String,
    /// Where it lives: an absolute path on the daemon's host, `file:///path`, `s3://bucket/prefix`, `az://container/prefix` or
    /// `gs://bucket/prefix`.
    pub store: String,
    /// Further directories that each keep a copy of everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// Parity in the one directory: `K+M`, M for K packs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parity: Option<String>,
    /// How to reach a bucket: lines `name = value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_options: Option<String>,
    /// A passphrase that opens it, instead of a key file in the daemon's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
    /// For how many days a deletion can be undone: 14 to 180, else 14; or 0, for a lab, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_delete_days: Option<u32>,
    /// Make it an archive, to which points go by themselves and are brought back from.
    #[serde(default)]
    pub archive: bool,
}

/// Shows nothing of the secrets.
impl std::fmt::Debug for CreateVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreateVault")
            .field("name", &self.name)
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

/// `POST /v1/vaults/{name}/open`
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenVault {
    /// Where it lives, as for [`CreateVault`]; absent for a vault the daemon knows, which is unlocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Further directories with copies of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<String>,
    /// How to reach a bucket, as for [`CreateVault`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_options: Option<String>,
    /// The text of its key file or recovery sheet, or the four key lines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// Or a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
    /// A person's word that no other appliance will write to it again.
    #[serde(default)]
    pub take_over: bool,
    /// It is an archive.
    #[serde(default)]
    pub archive: bool,
}

/// Shows nothing of the key.
impl std::fmt::Debug for OpenVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenVault").field("store", &self.store).finish_non_exhaustive()
    }
}

/// `GET /v1/jobs/{id}`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitQuery {
    /// Answer when the job has ended, or after this many milliseconds, whichever comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
}
