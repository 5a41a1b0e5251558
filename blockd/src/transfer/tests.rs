use super::*;
use crate::catalog::Catalog;
use crate::disks::Disks;
use crate::jobs::Jobs;
use crate::vaults::Vaults;
use block::linux::{KernelEntropy, LinuxMedia, SystemClock};
use block::{BlockDevice, ByteOffset};
use control::{DeletePointQuery, JobState, Tier};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);
const SIZE: usize = 1 << 20;

/// Both tiers with one disk, in a directory of their own.
struct Stage {
    tiers: Arc<Tiers>,
    jobs: Arc<Jobs>,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["disks", "vaults", "keys", "volatile"] {
            std::fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        let volatile = dir.path().join("volatile");
        let disks = layers::Env::linux(dir.path(), &volatile).expect("a place for disks");
        let (disks, _) = Disks::open(disks, None).expect("no disks yet");
        let media: Arc<dyn block::Media> = Arc::new(LinuxMedia::new(dir.path(), &volatile).expect("a media"));
        let env = vault::Env { clock: Arc::new(SystemClock), entropy: Arc::new(KernelEntropy) };
        let catalog = Arc::new(Catalog::open(dir.path()).expect("a catalog").0);
        let open = || {
            let (media, env) = (media.clone(), env.clone());
            let clock = crate::appliance_clock::ApplianceClock::open(media.clone()).expect("a clock");
            Vaults::open(dir.path(), media, env, Arc::new(clock), catalog.clone(), 1 << 20).expect("a vault")
        };
        drop(open());
        // one in which deleting is final at once
        let file = dir.path().join("vaults/main.vault");
        let text = std::fs::read_to_string(&file).expect("a vault's file");
        std::fs::write(&file, text + "soft-delete-days = 0\n").expect("written");
        let vaults = Arc::new(open());
        let (nbd_socket, stored_count) = (dir.path().join("nbd.sock"), AtomicU64::default());
        let audit = crate::audit_log::of_a_test(dir.path());
        let catalog_too = catalog.clone();
        let tiers = Tiers {
            disks,
            vaults,
            catalog: catalog_too,
            audit: audit.clone(),
            nbd_socket,
            stored_count,
            listings: Default::default(),
        };
        let jobs = Jobs::open(
            catalog,
            audit,
            Arc::new(crate::events::Events::new(Arc::new(SystemClock))),
            Arc::new(SystemClock),
            Arc::new(KernelEntropy),
            (2, crate::jobs::Limits::new(Arc::new(SystemClock), None, &[]).expect("none")),
            &|_| false,
        );
        let stage = Self { tiers: Arc::new(tiers), jobs: jobs.expect("jobs"), dir };
        let id = stage.tiers.disks.fresh_id().expect("an id");
        let size = ByteCount::new(SIZE as u64);
        stage.tiers.disks.create(id, "web", size, |_| Ok(())).expect("a disk");
        stage
    }

    fn write(&self, block: u64, byte: u8) {
        let web = self.tiers.disks.get("web").expect("the disk");
        let disk = web.disk().expect("it serves");
        disk.write_at(ByteOffset::new(block * 4096), &[byte; 4096]).expect("written");
    }

    /// A backup with something done between its plan and its transfer, to its end.
    fn backup(&self, between: impl FnOnce(&Tiers) + Send + 'static) -> Job {
        let tiers = self.tiers.clone();
        let points = tiers.snapshot(&["web".to_owned()]).expect("a point");
        let named = tiers.vaults.get(MAIN).expect("the vault");
        let new = NewJob { operation: "backup", item: "web".to_owned(), ..NewJob::default() };
        let work = move |run: &Run| {
            let planned = plan_all(run, &tiers, &named, &points, false)?;
            between(&tiers);
            send_all(run, &tiers, &named, planned)
        };
        let job = self.jobs.start(new, work).expect("a job");
        self.jobs.wait_for(&job.id, LONG).expect("its end")
    }

