//! The error numbers of the wire, and the one table from kinds of failure to them.

use block::Kind;
use std::fmt;

/// An error number as a server sends it. Others than the eight the protocol knows are kept and mean
/// [`Errno::INVALID`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub u32);

impl Errno {
    /// No error.
    pub const NONE: Self = Self(0);
    /// `EPERM`: may not be written.
    pub const PERMISSION: Self = Self(1);
    /// `EIO`.
    pub const IO: Self = Self(5);
    /// `ENOMEM`.
    pub const MEMORY: Self = Self(12);
    /// `EINVAL`: the request makes no sense.
    pub const INVALID: Self = Self(22);
    /// `ENOSPC`: no room, or a write past the end.
    pub const NO_SPACE: Self = Self(28);
    /// `EOVERFLOW`: longer than can be answered.
    pub const OVERFLOW: Self = Self(75);
    /// `ENOTSUP`: not faster than writing.
    pub const NOT_FAST: Self = Self(95);
    /// `ESHUTDOWN`: the server is stopping.
    pub const SHUTDOWN: Self = Self(108);

    /// How a device's failure is told to a client. Only the numbers the protocol knows; [`Errno::NOT_FAST`] and
    /// [`Errno::OVERFLOW`] are reserved for what the protocol names them for. `Unavailable` is not
    /// [`Errno::SHUTDOWN`], because that makes a client hang up.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Invalid | Kind::OutOfRange | Kind::Unsupported => Self::INVALID,
            Kind::ReadOnly => Self::PERMISSION,
            Kind::NoSpace => Self::NO_SPACE,
            Kind::Cancelled => Self::SHUTDOWN,
            Kind::NotFound
            | Kind::Conflict
            | Kind::Io
            | Kind::Corrupt
            | Kind::Unavailable
            | Kind::Poisoned => Self::IO,
        }
    }

    /// What a server's error number means to a caller.
    pub fn kind(self) -> Kind {
        match self {
            Self::PERMISSION => Kind::ReadOnly,
            Self::NO_SPACE => Kind::NoSpace,
            Self::NOT_FAST => Kind::Unsupported,
            Self::SHUTDOWN => Kind::Unavailable,
            Self::IO | Self::MEMORY => Kind::Io,
            _ => Kind::Invalid,
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match *self {
            Self::PERMISSION => "operation not permitted",
            Self::IO => "input/output error",
            Self::MEMORY => "out of memory",
            Self::INVALID => "invalid request",
            Self::NO_SPACE => "no space left",
            Self::OVERFLOW => "request too long",
            Self::NOT_FAST => "not supported",
            Self::SHUTDOWN => "the server is stopping",
            Self(other) => return write!(f, "error {other}"),
        };
        f.write_str(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_of_the_protocol_leave_and_never_the_reserved_ones() {
        let kinds = [
            (Kind::Invalid, 22),
            (Kind::OutOfRange, 22),
            (Kind::NotFound, 5),
            (Kind::Conflict, 5),
            (Kind::ReadOnly, 1),
            (Kind::NoSpace, 28),
            (Kind::Io, 5),
            (Kind::Corrupt, 5),
            (Kind::Unsupported, 22),
            (Kind::Unavailable, 5),
            (Kind::Poisoned, 5),
            (Kind::Cancelled, 108),
        ];
        for (kind, number) in kinds {
            assert_eq!(Errno::of(kind), Errno(number), "{kind:?}");
        }
    }
}
