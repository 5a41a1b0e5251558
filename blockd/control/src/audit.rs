//! The audit log: every change and every restore, who asked for it and how it ended.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// How far what an entry is about had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It was asked for, and is about to begin.
    Asked,
    /// It was done.
    Done,
    /// It failed; what it had done by then may stand.
    Failed,
    /// It was refused, and nothing was done.
    Refused,
}

impl AuditOutcome {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub number: u64,
    /// When it was written, by the appliance's clock.
    pub time: String,
    /// Who: `user 0`, `token NAME`, `policy VAULT/NAME`, or `blockd` itself.
    pub who: String,
    /// What: method and path of the request, or what the daemon did by itself.
    pub action: String,
    /// How far it came.
    pub outcome: AuditOutcome,
    /// The entry that says it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// What it is about: names in the path, the query, the body without its secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub about: BTreeMap<String, Value>,
    /// Why it failed or was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The hash of the entry before, in hex; of zeros before the first.
    pub previous: String,
    /// Its own hash, SHA-256 of the line as it is stored, in hex.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// `GET /v1/audit`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only entries with a higher number; without it, the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many, up to 1,000; else 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// `GET /v1/audit/verify`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditVerifyQuery {
    /// A head noted earlier, `NUMBER:HASH`, that must be in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

/// What a look at the whole chain found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerified {
    /// Whether every entry is what was written, in its place.
    pub ok: bool,
    /// Entries that were read.
    pub entries: u64,
    /// The newest, `NUMBER:HASH`: note it elsewhere, and hold the log against it later.
    pub head: String,
    /// What does not fit, one sentence each.
    pub problems: Vec<String>,
}
