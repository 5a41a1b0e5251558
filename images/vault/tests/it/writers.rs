//! Who may write to a vault in a store that has no lock.

use std::sync::Arc;

use block::{BlobStore, Failure, Kind};
use sim::SimBlobStore;
use vault::{ApplianceId, Exclusion, Options, Vault, Writer};

use super::world::{Anything, World, create, env, key};

fn open(store: &SimBlobStore, appliance: Option<u8>, exclusion: Exclusion, take_over: bool) -> Vault {
    let writer = Writer {
        appliance: appliance.map(|byte| ApplianceId::from_bytes([byte; 8])),
        label: format!("host {appliance:?}"),
        exclusion,
        take_over,
    };
    let options = Options { gate: Arc::new(Anything), writer: Some(writer), ..Options::default() };
    Vault::open_with(Arc::new(store.clone()), key(), &env(), options)
        .expect("a vault opens, if only to be read")
}

fn fresh() -> SimBlobStore {
    let store = SimBlobStore::new();
    drop(create(Arc::new(store.clone()), &env()));
    store
}

fn world(seed: u64) -> World {
    let mut world = World::new(1 << 19, seed);
    world.scribble();
    world
}

fn is_refused(world: &mut World, vault: &Vault, says: &str) {
    world.scribble();
    let error = world.backup(vault).expect_err("it may not write");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(vault.read_only().is_some_and(|why| why.contains(says)), "{:?}", vault.read_only());
}

#[test]
fn several_write_where_the_store_refuses() {
    let store = fresh();
    let (one, two) =
        (open(&store, None, Exclusion::Refusing, false), open(&store, Some(2), Exclusion::Refusing, false));
    let (mut first, mut second) = (world(1), world(2));
    for _ in 0..3 {
        first.scribble();
        first.backup(&one).expect("a backup");
        second.scribble();
        second.backup(&two).expect("a backup");
    }
    // who opens it now reads what both wrote
    let three = super::world::open(Arc::new(store.clone()), &env()).expect("opened");
    first.verify(&three);
    second.verify(&three);
    let writers = two.writers().expect("writers");
    assert_eq!(writers.len(), 2);
    let own = writers.iter().find(|writer| writer.own).expect("its own");
    assert_eq!((own.appliance, own.label.as_deref()), (two.appliance(), Some("host Some(2)")));
    one.may_sweep().expect("writers are told apart by the store");
}

/// A machine that was copied, or a process that slept: the later one writes, the earlier one stops.
#[test]
fn the_same_identity_twice_is_fenced() {
    let store = fresh();
    let one = open(&store, None, Exclusion::Refusing, false);
    let mut disk = world(1);
    disk.backup(&one).expect("a backup");
    let later = open(&store, None, Exclusion::Refusing, false);
    let names =
        |store: &SimBlobStore| store.blobs().iter().filter(|(name, _)| name.starts_with("writers/")).count();
    assert_eq!(names(&store), 1, "older tokens are removed");
    super::planted::allow(|| {
        let mut stale = disk.clone();
        stale.scribble();
        assert!(stale.backup(&one).is_err(), "an ended token still writes");
    });
    is_refused(&mut disk.clone(), &one, "later");
    let point = disk.known[0].manifest;
    assert!(one.delete_point(&point).is_err(), "nor does it delete");
    assert!(one.may_sweep().is_err());
    disk.scribble();
    disk.backup(&later).expect("the later one writes");
    disk.verify(&later);
}

#[test]
fn one_writes_where_the_store_overwrites() {
    let store = fresh();
    let one = open(&store, None, Exclusion::Nothing, false);
    let mut disk = world(1);
    disk.backup(&one).expect("a backup");
    let two = open(&store, Some(2), Exclusion::Nothing, false);
    is_refused(&mut world(2), &two, "registered");
    assert!(two.may_sweep().is_err());
    disk.verify(&two);
    assert_eq!(two.writers().expect("writers").len(), 1, "who was refused leaves no registration");
    disk.scribble();
    disk.backup(&one).expect("the first one goes on");
    one.may_sweep().expect("it is the only one");
    // a person says that the first one will not write again
    let two = open(&store, Some(2), Exclusion::Nothing, true);
    world(2).backup(&two).expect("a backup");
    is_refused(&mut disk.clone(), &one, "taken over");
    disk.verify(&two);
}

/// A foreign registration that appears later stops everything.
#[test]
fn a_foreign_marker_stops_the_only_writer() {
    let store = fresh();
    let one = open(&store, None, Exclusion::Nothing, false);
    let mut disk = world(1);
    disk.backup(&one).expect("a backup");
    drop(open(&store, Some(2), Exclusion::Refusing, false));
    is_refused(&mut disk, &one, "registered as its writer");
}

/// Of two that register at once in a store that overwrites, at most one writes.
#[test]
fn two_at_once_are_at_most_one() {
    for _ in 0..20 {
        let store = fresh();
        let vaults: Vec<Vault> = std::thread::scope(|scope| {
            let opening = [1, 2, 3].map(|byte| {
                let store = &store;
                scope.spawn(move || open(store, Some(byte), Exclusion::Nothing, false))
            });
            opening.into_iter().map(|vault| vault.join().expect("opened")).collect()
        });
        let written = vaults.iter().filter(|vault| world(1).backup(vault).is_ok()).count();
        assert!(written <= 1, "{written} write");
    }
}

/// A registration that was moved or altered is shown as damaged, and still keeps others out.
#[test]
fn a_damaged_registration_counts() {
    let store = fresh();
    let one = open(&store, Some(1), Exclusion::Refusing, false);
    let two = open(&store, Some(2), Exclusion::Refusing, false);
    let names: Vec<String> =
        store.blobs().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("writers/")).collect();
    let whole = |name: &str| store.get(name, block::ByteRange::whole(store.size(name).unwrap())).unwrap();
    let other = whole(&names[1]);
    store.remove(&names[0]);
    store.put(&names[0], &other).expect("swapped");
    let labels: Vec<_> = two.writers().expect("listed").into_iter().map(|writer| writer.label).collect();
    assert_eq!(labels.iter().filter(|label| label.is_none()).count(), 1, "{labels:?}");
    let alone = open(&store, Some(3), Exclusion::Nothing, false);
    assert!(alone.read_only().is_some());
    drop(one);
}
