//! How connections begin, disturb each other (not at all) and end.

use crate::raw::Raw;
use crate::stage::{Disks, SparseDisk, Stage, noise};
use block::{BlockDevice, BlockSource, ByteOffset, Failure, Kind};
use nbd::wire::{self, Errno};
use nbd::{Client, Export, ExportInfo, Exports, Limits, Listener, Peer, Server, Uri};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Waits for something another thread is about to do.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not happen in half a minute");
}

fn connections(stage: &Stage) -> usize {
    stage.server.stats().iter().map(|export| export.connections.len()).sum()
}

#[test]
fn a_flush_that_waits_does_not_delay_other_connections() {
    let stage = Stage::new(1 << 20);
    stage.disk.hold_flushes(true);
    let mut flusher = Raw::connected(&stage, "disk", false);
    let mut reader = Raw::connected(&stage, "disk", false);
    flusher.request(wire::CMD_READ, 0, 512, 1);
    flusher.request(wire::CMD_FLUSH, 0, 0, 2);
    until("the flush", || stage.disk.waiting.load(Ordering::SeqCst) == 1);
    // what came before the flush is answered already
    assert_eq!(flusher.simple().cookie, 1);
    flusher.read::<512>();
    reader.is_alive();
    stage.disk.hold_flushes(false);
    assert_eq!(flusher.simple().cookie, 2);
}

#[test]
fn a_client_that_reads_no_replies_does_not_delay_others() {
    let stage = Stage::new(16 << 20);
    stage.disk.write_at(ByteOffset::ZERO, &noise(16 << 20, 1)).unwrap();
    let mut slow = Raw::connected(&stage, "disk", true);
    for cookie in 0..100 {
        slow.request(wire::CMD_READ, 0, 16 << 20, cookie);
    }
    let mut reader = Raw::connected(&stage, "disk", false);
    (0..100).for_each(|_| reader.is_alive());
    // and what is owed to it is not kept in memory: the server waits inside the first of its requests
    let counts = || {
        let exports = stage.server.stats();
        let connections = exports.iter().flat_map(|export| &export.connections);
        connections.map(|connection| connection.counts.of(wire::CMD_READ).requests).collect::<Vec<_>>()
    };
    until("the first of its requests", || counts().contains(&1));
    (0..100).for_each(|_| reader.is_alive());
    assert!(counts().contains(&1), "{:?}", counts());
    stage.server.stop();
}

#[test]
fn stopping_answers_what_has_arrived() {
    let stage = Stage::new(1 << 20);
    stage.disk.hold_flushes(true);
    let mut raw = Raw::connected(&stage, "disk", false);
    let idle = Raw::connected(&stage, "disk", false);
    raw.request(wire::CMD_FLUSH, 0, 0, 1);
    raw.request(wire::CMD_WRITE, 0, 4, 2);
    raw.send(b"last");
    until("the flush", || stage.disk.waiting.load(Ordering::SeqCst) == 1);
    std::thread::scope(|scope| {
        scope.spawn(|| stage.server.stop());
        // the idle one is told at once
        idle.expect_end();
        stage.disk.hold_flushes(false);
    });
    assert_eq!((raw.simple().cookie, raw.simple().cookie), (1, 2));
    raw.expect_end();
    assert_eq!(&stage.disk.contents()[..4], b"last");
    assert!(UnixStream::connect(stage.socket()).is_err(), "still accepts");
}

#[test]
fn a_half_open_client_does_not_delay_the_stop() {
    let stage = Stage::new(4096);
    let silent = Raw::greeted(&stage);
    let mut half = Raw::greeted(&stage);
    half.send(&3u32.to_be_bytes());
    half.send(&wire::IHAVEOPT.to_be_bytes());
    stage.server.stop();
    silent.expect_end();
    half.expect_end();
}

#[test]
fn a_connection_that_does_not_end_is_cut() {
    let limits = Limits { stop_time: Duration::from_millis(200), ..Limits::default() };
    let stage = Stage::with_limits(16 << 20, limits);
    stage.disk.write_at(ByteOffset::ZERO, &noise(16 << 20, 1)).unwrap();
    let mut slow = Raw::connected(&stage, "disk", true);
    slow.request(wire::CMD_READ, 0, 16 << 20, 1);
    let reads =
        || stage.server.stats().iter().map(|export| export.counts.of(wire::CMD_READ).requests).sum::<u64>();
    until("the read", || reads() == 1);
    stage.server.stop();
    assert_eq!(connections(&stage), 0);
}

