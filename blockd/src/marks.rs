//! What was said of recovery points beyond what they hold: that somebody holds one, that one is to be kept until a time, that
//! one was deleted from a vault and goes for good on a later day. One small file a point, `docs/deletion.md`.

use crate::error::{Doing, Error, Result};
use block::sync::{Mutex, lock};
use block::{Media, OpenHow, StateId};
use control::{Consistency, Kind};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The directory in the state directory.
pub const DIR: &str = "marks";

/// A mark larger than this is not one: it has a reason of at most a thousand characters, and a vault or two.
const LIMIT_BYTES: u64 = 64 << 10;

/// What was said of a point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// What the point was called then; for people, since names can change.
    pub point: String,
    /// It is not to be deleted, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// It is not to be deleted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<Timestamp>,
    /// It does not look like those before it, and nobody has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspect: Option<Suspicion>,
    /// The vaults it was deleted from, by their ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deleted: BTreeMap<String, Deleted>,
    /// Vaults it was brought back to from an archive, by their ids, and until when each holds it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rehydrated: BTreeMap<String, Timestamp>,
    /// How whole it is to its guest; as after a power cut where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiesced: Option<Quiesced>,
}

/// What was reached of consistency when a point was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Quiesced {
    /// The level.
    pub level: Consistency,
    /// How long the guest's filesystems were held still.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_ms: Option<u64>,
    /// Why it is not more, if more was wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Somebody's word that a point must stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// Why a point does not look like those before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suspicion {
    /// Why.
    pub why: String,
    /// Since when.
    pub since: Timestamp,
}

/// A deletion that can still be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deleted {
    /// When.
    pub at: Timestamp,
    /// When it becomes final.
    pub until: Timestamp,
    /// Who wanted it: `request`, or a policy.
    pub by: String,
}

impl Mark {
    fn is_empty(&self) -> bool {
        self.hold.is_none()
            && self.keep_until.is_none()
            && self.suspect.is_none()
            && self.deleted.is_empty()
            && self.rehydrated.is_empty()
            && self.quiesced.is_none()
    }

    /// A mark that cannot be read is taken for a hold: what it said may have been one.
    fn unreadable(path: &str, why: &str) -> Self {
        let reason = format!("its file {path} cannot be read ({why})");
        Self { hold: Some(Hold { reason, since: Timestamp::UNIX_EPOCH }), ..Self::default() }
    }
}

/// All marks.
pub struct Marks {
    media: Arc<dyn Media>,
    table: Mutex<HashMap<StateId, Mark>>,
}

impl Marks {
    /// Reads them. One that is damaged holds its point.
    ///
    /// # Errors
    /// What keeps the directory from being read.
    pub fn open(media: Arc<dyn Media>) -> Result<Self> {
        media.create_dir(DIR).and_then(|()| media.sync_dir("")).doing(|| format!("make {DIR}"))?;
        let mut table = HashMap::new();
        for entry in media.list(DIR).doing(|| format!("list {DIR}"))? {
            // what a crash left of a replacement is none
            let Some(state) = entry.name.strip_suffix(".toml").and_then(|id| id.parse().ok()) else {
                continue;
            };
            table.insert(state, read(&*media, &path(state)));
        }
        Ok(Self { media, table: Mutex::new(table) })
    }

    /// What was said of a point; nothing by default.
    pub fn of(&self, state: StateId) -> Mark {
        lock(&self.table).get(&state).cloned().unwrap_or_default()
    }

    /// Whether a point was deleted from a vault.
    pub fn is_deleted_from(&self, state: StateId, vault: &str) -> bool {
        lock(&self.table).get(&state).is_some_and(|mark| mark.deleted.contains_key(vault))
    }

    /// The points that were deleted from a vault, with when each goes for good.
    pub fn deleted_from(&self, vault: &str) -> HashMap<StateId, Deleted> {
        let table = lock(&self.table);
        let of = |(state, mark): (&StateId, &Mark)| {
            mark.deleted.get(vault).map(|deleted| (*state, deleted.clone()))
        };
        table.iter().filter_map(of).collect()
    }

    /// The points that were brought back to a vault from archives, with until when it holds each.
    pub fn rehydrated_to(&self, vault: &str) -> HashMap<StateId, Timestamp> {
        let table = lock(&self.table);
        table.iter().filter_map(|(state, mark)| Some((*state, *mark.rehydrated.get(vault)?))).collect()
    }

    /// Points of which only their consistency is said, with what they were called.
    pub fn only_quiesced(&self) -> Vec<(StateId, String)> {
        let is_all =
            |mark: &Mark| mark.quiesced.is_some() && Mark { quiesced: None, ..mark.clone() }.is_empty();
        let table = lock(&self.table);
        table
            .iter()
            .filter(|(_, mark)| is_all(mark))
            .map(|(state, mark)| (*state, mark.point.clone()))
            .collect()
    }

