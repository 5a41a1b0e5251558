//! Which jobs wait and run now, and whose turn it is.

use crate::audit_log::Cause;
use control::{Job, JobState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The jobs that have not ended.
#[derive(Default)]
pub(super) struct Active {
    // by number, so that the oldest waiting one comes first
    pub(super) jobs: BTreeMap<u64, Entry>,
    pub(super) next: u64,
    pub(super) ended: Counts,
    pub(super) stopping: bool,
}

/// How soon a job is to run; less is sooner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urgency {
    /// Somebody waits for their data.
    Restore,
    /// Somebody waits.
    #[default]
    ByHand,
    /// So many minutes are left until the objective of a policy is missed; none without an objective.
    Due(u32),
    /// Any time.
    Upkeep,
}

/// What ended since the start.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// How many, by operation and state.
    pub ended: BTreeMap<(String, &'static str), u64>,
    /// Chunks of backups that their vaults did not have.
    pub chunks_new: u64,
    /// Those that they had.
    pub chunks_reused: u64,
    /// Bytes added to vaults.
    pub bytes_stored: u64,
}

impl Counts {
    pub(super) fn count(&mut self, job: &Job) {
        *self.ended.entry((job.operation.clone(), job.state.name())).or_default() += 1;
        self.chunks_new += job.chunks_new;
        self.chunks_reused += job.chunks_reused;
        self.bytes_stored += job.bytes_stored;
    }
}

/// One of them.
pub(super) struct Entry {
    pub(super) job: Job,
    // whose request began it
    pub(super) cause: Option<Cause>,
    pub(super) urgency: Urgency,
    pub(super) keys: Vec<String>,
    pub(super) reads: Vec<String>,
    pub(super) cancelled: Arc<AtomicBool>,
    // a person cancelled it
    pub(super) is_unwanted: bool,
    pub(super) asked_ns: u64,
    pub(super) started_ns: Option<u64>,
}

impl Active {
    /// Whether it is this job's turn to run, at most `parallel` at a time: of those that share no key with one that runs or
    /// waits longer, and that nothing `holds`, the most urgent, and of equals the one that has waited longest.
    pub(super) fn may_run(&self, number: u64, parallel: usize, holds: &dyn Fn(Urgency) -> bool) -> bool {
        if !self.jobs.contains_key(&number) {
            return true;
        }
        let running = || self.jobs.values().filter(|entry| entry.job.state == JobState::Running);
        if running().count() >= parallel {
            return false;
        }
        let shares = |one: &Entry, other: &Entry| one.keys.iter().any(|key| other.keys.contains(key));
        let is_free = |(number, entry): &(&u64, &Entry)| {
            !holds(entry.urgency)
                && !running().any(|other| shares(other, entry))
                && !self.jobs.range(..**number).any(|(_, older)| shares(older, entry))
        };
        let waiting = self.jobs.iter().filter(|(_, entry)| entry.job.state == JobState::Queued);
        let next = waiting.filter(is_free).min_by_key(|(number, entry)| (entry.urgency, **number));
        next.is_some_and(|(next, _)| *next == number)
    }
}
