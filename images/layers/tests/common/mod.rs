//! Random histories of a disk on a simulated machine: requests, seals, deletes, crashes of the daemon, power cuts at
//! every call and during recovery. The model says what must be there afterwards.

use block::{BlockSource, ByteCount, ByteRange, DiskId, Media, Provision, StateId, Time};
use layers::{Disk, Env, Opened, Until};
use sim::{Action, Cut, Mismatch, ModelDisk, Rng, SeededEntropy, SimClock, SimMedia};
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
}

/// What is under way when the machine stops.
enum Pending {
    Action(Action),
    Seal,
    Delete(usize),
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
}

const DIR: &str = "disk";

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
    }
}

impl World {
    pub fn new(rng: &mut Rng) -> Result<Self, Wrong> {
        let sizes = [512, 4096 * 5 + 512, 4096 * 24, 4096 * 40 + 1, 4096 * 300];
        let size = ByteCount::new(*rng.pick(&sizes));
        let media = SimMedia::new();
        let id = DiskId::from_bytes(rng.bytes(16).try_into().expect("16 bytes"));
        let disk = Disk::create(&env(&media, rng), DIR, id, size).map_err(wrong)?;
        let model = ModelDisk::new(size);
        Ok(Self { rng: rng.fork(), media, disk: Some(disk), model, states: Vec::new(), crash_states: 0 })
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
                self.crash(&pending, plan.power)?;
                self.verify()?;
            }
        }
        // power may go off one last time, and everything must still be there twice
        self.crash(&Pending::Nothing, plan.power)?;
        self.verify()?;
        self.disk()?.close().map_err(wrong)?;
        self.disk = None;
        self.open(&[], false)?;
        self.verify()
    }

    /// One request. What was under way if the machine stopped in it.
    fn step(&mut self) -> Result<Pending, Wrong> {
        let disk = self.disk()?.clone();
        let whole = ByteRange::whole(disk.size());
        match self.rng.below(24) {
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
                match disk.delete_point(self.states[point]) {
                    Ok(()) => {
                        self.model.deleted(point);
                        Ok(Pending::Nothing)
                    }
                    Err(error) => self.unless_off(error, Pending::Delete(point)),
                }
            }
            4 => self.request(&disk, Action::Discard(whole)),
            5 => self.request(&disk, Action::Zero(whole, Provision::Sparse)),
            6 => self
                .verify()
                .or_else(|why| if self.media.is_off() { Ok(()) } else { Err(why) })
                .map(|()| Pending::Nothing),
            _ => {
                let action = Action::random(&mut self.rng, disk.size());
                self.request(&disk, action)
            }
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
            if self.rng.chance(1, 3) {
                self.media.crash_after(self.rng.below(30), Cut::BeforeEffect);
            }
            match Disk::open(&env(&self.media, &mut self.rng), DIR) {
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
            Pending::Delete(point) if !points.contains(&self.states[*point]) => self.model.deleted(*point),
            Pending::Delete(_) | Pending::Nothing => {}
        }
        let agreed = if lost_power { self.model.recovered(&*disk) } else { self.model.restarted(&*disk) };
        agreed.map_err(mismatch)
    }

    /// Opens the disk again after an orderly close or a planted situation.
    pub fn open(&mut self, carried: &[(String, Vec<u64>)], restarted: bool) -> Result<(), Wrong> {
        for (name, words) in carried {
            carry(&self.media, name, words)?;
        }
        let disk = Disk::open(&env(&self.media, &mut self.rng), DIR).map_err(wrong)?;
        let agreed = if restarted { self.model.recovered(&*disk) } else { self.model.check_exact(&*disk) };
        self.disk = Some(disk);
        agreed.map_err(mismatch)
    }

    /// Live disk, points and every pair of states.
    pub fn verify(&mut self) -> Result<(), Wrong> {
        let disk = self.disk()?.clone();
        self.model.check_exact(&*disk).map_err(mismatch)?;
        let listed: Vec<StateId> = disk.points().iter().map(|point| point.state).collect();
        let expected: Vec<StateId> = self.model.points().iter().map(|&point| self.states[point]).collect();
        if listed != expected {
            return Err(format!("points {listed:?} are listed, {expected:?} were made"));
        }
        for point in self.model.points() {
            let source = disk.point_source(self.states[point]).map_err(wrong)?;
            self.model.check_point(point, &*source).map_err(mismatch)?;
        }
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
