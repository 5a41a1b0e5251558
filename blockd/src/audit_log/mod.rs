//! The audit log: who asked for which change or restore, when, and how it ended. An entry is durable before the change it
//! is about begins, another before the change is acknowledged; each holds the hash of the one before. `docs/audit-log.md`.

mod cause;
mod chain;
mod head;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub use tests::of_a_test;

pub use cause::{Cause, current as cause};
pub use chain::hash;

use crate::error::{Doing, Error, Result};
use crate::names::rfc3339;
use block::sync::{Mutex, MutexGuard, lock};
use block::{ByteCount, ByteOffset, ByteRange, Clock, Media, MediaFile, OpenHow};
use chain::{LINE_LIMIT, Link};
use control::{AuditEntry, AuditOutcome, AuditQuery, AuditVerified, Kind};
use head::Head;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const DIR: &str = "audit";

/// A segment is followed by another when it has so many bytes: a page of entries is found by reading one or two.
const SEGMENT: u64 = if cfg!(test) { 1 << 20 } else { 8 << 20 };

/// Room that is made beforehand, so that a change which frees space can be written down on a full filesystem.
const ROOM: u64 = 256 << 10;

/// What an entry is about takes no more than this, as JSON; an error message no more than the other.
const ABOUT_LIMIT: usize = 8 << 10;
const ERROR_LIMIT: usize = 2000;

/// Entries of one answer.
const PAGE: usize = 100;
const PAGE_MOST: usize = 1000;

/// What an entry is about: names, query, body.
pub type About = BTreeMap<String, Value>;

/// What is to be written down.
#[derive(Default)]
pub struct Said {
    /// Who.
    pub who: String,
    /// What.
    pub action: String,
    /// About what.
    pub about: About,
}

/// The log.
pub struct Audit {
    media: Arc<dyn Media>,
    clock: Arc<dyn Clock>,
    end: Mutex<End>,
}

/// Where the next entry goes.
struct End {
    file: Arc<dyn MediaFile>,
    length: u64,
    room: u64,
    last: Link,
    head: Head,
    // an entry could not be written or synced: nothing is changed any more before a restart
    failed: Option<String>,
}

