//! What every [`BlobStore`] promises.

use super::fails;
use crate::Rng;
use block::{BlobStore, ByteCount, ByteRange, Kind};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Checks stores that `make` makes, fresh and empty.
///
/// # Panics
/// Where a store breaks a promise.
pub fn blob_store(make: impl Fn() -> Arc<dyn BlobStore>) {
    stores_whole_blobs(&*make());
    stores_once(&*make());
    lists_in_order(&*make());
    deletes(&*make());
    refuses_bad_names(&*make());
    if !cfg!(blockd_shuttle) {
        takes_several_writers(&make());
    }
}

fn put(store: &dyn BlobStore, name: &str, bytes: &[u8]) {
    store.put(name, bytes).unwrap_or_else(|error| panic!("put {name}: {error}"));
}

fn whole(store: &dyn BlobStore, name: &str) -> Vec<u8> {
    let size = store.size(name).unwrap_or_else(|error| panic!("size of {name}: {error}"));
    store.get(name, ByteRange::whole(size)).unwrap_or_else(|error| panic!("get {name}: {error}"))
}

fn list(store: &dyn BlobStore, prefix: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let walked = store.list(prefix, &mut |name, size| {
        found.push((name.to_owned(), size.get()));
        ControlFlow::Continue(())
    });
    walked.unwrap_or_else(|error| panic!("list {prefix:?}: {error}"));
    found
}

fn stores_whole_blobs(store: &dyn BlobStore) {
    let mut rng = Rng::new(1);
    for (at, len) in [0, 1, 4095, 4096, 100_000, 3 << 20].into_iter().enumerate() {
        let (name, bytes) = (format!("dir{at}/sub/blob-{len}.x_y"), rng.bytes(len));
        fails(store.size(&name), Kind::NotFound, "the size of a missing blob");
        fails(store.get(&name, ByteRange::between(0, 0)), Kind::NotFound, "reading a missing blob");
        put(store, &name, &bytes);
        assert_eq!(store.size(&name).unwrap_or_default(), ByteCount::new(len as u64));
        assert!(whole(store, &name) == bytes, "{name} does not hold what was put");
        for _ in 0..20 {
            let start = rng.below(len as u64 + 1);
            let range = ByteRange::between(start, rng.within(start..len as u64 + 1));
            let part = store.get(&name, range).unwrap_or_else(|error| panic!("get {range:?}: {error}"));
            assert!(part == bytes[range.start() as usize..range.end() as usize], "{name} {range:?}");
        }
        for (start, end) in
            [(0, len as u64 + 1), (len as u64, len as u64 + 1), (len as u64 + 1, len as u64 + 2)]
        {
            fails(store.get(&name, ByteRange::between(start, end)), Kind::OutOfRange, "reading past the end");
        }
    }
}

fn stores_once(store: &dyn BlobStore) {
    put(store, "a", b"first");
    fails(store.put("a", b"second"), Kind::Conflict, "putting a name twice");
    fails(store.put("a", b"first"), Kind::Conflict, "putting a name twice with equal bytes");
    assert_eq!(whole(store, "a"), b"first");
    assert_eq!(list(store, ""), [("a".to_owned(), 5)], "a refused put leaves nothing behind");
}

fn lists_in_order(store: &dyn BlobStore) {
    assert!(list(store, "").is_empty(), "a new store is empty");
    // '-' and '.' sort before '/', so walking directory by directory would give another order
    let mut names = ["p/a/1", "p/a-b", "p/a.b", "p/a/2", "p/ab", "q", "p/a/1x", "p/0/z/y"];
    for name in names {
        put(store, name, name.as_bytes());
    }
    names.sort_unstable();
    for prefix in ["", "p", "p/", "p/a", "p/a/", "p/a/1", "q", "q/", "x", "p/a/1xy"] {
        let wanted: Vec<(String, u64)> = names
            .iter()
            .filter(|name| name.starts_with(prefix))
            .map(|name| ((*name).to_owned(), name.len() as u64))
            .collect();
        assert_eq!(list(store, prefix), wanted, "list {prefix:?}");
    }
    let mut visits = 0;
    let walked = store.list("p/", &mut |_, _| {
        visits += 1;
        if visits == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    walked.unwrap_or_else(|error| panic!("stopping early is not an error: {error}"));
    assert_eq!(visits, 3, "the walk goes on after the visitor broke");
}

fn deletes(store: &dyn BlobStore) {
    fails(store.delete("a"), Kind::NotFound, "deleting a missing blob");
    put(store, "a", b"1");
    put(store, "a/b", b"2");
    store.delete("a").unwrap_or_else(|error| panic!("delete: {error}"));
    fails(store.size("a"), Kind::NotFound, "the size of a deleted blob");
    fails(store.delete("a"), Kind::NotFound, "deleting twice");
    assert_eq!(list(store, ""), [("a/b".to_owned(), 1)]);
    put(store, "a", b"again");
    assert_eq!(whole(store, "a"), b"again");
}

fn refuses_bad_names(store: &dyn BlobStore) {
    for name in ["", "/", "../a", "a//b", "A", ".hidden", "a/.tmp"] {
        fails(store.put(name, b"x"), Kind::Invalid, "putting under a bad name");
        fails(store.size(name), Kind::Invalid, "the size of a bad name");
        fails(store.get(name, ByteRange::between(0, 1)), Kind::Invalid, "reading a bad name");
        fails(store.delete(name), Kind::Invalid, "deleting a bad name");
    }
    assert!(list(store, "").is_empty());
}

/// Threads put blobs of their own, and all try one common name: exactly one wins.
fn takes_several_writers(store: &Arc<dyn BlobStore>) {
    let wins: usize = std::thread::scope(|scope| {
        let threads = [0u8, 1, 2, 3].map(|thread| {
            scope.spawn(move || {
                for at in 0..20 {
                    put(&**store, &format!("own/{thread}/{at}"), &[thread; 1000]);
                }
                (0..20).filter(|at| store.put(&format!("common/{at}"), &[thread; 1000]).is_ok()).count()
            })
        });
        threads.into_iter().map(|thread| thread.join().expect("the thread's own panic tells why")).sum()
    });
    assert_eq!(wins, 20, "each common name was put exactly once");
    for (name, size) in list(&**store, "") {
        let bytes = whole(&**store, &name);
        assert!(size == 1000 && bytes.iter().all(|byte| *byte == bytes[0]), "{name} is torn");
    }
    assert_eq!(list(&**store, "").len(), 100);
}
