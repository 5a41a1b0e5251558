//! How the management plane behaves with many vaults, items and points. The long form has 500 vaults, 10,000 items and 1,000,000 points,
//! and prints what each thing took; the short form has a hundredth of them. Stores lie in shared memory, so that a million files
//! are made in minutes; what the daemon itself writes lies on the host's disk.

#![expect(clippy::disallowed_methods, reason = "it measures")]

use super::prune;
use crate::config::Config;
use crate::daemon::Daemon;
use crate::state::State;
use block::{
    BlockSource, ByteCount, ByteOffset, ByteRange, Delta, DiskId, Epoch, Extent, ExtentKind, RangeSet,
    StateId, Time, Visit,
};
use control::{CreateDisk, CreateVault, PointsQuery};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vault::{Backup, Quiet, Vault};

const DAY_MS: u64 = 86_400_000;
/// Points of each item.
const POINTS: u64 = 100;
/// Of so many items one is a disk that lives; a disk takes 4 MiB of the host. The points of the others are in vaults alone.
const LIVES: usize = 10;

/// A disk nobody has written to.
struct Empty(ByteCount);

impl BlockSource for Empty {
    fn size(&self) -> ByteCount {
        self.0
    }

    fn read_at(&self, _: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        match visit(Extent { range, kind: ExtentKind::Hole }) {
            ControlFlow::Continue(()) | ControlFlow::Break(()) => Ok(()),
        }
    }
}

struct Counts {
    vaults: usize,
    items: usize,
}

fn counts() -> Counts {
    match std::env::var_os("BLOCKD_SOAK") {
        Some(_) => Counts { vaults: 500, items: 10_000 },
        None => Counts { vaults: 5, items: 100 },
    }
}

fn took<T>(what: &str, work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = work();
    let took = begun.elapsed();
    println!("{what}: {:.3} s", took.as_secs_f64());
    (done, took)
}

fn daemon(dir: &std::path::Path) -> Arc<Daemon> {
    let state = State::open(dir).expect("a state");
    Daemon::start(state, &Config::default(), Vec::new()).expect("a daemon")
}

/// A point a day up to now, of a disk in a vault.
fn store(vault: &Vault, item: &str, disk: DiskId, entropy: &dyn block::Entropy, now_ms: u64) {
    let size = ByteCount::new(1 << 20);
    for number in 1..=POINTS {
        vault
            .backup(&Backup {
                item,
                disk,
                state: StateId::random(entropy).expect("an id"),
                base: None,
                epoch: Epoch::new(number),
                time: Time { unix_ms: now_ms - (POINTS - number) * DAY_MS },
                size,
                delta: Delta { source: Arc::new(Empty(size)), changed: RangeSet::whole(size) },
                progress: &Quiet,
            })
            .expect("stored");
    }
}

