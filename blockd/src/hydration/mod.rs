//! Hydration in the background: what disks that run from a recovery point have not read yet is brought, what their guests
//! missed first; once all of it is there the point is let go of. What a step does is in `images/layers/docs/hydrate.md`.

mod track;

use crate::bell::Bell;
use crate::config::Config;
use crate::disks::Named;
use crate::error::{Error, Result};
use crate::pace::Pace;
use crate::points::Tiers;
use block::sync::{Mutex, lock};
use block::{ByteCount, Clock, DiskId};
use control::{Run, RunState, Tier};
use layers::Hydrating;
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use track::Track;

/// Threads that hydrate: decoding is most of it, and some of them may wait for a store, or for the host's disk.
const THREADS: usize = 4;
/// The nicest there is: where a guest wants the processor, it has it.
const LOWEST_PRIORITY: i32 = 19;
/// How often it is looked for disks to hydrate when nobody said there are any.
const IDLE_PAUSE: Duration = Duration::from_millis(250);
/// How long one disk is hydrated before the next has its turn.
const TURN: Duration = Duration::from_millis(250);
/// How long a disk whose hydration failed is left alone.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// On a disk whose guest is asking, a step is followed by a pause of so many times its length, within these bounds.
const PAUSE_FACTOR: u32 = 2;
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// The threads.
pub struct Hydration {
    work: Arc<Work>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Work {
    tiers: Arc<Tiers>,
    clock: Arc<dyn Clock>,
    bell: Bell,
    limit: Option<u64>,
    pace: Pace,
    tracks: Mutex<HashMap<DiskId, Track>>,
    /// Held while a base is released: by one thread, once.
    releasing: Mutex<()>,
}

impl Hydration {
    /// Begins to hydrate.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(tiers: Arc<Tiers>, clock: Arc<dyn Clock>, config: &Config) -> Result<Self> {
        let work = Arc::new(Work {
            tiers,
            clock,
            bell: Bell::default(),
            limit: config.hydration_bytes_per_second(),
            pace: Pace::default(),
            tracks: Mutex::default(),
            releasing: Mutex::default(),
        });
        let hydration = Self { work: work.clone(), threads: Mutex::default() };
        for number in 0..THREADS {
            let work = work.clone();
            let thread = std::thread::Builder::new().name(format!("hydration-{number}"));
            let thread = thread.spawn(move || work.run());
            lock(&hydration.threads).push(thread.map_err(|error| Error::host("start hydration", error))?);
        }
        Ok(hydration)
    }

    /// Says that there is a disk to hydrate.
    pub fn wake(&self) {
        self.work.bell.wake();
    }

    /// Ends the threads after their steps.
    pub fn stop(&self) {
        self.work.bell.stop();
        self.work.tiers.disks.patience.stop();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a hydration thread panicked");
            }
        }
    }

    /// How far a disk is; one that stands on nothing is independent, and one that stands on a file is no run.
    pub fn show(&self, named: &Named, uri: String) -> Option<Run> {
        let record = named.base.as_ref();
        if record.is_some_and(|record| record.point_name().is_none()) {
            return None;
        }
        let disk = named.served().ok();
        let progress = disk.and_then(|disk| disk.hydration());
        let stored = named.stored_point();
        let (speed, trouble) = match lock(&self.work.tracks).get(&named.id) {
            Some(track) => (track.speed(), track.trouble.clone()),
            None => (None, None),
        };
        let away = stored.and_then(|stored| stored.away());
        let trouble = away.map(|why| format!("the vault's store does not answer: {why}")).or(trouble);
        let hydrates = named.run.is_some_and(|run| run.hydrate);
        let total = progress.map_or(0, |progress| progress.total.get());
        let done = progress.map_or(0, |progress| progress.done.get());
        let tier = if stored.is_some() { Tier::Vault } else { Tier::Instant };
        Some(Run {
            name: named.name.clone(),
            state: match (record, &trouble) {
                (None, _) => RunState::Independent,
                (Some(_), Some(_)) => RunState::Stalled,
                (Some(_), None) if hydrates => RunState::Hydrating,
                _ => RunState::Kept,
            },
            point: record.and_then(|record| record.point_name()).map(str::to_owned),
            tier: record.map(|_| tier),
            vault: stored.map(|stored| stored.vault_name.clone()),
            uri,
            size: disk.map_or(0, |disk| block::BlockSource::size(&**disk).get()),
            promote: named.run.is_some_and(|run| run.promote),
            bytes_total: total,
            bytes_done: done,
            bytes_copied: progress.map_or(0, |progress| progress.copied.get()),
            bytes_per_second: speed,
            estimate_ms: speed
                .filter(|&speed| speed > 0)
                .map(|speed| (total - done).saturating_mul(1000) / speed),
            waiting: stored.map_or(0, |stored| stored.waiting()),
            trouble,
        })
    }
}

