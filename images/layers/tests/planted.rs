//! The harness itself is tested: each of these bugs, planted in the product, must be caught by the same histories that
//! the healthy product passes. A binary of its own, because a planted bug is on in the whole process.

#[path = "common/mod.rs"]
mod common;

use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId, Media};
use common::{Plan, World, Wrong, history};
use layers::Disk;
use sim::{Action, Cut, Effect, Fault, ModelDisk, Op, Rng, SimMedia};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Bugs that random histories with crashes must find, and whether the crash is a power cut.
const IN_HISTORIES: [(&str, bool); 20] = [
    ("released-too-early", false),
    ("released-without-data-sync", true),
    ("settled-without-data-sync", true),
    ("zeros-show-the-base", false),
    ("fold-forgets-sums", false),
    ("sums-called-whole-before-the-sync", true),
    ("shrink-without-zeros", false),
    ("resize-leaves-the-tail", false),
    ("map-before-data", false),
    ("trim-not-tracked", false),
    ("sub-block-write-without-copy-up", false),
    ("flush-without-sync", true),
    ("journal-without-sync", true),
    ("seal-without-data-sync", true),
    ("map-without-sync", true),
    ("chain-without-directory-sync", true),
    ("fold-removes-before-the-commit", true),
    ("fold-without-data-sync", true),
    ("fold-punches-before-the-commit", true),
    ("fold-takes-a-held-state", false),
];

/// Histories after which a bug counts as missed.
const TRIES: u64 = 3_000;