#[test]
fn a_client_that_never_stops_asking_is_told_that_the_server_is() {
    let stage = Stage::new(1 << 20);
    let mut raw = Raw::connected(&stage, "disk", false);
    stage.disk.hold_flushes(true);
    // more than a stopping server serves, and all of them have arrived when it stops
    let requests = (0..120).map(|cookie| {
        wire::Request { flags: 0, command: wire::CMD_FLUSH, cookie, offset: 0, length: 0 }.encode()
    });
    raw.send(&requests.collect::<Vec<_>>().concat());
    until("the flush", || stage.disk.waiting.load(Ordering::SeqCst) == 1);
    std::thread::scope(|scope| {
        scope.spawn(|| stage.server.stop());
        // it has stopped accepting once nobody can connect
        until("the stop", || UnixStream::connect(stage.socket()).is_err());
        stage.disk.hold_flushes(false);
        let mut replies = Vec::new();
        raw.0.read_to_end(&mut replies).unwrap();
        let errors: Vec<Errno> = replies
            .chunks_exact(16)
            .map(|bytes| wire::SimpleReply::decode(bytes.try_into().unwrap()).unwrap().errno)
            .collect();
        assert_eq!(errors.len(), 120);
        assert_eq!((errors[0], errors[50], errors[119]), (Errno::NONE, Errno::NONE, Errno::SHUTDOWN));
    });
}

#[test]
fn who_does_not_choose_an_export_in_time_expect_end() {
    let limits = Limits { handshake_time: Duration::from_millis(300), ..Limits::default() };
    let stage = Stage::with_limits(4096, limits);
    Raw::greeted(&stage).expect_end();
    let mut busy = Raw::greeted(&stage);
    busy.send(&3u32.to_be_bytes());
    // one byte of an option now and then does not help
    let header = wire::OptionHeader { option: 77, length: 4096 }.encode();
    let slowly = header.iter().chain(&[0; 4096]).all(|byte| {
        std::thread::sleep(Duration::from_millis(20));
        std::io::Write::write_all(&mut busy.0, &[*byte]).is_ok()
    });
    assert!(!slowly);
    // whoever chose may stay as long as they like
    let mut chosen = Raw::connected(&stage, "disk", false);
    std::thread::sleep(Duration::from_millis(600));
    chosen.is_alive();
}

#[test]
fn limits_on_connections_hold_and_free_places_are_given_again() {
    let limits = Limits { connections: 3, handshakes: 2, ..Limits::default() };
    let stage = Stage::with_limits(4096, limits);
    let refused = || {
        let mut stream = UnixStream::connect(stage.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut bytes = Vec::new();
        // closed with or without the greeting unread
        stream.read_to_end(&mut bytes).is_err() || bytes.is_empty()
    };
    let [oldest, newer] = [Raw::greeted(&stage), Raw::greeted(&stage)];
    let mut chosen = Raw::connected(&stage, "disk", false);
    oldest.expect_end();
    chosen.is_alive();
    drop((newer, chosen));
    let reconnected = || std::panic::catch_unwind(|| Raw::connected(&stage, "disk", false));
    let mut kept = Vec::new();
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    until("three connections", || {
        kept.extend(reconnected().ok());
        kept.len() == 3
    });
    std::panic::set_hook(hook);
    assert!(refused(), "a fourth connection");
}

/// Counts how many of its exports are open, and who asked.
struct Counting {
    disk: Arc<SparseDisk>,
    peers: Mutex<Vec<Peer>>,
}

impl Exports for Counting {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }
    fn open(&self, name: &str, peer: &Peer) -> block::Result<Export> {
        self.peers.lock().unwrap().push(peer.clone());
        Disks(self.disk.clone()).open(name, peer)
    }
}

