use super::{Deletion, Disks, Named};
use crate::disk_file;
use crate::error::{Doing, Result};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Entropy, Media, StateId, Time};
use layers::Env;
use sim::{Cut, Effect, Fault, Op, Rng, SeededEntropy, SimClock, SimMedia};
use std::collections::HashSet;
use std::sync::Arc;

fn machine(media: &SimMedia, seed: u64) -> Disks {
    let env = Env {
        media: Arc::new(media.clone()),
        clock: Arc::new(SimClock::new(Time { unix_ms: 1_700_000_000_000 })),
        entropy: Arc::new(SeededEntropy::new(seed)) as Arc<dyn Entropy>,
        journal_room: ByteCount::new(4096),
        fold_batch: ByteCount::new(8192),
        budget: layers::Budget::default(),
    };
    Disks::open(env, None).expect("the directory can be read").0
}

fn fresh() -> SimMedia {
    let media = SimMedia::new();
    media.create_dir(disk_file::DIR).and_then(|()| media.sync_dir("")).expect("a directory");
    media
}

/// Makes a disk of sevens.
fn make(disks: &Disks) -> Result<Arc<Named>> {
    disks.create(disks.fresh_id()?, "web", ByteCount::new(8192), |disk| {
        disk.write_at(ByteOffset::ZERO, &[7; 8192]).and_then(|()| disk.flush()).doing(|| "fill".to_owned())
    })
}

/// A disk under the name is one of sevens; whether there is one.
fn is_whole(disks: &Disks, context: &str) -> bool {
    let Ok(named) = disks.get("web") else { return false };
    let mut bytes = vec![0; 8192];
    let read = named.disk().and_then(|disk| disk.read_at(ByteOffset::ZERO, &mut bytes).doing(String::new));
    assert!(read.is_ok() && bytes == [7; 8192], "{context}: half a disk looks ready");
    true
}

#[test]
fn a_disk_that_could_not_be_made_is_not_there_and_does_not_come_back() {
    let mut failed = 0;
    for op in [Op::Write, Op::Sync, Op::SyncDir, Op::Rename] {
        for calls in 0..12 {
            let media = fresh();
            let disks = machine(&media, calls);
            media.inject(Fault::new(op, Effect::Eio).after(calls));
            let context = format!("{op:?} {calls}");
            let made = make(&disks).is_ok();
            assert_eq!(is_whole(&disks, &context), made, "{context}");
            failed += u32::from(!made);
            drop(disks);
            for media in [media.process_crash(), media.power_cut(&mut Rng::new(calls))] {
                assert_eq!(is_whole(&machine(&media, 99), &context), made, "{context}, later");
            }
        }
    }
    assert!(failed > 10, "the faults hit");
}

#[test]
fn a_crash_leaves_a_disk_whole_or_not_at_all() {
    let mut seen = HashSet::new();
    for step in 0..80 {
        let media = fresh();
        let disks = machine(&media, step);
        media.crash_after(step, Cut::AfterEffect);
        let made = make(&disks).is_ok();
        drop(disks);
        for media in [media.process_crash(), media.power_cut(&mut Rng::new(step))] {
            let whole = is_whole(&machine(&media, 99), &format!("step {step}"));
            assert!(whole || !made, "step {step}: it was answered for");
            seen.insert(whole);
        }
    }
    assert_eq!(seen.len(), 2, "crashes before and after the end");
}

/// A disk of sevens with a recovery point, of which another disk is to be made.
fn parent(disks: &Disks) -> (Arc<Named>, StateId) {
    let web = make(disks).expect("a disk");
    let point = web.disk().expect("it serves").seal().expect("a point");
    (web, point.state)
}

/// A child is there whole with its base kept for it, or nothing is kept. Whether it is there.
fn is_explained(disks: &Disks, context: &str) -> bool {
    let web = disks.get("web").expect("the parent");
    let pinned = web.disk().expect("it serves").pinned().len();
    let Ok(child) = disks.get("child") else {
        assert_eq!(pinned, 0, "{context}: a point is kept for nothing");
        return false;
    };
    let mut bytes = vec![0; 8192];
    let read = child.disk().and_then(|disk| disk.read_at(ByteOffset::ZERO, &mut bytes).doing(String::new));
    assert!(read.is_ok() && bytes == [7; 8192], "{context}: {read:?}");
    assert_eq!(pinned, 1, "{context}: its base is not kept");
    true
}

