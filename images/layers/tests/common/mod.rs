//! Random histories of a disk on a simulated machine: requests, seals, deletes, crashes of the daemon, power cuts at
//! every call and during recovery. The model says what must be there afterwards.

mod survey;

use block::{
    BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, DiskId, Media, MemoryDisk, Provision,
    StateId, Time,
};
use layers::{Base, Disk, Env, Error, Folding, Opened, Until};
use sim::{Action, Cut, Mismatch, ModelDisk, Rng, SeededEntropy, SimClock, SimMedia};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why a history is wrong.
pub type Wrong = String;

/// What a history is made of.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub steps: u64,
    /// A power cut or a crash is armed once in so many steps.
    pub crash_every: u64,
    /// Whether the machine may lose power, or the daemon only dies.
    pub power: bool,
    /// Further outcomes looked at of every stop.
    pub outcomes: u64,
}

/// What is under way when the machine stops.
pub enum Pending {
    Action(Action),
    Seal,
    Delete(usize),
    Resize(ByteCount),
    Pin(usize),
    Nothing,
}

/// A disk, its model and the machine.
pub struct World {
    pub rng: Rng,
    pub media: SimMedia,
    pub disk: Option<Arc<Disk>>,
    pub model: ModelDisk,
    /// The states of the model's points.
    pub states: Vec<StateId>,
    pub crash_states: u64,
    /// Points that something stands on, each with what it must read for ever.
    pinned: BTreeMap<usize, Vec<u8>>,
    /// An open source and what it must read as long as it is open.
    held: Option<(Arc<dyn BlockSource>, Vec<u8>)>,
    /// What the disk stands on, and its bytes.
    base: Option<(Base, Vec<u8>)>,
}

const DIR: &str = "disk";

/// Sizes a disk begins with and is given later: below, at and above ends of blocks and words of the map.
const SIZES: [u64; 9] = [
    512,
    4096,
    4096 * 5 + 512,
    4096 * 24,
    4096 * 32 - 1,
    4096 * 32,
    4096 * 40 + 1,
    4096 * 64 + 4095,
    4096 * 300,
];

fn wrong(error: impl std::fmt::Display) -> Wrong {
    error.to_string()
}

fn mismatch(mismatch: Mismatch) -> Wrong {
    mismatch.to_string()
}

pub fn env(media: &SimMedia, rng: &mut Rng) -> Env {
    Env {
        media: Arc::new(media.clone()),
        clock: Arc::new(SimClock::new(Time { unix_ms: 1_700_000_000_000 })),
        entropy: Arc::new(SeededEntropy::new(rng.next_u64())),
        // so little that checkpoints happen all the time
        journal_room: ByteCount::new(64 + rng.below(2048)),
        // so little that a fold is many batches
        fold_batch: ByteCount::new(4096 * (1 + rng.below(6))),
        budget: layers::Budget::default(),
    }
}

impl World {
    pub fn new(rng: &mut Rng) -> Result<Self, Wrong> {
        let size = ByteCount::new(*rng.pick(&SIZES));
        let media = SimMedia::new();
        let id = DiskId::from_bytes(rng.bytes(16).try_into().expect("16 bytes"));
        let base = if rng.chance(1, 3) { Some(any_base(rng)?) } else { None };
        let on = base.as_ref().map(|(base, _)| base);
        let disk = Disk::create_on(&env(&media, rng), DIR, id, size, on).map_err(wrong)?;
        let model = match &base {
            Some((_, bytes)) => ModelDisk::on_base(size, bytes),
            None => ModelDisk::new(size),
        };
        let (disk, states) = (Some(disk), Vec::new());
        let (pinned, held) = (BTreeMap::new(), None);
        Ok(Self { rng: rng.fork(), media, disk, model, states, crash_states: 0, pinned, held, base })
    }

