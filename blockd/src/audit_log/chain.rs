//! Entries as lines, each with the hash of the one before: `docs/audit-log.md`.

use aws_lc_rs::digest::{SHA256, digest};
use control::AuditEntry;
use std::fmt::Write;

/// The longest line, its end included. What an entry is about is cut before, so that no entry is longer.
pub const LINE_LIMIT: usize = 16 << 10;

/// Hex digits of a hash.
const DIGITS: usize = 64;

/// Where a chain stands: the newest entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub number: u64,
    /// Its hash, in hex.
    pub hash: String,
}

impl Default for Link {
    /// Before the first entry.
    fn default() -> Self {
        Self { number: 0, hash: "0".repeat(DIGITS) }
    }
}

/// SHA-256, in hex.
pub fn hash(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        // a String takes everything
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

/// An entry as a line, and its hash.
pub fn line(entry: &AuditEntry) -> serde_json::Result<(Vec<u8>, String)> {
    let json = serde_json::to_vec(entry)?;
    let hash = hash(&json);
    let mut line = Vec::with_capacity(DIGITS + json.len() + 2);
    line.extend_from_slice(hash.as_bytes());
    line.push(b' ');
    line.extend_from_slice(&json);
    line.push(b'\n');
    Ok((line, hash))
}

/// The entry of a line without its end, if that is what was written.
///
/// # Errors
/// What does not fit, in a few words.
pub fn parse(line: &[u8]) -> Result<AuditEntry, String> {
    if line.len() >= LINE_LIMIT || line.get(DIGITS) != Some(&b' ') {
        return Err("is no line of this log".to_owned());
    }
    let (digits, json) = (&line[..DIGITS], &line[DIGITS + 1..]);
    let hash = hash(json);
    if digits != hash.as_bytes() {
        return Err("was changed: its hash does not fit".to_owned());
    }
    let entry: AuditEntry = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    Ok(AuditEntry { hash, ..entry })
}

/// What lies in a segment.
pub struct Walked {
    /// How many bytes of it are whole entries, one following the other.
    pub length: usize,
    /// The last of them, or what it was to begin after.
    pub last: Link,
    /// Why it goes no further, unless only zeros follow.
    pub stop: Option<String>,
}

/// Goes through a segment that begins after `last`, as far as each entry follows the one before.
pub fn walk(bytes: &[u8], last: Link, visit: &mut dyn FnMut(AuditEntry)) -> Walked {
    let mut walked = Walked { length: 0, last, stop: None };
    loop {
        let rest = &bytes[walked.length..];
        if rest.iter().all(|&byte| byte == 0) {
            return walked;
        }
        let next = walked.last.number.saturating_add(1);
        let found = match rest.iter().take(LINE_LIMIT).position(|&byte| byte == b'\n') {
            Some(end) => {
                parse(&rest[..end]).and_then(|entry| follows(&walked.last, entry)).map(|it| (it, end))
            }
            None => Err("has no end".to_owned()),
        };
        match found {
            Ok((entry, end)) => {
                walked.length += end + 1;
                walked.last = Link { number: entry.number, hash: entry.hash.clone() };
                visit(entry);
            }
            Err(why) => {
                walked.stop = Some(format!("entry {next} {why}"));
                return walked;
            }
        }
    }
}

fn follows(last: &Link, entry: AuditEntry) -> Result<AuditEntry, String> {
    if Some(entry.number) != last.number.checked_add(1) {
        return Err(format!("is missing: number {} stands in its place", entry.number));
    }
    if entry.previous != last.hash {
        return Err(format!("does not follow entry {}: one of them was changed", last.number));
    }
    Ok(entry)
}

/// Whether what follows the last whole entry can be one that a power cut left half written: never acknowledged, so not
/// missed.
pub fn is_torn(rest: &[u8]) -> bool {
    let written = rest.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let ends = rest[..written].iter().filter(|&&byte| byte == b'\n').count();
    written <= LINE_LIMIT && (ends == 0 || (ends == 1 && rest[written - 1] == b'\n'))
}
