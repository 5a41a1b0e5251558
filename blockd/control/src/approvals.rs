//! Approval by a second person.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a request for approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ApprovalState {
    /// It waits for a guard.
    Pending,
    /// A guard signed it; the request may be made, once.
    Approved,
    /// A guard said no.
    Denied,
    /// The request was made.
    Used,
    /// Its time is over.
    Expired,
}

impl ApprovalState {
    /// The state's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Used => "used",
            Self::Expired => "expired",
        }
    }
}

/// A request that needs a guard: an element of `GET /v1/approvals`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// Who asked.
    pub who: String,
    /// What for: method and path.
    pub action: String,
    /// About what: names of the path, query, body without its secrets.
    pub about: BTreeMap<String, Value>,
    /// A hash of the whole request, secrets too, that binds the approval to it.
    pub digest: String,
    /// When it was asked for.
    pub created: String,
    /// When request and approval run out.
    pub expires: String,
    /// Where it stands.
    pub state: ApprovalState,
    /// The guard that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// What a guard signs, together with its verdict: all of the above that does not change, a line each.
    pub statement: String,
}

/// The bytes that are signed: the statement and the verdict.
pub fn signed_text(statement: &str, verdict: ApprovalState) -> String {
    format!("{statement}verdict {}\n", verdict.name())
}

/// `POST /v1/approvals/{approval}/approve` and `…/deny`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Ed25519 over the statement and the line `verdict approved` or `verdict denied`, in hex.
    pub signature: String,
}

/// `GET /v1/clock`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApplianceTime {
    /// The appliance's time.
    pub now: String,
    /// A jump of the host's clock that nobody has answered for: nothing is deleted meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump: Option<ClockJump>,
}

/// A jump of the host's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClockJump {
    /// The latest time that was believed.
    pub from: String,
    /// What the host says.
    pub to: String,
}