    /// What the disk stands on; nothing if on nothing.
    fn base_bytes(&self) -> &[u8] {
        self.base.as_ref().map_or(&[], |(_, bytes)| bytes)
    }

    fn open_disk(&mut self) -> layers::Result<Arc<Disk>> {
        let env = env(&self.media, &mut self.rng);
        // one that released its base opens with it or without
        let is_needed = Disk::base_of(&env, DIR)?.is_some() || self.rng.chance(1, 2);
        let base = self.base.as_ref().map(|(base, _)| base).filter(|_| is_needed);
        Disk::open_on(&env, DIR, base)
    }

    pub fn disk(&self) -> Result<&Arc<Disk>, Wrong> {
        self.disk.as_ref().ok_or_else(|| "the disk is not open".to_owned())
    }

    /// One history.
    pub fn run(&mut self, plan: Plan) -> Result<(), Wrong> {
        for _ in 0..plan.steps {
            if self.rng.chance(1, plan.crash_every) {
                let cut = if self.rng.chance(1, 2) { Cut::BeforeEffect } else { Cut::AfterEffect };
                self.media.crash_after(self.rng.below(40), cut);
            }
            let pending = self.step()?;
            if self.media.is_off() || self.rng.chance(1, plan.crash_every * 2) {
                self.survey(&pending, plan)?;
                self.crash(&pending, plan.power)?;
                self.verify()?;
            }
        }
        // power may go off one last time, and everything must still be there twice
        self.crash(&Pending::Nothing, plan.power)?;
        self.verify()?;
        self.disk()?.close().map_err(wrong)?;
        self.held = None;
        self.disk = None;
        self.open(&[], false)?;
        self.verify()?;
        let scrubbed = self.disk()?.scrub(&mut |_| true).map_err(wrong)?;
        if scrubbed.hurt.is_empty() { Ok(()) } else { Err(format!("called hurt: {:?}", scrubbed.hurt)) }
    }

    /// One request. What was under way if the machine stopped in it.
    fn step(&mut self) -> Result<Pending, Wrong> {
        let disk = self.disk()?.clone();
        let whole = ByteRange::whole(disk.size());
        match self.rng.below(38) {
            0..=2 => match disk.seal() {
                Ok(point) => {
                    self.model.sealed();
                    self.states.push(point.state);
                    Ok(Pending::Nothing)
                }
                Err(error) => self.unless_off(error, Pending::Seal),
            },
            3 if !self.model.points().is_empty() => {
                let point = *self.rng.pick(&self.model.points());
                self.delete(&disk, point)
            }
            24..=30 => self.fold(&disk),
            31 => self.pin(&disk),
            32 => self.hold(&disk),
            33..=34 => self.hydrate(&disk),
            4 => self.request(&disk, Action::Discard(whole)),
            5 => self.request(&disk, Action::Zero(whole, Provision::Sparse)),
            6 => {
                let size = self.any_size();
                match disk.resize(size) {
                    // no change, no flush
                    Ok(()) if size == self.model.size() => Ok(Pending::Nothing),
                    Ok(()) => {
                        self.model.resized(size);
                        Ok(Pending::Nothing)
                    }
                    Err(error) => self.unless_off(error, Pending::Resize(size)),
                }
            }
            8 => self
                .verify()
                .or_else(|why| if self.media.is_off() { Ok(()) } else { Err(why) })
                .map(|()| Pending::Nothing),
            7 => {
                let mut turns = self.rng.fork();
                match disk.make_sums(&mut |_| turns.chance(3, 4)) {
                    Ok(_) => Ok(Pending::Nothing),
                    Err(error) => self.unless_off(error, Pending::Nothing),
                }
            }
            _ => {
                let action = Action::random(&mut self.rng, disk.size());
                self.request(&disk, action)
            }
        }
    }

