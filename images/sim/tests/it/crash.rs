//! The end of a process, the planned cut, and what is dead afterwards.

use block::sync::atomic::Ordering;
use block::{Kind, Media, OpenHow};
use sim::{Cut, Rng, SimMedia, is_power_off};

#[test]
fn a_process_crash_loses_only_locks() {
    let media = SimMedia::new();
    let file = media.open("a", OpenHow::Create).unwrap();
    file.write_at(0, b"unsynced").unwrap();
    let memory = media.volatile("map", 4).unwrap();
    memory.reserve(0..2).unwrap();
    memory.words()[1].store(7, Ordering::SeqCst);
    let session = media.session().unwrap();
    let held = media.lock("lock").unwrap();
    assert_eq!(media.lock("lock").map(|_| ()).unwrap_err().kind(), Kind::Conflict);

    let next = media.process_crash();
    memory.words()[1].store(8, Ordering::SeqCst);
    assert_eq!(next.session().unwrap(), session);
    assert_eq!(next.volatile("map", 4).unwrap().words()[1].load(Ordering::SeqCst), 7);
    let again = next.lock("lock").unwrap();
    drop(held);
    assert!(next.lock("lock").is_err(), "a lock of the dead process frees nothing");
    drop(again);
    assert!(next.lock("lock").is_ok());
    let dynamic: &dyn Media = &next;
    assert_eq!(dynamic.read_whole("a", 100).unwrap(), b"unsynced");
    // and it is as pending as before: both names, and the write if its name is there
    assert_eq!(next.pending_ops(), 3);
    let left: Vec<usize> = next.power_cut_all(8).map(|media| media.files().len()).collect();
    assert_eq!((left.iter().min(), left.iter().max()), (Some(&0), Some(&2)));
}

#[test]
#[should_panic(expected = "word 3 of volatile memory map was used without reservation")]
fn words_that_nobody_reserved_are_noticed() {
    let media = SimMedia::new();
    let memory = media.volatile("map", 4).unwrap();
    memory.reserve(0..3).unwrap();
    memory.words()[3].store(1, Ordering::SeqCst);
    media.process_crash();
}

#[test]
fn the_map_of_a_huge_disk_costs_only_what_is_touched() {
    let media = SimMedia::new();
    let memory = media.volatile("map", 128 << 20).unwrap();
    memory.reserve(100 << 20..(100 << 20) + 512).unwrap();
    memory.words()[100 << 20].store(1, Ordering::SeqCst);
    let next = media.process_crash().volatile("map", 128 << 20).unwrap();
    assert_eq!(next.words()[100 << 20].load(Ordering::SeqCst), 1);
    assert_eq!(media.fork().volatile("huge", 1 << 40).map(|_| ()).unwrap_err().kind(), Kind::NoSpace);
}

#[test]
fn a_machine_that_went_off_changes_nothing_any_more() {
    let media = SimMedia::new();
    let file = media.open("a", OpenHow::Create).unwrap();
    file.write_at(0, b"1").unwrap();
    let next = media.process_crash();
    assert!(media.is_off() && !next.is_off());
    let errors = [
        file.write_at(0, b"2"),
        file.sync(),
        file.read_at(0, &mut [0]),
        media.sync_dir(""),
        media.create_dir("d"),
        media.open("b", OpenHow::Create).map(|_| ()),
        media.volatile("m", 1).map(|_| ()),
    ];
    for error in errors {
        assert!(is_power_off(&error.unwrap_err()));
    }
    assert_eq!(next.files(), [("a".to_owned(), 1)]);
    let dynamic: &dyn Media = &next;
    assert_eq!(dynamic.read_whole("a", 1).unwrap(), b"1");
}

/// Cuts the replacement of a small file at every step. It must be old or new, never anything else.
#[test]
fn replacing_a_file_is_atomic_at_every_step() {
    let (mut steps, mut seen) = (0, [0; 2]);
    for cut in [Cut::BeforeEffect, Cut::AfterEffect] {
        for calls in 0.. {
            let media = SimMedia::new();
            let dynamic: &dyn Media = &media;
            dynamic.replace("f", &[1; 100]).unwrap();
            media.crash_after(calls, cut);
            let done = dynamic.replace("f", &[2; 100]);
            assert_eq!(done.is_err(), media.is_off());
            for after in
                media.power_cut_all(1 << 10).chain((0..20).map(|s| media.power_cut(&mut Rng::new(s))))
            {
                let dynamic: &dyn Media = &after;
                let bytes = dynamic.read_whole("f", 100).unwrap();
                let new = bytes == [2; 100];
                assert!(new || bytes == [1; 100]);
                assert!(new || done.is_err(), "acknowledged and lost");
                seen[usize::from(new)] += 1;
            }
            if done.is_ok() {
                steps += calls;
                break;
            }
        }
    }
    assert_eq!(steps, 10, "create, write, sync, rename, sync_dir, each before and after");
    assert!(seen.iter().all(|&count| count > 10), "{seen:?}");
}
