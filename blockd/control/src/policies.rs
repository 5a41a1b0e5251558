//! The objects of policies and of what they protect.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A policy: an element of `GET /v1/policies`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Policy {
    /// Its name, `VAULT/NAME`.
    pub name: String,
    /// The vault its backups go to.
    pub vault: String,
    /// The file, as it was written; absent if it cannot be read.
    pub text: Option<String>,
    /// Why it cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::ErrorBody>,
    /// The items under it, those that are stopped too.
    pub items: Vec<String>,
    /// When its next slot is.
    pub next: Option<String>,
}

/// An item and how it is protected: an element of `GET /v1/items`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Item {
    /// The name of a disk, a machine or a group.
    pub item: String,
    /// The policy it stands under.
    pub policy: String,
    /// Whether it is neither backed up nor pruned for now.
    pub stopped: bool,
    /// When its newest point in the policy's vault was made; of several disks, that of the one whose newest is oldest.
    pub newest: Option<String>,
    /// When its next backup begins.
    pub next: Option<String>,
    /// Whether the newest point is older than the policy's objective.
    pub is_late: bool,
    /// How long a restore of all its disks takes, in milliseconds, as fast as the last ones were; absent before the first restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_estimate_ms: Option<u64>,
    /// Whether that is longer than the policy's objective.
    #[serde(default)]
    pub is_slow: bool,
    /// Why that cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::ErrorBody>,
}

/// Disks and machines that belong together: an element of `GET /v1/groups`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Group {
    /// Its name, `group/NAME`.
    pub name: String,
    /// The disks and machines it was given.
    pub members: Vec<String>,
    /// All disks of these.
    pub disks: Vec<String>,
    /// The policy it stands under by its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Why no recovery point of it can be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::ErrorBody>,
}

/// `PUT /v1/groups/{group}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupMembers {
    /// Names of disks and machines.
    pub members: Vec<String>,
}

/// A reason why a policy keeps a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeptBy {
    /// `latest`, `daily`, `weekly`, `monthly`, `yearly`, `floor`, `asked` or `hold`.
    pub reason: String,
    /// The day on which it ends at the earliest; absent where no day can be told.
    pub until: Option<String>,
}

/// What a changed policy does to a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlannedPoint {
    /// Its name.
    pub point: String,
    /// When it was made.
    pub time: String,
    /// Bytes that were stored when it came to the vault.
    pub bytes: u64,
    /// Why the policy in force keeps it.
    pub before: Vec<KeptBy>,
    /// Why the changed one does.
    pub after: Vec<KeptBy>,
}

/// What a changed policy does to existing points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyPlan {
    /// What it is applied by.
    pub id: String,
    /// The policy.
    pub policy: String,
    /// The items under it.
    pub items: Vec<String>,
    /// Points that are kept now and would go.
    pub lost: Vec<PlannedPoint>,
    /// Points that would stay longer.
    pub longer: Vec<PlannedPoint>,
    /// The policy as it was when the plan was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// `PUT /v1/policies/{name}` and `POST /v1/policies/{name}/plan`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyText {
    /// The file.
    pub text: String,
}

/// `PUT /v1/items/{item}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// The policy: `VAULT/NAME`, or `NAME` of the vault `main`; without one, the one it stands under, which is resumed, or `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// `DELETE /v1/items/{item}`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnprotectQuery {
    /// Delete every point of it that the policy's vault holds; else all of them stay.
    #[serde(default)]
    pub delete_data: bool,
    /// Keep the policy in mind: the item is neither backed up nor pruned until it is resumed.
    #[serde(default)]
    pub pause: bool,
}

/// `POST /v1/points/{point}/hold`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldPoint {
    /// Why.
    pub reason: String,
}
