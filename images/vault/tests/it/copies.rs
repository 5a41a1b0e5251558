//! Several copies of every blob: the promises of the seam, faults of single copies, power cuts, repair.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use block::linux::{KernelEntropy, LinuxMedia};
use block::{BlobStore, ByteRange, Kind, Result};
use sim::{Cut, Effect, Fault, Op, Rng, SimBlobStore, SimMedia, for_seeds};
use vault::{CopyState, DirectoryStore, Quiet, Repaired, ReplicatedStore};

use super::world::{World, create, env};

fn set_of(stores: &[SimBlobStore]) -> ReplicatedStore {
    let copies = stores.iter().enumerate().map(|(at, store)| (format!("copy {at}"), shared(store))).collect();
    ReplicatedStore::create(copies, &KernelEntropy).expect("a set")
}

fn shared(store: &SimBlobStore) -> Arc<dyn BlobStore> {
    Arc::new(store.clone())
}

fn reopen(stores: &[Option<&SimBlobStore>]) -> ReplicatedStore {
    let one = |(at, store): (usize, &Option<&SimBlobStore>)| {
        (format!("copy {at}"), store.map(shared).ok_or_else(|| "unplugged".to_owned()))
    };
    ReplicatedStore::open(stores.iter().enumerate().map(one).collect()).expect("a set")
}

fn whole(store: &dyn BlobStore, name: &str) -> Result<Vec<u8>> {
    store.get(name, ByteRange::whole(store.size(name)?))
}

fn names(store: &dyn BlobStore) -> Vec<String> {
    let mut names = Vec::new();
    let walked = store.list("", &mut |name, _| {
        names.push(name.to_owned());
        ControlFlow::Continue(())
    });
    walked.expect("a store lists");
    names
}

fn repair(set: &ReplicatedStore, all: bool) -> Repaired {
    set.repair(all, &mut |_| ControlFlow::Continue(())).expect("repaired")
}

fn states(set: &ReplicatedStore) -> Vec<&'static str> {
    let word = |state| match state {
        CopyState::Good => "good",
        CopyState::Behind(_) => "behind",
        CopyState::Failed(_) => "failed",
        CopyState::Absent(_) => "absent",
    };
    set.status().into_iter().map(|copy| word(copy.state)).collect()
}

/// What a copy holds of the vault, byte for byte.
fn held(store: &SimBlobStore) -> BTreeMap<String, Vec<u8>> {
    let own = store.blobs().into_iter().map(|(name, _)| name).filter(|name| !name.starts_with("copies/"));
    own.map(|name| (name.clone(), whole(store, &name).expect("a blob"))).collect()
}

#[test]
fn keeps_the_promises_of_the_seam() {
    let dir = tempfile::tempdir().expect("a directory");
    let number = std::sync::atomic::AtomicU64::new(0);
    for count in [2, 3] {
        sim::conformance::blob_store(|| {
            let copies = (0..count).map(|_| {
                let at = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let media = Arc::new(LinuxMedia::new(dir.path(), dir.path()).expect("a media"));
                let store = DirectoryStore::open(media, &format!("copy-{at}")).expect("a store");
                (format!("copy {at}"), Arc::new(store) as Arc<dyn BlobStore>)
            });
            Arc::new(ReplicatedStore::create(copies.collect(), &KernelEntropy).expect("a set"))
        });
    }
}

/// A flip of any byte of one copy, and a copy of any shorter length: what is read is right, and the copy is right again.
#[test]
fn a_damaged_copy_is_read_around_and_repaired() {
    let stores = [SimBlobStore::new(), SimBlobStore::new()];
    let set = set_of(&stores);
    let bytes = Rng::new(1).bytes(10_000);
    set.put("a/b", &bytes).expect("put");
    let before = held(&stores[0]);
    let size = stores[0].size("a/b").expect("a blob").get();
    for (at, copy) in (0..size).step_by(7).zip([0, 1].into_iter().cycle()) {
        stores[copy].flip_bit("a/b", at, (at % 8) as u8);
        assert!(whole(&set, "a/b").expect("the other copy") == bytes, "byte {at}");
        let report = repair(&set, true);
        assert!(report.complete && report.hopeless.is_empty(), "{report:?}");
        assert!(held(&stores[0]) == before && held(&stores[1]) == before, "byte {at} stays wrong");
    }
    for len in (0..size).step_by(97) {
        stores[0].truncate("a/b", len);
        assert!(whole(&set, "a/b").expect("the other copy") == bytes, "cut to {len}");
        assert!(held(&stores[0]) == before, "cut to {len} and not repaired by reading");
    }
    stores[0].remove("a/b");
    assert!(whole(&set, "a/b").expect("the other copy") == bytes);
    assert!(held(&stores[0]) == before, "missing and not repaired by reading");
    assert!(set.status().iter().all(|copy| copy.repaired > 0), "{:?}", set.status());
    stores.iter().for_each(|store| store.flip_bit("a/b", 5, 0));
    assert_eq!(whole(&set, "a/b").expect_err("both are damaged").kind(), Kind::Corrupt);
    let report = repair(&set, true);
    assert_eq!((report.hopeless_count, report.hopeless[0].0.as_str()), (1, "a/b"));
}

