//! The object store against real servers, and against a network that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use block::linux::KernelEntropy;
use block::{BlobStore, ByteRange, Failure, Kind};
use sim::server::{Server, free_port};
use vault::{ObjectStore, Quiet, StoreOptions, Vault};

use super::proxy::{Proxy, Weather};
use super::servers::{azure, bucket, s3};
use super::world::{World, create, env, key};

/// A vault, and the disk that is backed up to it.
struct Backups {
    world: World,
    vault: Vault,
}

impl Backups {
    fn to(store: Arc<dyn BlobStore>) -> Self {
        Self { world: World::new(1 << 20, 7), vault: create(store, &env()) }
    }

    fn more(&mut self, count: usize) {
        for _ in 0..count {
            self.world.scribble();
            self.world.backup(&self.vault).expect("a backup");
        }
    }

    fn verify(&self) {
        self.world.verify(&self.vault);
        let report = self.vault.check(&Quiet).expect("checked");
        assert!(report.is_clean(), "{report:?}");
    }
}

fn store(scheme: &str, prefix: &str, options: &StoreOptions) -> Arc<ObjectStore> {
    Arc::new(ObjectStore::new(&bucket(scheme, prefix), options, Arc::new(KernelEntropy)).expect("a client"))
}

fn whole(store: &dyn BlobStore, name: &str) -> Vec<u8> {
    let size = store.size(name).unwrap_or_else(|error| panic!("size of {name}: {error}"));
    store.get(name, ByteRange::whole(size)).unwrap_or_else(|error| panic!("get {name}: {error}"))
}

fn names(store: &dyn BlobStore) -> Vec<String> {
    let mut names = Vec::new();
    let walk = store.list("", &mut |name, _| {
        names.push(name.to_owned());
        std::ops::ControlFlow::Continue(())
    });
    walk.expect("listed");
    names
}

fn keeps_its_promises(scheme: &str, options: &StoreOptions) {
    let number = AtomicU64::new(0);
    sim::conformance::blob_store(|| {
        let store = store(scheme, &format!("c{}", number.fetch_add(1, Ordering::Relaxed)), options);
        assert!(store.probe().expect("probed"), "the server refuses to create what exists");
        store
    });
    large_blobs(&store(scheme, "large", options));
    pages(&store(scheme, "pages", options));
    whole_vault(scheme, options);
}

/// Above 64 MiB a blob goes in parts, and is stored once all the same.
fn large_blobs(store: &ObjectStore) {
    assert!(store.probe().expect("probed"));
    let bytes: Vec<u8> = (0..(65u32 << 20)).map(|at| (at / 251) as u8).collect();
    store.put("a/large", &bytes).expect("put in parts");
    assert!(whole(store, "a/large") == bytes, "not what was put");
    assert_eq!(store.put("a/large", &bytes).expect_err("exists").kind(), Kind::Conflict);
    assert_eq!(names(store), ["a/large"], "nothing is left of the parts");
}

/// A listing of more than one answer of the server.
fn pages(store: &ObjectStore) {
    assert!(store.probe().expect("probed"));
    let wanted: Vec<String> = (0..1050).map(|at| format!("p/{at:04}")).collect();
    std::thread::scope(|scope| {
        for part in wanted.chunks(132) {
            scope.spawn(|| part.iter().for_each(|name| store.put(name, b"x").expect("put")));
        }
    });
    assert_eq!(names(store), wanted);
}

/// Backups, restores and the check of a whole vault.
fn whole_vault(scheme: &str, options: &StoreOptions) {
    let store = store(scheme, "site/vault", options);
    assert!(store.probe().expect("probed"));
    let mut backups = Backups::to(store.clone());
    backups.more(3);
    backups.verify();
    let error = Vault::create(store, key(), &env()).err().expect("taken");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
}

#[test]
fn s3_by_moto() {
    let server = Server::moto();
    let options = s3(server.port(), "");
    keeps_its_promises("s3", &options);
    refusals_are_told(&server);
    network_failures(&server);
    overwriting_servers(&server);
    limits(&server);
}

#[test]
fn azure_by_azurite() {
    let mut server = Server::azurite();
    let options = azure(server.port());
    keeps_its_promises("az", &options);
    comes_back(&mut server, &options);
}

/// A missing bucket is no missing blob, and what the options say wrong is named.
fn refusals_are_told(server: &Server) {
    let options = s3(server.port(), "");
    let place = vault::Place::parse("s3://no-such-bucket/x").expect("a place");
    let vault::Place::Bucket(nowhere) = place else { panic!("a bucket") };
    let store = ObjectStore::new(&nowhere, &options, Arc::new(KernelEntropy)).expect("a client");
    let listed = store.list("", &mut |_, _| std::ops::ControlFlow::Continue(()));
    for error in [store.probe().expect_err("no bucket"), listed.expect_err("no bucket")] {
        assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    }
    assert!(store.put("a", b"x").expect_err("no bucket").to_string().contains("bucket does not exist"));
    let nobody = ObjectStore::new(&bucket("s3", "x"), &s3(free_port(), ""), Arc::new(KernelEntropy));
    let nobody = nobody.expect("a client");
    nobody.set_attempts(Some(2));
    let error = nobody.size("a").expect_err("nobody listens");
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("s3://vaults/x"), "{error}");
    let error =
        ObjectStore::new(&bucket("s3", "x"), &s3(1, "speed = 9\n"), Arc::new(KernelEntropy)).err().unwrap();
    assert!(error.to_string().contains("\"speed\""), "{error}");
    let plain = StoreOptions::parse("endpoint = http://127.0.0.1:1").expect("options");
    let error = ObjectStore::new(&bucket("s3", "x"), &plain, Arc::new(KernelEntropy)).err().unwrap();
    assert!(error.to_string().contains("allow-http"), "{error}");
}

