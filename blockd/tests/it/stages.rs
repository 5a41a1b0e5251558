//! The real daemon is killed at one system call after the other of run, hydrate, promote, discard, replace, undo and restore; in half of the
//! rounds the power goes at that call too: what was not synced is gone, data and names alike, and so are the live maps. After each
//! restart what was acknowledged is so, what was not is so or is not, and nothing lies in between:
//!
//! - what a guest flushed is there, and after a mere kill all it wrote,
//! - a disk that is being replaced lets nobody in, and then is the one or the other,
//! - a recovery point is kept for as long as a run stands on it, and no longer.

use crate::fixture::{Daemon, Dice, State, noise};
use crate::kill::kill_at;
use block::{BlockDevice, BlockSource, ByteOffset};
use control::{DeletePointQuery, Job, Kind, RestoreRequest, RunRequest, RunState, Tier};
use sim::filesystem::Filesystem;
use std::time::Duration;

const SIZE: usize = 2 << 20;
const BLOCK: usize = 4096;

/// System calls after which, or after whose lack, a restart finds something else.
const CALLS: [&str; 6] = ["fdatasync", "rename", "pwrite64", "fsync", "unlink", "ftruncate"];

/// What is done while the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Run,
    Hydrate,
    Promote,
    Discard,
    Replace,
    Undo,
    Restore,
}

/// A host whose power can be cut, with a daemon on it.
struct Host {
    daemon: Option<Daemon>,
    // before its filesystem
    state: State,
    filesystem: Filesystem,
}

impl Host {
    fn new() -> Self {
        let filesystem = Filesystem::make("ext4");
        filesystem.mount();
        let state = State::at(&filesystem.root());
        let daemon = Some(state.start());
        Self { filesystem, state, daemon }
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    /// Whether a call killed the daemon, at the latest just after it answered.
    fn has_ended_soon(&mut self) -> bool {
        let daemon = self.daemon.as_mut().expect("it ran");
        (0..25).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            daemon.has_ended()
        })
    }

    /// Kills what is left of the daemon, cuts the power or not, and starts again.
    fn restart(&mut self, is_power_cut: bool) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        if is_power_cut {
            self.filesystem.cut();
            for dir in self.state.volatile() {
                std::fs::remove_dir_all(dir).expect("live maps");
            }
            self.filesystem.unmount();
            self.filesystem.mount();
        }
        self.daemon = Some(self.state.start());
    }
}

impl Drop for Host {
    /// The daemon ends before its filesystem goes.
    fn drop(&mut self) {
        self.daemon.take();
    }
}

/// A disk's content as far as it is known.
#[derive(Clone)]
struct Expected {
    /// What it was at the last flush.
    flushed: Vec<u8>,
    /// What was written since.
    now: Vec<u8>,
}

impl Expected {
    fn of(bytes: Vec<u8>) -> Self {
        Self { flushed: bytes.clone(), now: bytes }
    }

