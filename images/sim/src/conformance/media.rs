//! What every [`Media`] promises, as far as it can be seen without a crash.

use super::fails;
use crate::Rng;
use block::sync::Arc;
use block::sync::atomic::Ordering;
use block::{ByteRange, DirEntry, Kind, Media, MediaFile, OpenHow};

/// Checks media that `make` makes, fresh and empty.
///
/// # Panics
/// Where a media breaks a promise.
pub fn media(make: impl Fn() -> Arc<dyn Media>) {
    opens_as_asked(&*make());
    agrees_with_a_vector(&*make());
    punches_and_allocates(&*make());
    copies_ranges(&*make());
    keeps_directories(&*make());
    renames_and_removes(&*make());
    refuses_bad_paths(&*make());
    locks(&*make());
    keeps_memory(&*make());
    reads_and_replaces_whole_files(&*make());
    if !cfg!(blockd_shuttle) {
        takes_several_writers(&make());
    }
}

#[track_caller]
fn ok<T>(result: block::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        panic!("{error}: {cause}")
    })
}

#[track_caller]
fn content(file: &dyn MediaFile) -> Vec<u8> {
    let mut bytes = vec![0xa5; ok(file.size()) as usize];
    ok(file.read_at(0, &mut bytes));
    bytes
}

fn opens_as_asked(media: &dyn Media) {
    fails(media.open("a", OpenHow::Read), Kind::NotFound, "reading a missing file");
    fails(media.open("a", OpenHow::Write), Kind::NotFound, "writing a missing file");
    fails(media.open("d/a", OpenHow::Create), Kind::NotFound, "creating in a missing directory");
    let file = ok(media.open("a", OpenHow::Create));
    ok(file.write_at(0, b"hello"));
    fails(media.open("a", OpenHow::Create), Kind::Conflict, "creating an existing file");
    assert_eq!(content(&*ok(media.open("a", OpenHow::Read))), b"hello");
    ok(ok(media.open("a", OpenHow::Write)).write_at(1, b"a"));
    assert_eq!(content(&*file), b"hallo", "handles of one file see each other's writes");
    assert!(ok(media.open("a", OpenHow::Read)).write_at(0, b"x").is_err(), "writing what was opened to read");
    let again = ok(media.open("a", OpenHow::Truncate));
    assert_eq!(ok(again.size()), 0);
    assert_eq!(ok(file.size()), 0);
    ok(ok(media.open("b", OpenHow::Truncate)).sync());
    ok(media.sync_dir(""));
}

/// Writes, lengths, punches and allocations against a plain vector.
fn agrees_with_a_vector(media: &dyn Media) {
    let mut rng = Rng::new(1);
    let file = ok(media.open("a", OpenHow::Create));
    let mut plain = Vec::new();
    for _ in 0..200 {
        let (start, count) = (rng.below(100_000), rng.below(30_000));
        let range = ByteRange::between(start, start + count);
        match rng.below(6) {
            0..=2 => {
                let bytes = rng.bytes(count as usize);
                ok(file.write_at(start, &bytes));
                if count > 0 {
                    plain.resize(plain.len().max(range.end() as usize), 0);
                    plain[start as usize..range.end() as usize].copy_from_slice(&bytes);
                }
            }
            3 => {
                ok(file.set_len(start));
                plain.resize(start as usize, 0);
            }
            4 => {
                ok(file.punch(range));
                let len = plain.len();
                plain[(start as usize).min(len)..(range.end() as usize).min(len)].fill(0);
            }
            _ if count > 0 => {
                ok(file.allocate(range));
                plain.resize(plain.len().max(range.end() as usize), 0);
            }
            _ => ok(file.sync()),
        }
        assert!(content(&*file) == plain, "the file does not hold what was written");
        reads_as(&*file, &plain, &mut rng);
    }
}

