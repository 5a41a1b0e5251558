//! The objects the daemon answers with. Field names are a contract: add, never rename.

use crate::{ErrorBody, KeptBy, VaultCopy, VaultRepair, VaultWriter};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The daemon itself.
    pub daemon: Daemon,
    /// Every disk.
    pub disks: Vec<Disk>,
    /// How many recovery points there are, in all tiers.
    pub points: u64,
    /// Every vault.
    pub vaults: Vec<Vault>,
    /// Room of the instant tier.
    pub space: Space,
    /// Disks that run from a recovery point.
    #[serde(default)]
    pub runs: Vec<crate::Run>,
    /// The memory for decoded chunks.
    #[serde(default)]
    pub cache: crate::CacheUse,
    /// How many jobs wait or run.
    pub jobs_active: u64,
    /// What a person should know, one sentence each.
    pub warnings: Vec<String>,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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

/// Room of the instant tier: what is left of its budget or of the host's filesystem, whichever is less. All in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Space {
    /// Whether that is enough.
    pub state: SpaceState,
    /// What the disks may take together, if that is limited.
    pub budget: Option<u64>,
    /// What they take, points included.
    pub used: u64,
    /// What is to be left: with less, points leave the instant tier.
    pub reserve: u64,
    /// What is left.
    pub left: u64,
    /// What guests may still take of it.
    pub left_for_guests: u64,
    /// Requests that wait for room.
    pub waiting: u64,
    /// Points that left the instant tier since the start of the daemon.
    pub shed_count: u64,
    /// The last of them, newest first.
    pub shed: Vec<Shed>,
}

/// How much room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SpaceState {
    /// The reserve is there.
    Enough,
    /// Less than the reserve is left, and room is being made.
    Low,
    /// Less than the reserve is left, and nothing can leave.
    Exhausted,
}

/// A point that left the instant tier because space was low. It is in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shed {
    /// Its name.
    pub point: String,
    /// Its disk.
    pub disk: String,
    /// A vault that holds it.
    pub vault: String,
    /// When it left.
    pub time: String,
}

/// Whether a disk serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskState {
    /// It serves.
    Ready,
    /// A client is filling it; it is no disk before that ends.
    Filling,
    /// It could not be opened; see `error`.
    Failed,
}

/// A named writable virtual device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Disk {
    /// Its name.
    pub name: String,
    /// Its id, which a rename does not change.
    pub id: String,
    /// Its size in bytes; absent if it could not be opened.
    pub size: Option<u64>,
    /// Bytes it takes on the host, points included.
    pub stored: Option<u64>,
    /// Bytes of it that are maps and journals; what of them is in memory the host can write out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maps: Option<u64>,
    /// Bytes of its owner index, in memory that the host can write out to a scratch file; not part of `stored`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
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
    /// What deleted points left to fold; absent when there is nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consolidation: Option<Consolidation>,
    /// Damage that was met since it was opened, at most a thousand blocks, and change maps that cannot be read; a scrub
    /// finds all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damage: Vec<Hurt>,
    /// The clients these connections belong to: one, unless the disk is shared.
    #[serde(default)]
    pub clients: Vec<DiskClient>,
    /// Whether several clients may write to it.
    #[serde(default)]
    pub shared: bool,
    /// Whether remote clients stay out until `disk release`: the host went down before the disk was closed, and a client
    /// that merely comes back would not notice what was lost.
    #[serde(default)]
    pub awaits_release: bool,
    /// What it stands on, if on anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Base>,
    /// The disks that stand on points of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<String>,
    /// How far the audits of its change tracking are, one for each vault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audits: Vec<DiskAudit>,
}

/// How far the audits of a disk's change tracking are: its increments held against a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskAudit {
    /// The vault.
    pub vault: String,
    /// Since when every block was compared; absent before the first round ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_since: Option<String>,
    /// Where the next part begins.
    pub next_byte: u64,
    /// When the last one was.
    pub last: String,
    /// Blocks that were missed, until a later round has compared everything.
    pub missed: u64,
    /// When that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_at: Option<String>,
}

/// What a disk stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Base {
    /// `point`, `stored-point` (that a vault holds), `image` or `adopted`.
    pub kind: String,
    /// The recovery point's name, or the image's path.
    pub name: String,
    /// An image's format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Every file that the image consists of and stands on, itself first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// A range of a disk that is not what was sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hurt {
    /// The damaged file in the state directory.
    pub file: String,
    /// First byte of the disk.
    pub offset: u64,
    /// Bytes; all of the disk where the map of a layer is damaged, none where a map is that only says what changed.
    pub length: u64,
    /// What does not fit.
    pub why: String,
    /// The recovery points that have it.
    pub points: Vec<String>,
    /// Whether the newest sealed state of the live disk has it; the guest may have overwritten it since.
    pub live: bool,
}

impl Hurt {
    /// Whether only the record of what changed is hurt, and no data.
    pub fn is_record_of_changes(&self) -> bool {
        self.length == 0
    }
}

