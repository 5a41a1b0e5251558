//! Jobs: one run each of a backup, a restore or a check, with state, progress and a place in history.
//!
//! A job is a thread. At most a configured number runs at a time, and never two that share a key (the same disk, the
//! same vault check), so that two transfers of one disk cannot race for the same base. The rest waits its turn.

mod limits;
mod queue;

use crate::audit_log::{About, Audit, Said, cause};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::names::rfc3339;
use block::sync::{Condvar, Mutex, lock, wait};
use block::{Clock, DiskId, Entropy, JobId};
use control::{AuditOutcome, ErrorBody, EventKind, Job, JobState, Kind};
pub use limits::{HoursKeys, Limits};
use queue::{Active, Entry};
pub use queue::{Counts, Urgency};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest time one request may wait for the end of a job.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Jobs that may wait or run at once; a script gone wild must not fill memory with threads.
const ACTIVE_LIMIT: usize = 256;

/// Between two looks whether the hours in which jobs wait are over.
const HOURS_LOOK: Duration = Duration::from_secs(10);

/// All jobs.
pub struct Jobs {
    catalog: Arc<Catalog>,
    audit: Arc<Audit>,
    events: Arc<Events>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    parallel: usize,
    limits: Arc<Limits>,
    active: Mutex<Active>,
    changed: Condvar,
    // what the end of the last daemon cut short, the oldest first
    interrupted: Mutex<Vec<Job>>,
}

/// What a new job is about.
#[derive(Debug, Clone, Default)]
pub struct NewJob {
    /// `backup`, `restore`, `check`, `scrub` or `rehearse`.
    pub operation: &'static str,
    /// What it is about.
    pub item: String,
    /// Never two jobs that share a key at a time.
    pub keys: Vec<String>,
    /// How soon it is to run.
    pub urgency: Urgency,
    /// What it reads and others may read too, but nobody may remove meanwhile.
    pub reads: Vec<String>,
    /// The recovery point it moves.
    pub point: Option<String>,
    /// The vault it works with.
    pub vault: Option<String>,
    /// The disk it makes.
    pub target: Option<String>,
    /// That disk's id.
    pub target_id: Option<String>,
}

/// The key of all that works with a disk.
pub fn disk_key(id: DiskId) -> String {
    format!("disk {id}")
}

/// A running job, as the work sees it.
pub struct Run {
    jobs: Arc<Jobs>,
    number: u64,
    cancelled: Arc<AtomicBool>,
}

impl Run {
    /// The job's id.
    pub fn id(&self) -> String {
        lock(&self.jobs.active).jobs.get(&self.number).map_or_else(String::new, |entry| entry.job.id.clone())
    }

    /// Whether somebody asked to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether it is to stop because the daemon ends, and nobody wanted it to stop before.
    pub fn is_ending(&self) -> bool {
        let active = lock(&self.jobs.active);
        active.stopping && active.jobs.get(&self.number).is_none_or(|entry| !entry.is_unwanted)
    }

    /// Fails if somebody asked to stop.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn go_on(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::said(Kind::Cancelled, "job", "was cancelled"));
        }
        Ok(())
    }

    /// Tells of something that happened meanwhile.
    pub fn tell(&self, kind: EventKind, about: &str, message: &str) {
        self.jobs.events.tell(kind, about, message);
    }

    /// Changes what is shown of the job.
    pub fn update(&self, change: impl FnOnce(&mut Job)) {
        if let Some(entry) = lock(&self.jobs.active).jobs.get_mut(&self.number) {
            change(&mut entry.job);
        }
    }
}

