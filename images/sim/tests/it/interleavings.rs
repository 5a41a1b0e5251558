//! The simulated media under a scheduler that tries interleavings.

use block::sync::atomic::Ordering;
use block::sync::thread;
use block::{Media, OpenHow};
use sim::{Cut, Rng, SimMedia};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// A writer and a syncer race; whatever was written before a sync that succeeded began is durable.
#[test]
fn a_sync_covers_what_was_written_before_it() {
    // (writes before the sync began, the sync succeeded), outside the scheduler's eyes
    let seen: &Mutex<BTreeSet<(u64, bool)>> = Box::leak(Box::default());
    shuttle::check_random(
        move || {
            let media = SimMedia::new();
            let file = media.open("a", OpenHow::Create).unwrap();
            media.sync_dir("").unwrap();
            media.crash_after(3, Cut::BeforeEffect);
            let progress = media.scratch(1).unwrap();
            let writer = {
                let (file, progress) = (file.clone(), progress.clone());
                thread::spawn(move || {
                    for at in 0..3 {
                        if file.write_at(at * 8, &[1; 8]).is_err() {
                            break;
                        }
                        progress.words()[0].store(at + 1, Ordering::SeqCst);
                    }
                })
            };
            let written = progress.words()[0].load(Ordering::SeqCst);
            let synced = file.sync().is_ok();
            writer.join().unwrap();
            let after = media.power_cut(&mut Rng::new(1));
            let len = after.open("a", OpenHow::Read).unwrap().size().unwrap();
            assert!(!synced || len >= written * 8, "{len} bytes of {written} words");
            seen.lock().unwrap().insert((written, synced));
        },
        300,
    );
    let seen = seen.lock().unwrap();
    assert!(seen.contains(&(1, true)), "the sync came between two writes: {seen:?}");
    assert!(seen.iter().any(|(_, synced)| !synced), "the power went off before the sync: {seen:?}");
}