impl Work {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns())
    }

    fn run(&self) {
        // of this thread alone
        if let Err(errno) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
            tracing::debug!(%errno, "hydration runs at the priority of everything else");
        }
        while !self.bell.is_stopping() {
            let all = self.tiers.disks.all();
            lock(&self.tracks)
                .retain(|id, _| all.iter().any(|named| named.id == *id && named.base.is_some()));
            let worked = all.iter().filter(|named| self.turn(named)).count();
            drop(all);
            if worked == 0 {
                self.bell.wait_for_work(IDLE_PAUSE);
            }
        }
    }

    /// Hydrates one disk for a while. Whether there was anything to do.
    fn turn(&self, named: &Arc<Named>) -> bool {
        let (Some(run), Ok(disk)) = (named.run.filter(|run| run.hydrate), named.disk()) else { return false };
        let began = self.now();
        // one thread that a silent store holds up is enough: other disks have other stores
        let is_silent = named.stored_point().is_some_and(|stored| stored.silent().is_some());
        if is_silent || !self.track(named, |track| track.may_go_on(began)) {
            return false;
        }
        let mut worked = false;
        let begun = match disk.stands() {
            true => unless_released(disk, (), disk.begin_hydration())
                .map_err(|error| named.failed("hydrate", error)),
            // a release that was cut short
            false => return self.release(named).is_ok(),
        };
        let ended = begun.and_then(|()| {
            // a limit is one of all that is brought
            disk.hydrate_on_read(self.limit.is_none());
            while self.now() < began + TURN && !self.bell.is_stopping() {
                match self.step(named, disk, run.promote)? {
                    Hydrating::Working(_) => worked = true,
                    Hydrating::Idle => break,
                    Hydrating::Whole => {
                        worked = true;
                        self.release(named)?;
                        break;
                    }
                }
            }
            Ok(())
        });
        self.settle(named, disk, ended)
            .map_err(|error| {
                // deleted or called something else meanwhile: nothing to say
                let is_there =
                    self.tiers.disks.get(&named.name).is_ok_and(|there| Arc::ptr_eq(&there, named));
                if !is_there || named.is_deleted() || self.bell.is_stopping() {
                    return;
                }
                let why = error.body().message;
                tracing::warn!(disk = named.name, "hydration stops for now: {why}");
                let until = self.now() + RETRY_PAUSE;
                self.track(named, |track| track.leave_alone(until, why));
            })
            .is_ok()
            && worked
    }

    fn track<T>(&self, named: &Named, act: impl FnOnce(&mut Track) -> T) -> T {
        act(lock(&self.tracks).entry(named.id).or_default())
    }

    fn step(&self, named: &Named, disk: &layers::Disk, promote: bool) -> Result<Hydrating> {
        let before = self.now();
        let done = unless_released(disk, Hydrating::Idle, disk.hydrate_step())
            .map_err(|error| named.failed("hydrate", error))?;
        let after = self.now();
        if let Hydrating::Working(bytes) = done {
            let far = disk.hydrated().map_or(0, ByteCount::get);
            let is_used = self.track(named, |track| {
                track.went_on(after, far, bytes.get());
                track.is_used(named.traffic.requests(), after)
            });
            if let Some(pause) = self.pace.pay(bytes.get(), self.limit, after) {
                self.bell.pause(pause);
            }
            if is_used && !promote {
                self.bell.pause(((after - before) * PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
            }
        }
        Ok(done)
    }

    /// Makes durable what was brought, now and then; what a turn ended with is not hidden by it.
    fn settle(&self, named: &Named, disk: &layers::Disk, ended: Result<()>) -> Result<()> {
        let now = self.now();
        let settled = match self.track(named, |track| track.is_to_settle(now)) {
            true => unless_released(disk, (), disk.settle_hydration())
                .map_err(|error| named.failed("hydrate", error)),
            false => Ok(()),
        };
        ended.and(settled)
    }

    fn release(&self, named: &Arc<Named>) -> Result<()> {
        let _once = lock(&self.releasing);
        let now = self.tiers.disks.get(&named.name)?;
        if now.id == named.id && now.base.is_some() {
            self.tiers.disks.release_base(&now)?;
            tracing::info!(disk = named.name, "independent of the recovery point it ran from");
        }
        Ok(())
    }
}

/// What came of a step of hydration; `idle` if it failed because the other thread let go of the point meanwhile.
fn unless_released<T>(disk: &layers::Disk, idle: T, done: layers::Result<T>) -> layers::Result<T> {
    if done.is_err() && !disk.stands() { Ok(idle) } else { done }
}