/// Single reads, reads past the end, and data ranges.
fn reads_as(file: &dyn MediaFile, plain: &[u8], rng: &mut Rng) {
    let len = plain.len() as u64;
    for (offset, count) in [(len, 1), (len + 1, 1), (len.saturating_sub(1), 2 + len)] {
        let mut buf = vec![0; count as usize];
        fails(file.read_at(offset, &mut buf), Kind::OutOfRange, "reading past the end");
    }
    let start = rng.below(len + 1);
    let range = ByteRange::between(start, rng.within(start..len + 1));
    let mut buf = vec![0; range.count().get() as usize];
    ok(file.read_at(start, &mut buf));
    assert!(buf == plain[start as usize..range.end() as usize], "{range:?}");
    let mut at = start;
    for data in ok(file.data_ranges(range)) {
        assert!(data.start() >= at && !data.is_empty() && data.end() <= range.end(), "{data:?} in {range:?}");
        let hole = &plain[at as usize..data.start() as usize];
        assert!(hole.iter().all(|&byte| byte == 0), "data before {data:?} was called a hole");
        at = data.end();
    }
    assert!(plain[at as usize..range.end() as usize].iter().all(|&byte| byte == 0), "data called a hole");
}

/// Large enough that every file system gives it back in whole blocks.
const BIG: u64 = 1 << 20;

fn punches_and_allocates(media: &dyn Media) {
    let file = ok(media.open("a", OpenHow::Create));
    ok(file.write_at(0, &vec![7; 3 * BIG as usize]));
    ok(file.punch(ByteRange::between(BIG, 2 * BIG)));
    ok(file.sync());
    let data = ok(file.data_ranges(ByteRange::between(0, 3 * BIG)));
    assert_eq!(data, [ByteRange::between(0, BIG), ByteRange::between(2 * BIG, 3 * BIG)]);
    assert_eq!(ok(file.size()), 3 * BIG, "a punch keeps the length");
    ok(file.punch(ByteRange::between(2 * BIG, 9 * BIG)));
    assert_eq!(ok(file.size()), 3 * BIG, "also one that passes the end");
    ok(file.set_len(1 << 40));
    assert!(ok(file.data_ranges(ByteRange::between(3 * BIG, 1 << 40))).is_empty());
    ok(file.set_len(10));
    ok(file.allocate(ByteRange::between(5, 100)));
    assert_eq!(content(&*file), [vec![7; 10], vec![0; 90]].concat());
    for range in [ByteRange::between(0, 0), ByteRange::between(9, 9)] {
        ok(file.punch(range));
        ok(file.allocate(range));
        assert!(ok(file.data_ranges(range)).is_empty());
    }
    assert_eq!(ok(file.size()), 100);
}

fn copies_ranges(media: &dyn Media) {
    let (from, to) = (ok(media.open("from", OpenHow::Create)), ok(media.open("to", OpenHow::Create)));
    let bytes = Rng::new(2).bytes(3 * BIG as usize + 5);
    ok(from.write_at(0, &bytes));
    for (start, end, at) in [(0, 4096, 0), (3, 3 * BIG + 5, 8191), (10, 10, 5), (4096, 8192, 4096)] {
        ok(from.copy_range(ByteRange::between(start, end), &*to, at));
        let mut copied = vec![0; (end - start) as usize];
        ok(to.read_at(at, &mut copied));
        assert!(copied == bytes[start as usize..end as usize], "copied {start}..{end} to {at}");
    }
    let past = ByteRange::between(3 * BIG, 3 * BIG + 6);
    fails(from.copy_range(past, &*to, 0), Kind::OutOfRange, "copying past the end");
}

fn entries(media: &dyn Media, dir: &str) -> Vec<(String, bool)> {
    ok(media.list(dir)).into_iter().map(|DirEntry { name, is_dir }| (name, is_dir)).collect()
}

