//! How a request fails: the body the daemon answers with, and the client's own errors.

use crate::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::error::Error as StdError;

/// What the daemon answers instead of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorBody {
    /// The kind, which decides HTTP status and exit code.
    pub kind: Kind,
    /// What failed and why, `what: why`.
    pub message: String,
    /// What to do next, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// The message of an error with its causes, `what: why: why`, none said twice.
pub fn with_causes(error: &dyn StdError) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        // a transparent wrapper says the same as what it wraps
        if !message.ends_with(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        next = cause.source();
    }
    message
}

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at the socket.
    #[error("no daemon answers at {socket}")]
    Unreachable {
        /// The socket's path.
        socket: String,
        /// What the host said.
        source: std::io::Error,
    },
    /// The daemon answered and says no.
    #[error("{}", .0.message)]
    Answered(ErrorBody),
    /// The connection ended before the answer was whole: the daemon stopped or was killed meanwhile. Whether the request
    /// was carried out is not known.
    #[error("{request}: the daemon went away before it answered: {why}")]
    Lost {
        /// Method and path.
        request: String,
        /// What the connection said.
        why: String,
    },
    /// What came is not an answer of ours, or the request could not be made at all.
    #[error("{request}: {why}")]
    Broken {
        /// Method and path.
        request: String,
        /// What went wrong.
        why: String,
    },
}

impl Error {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                Kind::Refused
            }
            Self::Unreachable { .. } | Self::Lost { .. } => Kind::Unavailable,
            Self::Answered(body) => body.kind,
            Self::Broken { .. } => Kind::Io,
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        let advice = match self {
            Self::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "ask as the user who runs blockd, or as a member of the group blockd"
            }
            Self::Unreachable { .. } => {
                "start it with `blockd serve`, or name its state with --state DIR or BLOCKD_STATE"
            }
            Self::Lost { .. } => {
                "see whether it runs again with `blockctl status`, then what was done with `blockctl job list`"
            }
            Self::Answered(body) => {
                return body.help.clone().or_else(|| body.kind.advice().map(str::to_owned));
            }
            Self::Broken { .. } => {
                "blockctl and blockd may be of different versions; `blockctl status` names the daemon's"
            }
        };
        Some(advice.to_owned())
    }
}
