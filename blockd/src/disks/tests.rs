use super::{Disks, Named};
use crate::disk_file;
use crate::error::{Doing, Result};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, Entropy, Media, Time};
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
    };
    Disks::open(env).expect("the directory can be read").0
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