/// What a scrub of a disk found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskScrub {
    /// The disk.
    pub disk: String,
    /// Whether everything is as it was sealed.
    pub ok: bool,
    /// Sealed layers read.
    pub layers: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Bytes without checksums, sealed while the scrub ran.
    pub bytes_unverified: u64,
    /// Bytes that are hurt.
    pub bytes_hurt: u64,
    /// What is hurt, at most 10,000 ranges.
    pub hurt: Vec<Hurt>,
}

/// Folding of layers that no point needs, under way or waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consolidation {
    /// Layers to fold, those among them that an open reader or a running disk keeps for now.
    pub layers: u64,
    /// Of the fold under way: bytes to copy.
    pub bytes_total: u64,
    /// Of the fold under way: bytes copied.
    pub bytes_done: u64,
}

/// Who writes to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskClient {
    /// The process, certificate or address.
    pub client: String,
    /// Its connections.
    pub connections: u64,
}

/// An export and how it is used: an element of `GET /v1/exports`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Export {
    /// Its name.
    pub name: String,
    /// Who is connected.
    pub clients: Vec<String>,
    /// What was asked of it since the daemon started, by command; commands nobody used are left out.
    pub commands: Vec<ExportCommand>,
}

/// One command of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExportCommand {
    /// `read`, `write`, `flush`, `trim`, `cache`, `zero` or `status`.
    pub command: String,
    /// Requests, failed ones too.
    pub requests: u64,
    /// Bytes they were about.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// The median of the time between a request and its reply, in nanoseconds.
    pub p50_ns: Option<u64>,
    /// The 99th percentile of it.
    pub p99_ns: Option<u64>,
    /// The 99.9th percentile of it.
    pub p999_ns: Option<u64>,
}

/// Where a recovery point is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// On the disk's own layers.
    Instant,
    /// In a vault.
    Vault,
    /// In an archive, from which it is rehydrated before it is read.
    Archive,
}

impl Tier {
    /// The tier's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instant => "instant",
            Self::Vault => "vault",
            Self::Archive => "archive",
        }
    }
}

/// How whole a recovery point is to the guest. The later, the more.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// As after a power cut of the guest.
    #[default]
    Crash,
    /// The guest's filesystems were written out and held still meanwhile.
    Filesystem,
    /// Its applications were too, as they or a hook of the host said.
    Application,
}

impl Consistency {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Filesystem => "filesystem",
            Self::Application => "application",
        }
    }
}

/// A disk's content at a seal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The archives that hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<String>,
    /// Until when a vault holds it again, if it was rehydrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehydrated_until: Option<String>,
    /// What the guest can expect of it.
    pub consistency: Consistency,
    /// Why it is not more, if more was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency_why: Option<String>,
    /// How long the guest's filesystems were held still for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// Whether a check has read every byte of it in a vault and found it right.
    pub verified: bool,
    /// The vaults whose copy of it is damaged, as their last check or a read since the daemon started found.
    #[serde(default)]
    pub damaged: Vec<String>,
    /// The id of the state, equal wherever a copy of it lives.
    pub state: String,
    /// The id of the state before it.
    pub parent: Option<String>,
    /// How long the seal held up writes, in nanoseconds; known while the instant tier holds the point.
    pub seal_ns: Option<u64>,
    /// Its read-only NBD URI.
    pub uri: String,
    /// Why it must not be deleted, if somebody holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Until when it is kept at least, if it was made so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<String>,
    /// Why it does not look like those before it, if it does not and nobody has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<String>,
    /// Its rehearsals, the newest last; told of one point, not in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rehearsals: Vec<crate::Rehearsal>,
    /// The policy its disk stands under; told of one point, not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Why that keeps it; nothing is said of a point it does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kept: Vec<KeptBy>,
}

/// `GET /v1/points`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Points {
    /// The points, oldest first within a disk.
    pub points: Vec<Point>,
    /// What could not be looked at, one sentence each.
    pub warnings: Vec<String>,
    /// Where there are more than were asked for: the name to go on after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `DELETE /v1/points/{point}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PointDeleted {
    /// The point's name.
    pub name: String,
    /// The tiers it is gone from.
    pub deleted: Vec<Tier>,
    /// The tiers that still hold it.
    pub remaining: Vec<Tier>,
    /// Until when the deletion from vaults can be undone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// What a changed range became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Written.
    Data,
    /// Trimmed or zeroed: it reads as zeros.
    Zero,
}

/// A changed range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// What it became.
    pub kind: ChangeKind,
}

/// `GET /v1/disks/{name}/changes`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

    /// The state's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How much a backup read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TransferKind {
    /// Everything the point holds.
    Full,
    /// What changed since the point the vault already had.
    Incremental,
}