    /// A backup whose change map lacks a block, to its end.
    fn backup_missing(&self, block: u64, full: bool) -> Job {
        let tiers = self.tiers.clone();
        let points = tiers.snapshot(&["web".to_owned()]).expect("a point");
        let named = tiers.vaults.get(MAIN).expect("the vault");
        let new = NewJob { operation: "backup", item: "web".to_owned(), ..NewJob::default() };
        let missed = [block::ByteRange::between(block * 4096, block * 4096 + 4096)].into_iter().collect();
        let work = move |run: &Run| {
            let mut planned = plan_all(run, &tiers, &named, &points, full)?;
            match &mut planned[0].audit {
                Some(audit) => audit.changed.subtract(&missed),
                None => planned[0].changed.subtract(&missed),
            }
            send_all(run, &tiers, &named, planned)
        };
        let job = self.jobs.start(new, work).expect("a job");
        self.jobs.wait_for(&job.id, LONG).expect("its end")
    }

    fn audit(&self) -> control::DiskAudit {
        let id = self.tiers.disks.get("web").expect("the disk").id.to_string();
        self.tiers.audits(&id).expect("audits").remove(0)
    }

    fn packs(&self) -> Vec<std::path::PathBuf> {
        let (mut found, mut dirs) = (Vec::new(), vec![self.dir.path().join("vaults/main")]);
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() { dirs.push(path) } else { found.push(path) }
            }
        }
        found.retain(|path| path.to_string_lossy().contains("/packs/"));
        found
    }

    /// What the vault has of a point.
    fn stored(&self, point: &str) -> Vec<u8> {
        let held = self.tiers.find(point).expect("the point");
        let (named, manifest) = &held.copies[0];
        let image = named.vault().expect("it is unlocked").image(manifest).expect("an image");
        let mut bytes = vec![0; SIZE];
        image.read_at(ByteOffset::ZERO, &mut bytes).expect("read");
        bytes
    }
}

fn forget(point: &'static str) -> impl FnOnce(&Tiers) + Send + 'static {
    move |tiers| drop(tiers.delete_point(point, &DeletePointQuery::from(Tier::Vault)).expect("deleted"))
}

#[test]
fn a_base_deleted_before_its_turn_is_replaced() {
    let stage = Stage::new();
    let mut content = vec![0; SIZE];
    let mut change = |block: u8| {
        stage.write(u64::from(block), block);
        content[usize::from(block) * 4096..][..4096].fill(block);
        content.clone()
    };
    change(1);
    assert_eq!(stage.backup(|_| {}).state, JobState::Done);
    change(2);
    assert_eq!(stage.backup(|_| {}).base.as_deref(), Some("web@1"));

    let expected = change(3);
    let job = stage.backup(forget("web@2"));
    assert_eq!((job.state, job.base.as_deref()), (JobState::Done, Some("web@1")), "{:?}", job.error);
    let note = job.note.expect("it says so");
    assert!(note.contains("web@2 was deleted") && note.contains("built on web@1"), "{note}");
    assert_eq!((job.bytes_done, job.bytes_total), (2 * 4096, 2 * 4096));
    assert!(stage.stored("web@3") == expected);

    let expected = change(4);
    let job = stage.backup(|tiers| {
        forget("web@3")(tiers);
        forget("web@1")(tiers);
    });
    assert_eq!((job.state, job.base), (JobState::Done, None), "{:?}", job.error);
    assert_eq!(job.kind, Some(TransferKind::Full));
    assert!(job.note.is_some_and(|note| note.contains("read whole")));
    assert!(stage.stored("web@4") == expected);
}

#[test]
fn a_damaged_base_costs_a_whole_read_and_not_the_backup() {
    let stage = Stage::new();
    let mut content = vec![0; SIZE];
    for block in [1, 2] {
        stage.write(block, block as u8);
        content[block as usize * 4096..][..4096].fill(block as u8);
        assert_eq!(stage.backup(|_| {}).state, JobState::Done);
    }
    for path in stage.packs() {
        let mut bytes = std::fs::read(&path).expect("a pack");
        bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 0x40);
        std::fs::write(&path, bytes).expect("damaged");
    }
    stage.write(3, 3);
    content[3 * 4096..][..4096].fill(3);
    let job = stage.backup(|_| {});
    assert_eq!((job.state, job.kind), (JobState::Done, Some(TransferKind::Full)), "{:?}", job.error);
    let note = job.note.expect("it says so");
    assert!(note.contains("web@2 is damaged in the vault") && note.contains("read whole"), "{note}");
    assert!(stage.stored("web@3") == content);
    // what was met is known, and the next one builds on what is whole
    let points = stage.tiers.held(Some("web")).0;
    let shown = stage.tiers.show(&points).expect("points");
    let damaged: Vec<bool> = shown.iter().map(|point| !point.damaged.is_empty()).collect();
    assert_eq!(damaged, [false, true, false], "only web@2 was looked at");
    stage.write(4, 4);
    assert_eq!(stage.backup(|_| {}).base.as_deref(), Some("web@3"));
}

