//! Jobs that the host had no room to write down: remembered until it has, so that a full host does not keep anybody from
//! checking a vault or making room.

use control::Job;
use std::collections::VecDeque;

/// So many at most; of more the oldest that ended are forgotten.
const LIMIT: usize = 512;

/// The jobs, oldest first.
#[derive(Default)]
pub(super) struct Unwritten(VecDeque<Job>);

impl Unwritten {
    /// Remembers a job as it is now.
    pub(super) fn put(&mut self, job: &Job) {
        match self.0.iter_mut().find(|known| known.id == job.id) {
            Some(known) => known.clone_from(job),
            None => self.0.push_back(job.clone()),
        }
        if self.0.len() > LIMIT
            && let Some(oldest) = self.0.iter().position(|job| job.state.is_final())
        {
            self.0.remove(oldest);
        }
    }

    /// The job to write next, if there is one.
    pub(super) fn first(&self) -> Option<&Job> {
        self.0.front()
    }

    /// Forgets a job that was written, or that the caller writes.
    pub(super) fn forget(&mut self, id: &str) {
        self.0.retain(|job| job.id != id);
    }

    /// These jobs, newest first, with those remembered here in the place of what was written of them earlier.
    pub(super) fn over(&self, written: Vec<Job>) -> Vec<Job> {
        let mut jobs: Vec<Job> = Vec::with_capacity(self.0.len() + written.len());
        let is_known = |job: &&Job| written.iter().any(|known| known.id == job.id);
        jobs.extend(self.0.iter().rev().filter(|job| !is_known(job)).cloned());
        jobs.extend(written.into_iter().map(|job| match self.0.iter().find(|newer| newer.id == job.id) {
            Some(newer) => newer.clone(),
            None => job,
        }));
        jobs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::job;
    use control::JobState;

    #[test]
    fn what_was_not_written_stands_before_and_above_what_was() {
        let mut unwritten = Unwritten::default();
        for (id, state) in [("b", JobState::Done), ("c", JobState::Running), ("d", JobState::Queued)] {
            unwritten.put(&job(id, state));
        }
        unwritten.put(&job("c", JobState::Done));
        let written = vec![job("b", JobState::Running), job("a", JobState::Done)];
        let all = unwritten.over(written);
        let seen: Vec<_> = all.iter().map(|job| (job.id.as_str(), job.state)).collect();
        let done = JobState::Done;
        assert_eq!(seen, [("d", JobState::Queued), ("c", done), ("b", done), ("a", done)]);
        unwritten.forget("b");
        assert_eq!(unwritten.first().map(|job| job.id.as_str()), Some("c"));
    }

    #[test]
    fn memory_is_bounded_and_what_runs_is_not_forgotten() {
        let mut unwritten = Unwritten::default();
        unwritten.put(&job("runs", JobState::Running));
        (0..LIMIT + 10).for_each(|number| unwritten.put(&job(&format!("{number}"), JobState::Done)));
        assert_eq!(unwritten.0.len(), LIMIT);
        assert_eq!(unwritten.first().map(|job| job.id.as_str()), Some("runs"));
    }
}