#[test]
fn pages_plans_and_nightly_rounds_of_many_points() {
    let counts = counts();
    let (dir, stores) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir_in("/dev/shm").expect("memory"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("an event loop");
    let _inside = runtime.enter();
    let made = daemon(dir.path());
    // nothing is due: the newest points are younger than the slot
    let slot = (made.now() - jiff::SignedDuration::from_mins(30)).strftime("%H:%M").to_string();
    let policy = |latest: u64| {
        format!("zone = \"UTC\"\n[schedule]\nat = [\"{slot}\"]\n[retention]\nlatest = {latest}\n")
    };
    let (names, _) = took("vaults made", || {
        let name = |number: usize| format!("v{number:03}");
        let names: Vec<String> = (0..counts.vaults).map(name).collect();
        for name in &names {
            let store = stores.path().join(name).display().to_string();
            made.create_vault(&CreateVault { name: name.clone(), store, ..CreateVault::default() })
                .expect("made");
            made.apply_policy(&format!("{name}/default"), &policy(POINTS)).expect("a policy");
        }
        names
    });
    // half of all items stand under the policy of the first vault, the others under those of all
    let vault_of = |item: usize| if item.is_multiple_of(2) { &names[0] } else { &names[item % names.len()] };
    let item_name = |item: usize| format!("disk-{item:05}");
    took("disks made", || {
        for item in (0..counts.items).step_by(LIVES) {
            let request = CreateDisk { name: item_name(item), size: 1 << 20, ..CreateDisk::default() };
            made.create_disk(&request).expect("a disk");
        }
    });
    let now_ms = made.now().as_millisecond().unsigned_abs();
    took("points stored", || {
        std::thread::scope(|threads| {
            for half in 0..2 {
                let (made, vault_of, item_name) = (&made, &vault_of, &item_name);
                threads.spawn(move || {
                    for item in (half..counts.items).step_by(2) {
                        let (tiers, name) = (made.tiers(), item_name(item));
                        let vault = tiers.vaults.get(vault_of(item)).expect("a vault");
                        let (vault, entropy) = (vault.vault().expect("open"), &*tiers.disks.env().entropy);
                        let disk = match tiers.disks.get(&name) {
                            Ok(named) => named.id,
                            Err(_) => DiskId::random(entropy).expect("an id"),
                        };
                        store(vault, &name, disk, entropy, now_ms);
                    }
                });
            }
        });
    });
    took("stopped", || made.stop().expect("stopped"));
    drop(made);
    let mut protected = String::new();
    for item in 0..counts.items {
        protected += &format!("[items.{}]\npolicy = \"{}/default\"\n", item_name(item), vault_of(item));
    }
    std::fs::write(dir.path().join("protected.toml"), protected).expect("written");
    let (daemon, _) = took("daemon started", || daemon(dir.path()));
    // it would do what is measured
    daemon.keeper().stop();
    took("first look", || daemon.tiers().look());
    let page = |after: Option<&str>| daemon.points_page(after, 100, &|_| true).expect("a page");
    let ((), first) = took("first page", || drop(page(None)));
    let middle = format!("{}@50", item_name(counts.items / 2));
    let (points, next) = took("a page in the middle", || page(Some(&middle)));
    assert_eq!((points.points.len(), points.next.is_some()), (100, true));
    assert_eq!(points.points[0].name, format!("{}@51", item_name(counts.items / 2)));
    let query = PointsQuery { item: Some(item_name(7)), ..PointsQuery::default() };
    let (points, of_item) = took("the points of an item", || daemon.points(&query).expect("points"));
    assert_eq!(points.points.len() as u64, POINTS);
    let fewer = policy(POINTS - 1);
    let plan = |name: &str| daemon.plan_policy(&format!("{name}/default"), &fewer).expect("a plan");
    let (large, of_half) = took("a plan for half of all items", || plan(&names[0]));
    let (small, of_few) = took("a plan for the items of one vault of many", || plan(&names[1]));
    assert!(large.items.len() >= counts.items / 2 && !small.items.is_empty());
    assert_eq!(large.lost.len(), large.items.len(), "one a disk");
    took("the plans applied", || {
        for name in &names {
            daemon.apply_plan(&plan(name).id).expect("applied");
        }
    });
    let ((), night) =
        took("a nightly round that lets a point of each disk go", || prune::round(&daemon, daemon.now()));
    let deleted = daemon.tiers().deleted(None).len();
    assert_eq!(deleted, counts.items, "each disk's oldest");
    let (_, again) = took("a round with nothing to do", || prune::round(&daemon, daemon.now()));
    took("status", || daemon.status().expect("status"));
    daemon.stop().expect("stopped");
    let second = Duration::from_secs(1);
    for (what, took) in [("a page", first.max(next).max(of_item)), ("a plan", of_half.max(of_few))] {
        assert!(took < second, "{what} took {took:?}");
    }
    assert!(night.max(again) < 60 * second, "{night:?} {again:?}");
}
