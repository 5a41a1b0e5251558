//! The kind of a failure as it travels: once to an HTTP status, once to an exit code.

use serde::{Deserialize, Serialize};

/// The kind of a failure. The storage side's kinds, and one that only a service has: [`Refused`](Self::Refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The request itself makes no sense.
    Invalid,
    /// The request passes the end of what it addresses.
    OutOfRange,
    /// What was named does not exist.
    NotFound,
    /// It exists already, is in use, or changed meanwhile.
    Conflict,
    /// It may not be written.
    ReadOnly,
    /// A lock, a hold or a rule forbids it.
    Refused,
    /// The host has no room.
    NoSpace,
    /// The host failed to read or write.
    Io,
    /// Stored bytes are not what was written.
    Corrupt,
    /// Not something this version can do.
    Unsupported,
    /// Not now: locked, stopping, or out of reach.
    Unavailable,
    /// An earlier sync failed; final until recovered.
    Poisoned,
    /// Somebody asked to stop.
    Cancelled,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Invalid,
        Self::OutOfRange,
        Self::NotFound,
        Self::Conflict,
        Self::ReadOnly,
        Self::Refused,
        Self::NoSpace,
        Self::Io,
        Self::Corrupt,
        Self::Unsupported,
        Self::Unavailable,
        Self::Poisoned,
        Self::Cancelled,
    ];

    /// The HTTP status of a response that carries it.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Invalid | Self::OutOfRange => 400,
            Self::ReadOnly | Self::Refused => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::Cancelled => 409,
            Self::Io | Self::Corrupt | Self::Poisoned => 500,
            Self::Unsupported => 501,
            Self::Unavailable => 503,
            Self::NoSpace => 507,
        }
    }

    /// The exit code of a command that fails with it: 1 failed, 2 usage, 3 not found, 4 conflict, 5 refused,
    /// 6 corrupt, 7 unavailable.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::NoSpace | Self::Io | Self::Poisoned | Self::Cancelled => 1,
            Self::Invalid | Self::OutOfRange | Self::Unsupported => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::ReadOnly | Self::Refused => 5,
            Self::Corrupt => 6,
            Self::Unavailable => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_error_status_and_a_failing_exit_code() {
        for kind in Kind::ALL {
            assert!((400..600).contains(&kind.http_status()), "{kind:?}");
            assert!((1..=7).contains(&kind.exit_code()), "{kind:?}");
        }
        assert_eq!(serde_json::to_string(&Kind::NotFound).ok().as_deref(), Some("\"not-found\""));
    }
}
