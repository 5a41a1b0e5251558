//! Real power cuts: a disk on a real filesystem on a loop device, which the shutdown ioctl stops between two instructions.
//! What was not synced, data and names alike, is gone, as when power goes. Long form: `BLOCKD_SOAK=1`.
//!
//! No answer comes after a real power cut. After this one some do, and XFS says success for a directory's sync whose changes
//! it has just dropped: an answer that comes once the cut began proves nothing here.

use block::{BlockSource, ByteCount, DiskId};
use layers::{Disk, Env, Opened};
use sim::filesystem::{Filesystem, volatile};
use sim::{Action, ModelDisk, Rng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tempfile::TempDir;

/// Cuts of one filesystem: in a normal run, and in the long form.
const CUTS: (u64, u64) = (60, 1_000);

/// Every so many cuts the live map is kept, as if shared memory outlived the filesystem, and must be refused.
const KEPT_EVERY: u64 = 10;

/// Every so many cuts all is folded that steps between the cuts did not come to: each of these layers is read at each open.
const FOLDED_EVERY: u64 = 8;

const SIZE: ByteCount = ByteCount::new(4096 * 300 + 512);

/// What is under way when the filesystem stops.
enum Pending {
    Action(Action),
    Seal,
    Delete(usize),
    Nothing,
}

struct World {
    filesystem: Filesystem,
    volatile: TempDir,
    model: ModelDisk,
    states: Vec<block::StateId>,
}

impl World {
    fn env(&self) -> Env {
        Env::linux(&self.filesystem.root(), self.volatile.path()).expect("a host")
    }

    /// Requests until the filesystem stops: at a moment of its own, from another thread.
    fn until_cut(&mut self, disk: &Arc<Disk>, rng: &mut Rng) -> Pending {
        let calm = rng.below(40);
        for _ in 0..calm {
            if let Some(pending) = self.step(disk, rng) {
                panic!("a healthy filesystem refuses {}", pending.name());
            }
        }
        let filesystem = &self.filesystem;
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                filesystem.cut();
                stopped.store(true, Ordering::SeqCst);
            });
            loop {
                let was_stopped = stopped.load(Ordering::SeqCst);
                let (model, states) = (&mut self.model, &mut self.states);
                let pending = step(disk, rng, model, states, true);
                if was_stopped || pending.is_some() {
                    break pending.unwrap_or(Pending::Nothing);
                }
            }
        })
    }

    fn step(&mut self, disk: &Arc<Disk>, rng: &mut Rng) -> Option<Pending> {
        step(disk, rng, &mut self.model, &mut self.states, false)
    }

    /// What a power cut may leave, and nothing else.
    fn judge(&mut self, disk: &Arc<Disk>, pending: &Pending) {
        let points: Vec<_> = disk.points().iter().map(|point| point.state).collect();
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
        self.model.recovered(&**disk).unwrap_or_else(|wrong| panic!("{wrong}"));
        let expected: Vec<_> = self.model.points().iter().map(|&point| self.states[point]).collect();
        assert_eq!(points, expected, "recovery points");
        for point in self.model.points() {
            let source = disk.point_source(self.states[point]).expect("a point");
            self.model.check_point(point, &*source).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
        if let Some(&oldest) = self.model.points().first() {
            let changes = disk.changes(Some(self.states[oldest]), layers::Until::Live).expect("changes");
            let all = changes.all();
            self.model.check_changes(Some(oldest), None, &all).unwrap_or_else(|wrong| panic!("{wrong}"));
        }
    }
}

impl Pending {
    fn name(&self) -> &'static str {
        match self {
            Self::Action(_) => "a request",
            Self::Seal => "a seal",
            Self::Delete(_) => "a deletion",
            Self::Nothing => "nothing",
        }
    }
}

/// One request; what was under way if it failed, or if the cut has begun and its success would prove something.
fn step(
    disk: &Arc<Disk>,
    rng: &mut Rng,
    model: &mut ModelDisk,
    states: &mut Vec<block::StateId>,
    is_cut: bool,
) -> Option<Pending> {
    match rng.below(12) {
        0 => match disk.seal() {
            Ok(point) if !is_cut => {
                model.sealed();
                states.push(point.state);
                None
            }
            _ => Some(Pending::Seal),
        },
        1 if model.points().len() > 3 => {
            let point = *rng.pick(&model.points());
            match disk.delete_point(states[point]) {
                Ok(()) if !is_cut => {
                    model.deleted(point);
                    None
                }
                _ => Some(Pending::Delete(point)),
            }
        }
        2 => match disk.fold_step() {
            Ok(_) => None,
            Err(_) => Some(Pending::Nothing),
        },
        3 => match disk.make_sums(&mut |_| true) {
            Ok(_) => None,
            Err(_) => Some(Pending::Nothing),
        },
        _ => {
            let action = Action::random(rng, disk.size());
            match action.run(&**disk) {
                Ok(()) => {
                    if !(is_cut && matches!(action, Action::Flush)) {
                        model.done(&action);
                    }
                    None
                }
                Err(_) => Some(Pending::Action(action)),
            }
        }
    }
}

fn cuts_on(kind: &'static str) {
    let cuts = if std::env::var_os("BLOCKD_SOAK").is_some() { CUTS.1 } else { CUTS.0 };
    let mut kept = 0;
    sim::for_seeds(0..1, |rng| {
        let filesystem = Filesystem::make(kind);
        filesystem.mount();
        let (model, states) = (ModelDisk::new(SIZE), Vec::new());
        let mut world = World { filesystem, volatile: volatile(), model, states };
        let mut disk = Disk::create(&world.env(), "d", DiskId::from_bytes([9; 16]), SIZE).expect("a disk");
        for cut in 0..cuts {
            let pending = world.until_cut(&disk, rng);
            drop(disk);
            world.filesystem.unmount();
            let is_kept = cut % KEPT_EVERY == KEPT_EVERY - 1;
            if is_kept {
                kept += 1;
                let held = std::fs::read_dir(world.volatile.path()).expect("a directory").count();
                assert!(held > 0, "there is a live map to refuse");
            } else {
                world.volatile = volatile();
            }
            world.filesystem.mount();
            let report = check::check_directory(&*world.env().media, "d", true);
            assert_eq!(report.findings, [], "{kind}, cut {cut}");
            disk = Disk::open(&world.env(), "d").unwrap_or_else(|error| panic!("{kind}, cut {cut}: {error}"));
            assert_eq!(disk.opened(), Opened::Committed, "{kind}, cut {cut}, live map kept: {is_kept}");
            world.judge(&disk, &pending);
            if cut % FOLDED_EVERY == FOLDED_EVERY - 1 {
                disk.fold_all().expect("a healthy filesystem");
            }
        }
        drop(disk);
        world.filesystem.unmount();
    });
    println!("{kind}: {cuts} power cuts, nothing flushed was lost; {kept} live maps kept, all refused");
    assert!(kept > 0);
}

#[test]
fn power_cuts_on_ext4_lose_nothing_flushed() {
    cuts_on("ext4");
}

#[test]
fn power_cuts_on_xfs_lose_nothing_flushed() {
    cuts_on("xfs");
}
