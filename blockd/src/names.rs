//! The names people use: disks, and recovery points as `disk@3`, `disk@latest`, `disk@2026-11-20T12:00`.

use crate::error::{Error, Result};
use block::Time;
use control::Kind;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// The longest name of a disk or vault. It stays readable in a table and fits any export name with a time behind it.
const NAME_LIMIT: usize = 64;

/// Checks the name of a disk or vault: `[a-z0-9][a-z0-9._-]*`.
///
/// # Errors
/// `Invalid` saying what a name looks like.
pub fn check(what: &str, name: &str) -> Result<()> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = name.len() <= NAME_LIMIT
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || matches!(byte, b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    let shown: String = name.chars().take(NAME_LIMIT).collect();
    let why = format!("a name is a letter or digit, then a-z 0-9 . _ -, at most {NAME_LIMIT} in all");
    Err(Error::said(Kind::Invalid, format!("{what} {shown:?}"), why))
}

/// Which of an item's recovery points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one with this number.
    Epoch(u64),
    /// The newest.
    Latest,
    /// The newest not after this time.
    At(Time),
}

/// The name of a recovery point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointName {
    /// The disk's name.
    pub item: String,
    /// Which of its points.
    pub which: Which,
}

impl PointName {
    /// Takes a name apart. A time without a zone is local to the appliance.
    ///
    /// # Errors
    /// `Invalid` saying what a point's name looks like.
    pub fn parse(text: &str) -> Result<Self> {
        let shown: String = text.chars().take(2 * NAME_LIMIT).collect();
        let wrong = || {
            let why = "a recovery point is called DISK@NUMBER, DISK@latest or DISK@TIME, such as web@2026-11-20T12:00";
            Error::said(Kind::Invalid, format!("point {shown:?}"), why)
        };
        let (item, which) = text.split_once('@').ok_or_else(wrong)?;
        check("disk", item)?;
        let which = match which {
            "latest" => Which::Latest,
            digits if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Which::Epoch(digits.parse().map_err(|_| wrong())?)
            }
            time => Which::At(parse_time(time).ok_or_else(wrong)?),
        };
        Ok(Self { item: item.to_owned(), which })
    }
}

fn parse_time(text: &str) -> Option<Time> {
    let stamp = match text.parse::<Timestamp>() {
        Ok(stamp) => stamp,
        Err(_) => text.parse::<DateTime>().ok()?.to_zoned(TimeZone::system()).ok()?.timestamp(),
    };
    u64::try_from(stamp.as_millisecond()).ok().map(|unix_ms| Time { unix_ms })
}

/// A time as the API writes it: RFC 3339, UTC, with milliseconds.
pub fn rfc3339(time: Time) -> String {
    // beyond the year 9999 there is no such text; such a clock was never right
    let stamp = i64::try_from(time.unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", stamp.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_disks() {
        for good in ["web-root", "0", "a.b_c-d"] {
            assert!(check("disk", good).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "A", "a b", "a@1", "a/b", "ü", &"x".repeat(65)] {
            assert!(check("disk", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_points() {
        let which = |text| PointName::parse(text).map(|name| name.which).ok();
        assert_eq!(which("web@3"), Some(Which::Epoch(3)));
        assert_eq!(which("web@latest"), Some(Which::Latest));
        let noon = Time { unix_ms: 1_795_176_000_000 };
        assert_eq!(which("web@2026-11-20T12:00:00Z"), Some(Which::At(noon)));
        assert_eq!(which("web@2026-11-20T13:00+01:00"), Some(Which::At(noon)));
        assert!(which("web@2026-11-20T12:00").is_some());
        for bad in ["web", "web@", "@3", "web@-1", "web@yesterday", "web@99999999999999999999", "we b@1"] {
            assert!(PointName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_round_trip() {
        let time = Time { unix_ms: 1_795_176_000_042 };
        assert_eq!(rfc3339(time), "2026-11-20T12:00:00.042Z");
        assert_eq!(parse_time(&rfc3339(time)), Some(time));
    }
}
