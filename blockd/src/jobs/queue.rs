//! Which jobs wait and run now, and whose turn it is.

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
    pub(super) stopping: bool,
}

/// One of them.
pub(super) struct Entry {
    pub(super) job: Job,
    pub(super) keys: Vec<String>,
    pub(super) reads: Vec<String>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) started_ns: Option<u64>,
}

impl Active {
    /// Whether this job may run beside what runs already, at most `parallel` at a time.
    pub(super) fn may_run(&self, number: u64, parallel: usize) -> bool {
        let running = || self.jobs.values().filter(|entry| entry.job.state == JobState::Running);
        let Some(own) = self.jobs.get(&number) else { return true };
        let shares = |other: &Entry| other.keys.iter().any(|key| own.keys.contains(key));
        running().count() < parallel
            && !running().any(shares)
            && !self.jobs.range(..number).any(|(_, older)| shares(older))
    }
}