impl Jobs {
    /// The jobs of this catalog. Those that ran when the last daemon ended are recorded as failed, but for those that had
    /// `done` all but saying so.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn open(
        catalog: Arc<Catalog>,
        audit: Arc<Audit>,
        events: Arc<Events>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        (parallel, limits): (usize, Limits),
        done: &dyn Fn(&Job) -> bool,
    ) -> Result<Arc<Self>> {
        let mut interrupted = Vec::new();
        for mut job in catalog.jobs()?.into_iter().filter(|job| !job.state.is_final()) {
            let is_done = job.state == JobState::Running && done(&job);
            job.state = if is_done { JobState::Done } else { JobState::Failed };
            job.error = (!is_done).then(|| ErrorBody {
                kind: Kind::Unavailable,
                message: "interrupted".to_owned(),
                help: Some("the daemon ended while it ran; what moved points to a vault, and a restore, goes on as another job, `blockctl job list`".to_owned()),
            });
            catalog.put_job(&job)?;
            interrupted.extend((!is_done).then_some(job));
        }
        // the catalog has the newest first
        interrupted.reverse();
        let interrupted = Mutex::new(interrupted);
        let (limits, active, changed) = (Arc::new(limits), Mutex::default(), Condvar::new());
        Ok(Arc::new(Self {
            catalog,
            audit,
            events,
            clock,
            entropy,
            parallel,
            limits,
            active,
            changed,
            interrupted,
        }))
    }

    /// The jobs that the end of the last daemon cut short, the oldest first; once.
    pub fn take_interrupted(&self) -> Vec<Job> {
        std::mem::take(&mut lock(&self.interrupted))
    }

    /// Starts a job and returns it as it stands.
    ///
    /// # Errors
    /// `Unavailable` while the daemon stops or too many jobs wait.
    pub fn start(
        self: &Arc<Self>,
        new: NewJob,
        work: impl FnOnce(&Run) -> Result<()> + Send + 'static,
    ) -> Result<Job> {
        let job = self.describe(&new)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let number = {
            let mut active = lock(&self.active);
            if active.stopping || active.jobs.len() >= ACTIVE_LIMIT {
                let why = if active.stopping { "the daemon stops" } else { "too many jobs wait already" };
                let what = format!("{} of {}", new.operation, new.item);
                return Err(Error::said(Kind::Unavailable, what, why)
                    .with_help("`blockctl job list` shows what runs; try again when some have ended"));
            }
            // in the catalog before it is anywhere else, so that a crash leaves a trace of it
            self.catalog.put_job(&job)?;
            let number = active.next;
            active.next += 1;
            let (keys, reads) = (new.keys, new.reads);
            let entry = Entry {
                job: job.clone(),
                cause: cause(),
                urgency: new.urgency,
                keys,
                reads,
                cancelled: cancelled.clone(),
                asked_ns: self.clock.monotonic_ns(),
                started_ns: None,
                is_unwanted: false,
            };
            active.jobs.insert(number, entry);
            number
        };
        let run = Run { jobs: self.clone(), number, cancelled };
        let spawned = std::thread::Builder::new().name(format!("job-{}", &job.id[..8])).spawn(move || {
            // whoever follows the job must learn of its end, whatever ended it
            let ended = catch_unwind(AssertUnwindSafe(|| run.jobs.turn(&run).and_then(|()| work(&run))));
            let defect =
                |_| Err(Error::said(Kind::Io, "job", "ended by a defect of blockd; its log says where"));
            run.jobs.finish(run.number, ended.unwrap_or_else(defect));
        });
        if let Err(source) = spawned {
            let error = Error::host(format!("start job {}", job.id), source);
            self.finish(number, Err(Error::said(Kind::Unavailable, "job", "no thread for it")));
            return Err(error);
        }
        Ok(job)
    }

    fn describe(&self, new: &NewJob) -> Result<Job> {
        let id =
            JobId::random(&*self.entropy).map_err(|error| Error::below("draw an id for a job", error))?;
        Ok(Job {
            id: id.to_string(),
            operation: new.operation.to_owned(),
            item: new.item.clone(),
            point: new.point.clone(),
            vault: new.vault.clone(),
            target: new.target.clone(),
            target_id: new.target_id.clone(),
            kind: None,
            base: None,
            note: None,
            state: JobState::Queued,
            error: None,
            created: rfc3339(self.clock.now()),
            ended: None,
            bytes_total: 0,
            bytes_done: 0,
            bytes_changed: 0,
            bytes_read: 0,
            chunks_new: 0,
            chunks_reused: 0,
            bytes_stored: 0,
            duration_ms: 0,
            check: None,
            sweep: None,
            scrub: None,
            restore: None,
            repair: None,
            rehearsal: None,
        })
    }

    /// Waits until the job may run.
    fn turn(&self, run: &Run) -> Result<()> {
        let mut active = lock(&self.active);
        loop {
            run.go_on()?;
            if active.may_run(run.number, self.parallel, &|urgency| self.limits.holds(urgency)) {
                if let Some(entry) = active.jobs.get_mut(&run.number) {
                    entry.job.state = JobState::Running;
                    entry.started_ns = Some(self.clock.monotonic_ns());
                    self.catalog.put_job(&entry.job)?;
                }
                // there may be room for the next one too
                self.changed.notify_all();
                return Ok(());
            }
            active = match self.limits.change() {
                // hours end without anybody saying so
                true => match self.changed.wait_timeout(active, HOURS_LOOK) {
                    Ok((active, _)) => active,
                    Err(poisoned) => poisoned.into_inner().0,
                },
                false => wait(&self.changed, active),
            };
        }
    }

    fn finish(&self, number: u64, outcome: Result<()>) {
        let mut active = lock(&self.active);
        let Some(mut entry) = active.jobs.remove(&number) else { return };
        let job = &mut entry.job;
        job.duration_ms = self.ran_ms(entry.started_ns);
        job.ended = Some(rfc3339(self.clock.now()));
        match outcome {
            Ok(()) => job.state = JobState::Done,
            Err(error) => {
                let cancelled = error.kind() == Kind::Cancelled;
                job.state = if cancelled { JobState::Cancelled } else { JobState::Failed };
                job.error = Some(error.body());
                tracing::warn!(
                    job = job.id,
                    operation = job.operation,
                    item = job.item,
                    "{}",
                    error.body().message
                );
            }
        }
        active.ended.count(&entry.job);
        self.write_down(&entry);
        self.tell(&entry.job);
        if let Err(error) = self.catalog.put_job(&entry.job) {
            // the work is done either way; only its place in history is lost
            tracing::error!(job = entry.job.id, "{}", error.body().message);
        }
        drop(active);
        self.changed.notify_all();
    }

    /// How a job ended, in the audit log. The work is done either way, so what cannot be written is said in the daemon's log.
    fn write_down(&self, entry: &Entry) {
        let job = &entry.job;
        let names = [
            ("job", Some(&job.id)),
            ("item", Some(&job.item)),
            ("point", job.point.as_ref()),
            ("vault", job.vault.as_ref()),
            ("target", job.target.as_ref()),
        ];
        let about: About = names
            .into_iter()
            .filter_map(|(kind, name)| Some((kind.to_owned(), name?.as_str().into())))
            .collect();
        let who = entry.cause.as_ref().map_or_else(|| "blockd".to_owned(), |cause| cause.who.clone());
        let said = Said { who, action: format!("job {}", job.operation), about };
        let outcome = match job.state {
            JobState::Done => AuditOutcome::Done,
            _ => AuditOutcome::Failed,
        };
        let error = job.error.as_ref().map(|body| body.message.as_str());
        let of = entry.cause.as_ref().map(|cause| cause.of);
        if let Err(error) = self.audit.write(&said, outcome, of, error) {
            tracing::error!(job = job.id, "{}", error.body().message);
        }
    }

    /// Tells of a job that ended as it should not.
    fn tell(&self, job: &Job) {
        let Some(error) = job.error.as_ref().filter(|_| job.state == JobState::Failed) else { return };
        let is_verdict = (job.check.is_some() || job.scrub.is_some()) && error.kind == Kind::Corrupt;
        let kind = if is_verdict { EventKind::ScrubFailed } else { EventKind::JobFailed };
        self.events.tell(
            kind,
            &job.item,
            format!("{} {}: {}", job.operation, &job.id[..8.min(job.id.len())], error.message),
        );
    }

    /// What ended since the start.
    pub fn counts(&self) -> Counts {
        lock(&self.active).ended.clone()
    }

    /// How long the job has waited that waits longest.
    pub fn queue_age(&self) -> Duration {
        let active = lock(&self.active);
        let oldest =
            active.jobs.values().filter(|entry| entry.started_ns.is_none()).map(|entry| entry.asked_ns).min();
        oldest.map_or(Duration::ZERO, |asked| {
            Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(asked))
        })
    }

    fn ran_ms(&self, started_ns: Option<u64>) -> u64 {
        started_ns.map_or(0, |start| self.clock.monotonic_ns().saturating_sub(start).div_ceil(1_000_000))
    }

    /// Every job, newest first.
    ///
    /// # Errors
    /// What the catalog reports.
    pub fn list(&self) -> Result<Vec<Job>> {
        let active: Vec<Job> = {
            let active = lock(&self.active);
            active.jobs.values().map(|entry| self.show(entry)).collect()
        };
        let mut jobs = self.catalog.jobs()?;
        for job in &mut jobs {
            if let Some(now) = active.iter().find(|now| now.id == job.id && !job.state.is_final()) {
                job.clone_from(now);
            }
        }
        Ok(jobs)
    }

    /// How many jobs wait or run.
    pub fn active(&self) -> u64 {
        lock(&self.active).jobs.len() as u64
    }

    /// The job whose id is or begins with `id`.
    ///
    /// # Errors
    /// `NotFound` if there is none, `Conflict` if there are several.
    pub fn get(&self, id: &str) -> Result<Job> {
        let what = || format!("job {}", id.chars().take(32).collect::<String>());
        let found = if id.is_empty() { Vec::new() } else { self.catalog.jobs_like(id)? };
        match <[Job; 1]>::try_from(found) {
            Ok([job]) => {
                let active = lock(&self.active);
                let now = active.jobs.values().find(|entry| entry.job.id == job.id);
                Ok(now.map_or(job, |entry| self.show(entry)))
            }
            Err(none) if none.is_empty() => {
                Err(Error::not_found(what()).with_help("`blockctl job list` shows them"))
            }
            Err(_) => Err(Error::said(Kind::Conflict, what(), "several jobs begin like this")
                .with_help("give more digits of the id")),
        }
    }

    fn show(&self, entry: &Entry) -> Job {
        Job { duration_ms: self.ran_ms(entry.started_ns), ..entry.job.clone() }
    }

    /// The job, once it has ended or the time is over.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn wait_for(&self, id: &str, timeout: Duration) -> Result<Job> {
        let job = self.get(id)?;
        if job.state.is_final() || timeout.is_zero() {
            return Ok(job);
        }
        let active = lock(&self.active);
        let runs = |active: &mut Active| {
            !active.stopping && active.jobs.values().any(|entry| entry.job.id == job.id)
        };
        drop(self.changed.wait_timeout_while(active, timeout.min(WAIT_LIMIT), runs));
        self.get(&job.id)
    }

    /// Asks a job to stop.
    ///
    /// # Errors
    /// As [`get`](Self::get); `Conflict` if it has ended.
    pub fn cancel(&self, id: &str) -> Result<Job> {
        let job = self.get(id)?;
        let mut active = lock(&self.active);
        let Some(entry) = active.jobs.values_mut().find(|entry| entry.job.id == job.id) else {
            return Err(Error::said(Kind::Conflict, format!("job {}", job.id), "has ended")
                .with_help(format!("`blockctl job show {}` says how", &job.id[..8.min(job.id.len())])));
        };
        entry.is_unwanted = true;
        entry.cancelled.store(true, Ordering::Relaxed);
        self.changed.notify_all();
        Ok(self.show(entry))
    }

    /// Whether a job that waits or runs works with what has this key, or reads it.
    pub fn is_busy(&self, key: &str) -> bool {
        lock(&self.active)
            .jobs
            .values()
            .any(|entry| entry.keys.iter().chain(&entry.reads).any(|its| its == key))
    }

    /// Stops every job and waits until the last has ended. No new one starts afterwards.
    pub fn stop(&self) {
        let mut active = lock(&self.active);
        active.stopping = true;
        active.jobs.values().for_each(|entry| entry.cancelled.store(true, Ordering::Relaxed));
        self.changed.notify_all();
        while !active.jobs.is_empty() {
            active = wait(&self.changed, active);
        }
    }
}

#[cfg(test)]
pub mod tests;