#[test]
fn a_failing_copy_leaves_the_service_and_comes_back_repaired() {
    let stores = [SimBlobStore::new(), SimBlobStore::new()];
    let set = set_of(&stores);
    set.put("before", b"1").expect("put");
    stores[1].inject(Fault::new(Op::Put, Effect::Eio));
    set.put("during", b"2").expect("one copy is enough");
    assert_eq!(states(&set), ["good", "failed"]);
    set.put("after", b"3").expect("one copy is enough");
    set.delete("before").expect("deleted");
    assert_eq!(names(&set), ["after", "during"]);
    assert!(stores[1].size("after").is_err(), "a failed copy takes nothing");
    let report = repair(&set, false);
    assert_eq!((states(&set), report.repaired), (vec!["good", "good"], 2));
    assert_eq!(held(&stores[0]), held(&stores[1]));
    set.put("before", b"again").expect("every copy has heard of the deletion");
}

/// A copy that was unplugged while blobs came and went.
#[test]
fn a_copy_that_was_away_is_known_to_lack_something() {
    super::planted::allow(|| {
        let stores = [SimBlobStore::new(), SimBlobStore::new()];
        drop({
            let set = set_of(&stores);
            set.put("kept", b"1").expect("put");
            set.put("deleted", b"2").expect("put");
            set
        });
        let set = reopen(&[Some(&stores[0]), None]);
        assert_eq!(states(&set), ["good", "absent"]);
        set.put("new", b"3").expect("one copy is enough");
        set.delete("deleted").expect("deleted");
        drop(set);
        for alone in [false, true] {
            let set = reopen(&[Some(&stores[0]), Some(&stores[1])]);
            assert_eq!(states(&set), ["good", "behind"], "nobody knows that a copy lacks something");
            assert_eq!(names(&set), ["kept", "new"], "a deleted blob is back");
            assert_eq!(whole(&set, "deleted").expect_err("deleted").kind(), Kind::NotFound);
            assert_eq!(set.put("deleted", b"x").expect_err("not everywhere").kind(), Kind::Conflict);
            if alone {
                assert_eq!(repair(&set, false).repaired, 1);
            }
        }
        let set = reopen(&[Some(&stores[0]), Some(&stores[1])]);
        assert_eq!(states(&set), ["good", "good"]);
        assert_eq!(held(&stores[0]), held(&stores[1]));
        assert_eq!(names(&set), ["kept", "new"]);
        drop(set);
        assert_eq!(whole(&reopen(&[None, Some(&stores[1])]), "new").expect("alone"), b"3");
    });
}

#[test]
fn too_few_copies_take_nothing() {
    let stores = [SimBlobStore::new(), SimBlobStore::new(), SimBlobStore::new()];
    let set = set_of(&stores);
    set.put("a", b"1").expect("put");
    stores[0].inject(Fault::new(Op::Put, Effect::Eio).forever());
    stores[1].inject(Fault::new(Op::Put, Effect::Eio).forever());
    assert!(set.put("b", b"2").is_err(), "one of three is too few");
    assert!(held(&stores[2]).len() == 1, "and nothing is left of it");
    drop(set);
    stores.iter().for_each(SimBlobStore::clear_faults);
    let set = reopen(&[Some(&stores[0]), None, None]);
    assert_eq!(set.put("b", b"2").expect_err("one of three").kind(), Kind::Unavailable);
    assert_eq!(whole(&set, "a").expect("reading needs one"), b"1");
    let set = reopen(&[Some(&stores[0]), Some(&stores[2]), None]);
    set.put("b", b"2").expect("two of three");
}

/// A full copy is a full store: it stays in service, nothing is left under the name, and room heals it.
#[test]
fn a_full_copy_is_told_as_such() {
    let stores = [SimBlobStore::new(), SimBlobStore::new()];
    let set = set_of(&stores);
    stores[1].set_capacity(2000);
    assert_eq!(set.put("a", &[1; 5000]).expect_err("full").kind(), Kind::NoSpace);
    assert!(names(&set).is_empty() && held(&stores[0]).is_empty());
    assert_eq!(states(&set), ["good", "good"]);
    stores[1].set_capacity(1 << 20);
    set.put("a", &[1; 5000]).expect("there is room");
}

