//! Files as people and programs read about them.

use mount::guest::{Node, NodeKind, Stamp};
use serde::Serialize;
use std::fmt::Write;

/// A file in JSON.
#[derive(Serialize)]
pub struct Shown {
    /// As text; bytes that are no UTF-8 are replaced.
    path: String,
    /// The same in hexadecimal digits, where the text is not exact.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// The same for a terminal.
    #[serde(skip)]
    escaped: String,
    #[serde(flatten)]
    facts: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Facts {
    kind: &'static str,
    mode: u16,
    uid: u32,
    gid: u32,
    size: u64,
    links: u32,
    inode: u64,
    mtime: String,
    atime: String,
    ctime: String,
}

impl Shown {
    /// A file at a path, with what a link leads to.
    pub fn new(path: &[u8], node: &Node, target: Option<&[u8]>) -> Self {
        let facts = Facts {
            kind: kind(node.kind),
            mode: node.perm,
            uid: node.uid,
            gid: node.gid,
            size: node.size,
            links: node.nlink,
            inode: node.ino & mount::guest::MAX_INODE,
            mtime: time(node.mtime),
            atime: time(node.atime),
            ctime: time(node.ctime),
        };
        let target = target.map(|target| String::from_utf8_lossy(target).into_owned());
        Self { facts: Some(facts), target, ..Self::unknown(path, None) }
    }

    /// Size and time of the last change, for a table.
    pub fn summary(&self) -> (String, String) {
        let facts = self.facts.as_ref();
        facts.map(|facts| (facts.size.to_string(), facts.mtime.clone())).unwrap_or_default()
    }

    /// The path for a terminal.
    pub fn path_escaped(&self) -> String {
        self.escaped.clone()
    }

    /// A name whose file cannot be read.
    pub fn unknown(path: &[u8], error: Option<String>) -> Self {
        let escaped = escaped(path);
        let (path, path_hex) = text(path);
        Self { path, path_hex, escaped, facts: None, target: None, error }
    }
}

/// Bytes as text, and in hexadecimal digits where the text is not exact.
pub fn text(bytes: &[u8]) -> (String, Option<String>) {
    let exact = std::str::from_utf8(bytes).is_ok();
    let hex = || bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    (String::from_utf8_lossy(bytes).into_owned(), (!exact).then(hex))
}

/// Bytes of a guest as a terminal may have them: a name must not move the cursor, nor look like another line.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                c if c.is_control() || is_direction(c) => out.extend(c.escape_unicode()),
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            // to a string there is always room
            let _written = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Characters that turn the direction of writing, and so what is read.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The name of a kind.
pub fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Directory => "directory",
        NodeKind::Symlink => "link",
        NodeKind::Fifo => "fifo",
        NodeKind::Socket => "socket",
        NodeKind::CharDevice => "character-device",
        NodeKind::BlockDevice => "block-device",
    }
}

/// `drwxr-xr-x`, as `ls` has it.
pub fn mode(node: &Node) -> String {
    let kind = match node.kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice => 'c',
        NodeKind::BlockDevice => 'b',
    };
    let mut out = String::from(kind);
    // (shift of the three bits, the bit above them, its letter)
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = node.perm >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (node.perm & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// RFC 3339, in UTC. Days are counted from 0000-03-01 (Gregorian, as everywhere in computing).
pub fn time(stamp: Stamp) -> String {
    let (days, second) = (stamp.seconds.div_euclid(86_400), stamp.seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let nanos = if stamp.nanos == 0 { String::new() } else { format!(".{:09}", stamp.nanos) };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{nanos}Z")
}

/// Days of 400 years.
const ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

fn date(days: i64) -> (i64, i64, i64) {
    let (era, day) = ((days + EPOCH).div_euclid(ERA), (days + EPOCH).rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let month = if month > 2 { month - 3 } else { month + 9 };
    era * ERA + year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1 - EPOCH
}

/// Seconds since 1970 of `2026-11-21`, `2026-11-21T16:30`, `2026-11-21T16:30:05Z`: always UTC, as a guest's times are
/// told.
pub fn parse_time(text: &str) -> Result<i64, String> {
    let wrong = || "a time is 2026-11-21, or 2026-11-21T16:30:00Z, in UTC".to_owned();
    let (date, clock) =
        text.strip_suffix('Z').unwrap_or(text).split_once(['T', ' ']).unwrap_or((text, "00:00"));
    let numbers = |text: &str, by: char| -> Option<Vec<i64>> {
        text.split(by).map(|part| part.parse::<u32>().ok().map(i64::from)).collect()
    };
    let (date, clock) = numbers(date, '-').zip(numbers(clock, ':')).ok_or_else(wrong)?;
    let (&[year, month, day], &[hour, minute, ref second @ ..]) = (date.as_slice(), clock.as_slice()) else {
        return Err(wrong());
    };
    let second = match second {
        [] => 0,
        &[second] => second,
        _ => return Err(wrong()),
    };
    let since = days(year, month, day);
    let fits = year <= 9999 && hour < 24 && minute < 60 && second <= 60;
    // a day that does not exist comes back as another
    if !fits || !(1..=12).contains(&month) || self::date(since) != (year, month, day) {
        return Err(wrong());
    }
    Ok(since * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_there_and_back() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (5_000_000_000, "2128-06-11T08:53:20Z"),
            (-2_147_483_648, "1901-12-13T20:45:52Z"),
        ] {
            assert_eq!(time(Stamp { seconds, nanos: 0 }), text);
            assert_eq!(parse_time(text), Ok(seconds));
        }
        assert_eq!(time(Stamp { seconds: 1, nanos: 5 }), "1970-01-01T00:00:01.000000005Z");
        assert_eq!(parse_time("1970-01-02"), Ok(86_400));
        assert_eq!(parse_time("1970-01-01T00:01"), Ok(60));
        for bad in ["", "x", "2026-02-30", "2026-13-01", "2026-01-01T25:00", "2026-01-01T1:2:3:4"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_cannot_speak_to_the_terminal() {
        assert_eq!(escaped("plain \u{e9}".as_bytes()), "plain \u{e9}");
        assert_eq!(escaped(b"\x1b[31mred\n\xff\\"), "\\u{1b}[31mred\\u{a}\\xff\\\\");
        assert_eq!(escaped("a\u{202e}b".as_bytes()), "a\\u{202e}b");
    }
}