fn keeps_directories(media: &dyn Media) {
    assert!(entries(media, "").is_empty(), "a new media is empty");
    ok(media.create_dir("d"));
    ok(media.create_dir("d"));
    fails(media.create_dir("x/y"), Kind::NotFound, "a directory without a parent");
    fails(media.list("x"), Kind::NotFound, "listing a missing directory");
    ok(media.create_dir("d/e"));
    for name in ["d/z", "d/b", "d/e/deep", "top"] {
        ok(media.open(name, OpenHow::Create));
    }
    assert!(media.create_dir("top").is_err(), "a directory in place of a file");
    let pairs = |wanted: &[(&str, bool)]| -> Vec<(String, bool)> {
        wanted.iter().map(|(name, is_dir)| ((*name).to_owned(), *is_dir)).collect()
    };
    assert_eq!(entries(media, "d"), pairs(&[("b", false), ("e", true), ("z", false)]));
    assert_eq!(entries(media, ""), pairs(&[("d", true), ("top", false)]));
    for dir in ["", "d", "d/e"] {
        ok(media.sync_dir(dir));
    }
    fails(media.sync_dir("x"), Kind::NotFound, "syncing a missing directory");
    assert!(media.remove("d/e").is_err(), "removing a directory that is not empty");
    ok(media.remove("d/e/deep"));
    ok(media.remove("d/e"));
    assert_eq!(entries(media, "d"), pairs(&[("b", false), ("z", false)]));
    let space = ok(media.space());
    assert!(space.available <= space.total && space.total > 0, "{space:?}");
    assert_eq!(ok(media.session()), ok(media.session()));
}

fn renames_and_removes(media: &dyn Media) {
    ok(media.create_dir("d"));
    let (a, b) = (ok(media.open("a", OpenHow::Create)), ok(media.open("b", OpenHow::Create)));
    ok(a.write_at(0, b"from a"));
    ok(b.write_at(0, b"from b"));
    ok(media.rename("a", "b"));
    fails(media.open("a", OpenHow::Read), Kind::NotFound, "the old name after a rename");
    assert_eq!(content(&*ok(media.open("b", OpenHow::Read))), b"from a");
    assert_eq!(content(&*b), b"from b", "a replaced file stays with those who hold it");
    ok(media.rename("b", "d/c"));
    ok(a.write_at(0, b"FROM"));
    assert_eq!(content(&*ok(media.open("d/c", OpenHow::Read))), b"FROM a", "a handle follows its file");
    fails(media.rename("b", "x"), Kind::NotFound, "renaming a missing file");
    fails(media.rename("d/c", "x/c"), Kind::NotFound, "renaming into a missing directory");
    ok(media.remove("d/c"));
    fails(media.remove("d/c"), Kind::NotFound, "removing twice");
    ok(a.write_at(6, b"!"));
    assert_eq!(content(&*a), b"FROM a!", "a removed file stays with those who hold it");
    ok(a.sync());
    assert_eq!(content(&*ok(media.open("d/c", OpenHow::Create))), b"", "a new file of an old name is new");
}

fn refuses_bad_paths(media: &dyn Media) {
    for path in ["/a", "../a", "a/../b", "a//b", ".", "a/", "a\0b"] {
        fails(media.open(path, OpenHow::Truncate), Kind::Invalid, "opening a bad path");
        fails(media.create_dir(path), Kind::Invalid, "a directory at a bad path");
        fails(media.list(path), Kind::Invalid, "listing a bad path");
        fails(media.rename(path, "b"), Kind::Invalid, "renaming a bad path");
        fails(media.rename("b", path), Kind::Invalid, "renaming to a bad path");
        fails(media.remove(path), Kind::Invalid, "removing a bad path");
        fails(media.sync_dir(path), Kind::Invalid, "syncing a bad path");
        fails(media.lock(path), Kind::Invalid, "locking a bad path");
    }
    for name in ["", "a/b", "../a"] {
        fails(media.volatile(name, 8), Kind::Invalid, "volatile memory of a bad name");
        fails(media.remove_volatile(name), Kind::Invalid, "removing volatile memory of a bad name");
    }
    assert!(entries(media, "").is_empty());
}