#[test]
fn a_lost_copy_is_replaced_by_an_empty_store() {
    let stores = [SimBlobStore::new(), SimBlobStore::new()];
    let set = set_of(&stores);
    set.put("a", b"1").expect("put");
    let new = SimBlobStore::new();
    assert_eq!(set.replace(2, "new".into(), shared(&new)).expect_err("in service").kind(), Kind::Conflict);
    drop(set);
    let set = reopen(&[Some(&stores[0]), None]);
    new.put("stranger", b"x").expect("put");
    assert_eq!(set.replace(2, "new".into(), shared(&new)).expect_err("not empty").kind(), Kind::Conflict);
    new.remove("stranger");
    assert_eq!(set.replace(3, "new".into(), shared(&new)).expect_err("no such copy").kind(), Kind::Invalid);
    set.replace(2, "new".into(), shared(&new)).expect("replaced");
    assert_eq!(states(&set), ["good", "behind"]);
    drop(set);
    let set = reopen(&[Some(&stores[0]), Some(&new)]);
    assert_eq!(states(&set), ["good", "behind"], "until it has everything");
    repair(&set, false);
    assert_eq!(held(&new), held(&stores[0]));
    drop(set);
    // the old one is of the set too: it is not mixed in
    let set = reopen(&[Some(&stores[0]), Some(&new), Some(&stores[1])]);
    assert_eq!(states(&set), ["good", "good"]);
}

#[test]
fn a_store_of_another_set_or_of_none_is_not_mixed_in() {
    let (mine, other) =
        ([SimBlobStore::new(), SimBlobStore::new()], [SimBlobStore::new(), SimBlobStore::new()]);
    set_of(&mine).put("a", b"1").expect("put");
    set_of(&other).put("b", b"2").expect("put");
    for stranger in [&other[1], &SimBlobStore::new()] {
        let set = reopen(&[Some(&mine[0]), Some(stranger)]);
        assert_eq!(states(&set), ["good", "absent"]);
        assert!(!names(&set).contains(&"b".to_owned()));
        set.put(if held(stranger).is_empty() { "y" } else { "x" }, b"3").expect("put");
    }
    assert_eq!(held(&other[1]).len(), 1, "an unmounted place is not written to");
    let nothing = ReplicatedStore::open(vec![("x".into(), Ok(shared(&SimBlobStore::new())))]);
    assert_eq!(nothing.err().expect("no copy").kind(), Kind::NotFound);
}

/// The power goes off at every call of a history on two directories: what was acknowledged is whole in each copy alone.
#[test]
fn what_was_put_is_in_every_copy_after_every_power_cut() {
    let open = |media: &SimMedia, name: &str| {
        DirectoryStore::open(Arc::new(media.clone()), name).map(|store| Arc::new(store) as Arc<dyn BlobStore>)
    };
    let both = |media: &SimMedia| -> Result<Vec<(String, Arc<dyn BlobStore>)>> {
        ["one", "two"].into_iter().map(|name| Ok((name.to_owned(), open(media, name)?))).collect()
    };
    let content = |name: &str| name.bytes().cycle().take(9000).collect::<Vec<u8>>();
    let made = SimMedia::new();
    drop(ReplicatedStore::create(both(&made).expect("stores"), &KernelEntropy).expect("a set"));
    let made = made.power_cut(&mut Rng::new(0));
    let mut cuts = 0;
    for calls in 0.. {
        let media = made.power_cut(&mut Rng::new(0));
        media.crash_after(calls, if calls % 2 == 0 { Cut::BeforeEffect } else { Cut::AfterEffect });
        let mut put = Vec::new();
        if let Ok(copies) = both(&media)
            && let Ok(set) =
                ReplicatedStore::open(copies.into_iter().map(|(name, store)| (name, Ok(store))).collect())
        {
            put.extend(
                ["vault", "packs/aa/01", "points/03"]
                    .into_iter()
                    .take_while(|name| set.put(name, &content(name)).is_ok()),
            );
        }
        let died = media.is_off();
        for_seeds(0..3, |rng| {
            let media = media.power_cut(rng);
            for alone in ["one", "two"] {
                let store = open(&media, alone).expect("a store opens after a cut");
                let set =
                    ReplicatedStore::open(vec![(alone.to_owned(), Ok(store))]).expect("a copy opens alone");
                for name in &put {
                    assert!(
                        whole(&set, name).is_ok_and(|bytes| bytes == content(name)),
                        "{name} is not in copy {alone}"
                    );
                }
            }
            let copies = both(&media).expect("stores").into_iter().map(|(name, store)| (name, Ok(store)));
            let set = ReplicatedStore::open(copies.collect()).expect("a set");
            for name in names(&set) {
                assert_eq!(whole(&set, &name).expect("what is listed is whole"), content(&name));
            }
            assert_eq!(repair(&set, true).hopeless_count, 0);
            cuts += 1;
        });
        if !died {
            break;
        }
    }
    assert!(cuts > 60, "only {cuts} cuts");
}