/// Answers that get lost, connections that break, a server that is away: a put that returns is there once.
fn network_failures(server: &Server) {
    let proxy = Proxy::to(server.port());
    let store = store("s3", "network", &s3(proxy.port(), ""));
    assert!(store.probe().expect("probed"));
    proxy.lose_answers(1);
    store.put("once", b"mine").expect("an attempt whose answer was lost is known by its mark");
    assert_eq!(proxy.losses_left(), 0);
    assert_eq!(store.put("once", b"mine").expect_err("exists").kind(), Kind::Conflict);
    proxy.lose_answers(2);
    assert_eq!(whole(&*store, "once"), b"mine");
    proxy.lose_answers(1);
    assert_eq!(names(&*store), ["once"]);
    let bytes = vec![7; 3 << 20];
    proxy.set(Weather::Breaking);
    let mending = std::thread::scope(|scope| {
        let mending = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            proxy.set(Weather::Fair);
        });
        store.put("broken/off", &bytes).expect("sent again, whole");
        mending.join()
    });
    mending.expect("mended");
    assert!(whole(&*store, "broken/off") == bytes);
    proxy.set(Weather::Away);
    let elsewhere = self::store("s3", "network", &s3(server.port(), ""));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(900));
            proxy.set(Weather::Fair);
        });
        store.put("while/away", &bytes).expect("it came back");
    });
    assert!(whole(&*elsewhere, "while/away") == bytes);
    store.set_attempts(Some(2));
    proxy.set(Weather::Away);
    assert_eq!(store.put("never", b"x").expect_err("away").kind(), Kind::Unavailable);
    assert_eq!(elsewhere.size("never").expect_err("nothing").kind(), Kind::NotFound);
}

/// A server that answers 200 and overwrites is found out, and puts look first then.
fn overwriting_servers(server: &Server) {
    let proxy = Proxy::to(server.port());
    proxy.set(Weather::Unconditional);
    let store = store("s3", "careless", &s3(proxy.port(), ""));
    assert!(!store.probe().expect("probed"), "it overwrites");
    assert!(names(&*store).is_empty(), "the probe leaves nothing");
    store.put("a", b"first").expect("put");
    assert_eq!(store.put("a", b"second").expect_err("exists").kind(), Kind::Conflict);
    assert_eq!(whole(&*store, "a"), b"first");
    let wins = std::thread::scope(|scope| {
        let putters = [0u8, 1, 2, 3, 4, 5, 6, 7].map(|byte| {
            let store = &store;
            scope.spawn(move || store.put("raced", &[byte; 1000]).is_ok())
        });
        putters.into_iter().map(|putter| usize::from(putter.join().expect("ran"))).sum::<usize>()
    });
    assert_eq!(wins, 1, "within a process one wins all the same");
}

/// The bandwidth limit holds both ways.
#[expect(clippy::disallowed_methods, reason = "measures a pace")]
fn limits(server: &Server) {
    let store = store("s3", "limited", &s3(server.port(), "limit-bytes-per-second = 1000000\n"));
    let bytes = vec![1; 1 << 20];
    for pass in ["up", "down"] {
        let start = Instant::now();
        if pass == "up" {
            store.put("a", &bytes).expect("put");
        } else {
            assert!(whole(&*store, "a") == bytes);
        }
        let took = start.elapsed();
        assert!(took > Duration::from_millis(800), "1 MiB {pass} at 1 MB/s took {took:?}");
        assert!(took < Duration::from_secs(20), "1 MiB {pass} at 1 MB/s took {took:?}");
    }
}

/// The server ends in the middle of a backup and comes back: the backup goes on.
fn comes_back(server: &mut Server, options: &StoreOptions) {
    let store = store("az", "restarted", options);
    assert!(store.probe().expect("probed"));
    let mut backups = Backups::to(store);
    backups.more(1);
    std::thread::scope(|scope| {
        let backups = scope.spawn(|| {
            backups.more(6);
            backups
        });
        std::thread::sleep(Duration::from_millis(300));
        server.stop();
        std::thread::sleep(Duration::from_millis(1500));
        server.restart();
        backups.join().expect("every backup came through").verify();
    });
}

/// Our side of the conversation with Google Cloud Storage; its own server cannot be had here.
#[test]
fn gcs_by_a_server_of_the_test() {
    let server = super::gcs::Gcs::start();
    keeps_its_promises("gs", &server.options());
}