    /// A size to give the disk: another of the list, or one a few bytes away.
    fn any_size(&mut self) -> ByteCount {
        if self.rng.chance(1, 2) {
            return ByteCount::new(*self.rng.pick(&SIZES));
        }
        let now = self.model.size().get();
        let away = self.rng.below(9000);
        let size = if self.rng.chance(1, 2) { now + away } else { now.saturating_sub(away) };
        ByteCount::new(size.clamp(1, SIZES[8]))
    }

    /// A few steps of consolidation.
    fn fold(&mut self, disk: &Disk) -> Result<Pending, Wrong> {
        for _ in 0..self.rng.within(1..6) {
            match disk.fold_step() {
                Ok(Folding::Working) => {}
                Ok(Folding::Idle) => break,
                Err(error) => return self.unless_off(error, Pending::Nothing),
            }
        }
        Ok(Pending::Nothing)
    }

    /// A few steps of hydration, made durable at times, and the release of the base once all of it is here.
    fn hydrate(&mut self, disk: &Disk) -> Result<Pending, Wrong> {
        match self.hydrate_a_little(disk) {
            Ok(()) => Ok(Pending::Nothing),
            Err(error) => self.unless_off(error, Pending::Nothing),
        }
    }

    fn hydrate_a_little(&mut self, disk: &Disk) -> layers::Result<()> {
        if !disk.stands() {
            return Ok(());
        }
        disk.begin_hydration()?;
        for _ in 0..self.rng.within(0..3) {
            disk.hydrate_step()?;
        }
        if self.rng.chance(1, 2) {
            disk.settle_hydration()?;
        }
        match disk.release_base() {
            Err(Error::WrongBase { .. }) => Ok(()),
            released => released,
        }
    }

    /// Pins a point, or takes the oldest pin back.
    fn pin(&mut self, disk: &Arc<Disk>) -> Result<Pending, Wrong> {
        if let Some(&point) = self.pinned.keys().next().filter(|_| self.rng.chance(1, 2)) {
            return match disk.unpin(self.states[point]) {
                Ok(()) => {
                    self.pinned.remove(&point);
                    Ok(Pending::Nothing)
                }
                Err(error) => self.unless_off(error, Pending::Pin(point)),
            };
        }
        let Some((point, content)) = self.any_point(disk)? else { return Ok(Pending::Nothing) };
        self.pinned.insert(point, content);
        match disk.pin(self.states[point]) {
            Ok(()) => Ok(Pending::Nothing),
            Err(error) => self.unless_off(error, Pending::Pin(point)),
        }
    }

    /// Opens a source and keeps it, perhaps longer than its point lives, or lets it go.
    fn hold(&mut self, disk: &Arc<Disk>) -> Result<Pending, Wrong> {
        if self.held.is_some() {
            self.check_held().or_else(|why| if self.media.is_off() { Ok(()) } else { Err(why) })?;
            self.held = None;
            return Ok(Pending::Nothing);
        }
        let Some((point, content)) = self.any_point(disk)? else { return Ok(Pending::Nothing) };
        match disk.point_source(self.states[point]) {
            Ok(source) => self.held = Some((source, content)),
            Err(error) => return self.unless_off(error, Pending::Nothing),
        }
        if self.rng.chance(1, 2) { self.delete(disk, point) } else { Ok(Pending::Nothing) }
    }

    fn delete(&mut self, disk: &Disk, point: usize) -> Result<Pending, Wrong> {
        match disk.delete_point(self.states[point]) {
            Ok(()) => {
                self.model.deleted(point);
                Ok(Pending::Nothing)
            }
            Err(error) => self.unless_off(error, Pending::Delete(point)),
        }
    }

