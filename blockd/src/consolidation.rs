//! Consolidation in the background: one thread folds what deleted points left, disk after disk, in steps of a
//! millisecond or so. While a guest uses the disk, most of the time is the guest's.

use crate::bell::Bell;
use crate::disks::{Disks, Named};
use crate::points::Tiers;
use block::sync::{Mutex, lock};
use block::{Clock, DiskId};
use layers::{Error, Folding};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The nicest there is.
const LOWEST_PRIORITY: i32 = 19;
/// How often disks are looked through for something to fold when nobody said there is.
const IDLE_PAUSE: Duration = Duration::from_millis(500);
/// How long one disk is folded before the next has its turn.
const TURN: Duration = Duration::from_millis(500);
/// How long a disk whose fold failed, for lack of space say, is left alone.
const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// For how long after a guest's last request its disk counts as used.
const USED_FOR: Duration = Duration::from_millis(200);
/// On a disk in use, a step is followed by a pause of so many times its length, within these bounds.
const PAUSE_FACTOR: u32 = 8;
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// The thread.
pub struct Consolidation {
    thread: Mutex<Option<JoinHandle<()>>>,
    bell: Arc<Bell>,
}

impl Consolidation {
    /// Begins to fold.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(tiers: Arc<Tiers>, clock: Arc<dyn Clock>) -> std::io::Result<Self> {
        let bell = Arc::new(Bell::default());
        let folder =
            Folder { clock, bell: bell.clone(), left_alone_until: HashMap::new(), used: HashMap::new() };
        let work = move || folder.run(&tiers.disks);
        let thread = std::thread::Builder::new().name("consolidation".to_owned()).spawn(work)?;
        Ok(Self { thread: Mutex::new(Some(thread)), bell })
    }

    /// Says that there is something to fold.
    pub fn wake(&self) {
        self.bell.wake();
    }

    /// Ends the thread after its step.
    pub fn stop(&self) {
        self.bell.stop();
        if lock(&self.thread).take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the consolidation thread panicked");
        }
    }
}

/// What the thread knows.
struct Folder {
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    left_alone_until: HashMap<DiskId, Duration>,
    /// Requests of a disk's guests when last counted, and when the count last grew.
    used: HashMap<DiskId, (u64, Duration)>,
}

impl Folder {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock.monotonic_ns())
    }

    fn run(mut self, disks: &Disks) {
        // of this thread alone; where both want a core, it is the guest's
        if let Err(errno) = rustix::process::setpriority_process(None, LOWEST_PRIORITY) {
            tracing::debug!(%errno, "consolidation runs at the priority of everything else");
        }
        while !self.bell.is_stopping() {
            let all = disks.all();
            self.used.retain(|id, _| all.iter().any(|named| named.id == *id));
            self.left_alone_until.retain(|id, _| all.iter().any(|named| named.id == *id));
            let worked = all.iter().filter(|named| self.turn(named)).count();
            drop(all);
            if worked == 0 {
                self.bell.wait_for_work(IDLE_PAUSE);
            }
        }
    }

    /// Folds one disk for a while. Whether there was anything to do.
    fn turn(&mut self, named: &Named) -> bool {
        let Ok(disk) = named.disk() else { return false };
        let (began, mut worked) = (self.now(), false);
        if self.left_alone_until.get(&named.id).is_some_and(|until| began < *until) {
            return false;
        }
        while self.now() < began + TURN && !self.bell.is_stopping() {
            let before = self.now();
            match disk.fold_step() {
                Ok(Folding::Idle) | Err(Error::Closed { .. }) => break,
                Ok(Folding::Working) => worked = true,
                Err(error) => {
                    tracing::warn!(disk = named.name, "consolidation stops for now: {error}");
                    self.left_alone_until.insert(named.id, before + RETRY_PAUSE);
                    break;
                }
            }
            let after = self.now();
            if self.is_used(named, after) {
                self.bell.pause(((after - before) * PAUSE_FACTOR).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
            }
        }
        worked
    }

    fn is_used(&mut self, named: &Named, now: Duration) -> bool {
        let requests = named.traffic.requests();
        let (counted, last_use) = self.used.entry(named.id).or_insert((requests, Duration::ZERO));
        if *counted != requests {
            (*counted, *last_use) = (requests, now);
        }
        now < *last_use + USED_FOR
    }
}
