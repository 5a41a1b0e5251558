//! How much memory the daemon takes that only its end gives back.

use crate::fixture::{Daemon, State};
use block::{BlockDevice, ByteOffset};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT_KIB: u64 = 64 << 10;
/// Bytes of disk that one page of a map covers.
const MAP_PAGE: u64 = 64 << 20;
/// A map of this disk is as large as the process may be, if each of its pages is spelled out.
const SIZE: u64 = 1 << 40;

/// The most anonymous memory a process had while something was done.
fn most_kib(daemon: &Daemon, act: impl FnOnce()) -> u64 {
    let status = format!("/proc/{}/status", daemon.pid());
    let anonymous = || -> u64 {
        let status = std::fs::read_to_string(&status).expect("a process");
        let line =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a kernel that tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (is_done, anonymous) = (&is_done, &anonymous);
        let watcher = scope.spawn(move || {
            let mut most = 0;
            while !is_done.load(Ordering::Relaxed) {
                most = anonymous().max(most);
                std::thread::sleep(Duration::from_millis(1));
            }
            most
        });
        act();
        is_done.store(true, Ordering::Relaxed);
        watcher.join().expect("a watcher")
    })
}

/// Something is written in every page of the map in every epoch: maps are as large as they can be.
#[test]
fn the_process_stays_small_however_large_the_maps() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("large", SIZE);
    let write_everywhere = |daemon: &Daemon, epoch: u64| {
        let export = daemon.export("large");
        for page in 0..SIZE / MAP_PAGE {
            export.write_at(ByteOffset::new(page * MAP_PAGE + epoch * 4096), &[1; 4096]).expect("written");
        }
    };
    let used = most_kib(&daemon, || {
        for epoch in 0..3 {
            write_everywhere(&daemon, epoch);
            daemon.snapshot("large");
        }
        let client = daemon.client();
        client.delete_point("large@2", &control::DeletePointQuery::default()).expect("deleted");
        daemon.eventually("folded", |client| client.disk("large").expect("a disk").consolidation.is_none());
    });
    assert!(used <= LIMIT_KIB, "sealing and folding: {used} KiB");
    daemon.kill();
    let daemon = state.start();
    let opened = most_kib(&daemon, || {
        daemon.eventually("open", |client| client.disk("large").expect("a disk").error.is_none());
        daemon.write("large", 0, &[2; 4096]);
    });
    assert!(opened <= LIMIT_KIB, "opening: {opened} KiB");
    println!("sealed and folded within {used} KiB, opened within {opened} KiB");
}