#[test]
fn a_crash_leaves_a_child_with_its_base_or_neither() {
    let (mut made_seen, mut gone_seen) = (HashSet::new(), HashSet::new());
    for step in 0..160 {
        let media = fresh();
        let disks = machine(&media, step);
        let (web, state) = parent(&disks);
        media.crash_after(step, Cut::AfterEffect);
        let made = disks.create_on_point("child", None, &web, state, "web@1", None).is_ok();
        let ends = step % 2 == 1;
        let deleted = ends && made && disks.delete("child", Deletion::default()).is_ok();
        drop((web, disks));
        for media in [media.process_crash(), media.power_cut(&mut Rng::new(step))] {
            let there = is_explained(&machine(&media, 99), &format!("step {step}"));
            assert!(there || !made || ends, "step {step}: it was answered for");
            made_seen.insert(there);
            assert!(!(deleted && there), "step {step}: it came back");
            gone_seen.insert(deleted);
        }
    }
    assert_eq!((made_seen.len(), gone_seen.len()), (2, 2), "crashes before, between and after");
}

/// A run is brought whole and lets go of its point; the machine stops at any call of that. Whatever is left reads right, the
/// point is kept as long as it is needed and no longer, and what was cut short comes to its end.
#[test]
fn a_crash_leaves_a_run_with_its_point_or_independent() {
    let (mut standing, mut independent) = (0, 0);
    let run = Some(disk_file::RunRecord { hydrate: true, promote: false });
    for step in 0..220 {
        let media = fresh();
        let disks = machine(&media, step);
        let (web, state) = parent(&disks);
        media.crash_after(step, Cut::AfterEffect);
        let made = disks.create_on_point("child", None, &web, state, "web@1", run).is_ok();
        let released = made && hydrate(&disks).is_ok();
        drop((web, disks));
        for media in [media.process_crash(), media.power_cut(&mut Rng::new(step))] {
            let context = format!("step {step}");
            let disks = machine(&media, 99);
            let Ok(child) = disks.get("child") else {
                assert!(!made, "{context}: it was answered for");
                continue;
            };
            let stands = child.base.is_some();
            assert_eq!(child.disk().expect("it serves").stands(), stands, "{context}");
            assert!(!(released && stands), "{context}: it stands on its point again");
            assert_eq!(child.run.is_some(), stands, "{context}");
            let pinned = disks.get("web").expect("the parent").disk().expect("it serves").pinned().len();
            assert_eq!(pinned, usize::from(stands), "{context}");
            hydrate(&disks).unwrap_or_else(|error| panic!("{context}: {error}"));
            let child = disks.get("child").expect("there");
            assert!(child.base.is_none() && child.run.is_none(), "{context}");
            let mut bytes = vec![0; 8192];
            child.disk().expect("it serves").read_at(ByteOffset::ZERO, &mut bytes).expect("read");
            assert_eq!(bytes, [7; 8192], "{context}");
            if stands { standing += 1 } else { independent += 1 }
        }
    }
    assert!(standing > 10 && independent > 10, "crashes before and after: {standing} and {independent}");
}

/// Brings all of what `child` stands on and lets go of it, as the threads of hydration do.
fn hydrate(disks: &Disks) -> Result<()> {
    let child = disks.get("child")?;
    let disk = child.disk()?;
    if disk.stands() {
        disk.begin_hydration().doing(String::new)?;
        while disk.hydrate_step().doing(String::new)? != layers::Hydrating::Whole {}
    }
    if child.base.is_some() { disks.release_base(&child) } else { Ok(()) }
}

/// Upkeep, `disk recover` and `disk share` come by while a client fills a disk: it stays open, and the fill ends well.
#[test]
fn a_disk_that_is_being_filled_is_left_alone() {
    let media = fresh();
    let disks = machine(&media, 1);
    let web = disks.fill("web", ByteCount::new(8192)).expect("a disk to fill");
    let filling = web.attach().expect("whoever fills it");
    filling.disk.write_at(ByteOffset::ZERO, &[7; 4096]).expect("filled by half");
    disks.reopen_what_lacked_room();
    for refused in [disks.recover("web"), disks.share("web", true), disks.release("web")] {
        let body = refused.err().expect("it is being filled").body();
        assert_eq!(body.kind, control::Kind::Unavailable, "{}", body.message);
        assert!(body.message.contains("is being filled"), "{}", body.message);
    }
    drop(disks.get("web").expect("it keeps its place").attach().expect("it takes connections"));
    filling.disk.write_at(ByteOffset::new(4096), &[7; 4096]).expect("the other half");
    drop((filling, web));
    disks.ready("web").expect("filled");
    assert!(is_whole(&disks, "filled"));
    disks.share("web", true).expect("like any other");
}
