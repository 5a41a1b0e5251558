//! The directory store against the promises of its seam, faults and power cuts.

use std::sync::Arc;

use block::linux::LinuxMedia;
use block::{BlobStore, ByteRange, Kind, Media, Result};
use sim::{Cut, Effect, Fault, Op, SimMedia, for_seeds};
use vault::DirectoryStore;

#[test]
fn keeps_the_promises_of_the_seam_on_linux() {
    let dir = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU64::new(0);
    sim::conformance::blob_store(|| {
        let media = Arc::new(LinuxMedia::new(dir.path(), dir.path()).unwrap());
        let name = format!("store-{}", number.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        Arc::new(DirectoryStore::open(media, &name).unwrap())
    });
}

#[test]
fn keeps_the_promises_of_the_seam_in_simulation() {
    sim::conformance::blob_store(|| Arc::new(DirectoryStore::open(Arc::new(SimMedia::new()), "").unwrap()));
}

fn open(media: &SimMedia) -> Result<DirectoryStore> {
    DirectoryStore::open(Arc::new(media.clone()), "store")
}

fn names(store: &DirectoryStore) -> Vec<String> {
    let mut names = Vec::new();
    let walked = store.list("", &mut |name, _| {
        names.push(name.to_owned());
        std::ops::ControlFlow::Continue(())
    });
    walked.expect("a store lists");
    names
}

fn whole(store: &DirectoryStore, name: &str) -> Vec<u8> {
    let size = store.size(name).unwrap_or_else(|error| panic!("{name} is not there: {error}"));
    store.get(name, ByteRange::whole(size)).expect("a listed blob reads")
}

const BLOBS: [&str; 4] = ["vault", "packs/aa/01", "packs/aa/02", "points/03"];

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(9000).collect()
}

/// Puts the blobs until something fails, then deletes the first. Gives the names that were put, the deleted one
/// apart.
fn history(media: &SimMedia) -> (Vec<&'static str>, bool) {
    let mut put = Vec::new();
    let Ok(store) = open(media) else { return (put, false) };
    for name in BLOBS {
        match store.put(name, &content(name)) {
            Ok(()) => put.push(name),
            Err(_) => return (put, false),
        }
    }
    let deleted = store.delete(BLOBS[1]).is_ok();
    (put, deleted)
}

/// The power goes off at every call: what was put is there and whole, what is there is whole, what was deleted is gone.
#[test]
fn a_put_that_returned_survives_every_power_cut() {
    super::planted::allow(|| {
        let mut cuts = 0;
        for calls in 0.. {
            let media = SimMedia::new();
            media.crash_after(calls, if calls % 2 == 0 { Cut::BeforeEffect } else { Cut::AfterEffect });
            let (put, deleted) = history(&media);
            let died = media.is_off();
            for_seeds(0..6, |rng| {
                let store = open(&media.power_cut(rng)).expect("a store opens after a cut");
                let found = names(&store);
                for name in &put {
                    let gone = deleted && *name == BLOBS[1];
                    let maybe = put.len() == BLOBS.len() && *name == BLOBS[1];
                    assert!(maybe || found.iter().any(|found| found == name), "{name} was put and is gone");
                    assert!(
                        !gone || !found.iter().any(|found| found == name),
                        "{name} was deleted and is back"
                    );
                }
                for name in &found {
                    assert!(whole(&store, name) == content(name), "{name} is torn");
                }
                store.put("after", b"more").expect("the store goes on");
                cuts += 1;
            });
            if !died {
                break;
            }
        }
        assert!(cuts > 100, "only {cuts} cuts");
    });
}

#[test]
fn what_a_cut_off_put_left_is_cleaned_up() {
    let media = SimMedia::new();
    let store = open(&media).unwrap();
    media.crash_after(2, Cut::BeforeEffect);
    assert!(store.put("a", &[1; 100_000]).is_err());
    let media = media.process_crash();
    assert!(media.files().iter().any(|(path, _)| path.contains(".incoming/")));
    drop(store);
    let store = open(&media).unwrap();
    assert!(!media.files().iter().any(|(path, _)| path.contains(".incoming/")));
    assert!(names(&store).is_empty());
    store.put("a", b"again").unwrap();
    assert_eq!(whole(&store, "a"), b"again");
}

#[test]
fn one_process_writes_and_others_may_read() {
    let media = SimMedia::new();
    let store = open(&media).unwrap();
    store.put("a/b", b"x").unwrap();
    assert_eq!(open(&media).err().unwrap().kind(), Kind::Conflict);
    let reader = DirectoryStore::open_read_only(Arc::new(media.clone()), "store").unwrap();
    assert_eq!(whole(&reader, "a/b"), b"x");
    assert_eq!(reader.put("c", b"x").unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(reader.delete("a/b").unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(DirectoryStore::open_read_only(Arc::new(media), "no").err().unwrap().kind(), Kind::NotFound);
}

/// No room: the put fails as such, nothing is left, and freeing room heals.
#[test]
fn a_full_disk_is_told_and_heals() {
    let media = SimMedia::new();
    let store = open(&media).unwrap();
    store.put("a", b"x").unwrap();
    for op in [Op::Write, Op::Sync] {
        media.inject(Fault::new(op, Effect::Enospc));
        assert_eq!(store.put("b", &[1; 50_000]).unwrap_err().kind(), Kind::NoSpace, "{op:?}");
        assert_eq!(names(&store), ["a"]);
        assert!(!media.files().iter().any(|(path, _)| path.contains(".incoming/")));
    }
    assert_eq!(media.faults_fired(), 2);
    store.put("b", &[1; 50_000]).unwrap();
}

#[test]
fn a_directory_that_did_not_sync_is_final() {
    let media = SimMedia::new();
    let store = open(&media).unwrap();
    store.put("a", b"x").unwrap();
    media.inject(Fault::new(Op::SyncDir, Effect::Eio).after(1));
    assert_eq!(store.put("b", b"x").unwrap_err().kind(), Kind::Io);
    assert_eq!(store.put("c", b"x").unwrap_err().kind(), Kind::Poisoned);
    assert_eq!(store.delete("a").unwrap_err().kind(), Kind::Poisoned);
    assert_eq!(whole(&store, "a"), b"x");
    drop(store);
    // a fresh process sees the same page cache, so it does not help
    assert_eq!(open(&media).err().unwrap().kind(), Kind::Poisoned);
    let media = media.power_cut(&mut sim::Rng::new(1));
    let store = open(&media).unwrap();
    assert_eq!(whole(&store, "a"), b"x");
    store.put("c", b"x").unwrap();
}

#[test]
fn files_of_others_are_passed_over() {
    let media = SimMedia::new();
    let store = open(&media).unwrap();
    store.put("a", b"x").unwrap();
    for stranger in ["store/README", "store/lost+found.BLOB", "store/.DS_Store", "store/b"] {
        Media::open(&media, stranger, block::OpenHow::Create).unwrap();
    }
    media.create_dir("store/Photos").unwrap();
    assert_eq!(names(&store), ["a"]);
}
