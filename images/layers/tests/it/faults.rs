//! Failing syncs and full filesystems.

use crate::common::{World, env};
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId, Kind};
use layers::{Disk, Opened};
use sim::{Action, Effect, Fault, ModelDisk, Op, Rng, SimMedia};

fn write(byte: u8, block: u64) -> Action {
    Action::Write { offset: block * 4096, bytes: vec![byte; 4096] }
}

#[test]
fn a_failed_sync_is_final_and_its_live_map_is_not_believed() {
    for part in [".layer", ".journal"] {
        let (media, mut rng) = (SimMedia::new(), Rng::new(3));
        let size = ByteCount::new(16 * 4096);
        let disk = Disk::create(&env(&media, &mut rng), "d", DiskId::from_bytes([1; 16]), size).unwrap();
        let mut model = ModelDisk::new(size);
        for action in [write(1, 0), Action::Flush, write(2, 0), write(2, 5)] {
            action.run(&*disk).unwrap();
            model.done(&action);
        }
        media.inject(Fault::new(Op::Sync, Effect::Eio).on(part));
        assert!(disk.flush().is_err());
        assert_eq!(media.faults_fired(), 1, "{part}");
        for _ in 0..2 {
            assert_eq!(
                disk.flush().err().map(|error| error.kind()),
                Some(Kind::Poisoned),
                "no later sync heals it"
            );
        }
        assert_eq!(
            disk.write_at(ByteOffset::ZERO, &[1]).err().map(|error| error.kind()),
            Some(Kind::Poisoned)
        );
        assert_eq!(disk.seal().err().map(|error| error.kind()), Some(Kind::Poisoned));
        drop(disk);
        let media = media.process_crash();
        let disk = Disk::open(&env(&media, &mut rng), "d").unwrap();
        assert_eq!(disk.opened(), Opened::Committed);
        model.check_after_power_cut(&*disk).unwrap();
    }
}

/// After a failed sync the disk goes on from its last committed state without a new process, and what held the old one
/// can do no harm to it.
#[test]
fn a_poisoned_disk_is_given_up_and_opened_anew() {
    let (media, mut rng) = (SimMedia::new(), Rng::new(3));
    let size = ByteCount::new(16 * 4096);
    let env = env(&media, &mut rng);
    let disk = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), size).unwrap();
    let mut model = ModelDisk::new(size);
    for action in [write(1, 0), Action::Flush] {
        action.run(&*disk).unwrap();
        model.done(&action);
    }
    let point = disk.seal().unwrap();
    model.sealed();
    assert_eq!(disk.abandon().unwrap_err().kind(), Kind::Conflict, "it is healthy");
    let lost = write(2, 5);
    lost.run(&*disk).unwrap();
    model.done(&lost);
    media.inject(Fault::new(Op::Sync, Effect::Eio).on(".layer"));
    assert!(disk.flush().is_err());
    assert_eq!(disk.poisoned_by().map(|error| error.kind()), Some(Kind::Poisoned));
    assert_eq!(Disk::open(&env, "d").err().map(|error| error.kind()), Some(Kind::Conflict), "still held");
    disk.abandon().unwrap();
    let anew = Disk::open(&env, "d").unwrap();
    assert_eq!(anew.opened(), Opened::Committed);
    model.recovered(&*anew).unwrap();
    model.check_point(0, &*anew.point_source(point.state).unwrap()).unwrap();
    // the old value is dead, whatever is asked of it
    let mut buf = [0; 512];
    assert!(disk.read_at(ByteOffset::ZERO, &mut buf).is_err());
    assert!(disk.write_at(ByteOffset::ZERO, &buf).is_err());
    assert!(disk.flush().is_err() && disk.seal().is_err());
    assert!(disk.delete_point(point.state).is_err() && disk.make_sums(&mut |_| true).is_err());
    for action in [write(3, 6), Action::Flush] {
        action.run(&*anew).unwrap();
        model.done(&action);
    }
    drop((disk, anew));
    let anew = Disk::open(&env, "d").unwrap();
    model.check_exact(&*anew).unwrap();
}

/// Without a descriptor a directory cannot even be opened for its sync: that is no failed sync, and heals.
#[test]
fn running_out_of_descriptors_heals() {
    let error = block::Error::host("sync directory", "d", None, std::io::Error::from_raw_os_error(24));
    assert_eq!(error.kind(), Kind::Unavailable);
    let (dir, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let env = layers::Env::linux(dir.path(), volatile.path()).unwrap();
    let disk = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(1 << 20)).unwrap();
    disk.write_at(ByteOffset::ZERO, &[1; 4096]).unwrap();
    let parked = dir.path().join("parked");
    // the directory cannot be opened under its name for a while, as when descriptors run out
    #[expect(clippy::disallowed_methods, reason = "the test plays the host")]
    let park = |from: &std::path::Path, to: &std::path::Path| std::fs::rename(from, to).unwrap();
    park(&dir.path().join("d"), &parked);
    assert!(disk.seal().is_err(), "there is no place for the next layer");
    park(&parked, &dir.path().join("d"));
    disk.flush().unwrap();
    disk.seal().unwrap();
}

/// Whatever fails for lack of space, acknowledged data stays, and freeing space heals without a restart.
#[test]
fn a_full_filesystem_loses_nothing_and_heals() {
    sim::for_seeds(0..200, |rng| {
        let mut world = World::new(rng).unwrap();
        let disk = world.disk().unwrap().clone();
        for _ in 0..4 {
            let room = world.media.used() + world.rng.below(400_000);
            world.media.set_capacity(room);
            for _ in 0..40 {
                tight_step(&mut world, &disk);
            }
            world.media.set_capacity(64 << 30);
            Action::Flush.run(&*disk).unwrap_or_else(|error| panic!("space does not heal: {error}"));
            world.model.done(&Action::Flush);
            world.verify().unwrap();
        }
    });
}

fn tight_step(world: &mut World, disk: &Disk) {
    if world.rng.chance(1, 10) {
        match disk.seal() {
            Ok(point) => {
                world.model.sealed();
                world.states.push(point.state);
            }
            Err(error) => assert_eq!(error.kind(), Kind::NoSpace, "{error}"),
        }
        return;
    }
    let action = Action::random(&mut world.rng, ByteCount::new(world.model.now().len() as u64));
    match action.run(disk) {
        Ok(()) => world.model.done(&action),
        Err(error) => {
            assert_eq!(error.kind(), Kind::NoSpace, "{error}");
            world.model.failed(&action);
            world.model.restarted(disk).unwrap();
        }
    }
}