/// One run with state and progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id.
    pub id: String,
    /// What it does: `backup`, `restore`, `archive`, `rehydrate`, `check`, `repair`, `sweep` or `scrub`.
    pub operation: String,
    /// What it is about: a disk, or a vault.
    pub item: String,
    /// The recovery point it moves.
    pub point: Option<String>,
    /// The vault it works with.
    pub vault: Option<String>,
    /// The new disk a restore makes.
    pub target: Option<String>,
    /// That disk's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_id: Option<String>,
    /// Of a backup, once it is decided: full or incremental.
    pub kind: Option<TransferKind>,
    /// The point an incremental backup builds on.
    pub base: Option<String>,
    /// Why it went another way than usual, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
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
    /// Chunks, blocks of 4 KiB, that the vault did not have.
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
    /// What a scrub of a disk found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrub: Option<DiskScrub>,
    /// Where a restore took its blocks from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<crate::Restored>,
    /// What a repair of a vault's copies did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<VaultRepair>,
    /// What a rehearsal came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<crate::Rehearsal>,
    /// What a sweep of a vault did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<VaultSweep>,
}

/// What a sweep of a vault did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultSweep {
    /// The vault.
    pub vault: String,
    /// The run, if anything is in quarantine since; undoing it brings that back.
    pub run: Option<String>,
    /// Packs that went into quarantine since nothing reaches them.
    pub quarantined: Vec<String>,
    /// Packs that went into quarantine since much of them was needed by nothing; the rest was written anew.
    #[serde(default)]
    pub rewritten: Vec<String>,
    /// Bytes stored for that rest.
    #[serde(default)]
    pub bytes_rewritten: u64,
    /// Bytes of all packs that went into quarantine.
    pub bytes_quarantined: u64,
    /// Packs of earlier runs that were deleted.
    pub deleted: Vec<String>,
    /// Bytes of these.
    pub bytes_deleted: u64,
    /// Packs of earlier runs that are in use again.
    pub released: Vec<String>,
}

/// A sweep whose packs are in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SweepRun {
    /// The run.
    pub run: String,
    /// When it was.
    pub time: String,
    /// Its packs.
    pub packs: u64,
    /// Bytes of these.
    pub bytes: u64,
}

/// A vault: where recovery points are kept apart from the disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Vault {
    /// Its name.
    pub name: String,
    /// Its id; absent if the store cannot be read.
    pub id: Option<String>,
    /// Where it lives: a directory, several with commas between, or the URL of a bucket.
    pub store: String,
    /// Whether its key is not loaded.
    pub locked: bool,
    /// Whether it is an archive.
    #[serde(default)]
    pub archive: bool,
    /// Why it cannot be used now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The key file.
    pub key_file: String,
    /// The printable recovery sheet made with the key.
    pub recovery_sheet: String,
    /// Recovery points in it; absent while locked. Of a bucket, when it was last counted.
    pub points: Option<u64>,
    /// Bytes it takes; absent while locked. Of a bucket, when it was last counted.
    pub stored: Option<u64>,
    /// What protects its blobs from their medium: `none`, `local:N` (N copies), or `parity:K+M`.
    #[serde(default)]
    pub redundancy: String,
    /// Each copy, if there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<VaultCopy>,
    /// Why nothing can be written to it from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only: Option<String>,
    /// Who may write to it, if it lies in a bucket; only where one vault is shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writers: Vec<VaultWriter>,
    /// The recovery sheet itself, only in the answer that made a vault whose sheet is not kept in the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_sheet_text: Option<String>,
    /// For how many days a deletion can be undone; 0 is not at all.
    #[serde(default)]
    pub soft_delete_days: u32,
    /// Whether its points can be deleted before their time.
    #[serde(default)]
    pub immutability: crate::Immutability,
    /// For how many days after it was made a point cannot be deleted, unless that is off.
    #[serde(default)]
    pub immutable_days: u32,
    /// How its last check ended; absent if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<LastCheck>,
}

/// How the last check of a vault ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LastCheck {
    /// When it ended.
    pub time: String,
    /// How many problems it found.
    pub problems: u64,
}

/// Something a check found wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The damaged thing.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

/// What a check of a vault found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Bytes in packs that no recovery point needs; absent if damage keeps it from being known.
    #[serde(default)]
    pub bytes_unreferenced: Option<u64>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// `GET /v1/vaults/{name}/usage`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VaultUsage {
    /// The vault.
    pub vault: String,
    /// Recovery points in it.
    pub points: u64,
    /// Its packs.
    pub packs: u64,
    /// Bytes of everything in its store.
    pub bytes_stored: u64,
    /// Bytes in packs that a recovery point needs.
    pub bytes_referenced: u64,
    /// Bytes in packs that none needs: of backups that failed or run now, and of deleted points.
    pub bytes_unreferenced: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_travels() {
        let states =
            [JobState::Queued, JobState::Running, JobState::Done, JobState::Failed, JobState::Cancelled];
        for state in states {
            assert_eq!(serde_json::to_string(&state).ok(), Some(format!("{:?}", state.name())));
        }
        for tier in [Tier::Instant, Tier::Vault] {
            assert_eq!(serde_json::to_string(&tier).ok(), Some(format!("{:?}", tier.name())));
        }
    }
}