    fn check_held(&self) -> Result<(), Wrong> {
        match &self.held {
            Some((source, content)) if read_all(&**source)? != *content => {
                Err("an open source changed".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// One of the points and its content; none if there is none, or the machine stopped.
    fn any_point(&mut self, disk: &Arc<Disk>) -> Result<Option<(usize, Vec<u8>)>, Wrong> {
        let points = self.model.points();
        if points.is_empty() {
            return Ok(None);
        }
        let point = *self.rng.pick(&points);
        let content =
            disk.point_source(self.states[point]).map_err(wrong).and_then(|source| read_all(&*source));
        match content {
            Ok(content) => Ok(Some((point, content))),
            Err(_) if self.media.is_off() => Ok(None),
            Err(why) => Err(why),
        }
    }

    fn request(&mut self, disk: &Disk, action: Action) -> Result<Pending, Wrong> {
        match action.run(disk) {
            Ok(()) => {
                self.model.done(&action);
                Ok(Pending::Nothing)
            }
            Err(error) => self.unless_off(error, Pending::Action(action)),
        }
    }

    fn unless_off(&self, error: impl std::fmt::Display, pending: Pending) -> Result<Pending, Wrong> {
        if self.media.is_off() { Ok(pending) } else { Err(format!("failed on a healthy machine: {error}")) }
    }

    /// The machine stops, and comes up again, perhaps only after stopping again during recovery.
    fn crash(&mut self, pending: &Pending, power: bool) -> Result<(), Wrong> {
        self.held = None;
        self.disk = None;
        let mut lost_power = false;
        loop {
            self.crash_states += 1;
            if power && self.rng.chance(2, 3) {
                lost_power = true;
                self.media = self.media.power_cut(&mut self.rng);
            } else {
                self.media = self.media.process_crash();
            }
            if self.rng.chance(1, 4) {
                self.second_opinion(pending, lost_power)?;
            }
            if self.rng.chance(1, 3) {
                self.media.crash_after(self.rng.below(30), Cut::BeforeEffect);
            }
            match self.open_disk() {
                Ok(disk) if !self.media.is_off() => {
                    self.disk = Some(disk);
                    self.media.crash_after(1 << 40, Cut::BeforeEffect);
                    break;
                }
                // it went off in a step that may fail: the space of something deleted is given back later
                Ok(_) => {}
                Err(_) if self.media.is_off() => {}
                Err(error) => return Err(format!("cannot open: {error}")),
            }
        }
        let opened = self.disk()?.opened();
        if !lost_power && opened != Opened::LiveMap {
            return Err(format!("only the daemon died, and the disk opened as {opened:?}"));
        }
        self.reconcile(pending, lost_power)
    }

    /// Tells the model how what was under way ended.
    fn reconcile(&mut self, pending: &Pending, lost_power: bool) -> Result<(), Wrong> {
        let disk = self.disk()?.clone();
        let points: Vec<StateId> = disk.points().iter().map(|point| point.state).collect();
        match pending {
            Pending::Action(action) => self.model.failed(action),
            Pending::Seal => {
                if let Some(new) = points.iter().find(|state| !self.states.contains(state)) {
                    self.model.sealed();
                    self.states.push(*new);
                }
            }
            Pending::Resize(size) if disk.size() == *size && *size != self.model.size() => {
                self.model.resized(*size);
            }
            Pending::Delete(point) if !points.contains(&self.states[*point]) => self.model.deleted(*point),
            Pending::Pin(point) if !disk.pinned().contains(&self.states[*point]) => {
                self.pinned.remove(point);
            }
            Pending::Delete(_) | Pending::Pin(_) | Pending::Resize(_) | Pending::Nothing => {}
        }
        let agreed = if lost_power { self.model.recovered(&*disk) } else { self.model.restarted(&*disk) };
        agreed.map_err(mismatch)
    }

    /// Opens the disk again after an orderly close or a planted situation.
    pub fn open(&mut self, carried: &[(String, Vec<u64>)], restarted: bool) -> Result<(), Wrong> {
        for (name, words) in carried {
            carry(&self.media, name, words)?;
        }
        let disk = self.open_disk().map_err(wrong)?;
        let agreed = if restarted { self.model.recovered(&*disk) } else { self.model.check_exact(&*disk) };
        self.disk = Some(disk);
        agreed.map_err(mismatch)
    }

    /// Live disk, points and a pair of states.
    pub fn verify(&mut self) -> Result<(), Wrong> {
        let points = self.model.points();
        self.verify_with(&points)
    }

    /// As [`verify`](Self::verify), with the content of these points only.
    pub fn verify_with(&mut self, points: &[usize]) -> Result<(), Wrong> {
        let disk = self.disk()?.clone();
        self.model.check_exact(&*disk).map_err(mismatch)?;
        let listed: Vec<StateId> = disk.points().iter().map(|point| point.state).collect();
        let expected: Vec<StateId> = self.model.points().iter().map(|&point| self.states[point]).collect();
        if listed != expected {
            return Err(format!("points {listed:?} are listed, {expected:?} were made"));
        }
        for &point in points {
            let source = disk.point_source(self.states[point]).map_err(wrong)?;
            self.model.check_point(point, &*source).map_err(mismatch)?;
        }
        let expected: Vec<StateId> = self.pinned.keys().map(|&point| self.states[point]).collect();
        if disk.pinned() != expected {
            return Err(format!("{:?} are pinned, should be {expected:?}", disk.pinned()));
        }
        for (point, content) in &self.pinned {
            let source = disk.point_source(self.states[*point]).map_err(wrong)?;
            if read_all(&*source)? != *content {
                return Err(format!("the pinned point {point} changed"));
            }
        }
        self.check_held()?;
        let all = self.states.len();
        let since =
            if self.rng.chance(1, 4) { None } else { Some(self.rng.below(all.max(1) as u64) as usize) };
        let since = since.filter(|_| all > 0);
        let first = since.map_or(0, |since| since + 1);
        let until = if self.rng.chance(1, 2) || first >= all {
            None
        } else {
            Some(self.rng.within(first as u64..all as u64) as usize)
        };
        let end = until.map_or(Until::Live, |until| Until::State(self.states[until]));
        let changes = disk.changes(since.map(|since| self.states[since]), end).map_err(wrong)?;
        self.model.check_changes(since, until, &changes.all()).map_err(mismatch)
    }
}

/// Something to stand on, with zeros in it, of a size that need not fit the disk's.
fn any_base(rng: &mut Rng) -> Result<(Base, Vec<u8>), Wrong> {
    let size = *rng.pick(&SIZES);
    let mut bytes = rng.bytes(size as usize);
    let zeros = rng.below(size) as usize;
    let end = zeros + rng.below(size - zeros as u64) as usize;
    bytes[zeros..end].fill(0);
    let source = MemoryDisk::new(ByteCount::new(size));
    source.write_at(ByteOffset::ZERO, &bytes).map_err(wrong)?;
    let state = StateId::from_bytes(rng.bytes(16).try_into().expect("16 bytes"));
    Ok((Base { state, source: Arc::new(source) }, bytes))
}

fn read_all(source: &dyn BlockSource) -> Result<Vec<u8>, Wrong> {
    let mut content = vec![0; source.size().get() as usize];
    source.read_at(ByteOffset::ZERO, &mut content).map_err(wrong)?;
    Ok(content)
}

/// Puts back a volatile memory that a power cut took, as a host would that kept its tmpfs over a fresh mount.
fn carry(media: &SimMedia, name: &str, words: &[u64]) -> Result<(), Wrong> {
    let memory = media.volatile(name, words.len()).map_err(wrong)?;
    memory.reserve(0..words.len()).map_err(wrong)?;
    for (word, value) in memory.words().iter().zip(words) {
        word.store(*value, std::sync::atomic::Ordering::SeqCst);
    }
    Ok(())
}

/// Runs one history of the plan.
pub fn history(rng: &mut Rng, plan: Plan) -> Result<u64, Wrong> {
    let mut world = World::new(rng)?;
    world.run(plan)?;
    Ok(world.crash_states)
}
