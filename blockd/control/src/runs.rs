//! Running and restoring recovery points: what is asked, and what is answered. Field names are a contract: add, never
//! rename.

use crate::Tier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/runs`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// The recovery point.
    pub point: String,
    /// The name of the disk that runs from it.
    pub name: String,
    /// Whether the rest is brought in the background. Without it the disk stays on the point until it is promoted.
    #[serde(default = "yes")]
    pub hydrate: bool,
}

const fn yes() -> bool {
    true
}

/// A disk that runs from a recovery point: `GET /v1/runs/{name}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// The disk's name.
    pub name: String,
    /// Where it stands.
    pub state: RunState,
    /// The point it runs from; none once it is independent.
    pub point: Option<String>,
    /// The tier the point is read from.
    pub tier: Option<Tier>,
    /// The vault it is read from, if it is one.
    pub vault: Option<String>,
    /// The disk's NBD URI.
    pub uri: String,
    /// Bytes of the disk.
    pub size: u64,
    /// Whether it was asked to become independent as soon as it can.
    pub promote: bool,
    /// Bytes of the point.
    pub bytes_total: u64,
    /// Bytes of it that need not be asked of its tier any more.
    pub bytes_done: u64,
    /// Those of them that take space here.
    pub bytes_copied: u64,
    /// How fast that grew in the last seconds.
    pub bytes_per_second: Option<u64>,
    /// When it will be done at that speed, in milliseconds from now.
    pub estimate_ms: Option<u64>,
    /// Requests that wait because the point's store does not answer.
    pub waiting: u64,
    /// Why it does not go on, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// What the guest has not touched yet is being brought.
    Hydrating,
    /// It stays on the point until it is promoted.
    Kept,
    /// It does not go on now; `trouble` says why.
    Stalled,
    /// The disk stands on nothing any more.
    Independent,
}

impl RunState {
    /// The state's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hydrating => "hydrating",
            Self::Kept => "kept",
            Self::Stalled => "stalled",
            Self::Independent => "independent",
        }
    }
}

/// The memory for decoded chunks of vaults, shared by exports, mounts, runs and restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CacheUse {
    /// Bytes it may take.
    pub limit: u64,
    /// Bytes it takes.
    pub held: u64,
    /// Chunks found in it since the start.
    pub hits: u64,
    /// Chunks read and decoded since the start.
    pub misses: u64,
}

/// `POST /v1/restores`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The recovery point; empty with `undo`.
    #[serde(default)]
    pub point: String,
    /// The new disk's name; empty with `replace`.
    #[serde(default)]
    pub to: String,
    /// Instead: the disk whose content is replaced. A recovery point of what it holds is taken first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<String>,
    /// With `replace`: put back what was there before the last one.
    #[serde(default)]
    pub undo: bool,
    /// With `replace`: end the connections of the disk's client first. Without it, a connected client is a refusal.
    #[serde(default)]
    pub force_disconnect: bool,
    /// Read back what was written and compare it with the recovery point.
    #[serde(default)]
    pub verify: bool,
}

/// What a restore will take and cost: `POST /v1/restores/preflight`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Preflight {
    /// The recovery point.
    pub point: String,
    /// The disk that is made or replaced; empty for a request that names none.
    pub target: String,
    /// Bytes of the disk.
    pub size: u64,
    /// The tier most is read from.
    pub tier: Tier,
    /// The vault, if it is one.
    pub vault: Option<String>,
    /// Whether the vault's key is there; always so for the instant tier.
    pub unlocked: bool,
    /// Bytes that will be read.
    pub bytes_to_read: u64,
    /// Bytes that are known to be right where they are, and are not touched.
    pub bytes_unchanged: u64,
    /// Room it needs at most.
    pub space_needed: u64,
    /// Room there is for it.
    pub space_available: u64,
    /// How long it will take, by the restores this appliance has done; none before the first.
    pub estimate_ms: Option<u64>,
    /// How many restores that rests on.
    pub measured_jobs: u64,
    /// Clients connected to the disk that is replaced.
    pub clients: Vec<String>,
    /// With `replace`: bytes written since the point, which the disk will not have any more. The safety point keeps them.
    pub bytes_lost: Option<u64>,
    /// Whether it is a file or another server, which the client sees to: room and what is lost there are not known to the daemon.
    #[serde(default)]
    pub elsewhere: bool,
    /// What stands in the way, one sentence each; nothing if it can begin.
    pub obstacles: Vec<String>,
}

/// Where a restore took its blocks from: `restore` of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Restored {
    /// With `replace`: the recovery point taken of what was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub safety_point: Option<String>,
    /// Bytes that the change map proves to be as in the point, and that were not read.
    pub bytes_unchanged: u64,
    /// Bytes read from the instant tier.
    pub bytes_instant: u64,
    /// Bytes read from a vault.
    pub bytes_vault: u64,
    /// Bytes that were there already when they were compared.
    pub bytes_equal: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Bytes read back and found equal; none unless it was asked for.
    pub bytes_verified: u64,
}