#[test]
fn an_export_is_opened_once_per_connection_and_released_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let exports = Arc::new(Counting { disk: SparseDisk::new(4096), peers: Mutex::default() });
    let disk = Arc::downgrade(&exports.disk);
    let server =
        Server::start(vec![Listener::unix(&path, 0o600).unwrap()], exports.clone(), Limits::default())
            .unwrap();
    let client = Client::connect(&Uri::unix(&path, "disk"), 4).unwrap();
    client.flush().unwrap();
    let pid = std::process::id();
    assert!(matches!(&exports.peers.lock().unwrap()[..], [Peer::Unix { pid: p, .. }] if *p == pid));
    assert_eq!(disk.strong_count(), 2);
    drop(client);
    until("the release", || disk.strong_count() == 1);
    let client = Client::connect(&Uri::unix(&path, "disk"), 4).unwrap();
    server.stop();
    assert_eq!(disk.strong_count(), 1, "a stopped server holds nothing");
    drop(client);
}

#[test]
fn what_a_dead_server_left_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let disk = SparseDisk::new(4096);
    let start =
        |listener| Server::start(vec![listener], Arc::new(Disks(disk.clone())), Limits::default()).unwrap();
    let server = start(Listener::unix(&path, 0o640).unwrap());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
    let error = Listener::unix(&path, 0o600).err().expect("two servers on one socket");
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.to_string(), format!("another server listens on {}", path.display()));
    server.stop();
    assert!(!path.exists(), "the socket is left behind");

    // a successor's socket is not removed
    let listener = Listener::unix(&path, 0o600).unwrap();
    let successor = std::os::unix::net::UnixListener::bind(folder.path().join("other")).unwrap();
    rustix::fs::rename(folder.path().join("other"), &path).unwrap();
    drop(listener);
    assert!(path.exists());
    drop(successor);
}

#[test]
fn errors_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let error = Listener::unix(&folder.path().join("none/s"), 0o600).err().unwrap();
    assert!(error.to_string().contains("none/s"), "{error}");
    let taken = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = Listener::tcp(taken.address().parse().unwrap()).err().unwrap();
    assert_eq!(
        (error.kind(), error.to_string()),
        (Kind::Conflict, format!("cannot listen on {}", taken.address()))
    );
}

#[test]
fn a_write_with_fua_whose_flush_fails_is_not_acknowledged() {
    let stage = Stage::new(4096);
    stage.disk.refuse_flush(Kind::Poisoned);
    let mut raw = Raw::connected(&stage, "disk", false);
    let flags = wire::CMD_FLAG_FUA;
    raw.send(&wire::Request { flags, command: wire::CMD_WRITE, cookie: 1, offset: 0, length: 4 }.encode());
    raw.send(b"gone");
    assert_eq!(raw.simple().errno, Errno::IO);
    raw.is_alive();
}

#[test]
fn every_request_is_counted() {
    let stage = Stage::new(1 << 20);
    let client = stage.client("disk");
    client.write_at(ByteOffset::ZERO, &[1; 8192]).unwrap();
    client.read_at(ByteOffset::ZERO, &mut [0; 4096]).unwrap();
    client.flush().unwrap();
    stage.disk.refuse_flush(Kind::Poisoned);
    assert_eq!(client.flush().unwrap_err().kind(), Kind::Io);
    let status = stage.server.stats();
    assert_eq!((status.len(), status[0].connections.len()), (1, 1));
    let of = |command| status[0].counts.of(command);
    assert_eq!((of(wire::CMD_WRITE).requests, of(wire::CMD_WRITE).bytes), (1, 8192));
    assert_eq!((of(wire::CMD_READ).requests, of(wire::CMD_READ).bytes), (1, 4096));
    assert_eq!((of(wire::CMD_FLUSH).requests, of(wire::CMD_FLUSH).errors), (2, 1));
    drop(client);
    until("the end", || connections(&stage) == 0);
    let ended = stage.server.stats()[0].counts;
    for command in [wire::CMD_WRITE, wire::CMD_READ, wire::CMD_FLUSH] {
        let (now, before) = (ended.of(command), of(command));
        assert_eq!((now.requests, now.bytes, now.errors), (before.requests, before.bytes, before.errors));
        assert_eq!(now.latency.count(), now.requests, "each was timed");
    }
}
