//! On the host's own files.

use block::linux::LinuxMedia;
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, DiskId};
use layers::{Disk, Env, Opened};
use sim::{Action, ModelDisk};
use std::sync::Arc;

fn host() -> (tempfile::TempDir, tempfile::TempDir, Env) {
    let (dir, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
    let env = Env::linux(dir.path(), volatile.path()).unwrap();
    (dir, volatile, env)
}

#[test]
fn passes_the_conformance_suite() {
    let (_dir, _volatile, env) = host();
    let number = std::sync::atomic::AtomicU8::new(0);
    sim::conformance::block_device(|size| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Disk::create(&env, &format!("d{number}"), DiskId::from_bytes([number; 16]), size).unwrap()
    });
}

#[test]
fn the_linux_media_passes_its_suite_under_a_disk_too() {
    let dirs = std::cell::RefCell::new(Vec::new());
    sim::conformance::media(|| {
        let (dir, volatile) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let media = LinuxMedia::new(dir.path(), volatile.path()).unwrap();
        dirs.borrow_mut().push((dir, volatile));
        Arc::new(media)
    });
}

#[test]
fn a_history_on_real_files_with_restarts() {
    sim::for_seeds(0..6, |rng| {
        let (_dir, _volatile, env) = host();
        let size = ByteCount::new(4096 * 400 + 512);
        let mut disk = Disk::create(&env, "d", DiskId::from_bytes([9; 16]), size).unwrap();
        let mut model = ModelDisk::new(size);
        let mut states = Vec::new();
        for step in 0..300 {
            let action = Action::random(rng, size);
            action.run(&*disk).unwrap();
            model.done(&action);
            if step % 40 == 39 {
                states.push(disk.seal().unwrap().state);
                model.sealed();
            }
            if step % 97 == 96 {
                drop(disk);
                disk = Disk::open(&env, "d").unwrap();
                assert_eq!(disk.opened(), Opened::LiveMap);
                model.restarted(&*disk).unwrap();
            }
        }
        for point in model.points() {
            model.check_point(point, &*disk.point_source(states[point]).unwrap()).unwrap();
        }
        for &state in states.iter().skip(1).step_by(2) {
            disk.delete_point(state).unwrap();
        }
        disk.fold_all().unwrap();
        model.check_exact(&*disk).unwrap();
        sim::conformance::block_source(&*disk, model.now());
    });
}

/// Writers, flushers, a sealer and a folder at once: every thread finds its own blocks as it left them.
#[test]
fn many_threads_on_one_disk() {
    let (_dir, _volatile, env) = host();
    let disk = Disk::create(&env, "d", DiskId::from_bytes([9; 16]), ByteCount::new(64 << 20)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                let mut rng = sim::Rng::new(thread);
                let mut held = vec![0u8; 512 * 512];
                for round in 0..3000u64 {
                    // 512-byte pieces; four threads share every block
                    let piece = rng.below(512);
                    let at = ByteOffset::new(piece * 2048 + thread * 512);
                    let value = (round % 255) as u8 + 1;
                    disk.write_at(at, &[value; 512]).unwrap();
                    held[piece as usize] = value;
                    if round % 50 == 0 {
                        disk.flush().unwrap();
                    }
                    let check = rng.below(512);
                    let mut found = [0; 512];
                    disk.read_at(ByteOffset::new(check * 2048 + thread * 512), &mut found).unwrap();
                    assert_eq!(
                        found, [held[check as usize]; 512],
                        "thread {thread} piece {check} round {round}"
                    );
                }
            });
        }
        let disk = &disk;
        scope.spawn(move || {
            let mut points = Vec::new();
            for round in 0..40 {
                points.push(disk.seal().unwrap().state);
                if round % 3 == 2 {
                    disk.delete_point(points.remove(points.len() / 2)).unwrap();
                    disk.fold_all().unwrap();
                }
            }
        });
    });
}

/// More layers than a disk may have descriptors: all are read, and the descriptors stay within their bound.
#[test]
fn more_layers_than_descriptors_are_read() {
    const LAYERS: u64 = 260;
    let (dir, _volatile, env) = host();
    let disk = Disk::create(&env, "d", DiskId::from_bytes([5; 16]), ByteCount::new(LAYERS * 4096)).unwrap();
    for number in 0..LAYERS {
        disk.write_at(ByteOffset::new(number * 4096), &[number as u8 | 1; 4096]).unwrap();
        disk.seal().unwrap();
    }
    let mut all = vec![0; (LAYERS * 4096) as usize];
    for _ in 0..3 {
        disk.read_at(ByteOffset::ZERO, &mut all).unwrap();
        for (number, block) in all.chunks_exact(4096).enumerate() {
            assert_eq!(block, [number as u8 | 1; 4096], "block {number}");
        }
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let ours = targets.filter(|target| target.starts_with(dir.path())).count();
    assert!((200..=256).contains(&ours), "{ours} descriptors");
}