/// Random puts, deletions, faults, damage and repairs against a map. What was acknowledged is always read.
#[test]
fn random_faults_of_single_copies_lose_nothing() {
    let seeds = if std::env::var_os("BLOCKD_SOAK").is_some() { 5000 } else { 60 };
    for_seeds(0..seeds, |rng| {
        let stores: Vec<SimBlobStore> = (0..2 + rng.below(2)).map(|_| SimBlobStore::new()).collect();
        let mut set = set_of(&stores);
        let mut model: BTreeMap<String, Option<Vec<u8>>> = BTreeMap::new();
        for step in 0..60 {
            // one copy at a time is hurt, and healed before another is
            let hurt = (step / 15) as usize % stores.len();
            match rng.below(10) {
                0..=4 => {
                    let (name, bytes) = (format!("b/{step}"), {
                        let len = rng.below(9000) as usize;
                        rng.bytes(len)
                    });
                    let put = set.put(&name, &bytes);
                    assert!(put.is_ok(), "one copy fails, the others take it: {put:?}");
                    model.insert(name, Some(bytes));
                }
                5 => {
                    let there: Vec<String> = model
                        .iter()
                        .filter(|(_, bytes)| bytes.is_some())
                        .map(|(name, _)| name.clone())
                        .collect();
                    if !there.is_empty() {
                        let name = rng.pick(&there).clone();
                        set.delete(&name).expect("deleted");
                        model.insert(name, None);
                    }
                }
                6 => {
                    let (op, effect) = *rng.pick(&[
                        (Op::Put, Effect::Eio),
                        (Op::Put, Effect::Unheard),
                        (Op::Delete, Effect::Eio),
                        (Op::Get, Effect::Eio),
                    ]);
                    stores[hurt].inject(Fault::new(op, effect).after(rng.below(4)));
                }
                7 => {
                    let blobs: Vec<_> =
                        stores[hurt].blobs().into_iter().filter(|(name, _)| name.starts_with("b/")).collect();
                    if !blobs.is_empty() {
                        let (name, len) = rng.pick(&blobs).clone();
                        stores[hurt].flip_bit(&name, rng.below(len), rng.below(8) as u8);
                    }
                }
                8 => {
                    let with: Vec<Option<&SimBlobStore>> = stores.iter().map(Some).collect();
                    stores.iter().for_each(SimBlobStore::clear_faults);
                    set = reopen(&with);
                }
                _ => {}
            }
            if step % 15 == 14 {
                stores.iter().for_each(SimBlobStore::clear_faults);
                let report = repair(&set, true);
                assert!(report.hopeless.is_empty(), "{report:?}");
                assert!(set.status().iter().all(|copy| copy.state == CopyState::Good), "{:?}", set.status());
                assert!(
                    stores.iter().all(|store| held(store) == held(&stores[0])),
                    "copies differ after a repair"
                );
            }
        }
        let wanted: Vec<&String> =
            model.iter().filter(|(_, bytes)| bytes.is_some()).map(|(name, _)| name).collect();
        assert_eq!(names(&set).iter().collect::<Vec<_>>(), wanted);
        for (name, bytes) in model.iter().filter_map(|(name, bytes)| Some((name, bytes.as_ref()?))) {
            assert!(whole(&set, name).is_ok_and(|read| read == *bytes), "{name} is lost");
        }
    });
}

/// A vault on two copies outlives either of them.
#[test]
fn a_vault_outlives_each_of_its_copies() {
    let stores = [SimBlobStore::new(), SimBlobStore::new()];
    let mut world = World::new(1 << 20, 5);
    {
        let vault = create(Arc::new(set_of(&stores)), &env());
        for _ in 0..3 {
            world.scribble();
            world.backup(&vault).expect("a backup");
        }
    }
    for lost in [0, 1] {
        let left = [Some(&stores[0]), Some(&stores[1])];
        let mut left = left;
        left[lost] = None;
        let vault = super::world::open(Arc::new(reopen(&left)), &env()).expect("one copy opens");
        world.verify(&vault);
        assert!(vault.check(&Quiet).expect("checked").is_clean());
    }
}