#[test]
fn nothing_is_built_on_what_a_check_found_damaged() {
    let stage = Stage::new();
    stage.write(1, 1);
    assert_eq!(stage.backup(|_| {}).state, JobState::Done);
    let base = stage.tiers.find("web@1").expect("a point").copies[0].1.to_string();
    let check = control::LastCheck { time: "2026-11-28T00:00:00Z".to_owned(), problems: 1 };
    stage.tiers.catalog.set_checked(MAIN, &check, &[], &[base]).expect("noted");
    stage.write(2, 2);
    let job = stage.backup(|_| {});
    assert_eq!((job.state, job.base), (JobState::Done, None), "{:?}", job.error);
    assert!(job.note.is_some_and(|note| note.contains("web@1 is damaged in the vault")));
}

#[test]
fn a_mark_that_was_missed_is_found_and_the_next_backup_heals_it() {
    let stage = Stage::new();
    let mut content = vec![0; SIZE];
    let mut change = |block: u8| {
        stage.write(u64::from(block), block);
        content[usize::from(block) * 4096..][..4096].fill(block);
        content.clone()
    };
    change(1);
    assert_eq!(stage.backup(|_| {}).state, JobState::Done);
    change(2);
    assert_eq!(stage.backup(|_| {}).state, JobState::Done);
    let audit = stage.audit();
    assert!(
        audit.compared_since.is_some() && audit.missed == 0,
        "a disk this small is compared whole: {audit:?}"
    );

    change(7);
    let expected = change(3);
    let job = stage.backup_missing(7, false);
    let error = job.error.expect("an alarm");
    assert_eq!((job.state, error.kind), (JobState::Failed, control::Kind::Corrupt));
    assert!(error.message.contains("missed 1 block ") && error.message.contains("byte 28672"), "{error:?}");
    assert!(stage.stored("web@3") != expected, "it is the plant that was found");
    assert_eq!(stage.audit().missed, 1);
    let check = control::LastCheck { time: "2026-11-28T00:00:00Z".to_owned(), problems: 0 };
    stage.tiers.catalog.set_checked(MAIN, &check, &[], &[]).expect("noted");
    stage.tiers.vaults.get(MAIN).expect("the vault").forget_met();

    // a check does not see it, and still nothing is built on it
    let expected = change(4);
    let job = stage.backup(|_| {});
    assert_eq!((job.state, job.kind), (JobState::Done, Some(TransferKind::Full)), "{:?}", job.error);
    assert!(stage.stored("web@4") == expected);
    change(5);
    assert_eq!(stage.backup(|_| {}).kind, Some(TransferKind::Incremental));
}

#[test]
fn a_full_backup_audits_everything_called_unchanged() {
    let stage = Stage::new();
    stage.write(1, 1);
    assert_eq!(stage.backup(|_| {}).state, JobState::Done);
    stage.write(2, 2);
    let job = stage.backup_missing(200, true);
    assert_eq!((job.state, job.note), (JobState::Done, None));
    assert!(stage.audit().compared_since.is_some());
    stage.write(9, 9);
    let job = stage.backup_missing(9, true);
    assert_eq!(job.state, JobState::Done, "it lacks nothing");
    assert!(job.note.is_some_and(|note| note.contains("missed 1 block ")));
    assert_eq!(stage.audit().missed, 1);
}
