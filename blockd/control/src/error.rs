//! How a request fails: the body the daemon answers with, and the client's own errors.

use crate::Kind;
use serde::{Deserialize, Serialize};

/// What the daemon answers instead of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The kind, which decides HTTP status and exit code.
    pub kind: Kind,
    /// What failed and why, `what: why`.
    pub message: String,
    /// What to do next, where there is something to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
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
    /// The connection broke, or the answer is not one of ours.
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
            Self::Unreachable { .. } => Kind::Unavailable,
            Self::Answered(body) => body.kind,
            Self::Broken { .. } => Kind::Io,
        }
    }

    /// What to do next.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some(
                "start it with `blockd serve`, or name its state with --state DIR or BLOCKD_STATE".to_owned(),
            ),
            Self::Answered(body) => body.help.clone(),
            Self::Broken { .. } => None,
        }
    }
}