fn locks(media: &dyn Media) {
    let held = ok(media.lock("lock"));
    fails(media.lock("lock"), Kind::Conflict, "a lock that is held");
    let other = ok(media.lock("other"));
    drop(held);
    let again = ok(media.lock("lock"));
    fails(media.lock("lock"), Kind::Conflict, "a lock that is held again");
    drop((other, again));
    ok(media.lock("other"));
}

fn keeps_memory(media: &dyn Media) {
    assert!(ok(media.list_volatile()).is_empty(), "a new media has no volatile memory");
    let memory = ok(media.volatile("b", 1000));
    assert_eq!(memory.words().len(), 1000);
    ok(memory.reserve(0..1000));
    ok(memory.reserve(10..20));
    ok(memory.reserve(5..5));
    assert!(memory.words().iter().all(|word| word.load(Ordering::SeqCst) == 0), "memory starts as zeros");
    memory.words()[999].store(7, Ordering::SeqCst);
    let same = ok(media.volatile("b", 1000));
    assert_eq!(same.words()[999].load(Ordering::SeqCst), 7, "it is found again under its name");
    same.words()[0].store(8, Ordering::SeqCst);
    assert_eq!(memory.words()[0].load(Ordering::SeqCst), 8, "and it is the same memory");
    let anew = ok(media.volatile("b", 500));
    ok(anew.reserve(0..500));
    assert!(anew.words().iter().all(|word| word.load(Ordering::SeqCst) == 0), "of another length: made anew");
    assert_eq!(memory.words()[999].load(Ordering::SeqCst), 7, "those who hold the old one keep it");
    ok(media.volatile("a", 1));
    assert_eq!(ok(media.list_volatile()), ["a", "b"]);
    ok(media.remove_volatile("b"));
    ok(media.remove_volatile("b"));
    assert_eq!(ok(media.list_volatile()), ["a"]);
    let (one, other) = (ok(media.scratch(600)), ok(media.scratch(600)));
    ok(one.reserve(0..600));
    ok(other.reserve(0..600));
    one.words()[1].store(1, Ordering::SeqCst);
    assert_eq!(other.words()[1].load(Ordering::SeqCst), 0, "each scratch memory is its own");
    assert!(entries(media, "").is_empty(), "scratch memory has no name");
}

fn reads_and_replaces_whole_files(media: &dyn Media) {
    fails(media.read_whole("f", 10), Kind::NotFound, "reading a missing file whole");
    ok(media.replace("f", b"one"));
    ok(media.replace("f", b"longer than one"));
    assert_eq!(ok(media.read_whole("f", 15)), b"longer than one");
    fails(media.read_whole("f", 14), Kind::Corrupt, "reading a file that is too long");
    assert_eq!(entries(media, ""), [("f".to_owned(), false)]);
}

/// Threads write their own quarter of one file and files of their own.
fn takes_several_writers(media: &Arc<dyn Media>) {
    const QUARTER: u64 = 200_000;
    let shared = &ok(media.open("shared", OpenHow::Create));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            scope.spawn(move || {
                let own = ok(media.open(&format!("own{thread}"), OpenHow::Create));
                for start in (0..QUARTER).step_by(5000) {
                    ok(shared.write_at(thread * QUARTER + start, &[thread as u8 + 1; 5000]));
                    ok(own.write_at(start, &[thread as u8 + 1; 5000]));
                }
                ok(own.sync());
            });
        }
    });
    let bytes = content(&**shared);
    assert_eq!(bytes.len() as u64, 4 * QUARTER);
    assert!(bytes.iter().enumerate().all(|(at, &byte)| u64::from(byte) == at as u64 / QUARTER + 1));
    for thread in 0..4 {
        let own = ok(media.open(&format!("own{thread}"), OpenHow::Read));
        assert!(content(&*own) == vec![thread + 1; QUARTER as usize], "own{thread}");
    }
}