impl Audit {
    /// Opens the log, and checks its last segment. If that is damaged the log goes on in a new one; what it said, if it is.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open(media: Arc<dyn Media>, clock: Arc<dyn Clock>) -> Result<(Self, Option<String>)> {
        let doing = || "open the audit log".to_owned();
        media.create_dir(DIR).and_then(|()| media.sync_dir("")).doing(doing)?;
        let (head, noted) = Head::open(&*media).doing(doing)?;
        let noted = noted.unwrap_or_default();
        let (end, damage) = match last_segment(&*media, &noted)? {
            Some(first) => open_last(&*media, first, head, &noted)?,
            None if noted.number == 0 => (begin(&*media, Link::default(), 1, head)?, None),
            None => {
                let damage = format!("every segment is gone, and there were {} entries", noted.number);
                (begin(&*media, noted.clone(), noted.number + 1, head)?, Some(damage))
            }
        };
        let audit = Self { media, clock, end: Mutex::new(end) };
        if let Some(damage) = &damage {
            let about = BTreeMap::from([("damage".to_owned(), Value::from(damage.as_str()))]);
            let said = Said { who: "blockd".to_owned(), action: "audit log damaged".to_owned(), about };
            audit.write(&said, AuditOutcome::Failed, None, None)?;
        }
        Ok((audit, damage))
    }

    /// Writes an entry. It is durable when this returns; its number.
    ///
    /// # Errors
    /// `NoSpace` if the host has no room for it, `Poisoned` after an entry could not be written.
    pub fn write(
        &self,
        said: &Said,
        outcome: AuditOutcome,
        of: Option<u64>,
        error: Option<&str>,
    ) -> Result<u64> {
        let mut end = lock(&self.end);
        if let Some(why) = &end.failed {
            return Err(Error::said(Kind::Poisoned, "the audit log", why.clone())
                .with_help("look at the host's storage, then restart blockd: nothing is changed that cannot be written down"));
        }
        let entry = AuditEntry {
            number: end.last.number.saturating_add(1),
            time: rfc3339(self.clock.now()),
            who: said.who.clone(),
            action: said.action.clone(),
            outcome,
            of,
            about: bounded(&said.about),
            error: error.map(|error| shortened(error, ERROR_LIMIT)),
            previous: end.last.hash.clone(),
            hash: String::new(),
        };
        let (line, hash) = chain::line(&entry)
            .map_err(|error| Error::said(Kind::Io, "write down what is done", error.to_string()))?;
        if line.len() > LINE_LIMIT {
            return Err(Error::said(Kind::Invalid, "write down what is done", "its names are too long"));
        }
        let link = Link { number: entry.number, hash };
        self.append(&mut end, &line, link).map(|()| entry.number)
    }

    fn append(&self, end: &mut MutexGuard<'_, End>, line: &[u8], link: Link) -> Result<()> {
        let doing = || "write down what is done, in the audit log".to_owned();
        let length = line.len() as u64;
        if end.length + length > SEGMENT {
            let (file, room) = make_segment(&*self.media, link.number)?;
            (end.file, end.room, end.length) = (file, room, 0);
        }
        let needs_room = end.length + length + ROOM / 2 > end.room;
        if needs_room && let Some(more) = room_from(end.room) {
            match end.file.allocate(more) {
                Ok(()) => end.room += ROOM,
                // what was made before is for this
                Err(_) if end.length + length <= end.room => {}
                Err(error) => return Err(Error::below(doing(), error)),
            }
        }
        let written = end.file.write_at(end.length, line).and_then(|()| end.file.sync());
        if let Err(error) = written {
            end.failed = Some(format!("an entry could not be written: {error}"));
            return Err(Error::below(doing(), error));
        }
        if let Err(error) = end.head.note(&link) {
            tracing::warn!("cannot note the head of the audit log: {error}");
        }
        end.length += length;
        end.last = link;
        Ok(())
    }

    /// Does something that is written down before it begins, and again with how it ended before this returns.
    ///
    /// # Errors
    /// As [`write`](Self::write), and then nothing was done, or nobody is told that it was; what `work` reports.
    pub fn around<T>(&self, said: &Said, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let of = self.write(said, AuditOutcome::Asked, None, None)?;
        let done = cause::with(Cause { who: said.who.clone(), of }, work);
        let error = done.as_ref().err().map(|error| (error.kind(), error.body().message));
        let outcome = match &error {
            None => AuditOutcome::Done,
            Some((kind, _)) => outcome_of(*kind),
        };
        let end = Said { who: said.who.clone(), action: said.action.clone(), about: About::new() };
        self.write(&end, outcome, Some(of), error.as_ref().map(|(_, message)| message.as_str()))?;
        done
    }

    /// A page of entries, oldest first.
    ///
    /// # Errors
    /// What the host reports.
    pub fn entries(&self, query: &AuditQuery) -> Result<Vec<AuditEntry>> {
        let limit = query.limit.unwrap_or(PAGE).clamp(1, PAGE_MOST);
        let newest = lock(&self.end).last.number;
        let after = query.after.unwrap_or_else(|| newest.saturating_sub(limit as u64));
        let mut page = VecDeque::new();
        let segments = segments(&*self.media)?;
        for (at, &first) in segments.iter().enumerate() {
            let is_before = segments.get(at + 1).is_some_and(|&next| next <= after.saturating_add(1));
            if is_before || page.len() >= limit {
                continue;
            }
            // what does not verify is shown no further; `verify` says what it is
            for line in read_segment(&*self.media, first)?.split(|&byte| byte == b'\n') {
                if let Ok(entry) = chain::parse(line)
                    && entry.number > after
                    && entry.number <= newest
                    && page.len() < limit
                {
                    page.push_back(entry);
                }
            }
        }
        Ok(page.into())
    }

    /// The newest entry, `NUMBER:HASH`.
    #[cfg(test)]
    pub fn head(&self) -> String {
        let end = lock(&self.end);
        format!("{}:{}", end.last.number, end.last.hash)
    }

    /// Goes through the whole chain.
    ///
    /// # Errors
    /// `Invalid` for a head that is none; what the host reports.
    pub fn verify(&self, head: Option<&str>) -> Result<AuditVerified> {
        // nothing is written meanwhile
        let end = lock(&self.end);
        let mut wanted = vec![end.last.clone()];
        if let Some(text) = head {
            let wrong = || {
                Error::said(
                    Kind::Invalid,
                    format!("head {}", crate::names::shown(text)),
                    "is not NUMBER:HASH",
                )
            };
            let (number, hash) = text.split_once(':').ok_or_else(wrong)?;
            let number = number.parse().map_err(|_| wrong())?;
            wanted.push(Link { number, hash: hash.to_owned() });
        }
        let (mut problems, mut entries, mut last) = (Vec::new(), 0, Link::default());
        for first in segments(&*self.media)? {
            let bytes = read_segment(&*self.media, first)?;
            if first != last.number + 1 {
                problems.push(format!("entries {} to {} are missing", last.number + 1, first - 1));
                // whatever is said of the gap, the rest can still be held against itself
                last = Link { number: first - 1, hash: claimed(&bytes).unwrap_or_default() };
            }
            let walked = chain::walk(&bytes, last, &mut |entry| {
                entries += 1;
                wanted.retain(|link| (link.number, &link.hash) != (entry.number, &entry.hash));
            });
            problems.extend(walked.stop);
            last = walked.last;
        }
        wanted.retain(|link| link.number > 0);
        problems.extend(wanted.iter().map(|link| {
            format!("entry {} with hash {} was written and is not there", link.number, link.hash)
        }));
        problems.dedup();
        let head = format!("{}:{}", end.last.number, end.last.hash);
        Ok(AuditVerified { ok: problems.is_empty(), entries, head, problems })
    }
}

