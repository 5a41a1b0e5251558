//! What is asked and said of the archive tier.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `POST /v1/points/{name}/archive`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchivePoint {
    /// The archive it goes to.
    pub to: String,
}

/// `POST /v1/points/{name}/rehydrate`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RehydratePoint {
    /// For how many seconds the vault holds it.
    pub seconds: u64,
    /// The vault; `main` if not named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<String>,
}

/// What archiving points costs and frees, before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArchiveCost {
    /// The archive.
    pub archive: String,
    /// Each point.
    pub points: Vec<PointCost>,
}

/// The same of one point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PointCost {
    /// The point.
    pub point: String,
    /// The vault it was looked at in, which it leaves.
    pub vault: String,
    /// Bytes its set takes in the archive, as compressed in the vault.
    pub bytes_archived: u64,
    /// Bytes that only this point needs in the vault: freed once its deletion there is final and swept.
    pub bytes_freed: u64,
    /// Why it cannot be archived now, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}
