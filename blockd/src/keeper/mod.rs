//! The keeper: one thread that makes the backups policies ask for, deletes what they no longer keep, and ends deletions for good
//! when their term is over. `docs/policy.md` and `docs/deletion.md` have the rules.

mod archive;
mod due;
mod judge;
mod newest;
mod plan;
mod prune;
mod rehearse;
#[cfg(test)]
mod scale;
mod watch;

pub use judge::expiry;
pub use newest::Newest;
pub use plan::Plans;

use crate::bell::Bell;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use block::sync::{Mutex, lock};
use due::Tries;
use jiff::Timestamp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use watch::Watch;

/// Between two looks at what is due: a slot is a minute of a day.
const ROUND: Duration = Duration::from_secs(10);
/// Between two looks at what no policy keeps any more, beside the one after each backup.
const PRUNE_SECONDS: i64 = 3600;

const DAY_SECONDS: i64 = 86_400;

/// The thread.
#[derive(Default)]
pub struct Keeper {
    bell: Arc<Bell>,
    // a policy or what stands under one was changed
    changed: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Keeper {
    /// Begins. The thread ends with the daemon.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(&self, daemon: &Arc<Daemon>) -> Result<()> {
        let (bell, changed, weak) = (self.bell.clone(), self.changed.clone(), Arc::downgrade(daemon));
        let thread = std::thread::Builder::new().name("keeper".to_owned());
        let thread = thread.spawn(move || Rounds::default().run(&bell, &changed, &weak));
        let thread = thread.map_err(|error| Error::host("start the keeper of policies", error))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Says that a policy or what stands under one was changed.
    pub fn wake(&self) {
        self.changed.store(true, Ordering::SeqCst);
        self.bell.wake();
    }

    /// Ends it, and waits until it has.
    pub fn stop(&self) {
        self.bell.stop();
        if lock(&self.thread).take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the keeper of policies ended by a defect");
        }
    }
}

/// What the thread remembers.
#[derive(Default)]
struct Rounds {
    tries: Tries,
    watch: Watch,
    pruned: Option<Timestamp>,
}

impl Rounds {
    fn run(mut self, bell: &Bell, changed: &AtomicBool, daemon: &Weak<Daemon>) {
        while !bell.is_stopping() {
            let Some(daemon) = daemon.upgrade() else { return };
            let has_changed = changed.swap(false, Ordering::SeqCst);
            if has_changed {
                self.pruned = None;
            }
            self.watch.round(&daemon, daemon.now(), has_changed);
            if self.round(&daemon) {
                self.watch.round(&daemon, daemon.now(), true);
            }
            drop(daemon);
            bell.wait_for_work(ROUND);
        }
    }

    /// Whether a backup ended since the last one.
    fn round(&mut self, daemon: &Arc<Daemon>) -> bool {
        daemon.appliance_clock().tick();
        let now = daemon.now();
        let has_made_points = self.tries.round(daemon, now);
        let is_time =
            self.pruned.is_none_or(|last| now.as_second().abs_diff(last.as_second()) >= PRUNE_SECONDS as u64);
        if has_made_points || is_time {
            self.pruned = Some(now);
            prune::round(daemon, now);
            rehearse::round(daemon, now);
            note("marks", daemon.tiers().forget_gone());
        }
        has_made_points
    }
}

/// What went wrong in the background: said, and tried again at the next round.
fn note<T>(what: &str, done: Result<T>) -> Option<T> {
    done.map_err(|error| tracing::warn!("{what}: {}", error.body().message)).ok()
}