    /// Marks that cannot be read, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let is_unreadable = |mark: &&Mark| mark.point.is_empty() && mark.hold.is_some();
        let table = lock(&self.table);
        let reasons = table.values().filter(is_unreadable).filter_map(|mark| mark.hold.as_ref());
        let held = reasons.map(|hold| format!("a recovery point is held: {}", hold.reason));
        let suspect = table.values().filter_map(|mark| {
            let (point, why) = (&mark.point, &mark.suspect.as_ref()?.why);
            Some(format!("{point} is suspect: {why}; nothing of its item is pruned until `blockctl point accept {point}`"))
        });
        held.chain(suspect).collect()
    }

    /// The points that are suspect, by what they were called, and why.
    pub fn suspects(&self) -> BTreeMap<String, String> {
        let table = lock(&self.table);
        let of = |mark: &Mark| Some((mark.point.clone(), mark.suspect.as_ref()?.why.clone()));
        table.values().filter_map(of).collect()
    }

    /// Changes what is said of a point. It is durable when this returns.
    ///
    /// # Errors
    /// What `change` refuses; what the host reports. Nothing has changed then, but after a failed sync either may be so.
    pub fn change(
        &self,
        state: StateId,
        point: &str,
        change: impl FnOnce(&mut Mark) -> Result<()>,
    ) -> Result<Mark> {
        let mut table = lock(&self.table);
        let mark = changed(&table, state, point, change)?;
        self.put(&mut table, vec![(state, mark.clone())])?;
        Ok(mark)
    }

    /// Changes what is said of several points in one way, for little more than the price of one. Gives what came of each, in
    /// their order.
    ///
    /// # Errors
    /// What the host reports: then nothing is known of any of them. What `change` refuses is of its point alone.
    pub fn change_all(
        &self,
        points: &[(StateId, &str)],
        change: impl Fn(&mut Mark, &str) -> Result<()>,
    ) -> Result<Vec<Result<()>>> {
        let mut table = lock(&self.table);
        let (mut marks, mut outcomes) = (Vec::new(), Vec::new());
        for (state, point) in points {
            let outcome = changed(&table, *state, point, |mark| change(mark, point));
            outcomes.push(outcome.map(|mark| marks.push((*state, mark))));
        }
        self.put(&mut table, marks)?;
        Ok(outcomes)
    }

    /// Writes marks: the bytes of each durable before its name, and all names before this returns.
    fn put(&self, table: &mut HashMap<StateId, Mark>, marks: Vec<(StateId, Mark)>) -> Result<()> {
        for (state, mark) in &marks {
            let doing = || format!("write down what was said of {}", mark.point);
            if mark.is_empty() {
                match self.media.remove(&path(*state)) {
                    Err(error) if error.kind() == block::Kind::NotFound => {}
                    removed => removed.doing(doing)?,
                }
                continue;
            }
            let text =
                toml::to_string(mark).map_err(|error| Error::said(Kind::Io, doing(), error.to_string()))?;
            let fresh = format!("{}.new", path(*state));
            let write = || {
                let file = self.media.open(&fresh, OpenHow::Truncate)?;
                file.write_at(0, text.as_bytes())?;
                file.sync()?;
                self.media.rename(&fresh, &path(*state))
            };
            write().doing(doing)?;
        }
        self.media.sync_dir(DIR).doing(|| "write down what was said of recovery points".to_owned())?;
        for (state, mark) in marks {
            if mark.is_empty() {
                table.remove(&state);
            } else {
                table.insert(state, mark);
            }
        }
        Ok(())
    }
}

/// What is said of a point after a change.
fn changed(
    table: &HashMap<StateId, Mark>,
    state: StateId,
    point: &str,
    change: impl FnOnce(&mut Mark) -> Result<()>,
) -> Result<Mark> {
    let mut mark = table.get(&state).cloned().unwrap_or_default();
    change(&mut mark)?;
    point.clone_into(&mut mark.point);
    Ok(mark)
}

fn path(state: StateId) -> String {
    format!("{DIR}/{state}.toml")
}

fn read(media: &dyn Media, path: &str) -> Mark {
    let bytes = match media.read_whole(path, LIMIT_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => return Mark::unreadable(path, &error.to_string()),
    };
    let parsed = std::str::from_utf8(&bytes).map_err(|_| "it is not UTF-8".to_owned());
    let parsed = parsed.and_then(|text| toml::from_str(text).map_err(|error| error.message().to_owned()));
    parsed.unwrap_or_else(|why| Mark::unreadable(path, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::linux::LinuxMedia;

    fn state(byte: u8) -> StateId {
        StateId::from_bytes([byte; 16])
    }

    #[test]
    fn what_was_said_is_found_again_and_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let media: Arc<dyn Media> = Arc::new(LinuxMedia::new(dir.path(), dir.path()).expect("media"));
        let marks = Marks::open(media.clone()).expect("none yet");
        let hold = Hold { reason: "audit \"2026\"".to_owned(), since: Timestamp::UNIX_EPOCH };
        let said = |mark: &mut Mark| {
            mark.hold = Some(hold.clone());
            Ok(())
        };
        marks.change(state(1), "web@3", said).expect("written");
        let again = Marks::open(media.clone()).expect("one");
        assert_eq!(again.of(state(1)).hold, Some(hold));
        assert_eq!(again.of(state(1)).point, "web@3");
        assert_eq!(again.of(state(2)), Mark::default());
        let refused = again.change(state(1), "web@3", |_| Err(Error::said(Kind::Refused, "no", "no")));
        assert!(refused.is_err());
        let take_back = |mark: &mut Mark| {
            mark.hold = None;
            Ok(())
        };
        again.change(state(1), "web@3", take_back).expect("taken back");
        assert_eq!(Marks::open(media.clone()).expect("none").of(state(1)), Mark::default());
        assert_eq!(media.list(DIR).expect("listed"), []);
    }

    #[test]
    fn a_damaged_mark_holds_its_point() {
        let dir = tempfile::tempdir().expect("a directory");
        let media: Arc<dyn Media> = Arc::new(LinuxMedia::new(dir.path(), dir.path()).expect("media"));
        drop(Marks::open(media.clone()).expect("none yet"));
        media.replace(&path(state(1)), b"hold = 7").expect("written");
        let marks = Marks::open(media).expect("one that is damaged");
        assert!(marks.of(state(1)).hold.is_some());
        assert!(marks.warnings()[0].contains("cannot be read"));
    }
}
