//! The simulated blob store goes wrong as planned and no other way.

use block::{BlobStore, ByteRange, Kind};
use sim::{Cut, Effect, Fault, Op, SimBlobStore, is_power_off};

#[test]
fn a_put_may_take_effect_and_report_an_error() {
    let store = SimBlobStore::new();
    store.inject(Fault::new(Op::Put, Effect::Unheard).on("b"));
    store.put("a", b"1").unwrap();
    assert_eq!(store.put("b", b"2").unwrap_err().kind(), Kind::Io);
    assert_eq!(store.put("b", b"2").unwrap_err().kind(), Kind::Conflict);
    assert_eq!(store.blobs(), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    assert_eq!(store.faults_fired(), 1);
}

#[test]
fn failing_calls_do_nothing() {
    let store = SimBlobStore::new();
    for (effect, kind) in
        [(Effect::Eio, Kind::Io), (Effect::Enospc, Kind::NoSpace), (Effect::Unreachable, Kind::Unavailable)]
    {
        store.inject(Fault::new(Op::Put, effect));
        assert_eq!(store.put("a", b"1").unwrap_err().kind(), kind);
        assert!(store.blobs().is_empty());
    }
    store.put("a", b"1").unwrap();
    for op in [Op::Get, Op::BlobSize, Op::ListBlobs, Op::Delete] {
        store.inject(Fault::new(op, Effect::Unreachable).after(1));
    }
    for round in 0..2 {
        let results = [
            store.get("a", ByteRange::between(0, 1)).map(|_| ()),
            store.size("a").map(|_| ()),
            store.list("", &mut |_, _| std::ops::ControlFlow::Continue(())),
            store.delete("a"),
        ];
        assert!(results.iter().all(|result| result.is_err() == (round == 1)), "{results:?}");
        if round == 0 {
            store.put("a", b"1").unwrap();
        }
    }
    assert_eq!(store.blobs().len(), 1);
    store.inject(Fault::new(Op::Put, Effect::Lose));
    store.put("lost", b"1").unwrap();
    assert_eq!(store.blobs().len(), 1);
}

#[test]
fn a_client_dies_at_every_step_and_the_store_stays() {
    for (cut, kept) in [(Cut::BeforeEffect, 1), (Cut::AfterEffect, 2)] {
        let store = SimBlobStore::new();
        store.crash_after(1, cut);
        store.put("a", b"1").unwrap();
        assert!(is_power_off(&store.put("b", b"2").unwrap_err()));
        assert!(store.is_off());
        assert!(is_power_off(&store.size("a").unwrap_err()));
        let next = store.crash();
        assert_eq!(next.blobs().len(), kept);
        next.put("c", b"3").unwrap();
        assert_eq!(store.blobs().len(), kept, "the dead client's view is its own");
    }
}

#[test]
fn a_full_store_leaves_nothing_under_the_name() {
    let store = SimBlobStore::new();
    store.set_capacity(10);
    store.put("a", &[0; 6]).unwrap();
    assert_eq!(store.put("b", &[0; 5]).unwrap_err().kind(), Kind::NoSpace);
    store.put("b", &[0; 4]).unwrap();
    store.delete("a").unwrap();
    store.put("c", &[0; 6]).unwrap();
}

#[test]
fn damage_is_seen_by_the_next_read_and_not_by_forks() {
    let store = SimBlobStore::new();
    for name in ["a", "b", "c"] {
        store.put(name, &[0; 4]).unwrap();
    }
    let before = store.fork();
    store.flip_bit("a", 3, 0);
    store.truncate("b", 1);
    store.remove("c");
    assert_eq!(store.get("a", ByteRange::between(0, 4)).unwrap(), [0, 0, 0, 1]);
    assert_eq!(store.blobs(), [("a".to_owned(), 4), ("b".to_owned(), 1)]);
    assert_eq!(before.blobs().len(), 3);
    assert_eq!(before.get("a", ByteRange::between(0, 4)).unwrap(), [0; 4]);
}
