//! Space of the instant tier: when little is left of its budget or of the host's filesystem, points that a vault holds too
//! leave the instant tier, the oldest first, and the guest waits rather than fails while that gives room. The rules are in
//! `docs/space.md`.

mod room;
mod rounds;

pub use room::{LEAST_RESERVE, Limits, Room};

use crate::error::{Error, Result};
use crate::points::Tiers;
use block::sync::{Condvar, Mutex, lock};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Failure, Media, Provision, Visit};
use control::{Shed, SpaceState};
use rounds::Rounds;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks while nobody asks for one.
const ROUND: Duration = Duration::from_secs(1);

/// The longest a guest's request waits for room: less than what initiators give a device before they call it broken (the
/// kernel's SCSI layer: 30 seconds), as a guest's disk behind qemu may be one.
const WAIT_LIMIT: Duration = Duration::from_secs(25);

/// Points that left the instant tier and are still shown in the status. The log has all.
const SHOWN: usize = 20;

/// The keeper of the instant tier's space.
pub struct Space {
    tiers: Arc<Tiers>,
    media: Arc<dyn Media>,
    limits: Limits,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    is_stopping: bool,
    /// Requests that wait for room.
    waiting: u64,
    /// Rounds asked for, and the newest of them that has ended.
    asked: u64,
    served: u64,
    /// How often there was more room than before.
    freed: u64,
    /// What the last round saw.
    room: Room,
    /// When the last round was short: nothing more could go.
    is_exhausted: bool,
    /// Points that left, in all and the last of them.
    shed_count: u64,
    shed: VecDeque<Shed>,
}

impl Space {
    /// Looks for the first time, so that no write goes unlimited, and begins to look after it.
    ///
    /// # Errors
    /// What the host reports; it has no thread for it.
    pub fn start(tiers: Arc<Tiers>, media: Arc<dyn Media>, limits: Limits) -> Result<Arc<Self>> {
        let space = Arc::new(Self {
            tiers,
            media,
            limits,
            state: Mutex::default(),
            changed: Condvar::new(),
            thread: Mutex::new(None),
        });
        space.look()?;
        let keeper = space.clone();
        let thread = std::thread::Builder::new().name("space".to_owned());
        let thread = thread.spawn(move || Rounds::new(keeper).run());
        *lock(&space.thread) = Some(thread.map_err(|error| Error::host("start to look after space", error))?);
        Ok(space)
    }

    /// Ends it; whoever waits for room goes on without.
    pub fn stop(&self) {
        self.change(|state| state.is_stopping = true);
        if lock(&self.thread).take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("looking after space ended by a defect");
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut lock(&self.state));
        self.changed.notify_all();
        changed
    }

    /// Looks at the room there is and gives guests their part of it.
    fn look(&self) -> Result<Room> {
        let budget = &self.tiers.disks.env().budget;
        let taken = budget.taken();
        let room = self.limits.look(&*self.media, &self.tiers)?;
        budget.allow(taken, room.for_guests());
        self.change(|state| {
            state.freed += u64::from(room.left() > state.room.left());
            state.room = room;
        });
        Ok(room)
    }

    /// Does something that may find no room, again and again while room is being made.
    ///
    /// # Errors
    /// What the last attempt says.
    pub fn with_room<T, E: Failure>(&self, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
        let mut waiting = None;
        loop {
            let done = attempt();
            if !done.as_ref().is_err_and(|error| error.kind() == block::Kind::NoSpace) {
                return done;
            }
            let waiting = waiting.get_or_insert_with(|| Waiting::new(self));
            if !waiting.for_room() {
                return if waiting.is_over() { done } else { attempt() };
            }
        }
    }

    /// How it is, for people.
    pub fn show(&self, used: u64) -> control::Space {
        let state = lock(&self.state);
        let room = state.room;
        control::Space {
            state: match (room.is_short(), state.is_exhausted) {
                (false, _) => SpaceState::Enough,
                (true, false) => SpaceState::Low,
                (true, true) => SpaceState::Exhausted,
            },
            budget: room.budget,
            used,
            reserve: room.reserve,
            left: room.left(),
            left_for_guests: room.for_guests(),
            waiting: state.waiting,
            shed_count: state.shed_count,
            shed: state.shed.iter().cloned().collect(),
        }
    }

    /// What a person should know and do.
    pub fn warning(&self) -> Option<String> {
        let state = lock(&self.state);
        let room = state.room;
        if !room.is_short() {
            return None;
        }
        let (left, reserve) = (room.left(), room.reserve);
        let what =
            format!("the instant tier is nearly full: {left} bytes are left, {reserve} are the reserve");
        Some(match state.is_exhausted {
            false => format!("{what}; points that a vault holds too leave it, the oldest first"),
            true => format!(
                "{what}, and no point can leave it, since none that is not in use is in a vault too: back up disks \
                 (`blockctl backup`), delete points or disks, or free space on the host; writes that need room fail"
            ),
        })
    }
}

/// One that waits for room.
struct Waiting<'a> {
    space: &'a Space,
    until: Instant,
    freed: u64,
}

impl<'a> Waiting<'a> {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a guest waits is no matter of the storage's clock"
    )]
    fn new(space: &'a Space) -> Self {
        let freed = space.change(|state| {
            state.waiting += 1;
            state.freed
        });
        Self { space, until: Instant::now() + WAIT_LIMIT, freed }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "how long a guest waits is no matter of the storage's clock"
    )]
    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Whether there is no use in another attempt.
    fn is_over(&self) -> bool {
        lock(&self.space.state).is_stopping || self.left().is_zero()
    }

    /// Waits until there is more room, or no more can be made. Whether it may come again.
    fn for_room(&mut self) -> bool {
        let mine = self.space.change(|state| {
            state.asked += 1;
            state.asked
        });
        let freed = self.freed;
        let nothing_yet =
            |state: &mut State| !state.is_stopping && state.freed == freed && state.served < mine;
        let waited = self.space.changed.wait_timeout_while(lock(&self.space.state), self.left(), nothing_yet);
        let state = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        let is_freed = state.freed != self.freed;
        self.freed = state.freed;
        let is_stopping = state.is_stopping;
        drop(state);
        is_freed && !is_stopping && !self.left().is_zero()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.space.change(|state| state.waiting -= 1);
    }
}

/// A disk whose writes wait for room.
pub struct Patient<'a, D: ?Sized> {
    /// The disk.
    pub disk: &'a D,
    /// Where the room is.
    pub space: &'a Space,
}

impl<D: BlockDevice + ?Sized> BlockSource for Patient<'_, D> {
    fn size(&self) -> ByteCount {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.disk.extents(range, visit)
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for Patient<'_, D> {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> block::Result<()> {
        self.space.with_room(|| self.disk.write_at(offset, buf))
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> block::Result<()> {
        self.space.with_room(|| self.disk.zero(range, provision))
    }

    fn discard(&self, range: ByteRange) -> block::Result<()> {
        self.space.with_room(|| self.disk.discard(range))
    }

    fn flush(&self) -> block::Result<()> {
        self.space.with_room(|| self.disk.flush())
    }
}
