//! The kind of a failure as it travels: once to an HTTP status, once to an exit code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kind of a failure. The storage side's kinds, and one that only a service has: [`Refused`](Self::Refused).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
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

    /// The kind's name on the wire, such as `not-found`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::OutOfRange => "out-of-range",
            Self::NotFound => "not-found",
            Self::Conflict => "conflict",
            Self::ReadOnly => "read-only",
            Self::Refused => "refused",
            Self::NoSpace => "no-space",
            Self::Io => "io",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Poisoned => "poisoned",
            Self::Cancelled => "cancelled",
        }
    }

    /// The kind of this name; the storage side's kinds are called the same. `Io` for one this version does not know.
    pub fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name() == name).unwrap_or(Self::Io)
    }

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

    /// What a person can do about a failure of this kind, where nothing more particular is known of it.
    pub const fn advice(self) -> Option<&'static str> {
        match self {
            Self::Invalid | Self::OutOfRange => Some("--help behind the command shows what it takes"),
            Self::NotFound => {
                Some("`blockctl status` shows disks and vaults, `blockctl point list` recovery points")
            }
            Self::ReadOnly => {
                Some("a recovery point is never written; `blockctl restore disk` makes a disk of it")
            }
            Self::NoSpace => Some("free space on the host and try again; nothing flushed was lost"),
            Self::Io => Some("the host's log (dmesg) says what its storage reported"),
            Self::Corrupt => Some(
                "`blockctl status` and `blockctl vault check` name what is damaged; other recovery points restore",
            ),
            Self::Unavailable => Some("`blockctl status` shows what cannot be used now, and why"),
            Self::Poisoned => Some(
                "the host failed to sync; look at its log, then `blockctl disk recover` and connect anew",
            ),
            Self::Conflict | Self::Refused | Self::Unsupported | Self::Cancelled => None,
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
            let text = serde_json::to_string(&kind).ok();
            assert_eq!(text, Some(format!("{:?}", kind.name())), "on the wire and in a table alike");
            assert_eq!(Kind::named(kind.name()), kind);
        }
        assert_eq!(Kind::named("of a later version"), Kind::Io);
    }
}