    /// Writes like a guest: some blocks that are flushed, and some that are not.
    fn write(&mut self, daemon: &Daemon, name: &str, dice: &mut Dice) {
        let export = daemon.export(name);
        for flushes in [true, false] {
            for _ in 0..6 {
                let mut bytes = vec![0; 1 + dice.below(9000) as usize];
                let at = dice.below((SIZE - bytes.len()) as u64) as usize;
                dice.fill(&mut bytes);
                export.write_at(ByteOffset::new(at as u64), &bytes).expect("acknowledged");
                self.now[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            if flushes {
                export.flush().expect("durable");
                self.flushed.clone_from(&self.now);
            }
        }
    }

    /// Whether this may be what a restart finds.
    fn allows(&self, found: &[u8], is_power_cut: bool) -> bool {
        let blocks = found.chunks(BLOCK).zip(self.now.chunks(BLOCK)).zip(self.flushed.chunks(BLOCK));
        found.len() == self.now.len()
            && blocks.into_iter().all(|((is, now), flushed)| is == now || is_power_cut && is == flushed)
    }
}

fn run_of(hydrate: bool) -> RunRequest {
    RunRequest { point: "web@1".to_owned(), name: "try".to_owned(), hydrate }
}

fn to_new() -> RestoreRequest {
    RestoreRequest { point: "web@1".to_owned(), to: "new".to_owned(), ..RestoreRequest::default() }
}

fn replace(undo: bool) -> RestoreRequest {
    let point = if undo { String::new() } else { "web@1".to_owned() };
    RestoreRequest { point, replace: Some("web".to_owned()), undo, ..RestoreRequest::default() }
}

/// The whole of an export, once it lets somebody in.
fn read_at_last(daemon: &Daemon, name: &str) -> Vec<u8> {
    for _ in 0..1000 {
        if let Ok(export) = daemon.try_export(name) {
            let mut bytes = vec![0; export.size().get() as usize];
            export.read_at(ByteOffset::ZERO, &mut bytes).expect("read");
            return bytes;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("{name} lets nobody in\n{}", daemon.log());
}

/// The host, and what is on it: `web@1` in the vault and perhaps in the instant tier, and `web` as a guest left it since.
struct World {
    host: Host,
    dice: Dice,
    point: Vec<u8>,
    web: Expected,
    run: Option<Expected>,
}

impl World {
    fn new(seed: u64) -> Self {
        let host = Host::new();
        let mut point = noise(seed, SIZE);
        point[SIZE / 2..SIZE / 2 + 70_000].fill(0);
        let daemon = host.daemon();
        daemon.create("web", SIZE as u64);
        daemon.write("web", 0, &point);
        assert_eq!(daemon.backup("web").error, None);
        if seed % 2 == 1 {
            daemon.client().delete_point("web@1", &DeletePointQuery::from(Tier::Instant)).expect("deleted");
        }
        let web = Expected::of(point.clone());
        Self { host, dice: Dice::new(seed), point, web, run: None }
    }

    /// What has to be there before the stage; it is never cut short.
    fn prepare(&mut self, stage: Stage) {
        let client = self.host.daemon().client();
        match stage {
            Stage::Run | Stage::Restore => {}
            Stage::Hydrate | Stage::Promote | Stage::Discard => {
                client.run(&run_of(false)).expect("it runs");
                let mut expected = Expected::of(self.point.clone());
                expected.write(self.host.daemon(), "try", &mut self.dice);
                self.run = Some(expected);
            }
            Stage::Replace => self.web.write(self.host.daemon(), "web", &mut self.dice),
            Stage::Undo => {
                self.web.write(self.host.daemon(), "web", &mut self.dice);
                let job = client.restore(&replace(false)).expect("begun");
                assert_eq!(self.host.daemon().finished(&job).error, None);
            }
        }
    }

    /// Does the stage; whether it was acknowledged. The daemon may be gone at any time.
    fn act(&self, stage: Stage) -> bool {
        let client = self.host.daemon().client();
        match stage {
            Stage::Run => client.run(&run_of(false)).is_ok(),
            Stage::Hydrate | Stage::Promote => {
                let mut state = client.promote("try").map(|run| run.state);
                let is_asked = state.is_ok();
                while state.as_ref().is_ok_and(|state| *state != RunState::Independent) {
                    std::thread::sleep(Duration::from_millis(2));
                    state = client.run_status("try").map(|run| run.state);
                }
                if stage == Stage::Promote { state.is_ok() } else { is_asked }
            }
            Stage::Discard => client.discard("try").is_ok(),
            Stage::Restore => {
                let begun = client.restore(&to_new());
                begun
                    .is_ok_and(|job| client.follow(&job.id, &mut |_| {}).is_ok_and(|job| job.error.is_none()))
            }
            Stage::Replace | Stage::Undo => match client.restore(&replace(stage == Stage::Undo)) {
                // begun is promised; its end is not waited for longer than it takes
                Ok(job) => client.follow(&job.id, &mut |_| {}).map_or(true, |job| job.error.is_none()),
                Err(_) => false,
            },
        }
    }

    fn judge(&mut self, stage: Stage, was_acknowledged: bool, is_power_cut: bool) {
        let daemon = self.host.daemon();
        let context = format!("{stage:?}, acknowledged: {was_acknowledged}, power cut: {is_power_cut}");
        assert!(daemon.read("web@1") == self.point, "{context}: the point itself");
        let status = daemon.client().run_status("try");
        match stage {
            Stage::Run => {
                assert!(status.is_ok() || !was_acknowledged, "{context}: the run is not there");
                if status.is_ok() {
                    self.run = Some(Expected::of(self.point.clone()));
                }
            }
            Stage::Discard => {
                assert!(status.is_err() || !was_acknowledged, "{context}: it came back");
                if status.is_err() {
                    self.run = None;
                }
            }
            Stage::Hydrate | Stage::Promote => {
                let state = status.expect("the run").state;
                let is_done = stage == Stage::Promote && was_acknowledged;
                assert!(state == RunState::Independent || !is_done, "{context}: {state:?}");
            }
            Stage::Replace | Stage::Undo => {
                self.judge_replaced(stage, was_acknowledged, is_power_cut, &context)
            }
            Stage::Restore => self.judge_restored(was_acknowledged, &context),
        }
        let daemon = self.host.daemon();
        if let Some(expected) = &self.run {
            assert!(expected.allows(&daemon.read("try"), is_power_cut), "{context}: the run's content");
        }
        if !matches!(stage, Stage::Replace | Stage::Undo) {
            assert!(self.web.allows(&daemon.read("web"), is_power_cut), "{context}: the disk itself");
        }
    }

    /// The disk is the one or the other, and what it was can be had back.
    fn judge_replaced(&mut self, stage: Stage, was_acknowledged: bool, is_power_cut: bool, context: &str) {
        let daemon = self.host.daemon();
        let found = read_at_last(daemon, "web");
        let before = self.web.clone();
        let (is_point, is_before) = (found == self.point, before.allows(&found, is_power_cut));
        let is_new = if stage == Stage::Replace { is_point } else { is_before };
        assert!(is_point || is_before, "{context}: neither the one nor the other");
        assert!(is_new || !was_acknowledged, "{context}: it is what it was");
        if stage == Stage::Replace && is_point {
            let job = daemon.client().restore(&replace(true)).expect("begun");
            assert_eq!(daemon.finished(&job).error, None, "{context}");
            assert!(before.allows(&daemon.read("web"), is_power_cut), "{context}: what undo puts back");
        }
    }

    /// The new disk is whole or not there, and nothing is left of one that is not.
    fn judge_restored(&self, was_acknowledged: bool, context: &str) {
        let client = self.host.daemon().client();
        let is_under_way = |job: &Job| !job.state.is_final() && job.target.as_deref() == Some("new");
        while client.jobs().expect("jobs").iter().any(is_under_way) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_there = client.disk("new").is_ok();
        assert!(is_there || !was_acknowledged, "{context}: the new disk is not there");
        if is_there {
            assert!(self.host.daemon().read("new") == self.point, "{context}: the new disk");
        }
        let left = self.host.state.files("disks");
        assert!(
            left.iter().all(|path| path.extension().is_none_or(|it| it != "making")),
            "{context}: {left:?}"
        );
    }

    /// As it was before, for the next round; nothing stands on the point then.
    fn put_back(&mut self) {
        let daemon = self.host.daemon();
        let client = daemon.client();
        if self.run.take().is_some() {
            // others may let go of it at any moment
            let stays = client.run_status("try").expect("its status").state == RunState::Kept;
            if stays && !self.has_instant() {
                let refused = client.delete_point("web@1", &DeletePointQuery::from(Tier::Vault));
                assert!(refused.is_err_and(|error| error.kind() == Kind::Conflict), "a run stands on it");
            }
            client.delete_disk("try").expect("deleted");
        }
        if client.disk("new").is_ok() {
            client.delete_disk("new").expect("deleted");
        }
        self.web = Expected::of(daemon.read("web"));
        daemon.export("web").flush().expect("durable");
        for point in client.points(Some("web")).expect("points").points {
            if point.name != "web@1" {
                client.delete_point(&point.name, &DeletePointQuery::default()).expect("nothing needs it");
            }
        }
    }

    fn has_instant(&self) -> bool {
        self.host.daemon().client().point("web@1").expect("a point").tiers.contains(&Tier::Instant)
    }
}

/// One stage, killed at one call after the other until it comes to its end.
fn every_call_of(stage: Stage, world: &mut World, is_long: bool) -> (u64, u64) {
    let (mut killed, mut cut) = (0, 0);
    for call in CALLS {
        // data goes in many calls that are alike
        let (steps, most) = if call == "pwrite64" { (if is_long { 3 } else { 17 }, 60) } else { (1, 24) };
        for when in (1..=most).step_by(steps) {
            if !is_long && when % 2 == 0 && when > 2 {
                continue;
            }
            world.prepare(stage);
            let mut strace = kill_at(world.host.daemon(), call, when);
            let was_acknowledged = world.act(stage);
            let was_killed = world.host.has_ended_soon();
            let is_power_cut = world.dice.below(2) == 0;
            killed += u64::from(was_killed);
            cut += u64::from(is_power_cut);
            world.host.restart(is_power_cut);
            strace.wait().expect("its end");
            world.judge(stage, was_acknowledged, is_power_cut);
            world.put_back();
            if !was_killed {
                break;
            }
        }
    }
    (killed, cut)
}

#[test]
fn a_kill_or_a_power_cut_at_any_call_leaves_nothing_half_done() {
    let is_long = std::env::var_os("BLOCKD_SOAK").is_some();
    let seeds = if is_long { 0..6 } else { 0..2 };
    for seed in seeds {
        let mut world = World::new(seed);
        let stages = [
            Stage::Run,
            Stage::Hydrate,
            Stage::Promote,
            Stage::Discard,
            Stage::Replace,
            Stage::Undo,
            Stage::Restore,
        ];
        for (number, stage) in (0..).zip(stages) {
            // in the short form each kind of point has half of them
            if !is_long && number % 2 != seed {
                continue;
            }
            let (killed, cut) = every_call_of(stage, &mut world, is_long);
            println!("{stage:?}, seed {seed}: {killed} killed by a call, {cut} power cuts");
            assert!(killed > 3, "{stage:?}: calls that kill come before its end");
        }
    }
}