/// How a request that failed like this ended.
fn outcome_of(kind: Kind) -> AuditOutcome {
    match kind {
        Kind::Invalid
        | Kind::OutOfRange
        | Kind::NotFound
        | Kind::Conflict
        | Kind::ReadOnly
        | Kind::Refused => AuditOutcome::Refused,
        _ => AuditOutcome::Failed,
    }
}

/// The hash that the first entry of a segment says to follow.
fn claimed(bytes: &[u8]) -> Option<String> {
    chain::parse(bytes.split(|&byte| byte == b'\n').next()?).ok().map(|entry| entry.previous)
}

fn path(first: u64) -> String {
    format!("{DIR}/{first:020}.log")
}

/// The numbers of the first entries of all segments, ascending.
fn segments(media: &dyn Media) -> Result<Vec<u64>> {
    let listed = media.list(DIR).doing(|| format!("list {DIR}"))?;
    let first = |name: &str| name.strip_suffix(".log")?.parse().ok().filter(|&first: &u64| first > 0);
    let mut found: Vec<u64> = listed.iter().filter_map(|entry| first(&entry.name)).collect();
    found.sort_unstable();
    Ok(found)
}

fn read_segment(media: &dyn Media, first: u64) -> Result<Vec<u8>> {
    let path = path(first);
    media.read_whole(&path, 2 * SEGMENT).doing(|| format!("read {path}"))
}

fn room_from(offset: u64) -> Option<ByteRange> {
    ByteRange::new(ByteOffset::new(offset), ByteCount::new(ROOM))
}

fn make_segment(media: &dyn Media, first: u64) -> Result<(Arc<dyn MediaFile>, u64)> {
    let path = path(first);
    let doing = || format!("make {path}");
    let file = media.open(&path, OpenHow::Truncate).doing(doing)?;
    if let Some(room) = room_from(0) {
        file.allocate(room).doing(doing)?;
    }
    file.sync().and_then(|()| media.sync_dir(DIR)).doing(doing)?;
    Ok((file, ROOM))
}

fn begin(media: &dyn Media, last: Link, first: u64, head: Head) -> Result<End> {
    let (file, room) = make_segment(media, first)?;
    Ok(End { file, length: 0, room, last, head, failed: None })
}

/// The last segment that has an entry, or should have one. A segment that was made when the power failed is taken away.
fn last_segment(media: &dyn Media, noted: &Link) -> Result<Option<u64>> {
    let mut found = segments(media)?;
    while let Some(first) = found.pop() {
        let is_empty = read_segment(media, first)?.iter().all(|&byte| byte == 0);
        if !is_empty || first == 1 || noted.number >= first {
            return Ok(Some(first));
        }
        media
            .remove(&path(first))
            .and_then(|()| media.sync_dir(DIR))
            .doing(|| format!("remove {}", path(first)))?;
    }
    Ok(None)
}

/// Goes on where the last segment ends.
fn open_last(media: &dyn Media, first: u64, head: Head, noted: &Link) -> Result<(End, Option<String>)> {
    let bytes = read_segment(media, first)?;
    let before = match first {
        1 => Link::default(),
        // what the segments before it end with is looked at by `verify`
        _ => Link { number: first - 1, hash: claimed(&bytes).unwrap_or_default() },
    };
    let (walked, doing) = (chain::walk(&bytes, before, &mut |_| {}), || format!("open {}", path(first)));
    let rest = &bytes[walked.length..];
    let missing = (noted.number > walked.last.number)
        .then(|| format!("entry {} was written and is not there", noted.number));
    let damage = match (&walked.stop, missing) {
        (_, Some(missing)) => Some(walked.stop.clone().unwrap_or(missing)),
        (Some(stop), None) if !chain::is_torn(rest) => Some(stop.clone()),
        _ => None,
    };
    if let Some(damage) = damage {
        // the damaged segment stays as it is, for whoever wants to know
        let number = walked.last.number.max(noted.number).max(first) + 1;
        return Ok((
            begin(media, Link { number: number - 1, hash: walked.last.hash }, number, head)?,
            Some(damage),
        ));
    }
    let file = media.open(&path(first), OpenHow::Write).doing(doing)?;
    if walked.stop.is_some() {
        tracing::warn!(
            "the last entry of the audit log was half written, and is taken out: nobody was told of it"
        );
        file.write_at(walked.length as u64, &vec![0; rest.len()]).and_then(|()| file.sync()).doing(doing)?;
    }
    let (length, room) = (walked.length as u64, bytes.len() as u64);
    Ok((End { file, length, room, last: walked.last, head, failed: None }, None))
}

/// What fits into an entry; of more, its length and hash.
fn bounded(about: &About) -> About {
    let length = serde_json::to_vec(about).map_or(0, |bytes| bytes.len());
    if length <= ABOUT_LIMIT {
        return about.clone();
    }
    let short = |(key, value): (&String, &Value)| {
        let text = value.to_string();
        let value = match text.len() <= ABOUT_LIMIT / 8 {
            true => value.clone(),
            false => serde_json::json!({ "bytes": text.len(), "sha256": hash(text.as_bytes()) }),
        };
        (key.clone(), value)
    };
    about.iter().take(8).map(short).collect()
}

fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mut end = limit;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
