//! The objects the daemon answers with. Field names are a contract: add, never rename.

use crate::ErrorBody;
use serde::{Deserialize, Serialize};

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon itself.
    pub daemon: Daemon,
    /// Every disk.
    pub disks: Vec<Disk>,
    /// How many recovery points there are, in all tiers.
    pub points: u64,
    /// Every vault.
    pub vaults: Vec<Vault>,
    /// How many jobs wait or run.
    pub jobs_active: u64,
    /// What a person should know, one sentence each.
    pub warnings: Vec<String>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it became ready.
    pub started: String,
    /// The state directory.
    pub state: String,
    /// The unix socket exports are served on.
    pub nbd_socket: String,
    /// The TCP address exports are served on, if any.
    pub nbd_listen: Option<String>,
    /// Free bytes on the filesystem of the disks.
    pub space_available: u64,
    /// All bytes of that filesystem.
    pub space_total: u64,
}

/// Whether a disk serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// It serves.
    Ready,
    /// It could not be opened; see `error`.
    Failed,
}

/// A named writable virtual device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Its id, which a rename does not change.
    pub id: String,
    /// Its size in bytes; absent if it could not be opened.
    pub size: Option<u64>,
    /// Bytes it takes on the host, points included.
    pub stored: Option<u64>,
    /// Its NBD URI.
    pub uri: String,
    /// When it was made.
    pub created: String,
    /// Whether it serves.
    pub state: DiskState,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// How the last open went: `created`, `clean`, `live-map` (after a crash of the daemon, nothing lost) or `committed`
    /// (after a crash of the host: what was flushed is there).
    pub opened: Option<String>,
    /// Recovery points in the instant tier.
    pub points: u64,
    /// Connections that may write to it now.
    pub writers: u64,
}

/// Where a recovery point is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// On the disk's own layers.
    Instant,
    /// In a vault.
    Vault,
}

/// A disk's content at a seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Its name, `disk@epoch`.
    pub name: String,
    /// The disk's name.
    pub disk: String,
    /// The disk's id.
    pub disk_id: String,
    /// The number of the seal.
    pub epoch: u64,
    /// When it was sealed.
    pub time: String,
    /// Size of the disk then, in bytes.
    pub size: u64,
    /// The tiers that hold it.
    pub tiers: Vec<Tier>,
    /// The vaults that hold it.
    pub vaults: Vec<String>,
    /// What the guest can expect: `crash`, as after a power cut of the guest.
    pub consistency: String,
    /// Whether a check has read every byte of it in a vault and found it right.
    pub verified: bool,
    /// The id of the state, equal wherever a copy of it lives.
    pub state: String,
    /// The id of the state before it.
    pub parent: Option<String>,
    /// How long the seal held up writes, in nanoseconds; known while the instant tier holds the point.
    pub seal_ns: Option<u64>,
    /// Its read-only NBD URI.
    pub uri: String,
}

/// `GET /v1/points`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    /// The points, oldest first within a disk.
    pub points: Vec<Point>,
    /// What could not be looked at, one sentence each.
    pub warnings: Vec<String>,
}

/// `DELETE /v1/points/{point}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDeleted {
    /// The point's name.
    pub name: String,
    /// The tiers it is gone from.
    pub deleted: Vec<Tier>,
    /// The tiers that still hold it.
    pub remaining: Vec<Tier>,
}

/// What a changed range became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Written.
    Data,
    /// Trimmed or zeroed: it reads as zeros.
    Zero,
}

/// A changed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What it became.
    pub kind: ChangeKind,
}

/// `GET /v1/disks/{name}/changes`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The disk.
    pub disk: String,
    /// The point compared with; none means everything ever written.
    pub since: Option<String>,
    /// The point stopped at; none means the live disk.
    pub until: Option<String>,
    /// Bytes in all ranges.
    pub bytes: u64,
    /// Changed ranges, ascending.
    pub ranges: Vec<Change>,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It did all it was to do.
    Done,
    /// It failed; see `error`.
    Failed,
    /// Somebody stopped it.
    Cancelled,
}

impl JobState {
    /// Whether the job has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// How much a backup read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferKind {
    /// Everything the point holds.
    Full,
    /// What changed since the point the vault already had.
    Incremental,
}

/// One run with state and progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it does: `backup`, `restore` or `check`.
    pub operation: String,
    /// What it is about: a disk, or a vault.
    pub item: String,
    /// The recovery point it moves.
    pub point: Option<String>,
    /// The vault it works with.
    pub vault: Option<String>,
    /// The new disk a restore makes.
    pub target: Option<String>,
    /// Of a backup, once it is decided: full or incremental.
    pub kind: Option<TransferKind>,
    /// The point an incremental backup builds on.
    pub base: Option<String>,
    /// Where it stands.
    pub state: JobState,
    /// Why it failed.
    pub error: Option<ErrorBody>,
    /// When it was asked for.
    pub created: String,
    /// When it ended.
    pub ended: Option<String>,
    /// Bytes there are to go through.
    pub bytes_total: u64,
    /// Bytes gone through.
    pub bytes_done: u64,
    /// Bytes the change map named.
    pub bytes_changed: u64,
    /// Bytes read from the source.
    pub bytes_read: u64,
    /// Chunks the vault did not have.
    pub chunks_new: u64,
    /// Chunks the vault had already.
    pub chunks_reused: u64,
    /// Bytes added to the vault, after deduplication and compression.
    pub bytes_stored: u64,
    /// How long it ran, in milliseconds.
    pub duration_ms: u64,
    /// What a check found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<VaultCheck>,
}

/// A vault: where recovery points are kept apart from the disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vault {
    /// Its name.
    pub name: String,
    /// Its id; absent if the store cannot be read.
    pub id: Option<String>,
    /// The directory it lives in.
    pub store: String,
    /// Whether its key is not loaded.
    pub locked: bool,
    /// Why it cannot be used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The key file.
    pub key_file: String,
    /// The printable recovery sheet made with the key.
    pub recovery_sheet: String,
    /// Recovery points in it; absent while locked.
    pub points: Option<u64>,
    /// Bytes it takes; absent while locked.
    pub stored: Option<u64>,
}

/// Something a check found wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The damaged thing.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// What a check of a vault found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultCheck {
    /// The vault.
    pub vault: String,
    /// Whether everything is as it was written.
    pub ok: bool,
    /// Recovery points looked at.
    pub points: u64,
    /// Packs read.
    pub packs: u64,
    /// Chunks decoded.
    pub chunks: u64,
    /// Bytes read from the store.
    pub bytes_read: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}
