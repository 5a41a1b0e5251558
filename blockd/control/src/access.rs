//! Who may ask for what: roles and tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What an identity may do. Every role may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look at everything, change nothing.
    Reader,
    /// Back up, protect, check: what adds or verifies.
    Operator,
    /// Restore and run: what gives data out.
    Restorer,
    /// Everything but approving.
    Admin,
    /// Approve what an admin asks for, and nothing else.
    Guard,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Reader, Self::Operator, Self::Restorer, Self::Admin, Self::Guard];

    /// The role's name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Restorer => "restorer",
            Self::Admin => "admin",
            Self::Guard => "guard",
        }
    }
}

/// An identity that shows a secret: an element of `GET /v1/tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Token {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The vaults it may name; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vaults: Vec<String>,
    /// The disks and machines it may name, `*` at the end for all that begin so; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// When it was made.
    pub created: String,
    /// When it ends, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// A guard's public key, Ed25519, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// `POST /v1/tokens`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// Its name: one word.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The vaults it may name; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vaults: Vec<String>,
    /// The disks and machines it may name, `*` at the end for all that begin so; all if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<String>,
    /// For how many days it is good; without it, until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u32>,
    /// Of a guard, and only of one: its public key, Ed25519, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A token that was made.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenCreated {
    /// The token.
    pub token: Token,
    /// Its secret, which is kept nowhere else: the value of `Authorization: Bearer`.
    pub secret: String,
}

/// Shows nothing of the secret.
impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCreated").field("token", &self.token).finish_non_exhaustive()
    }
}