#[test]
fn every_planted_bug_is_caught() {
    let mut missed = Vec::new();
    let mut report = |name: &str, caught: Option<String>| match caught {
        Some(how) => println!("{name}: {how}"),
        None => missed.push(name.to_owned()),
    };
    for (name, power) in IN_HISTORIES {
        report(name, block::planted::with(name, || first_wrong(|rng| history(rng, plan(power)).map(drop))));
    }
    for (name, scene) in [
        ("retry-after-failed-sync", a_sync_fails as fn(&mut Rng) -> Result<(), Wrong>),
        ("live-map-of-another-session", a_live_map_outlives_its_mount),
        ("checksum-not-checked", a_bit_rots),
        ("verified-outlives-its-owner", a_bit_rots),
        ("replace-without-sync", a_small_file_is_replaced),
        ("replace-without-dir-sync", a_small_file_is_replaced),
        ("fold-writes-a-pinned-layer", a_pinned_layer_has_a_neighbour_to_fold),
        ("journal-begun-over-its-records", a_journal_begins_again),
        ("replayed-without-journal-sync", a_killed_daemons_journal_is_replayed),
        ("resize-opens-layers-anew", a_disk_is_resized_under_a_reader),
    ] {
        healthy(name, scene);
        report(name, block::planted::with(name, || first_wrong(scene)));
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

fn plan(power: bool) -> Plan {
    Plan { steps: 60, crash_every: 8, power, outcomes: 0 }
}

/// What the product must pass that has no bug planted: here a panic ends the test.
fn healthy(name: &str, scene: fn(&mut Rng) -> Result<(), Wrong>) {
    const SEEDS: u64 = 300;
    for seed in 0..SEEDS {
        assert_eq!(scene(&mut Rng::new(seed)), Ok(()), "without {name}, seed {seed}");
    }
}

/// Runs the scene with one seed after another; what the model says is wrong with the first that fails. That the bug makes
/// the product or the harness panic somewhere proves nothing of what the model sees: such a seed is passed over.
fn first_wrong(scene: impl Fn(&mut Rng) -> Result<(), Wrong>) -> Option<String> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = (0..TRIES).find_map(|seed| {
        let run = catch_unwind(AssertUnwindSafe(|| scene(&mut Rng::new(seed))));
        run.ok()?.err().map(|why| format!("seed {seed}: {why}"))
    });
    std::panic::set_hook(quiet);
    found
}

/// A sync fails once, the guest flushes again, and then power goes: nothing acknowledged may be missing.
fn a_sync_fails(rng: &mut Rng) -> Result<(), Wrong> {
    let mut world = World::new(rng)?;
    let disk = world.disk()?.clone();
    for step in 0..30 {
        if step == 10 {
            world.media.inject(Fault::new(Op::Sync, Effect::Eio).on(".layer"));
        }
        let action = Action::random(&mut world.rng, world.model.size());
        match action.run(&*disk) {
            Ok(()) => world.model.done(&action),
            Err(_) => world.model.failed(&action),
        }
    }
    drop(disk);
    world.disk = None;
    world.media = world.media.power_cut(&mut world.rng);
    world.open(&[], true)
}

/// A bit of the newest sealed layer turns over, in a block that was read before from an older one: the next read of it
/// fails, on the live disk and on the point.
fn a_bit_rots(rng: &mut Rng) -> Result<(), Wrong> {
    let world = World::new(rng)?;
    let disk = world.disk()?;
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut newest = None;
    for byte in [1, 2] {
        let bytes = vec![byte; world.model.size().as_usize().unwrap_or(0)];
        disk.write_at(ByteOffset::ZERO, &bytes).map_err(|error| failed(&error))?;
        newest = Some(disk.seal().map_err(|error| failed(&error))?);
        disk.make_sums(&mut |_| true).map_err(|error| failed(&error))?;
        if byte == 1 {
            disk.read_at(ByteOffset::ZERO, &mut vec![0; bytes.len()]).map_err(|error| failed(&error))?;
        }
    }
    let mut layers = world.media.files();
    layers.retain(|(name, _)| name.ends_with(".layer"));
    let (hurt, _) = &layers[1];
    world.media.flip_bit(hurt, rng.below(512), 5);
    let mut buf = [0; 512];
    let point = disk.point_source(newest.ok_or("no point")?.state).map_err(|error| failed(&error))?;
    let sources: [&dyn BlockSource; 2] = [&**disk, &*point];
    match sources.into_iter().all(|source| source.read_at(ByteOffset::ZERO, &mut buf).is_err()) {
        true => Ok(()),
        false => Err("a rotten block was read".to_owned()),
    }
}

/// Power goes, yet the memory that held the live map survives, as after a forced unmount of only that filesystem. The
/// map describes data that is gone and must be refused.
fn a_live_map_outlives_its_mount(rng: &mut Rng) -> Result<(), Wrong> {
    let mut world = World::new(rng)?;
    let disk = world.disk()?.clone();
    for _ in 0..20 {
        let action = Action::random(&mut world.rng, world.model.size());
        action.run(&*disk).map_err(|error| error.to_string())?;
        world.model.done(&action);
    }
    disk.flush().map_err(|error| error.to_string())?;
    world.model.done(&Action::Flush);
    let last = Action::Write { offset: 0, bytes: vec![0x5a; 512] };
    last.run(&*disk).map_err(|error| error.to_string())?;
    world.model.done(&last);
    drop(disk);
    world.disk = None;
    let carried = volatile_memories(&world.media, world.model.size().blocks())?;
    world.media = world.media.power_cut(&mut world.rng);
    world.open(&carried, true)
}

/// All volatile memories of a machine.
fn volatile_memories(media: &SimMedia, blocks: u64) -> Result<Vec<(String, Vec<u64>)>, Wrong> {
    let pages = blocks.div_ceil(512 * 32) as usize;
    let words = 512 + pages.next_multiple_of(512) + pages * 512;
    let names = media.list_volatile().map_err(|error| error.to_string())?;
    let read = |name: String| {
        let memory = media.volatile(&name, words).map_err(|error| error.to_string())?;
        memory.reserve(0..words).map_err(|error| error.to_string())?;
        let values =
            memory.words().iter().map(|word| word.load(std::sync::atomic::Ordering::SeqCst)).collect();
        Ok((name, values))
    };
    names.into_iter().map(read).collect()
}

/// A small file is replaced, again and again, and power goes once that is done or while it is: what was acknowledged last is
/// there, or what was under way.
fn a_small_file_is_replaced(rng: &mut Rng) -> Result<(), Wrong> {
    let sim = SimMedia::new();
    let media: &dyn Media = &sim;
    let mut last = rng.bytes(64);
    media.replace("file", &last).map_err(|error| error.to_string())?;
    let mut under_way = None;
    for step in 0..4 {
        if step == 3 && rng.chance(1, 2) {
            sim.crash_after(rng.below(6), Cut::AfterEffect);
        }
        let count = 64 + rng.below(64) as usize;
        let bytes = rng.bytes(count);
        match media.replace("file", &bytes) {
            Ok(()) => last = bytes,
            Err(_) => under_way = Some(bytes),
        }
    }
    let after = sim.power_cut(rng);
    let found = (&after as &dyn Media).read_whole("file", 4096).map_err(|error| error.to_string())?;
    match found == last || Some(found) == under_way {
        true => Ok(()),
        false => Err("a small file is neither what was acknowledged nor what was under way".to_owned()),
    }
}

/// A point goes whose neighbour above is pinned: the file of the pinned layer, on which something stands, is left as it is.
fn a_pinned_layer_has_a_neighbour_to_fold(rng: &mut Rng) -> Result<(), Wrong> {
    let mut world = World::new(rng)?;
    let disk = world.disk()?.clone();
    let mut states = Vec::new();
    for _ in 0..3 {
        for _ in 0..4 {
            let action = Action::random(&mut world.rng, world.model.size());
            action.run(&*disk).map_err(|error| error.to_string())?;
        }
        states.push(disk.seal().map_err(|error| error.to_string())?.state);
    }
    let layers = |world: &World| {
        let mut files = world.media.files();
        files.retain(|(name, _)| name.ends_with(".layer"));
        files
    };
    let of = |name: &str| {
        (&world.media as &dyn Media).read_whole(name, 64 << 20).map_err(|error| error.to_string())
    };
    let pinned = layers(&world)[1].0.clone();
    let before = of(&pinned)?;
    disk.pin(states[1]).map_err(|error| error.to_string())?;
    disk.delete_point(states[0]).map_err(|error| error.to_string())?;
    disk.fold_all().map_err(|error| error.to_string())?;
    match of(&pinned) {
        Ok(after) if after == before && layers(&world).len() == 4 => Ok(()),
        Ok(_) => Err(format!("the pinned layer {pinned} was written")),
        Err(error) => Err(format!("the pinned layer {pinned} is gone: {error}")),
    }
}

/// Flushes fill the journal again and again, and power goes in one of them: what those before made durable is there.
fn a_journal_begins_again(rng: &mut Rng) -> Result<(), Wrong> {
    flushes_and_a_stop(rng, |media, rng| media.power_cut(rng))
}

/// The daemon dies in a flush, and power goes while the next one replays a journal that no sync has reached.
fn a_killed_daemons_journal_is_replayed(rng: &mut Rng) -> Result<(), Wrong> {
    flushes_and_a_stop(rng, |media, rng| {
        let media = media.fork();
        media.crash_after(rng.below(16), Cut::AfterEffect);
        drop(Disk::open(&common::env(&media, rng), "d"));
        media.power_cut(rng)
    })
}

fn flushes_and_a_stop(rng: &mut Rng, stop: fn(&SimMedia, &mut Rng) -> SimMedia) -> Result<(), Wrong> {
    const WORDS: u64 = 4;
    let (media, size) = (SimMedia::new(), ByteCount::new(WORDS * 32 * 4096));
    // room for a few records
    let journal_room = ByteCount::new(64 + rng.below(192));
    let env = layers::Env { journal_room, ..common::env(&media, rng) };
    let disk =
        Disk::create(&env, "d", DiskId::from_bytes([1; 16]), size).map_err(|error| error.to_string())?;
    let mut model = ModelDisk::new(size);
    for flush in 0..12 {
        let write = |_| Action::Write { offset: rng.below(WORDS * 32) * 4096, bytes: vec![flush; 4096] };
        let mut actions: Vec<Action> = (0..8).map(write).collect();
        // a short record under a long one: torn, the long one leaves the short one whole
        actions.truncate(if rng.chance(1, 2) { 1 } else { 8 });
        actions.push(Action::Flush);
        for action in actions {
            if flush == 11 && action == Action::Flush {
                media.crash_after(rng.below(12), Cut::AfterEffect);
            }
            match action.run(&*disk) {
                Ok(()) => model.done(&action),
                Err(_) => model.failed(&action),
            }
        }
    }
    drop(disk);
    for _ in 0..32 {
        let media = stop(&media, rng);
        let disk = Disk::open(&common::env(&media, rng), "d").map_err(|error| error.to_string())?;
        model.check_after_power_cut(&*disk).map_err(|mismatch| mismatch.to_string())?;
    }
    Ok(())
}

/// A point is being read while the disk gets another size and a fold takes blocks that have no sums yet into a layer that
/// had all of its own.
fn a_disk_is_resized_under_a_reader(rng: &mut Rng) -> Result<(), Wrong> {
    const BLOCKS: u64 = 64;
    let failed = |error: layers::Error| error.to_string();
    let (media, size) = (SimMedia::new(), ByteCount::new(BLOCKS * 4096));
    let disk =
        Disk::create(&common::env(&media, rng), "d", DiskId::from_bytes([1; 16]), size).map_err(failed)?;
    let mut states = Vec::new();
    for point in 1..4 {
        let (first, count) = (rng.below(BLOCKS / 2), 1 + rng.below(BLOCKS / 2));
        let bytes = vec![point; (count * 4096) as usize];
        disk.write_at(ByteOffset::new(first * 4096), &bytes).map_err(|error| error.to_string())?;
        states.push(disk.seal().map_err(failed)?.state);
        if rng.chance(1, 2) {
            disk.make_sums(&mut |_| true).map_err(failed)?;
        }
    }
    let point = disk.point_source(states[2]).map_err(failed)?;
    let content = || {
        let mut bytes = vec![0; (BLOCKS * 4096) as usize];
        point.read_at(ByteOffset::ZERO, &mut bytes).map(|()| bytes).map_err(|error| error.to_string())
    };
    let before = content()?;
    disk.resize(ByteCount::new(size.get() + 4096)).map_err(failed)?;
    for state in &states[..2] {
        disk.delete_point(*state).map_err(failed)?;
        disk.fold_step().map_err(failed)?;
        if content()? != before {
            return Err("a point that is read has changed".to_owned());
        }
    }
    disk.fold_all().map_err(failed)?;
    if content()? == before { Ok(()) } else { Err("a point that is read has changed".to_owned()) }
}
