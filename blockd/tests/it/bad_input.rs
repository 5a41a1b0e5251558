//! Bad input: a clear error that names the thing, nothing lost, no panic, no hang.

use crate::fixture::{Daemon, State, failure, job_failure, noise, refused};
use block::{BlockDevice, BlockSource, ByteOffset, Kind as StorageKind};
use control::{
    BackupRequest, ChangesQuery, CreateDisk, CreateVault, DeletePointQuery, JobState, Kind, RestoreRequest,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn unknown_names_are_named() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let client = daemon.client();
    let backup = |item: &str, vault: &str| BackupRequest {
        item: item.into(),
        vault: Some(vault.into()),
        full: false,
        ..BackupRequest::default()
    };
    let since = ChangesQuery { since: Some("web@9".into()), until: None };
    let restore = RestoreRequest { point: "web@9".into(), to: "new".into(), ..Default::default() };
    let failures = [
        ("nope", failure(client.disk("nope"))),
        ("nope", failure(client.delete_disk("nope"))),
        ("nope", failure(client.snapshot(&["nope".into()]))),
        ("nope", failure(client.points(Some("nope")))),
        ("nope", failure(client.backup(&backup("nope", "main")))),
        ("nope", failure(client.backup(&backup("web", "nope")))),
        ("nope", failure(client.vault("nope"))),
        ("nope", failure(client.check_vault("nope"))),
        ("web@9", failure(client.point("web@9"))),
        ("web@9", failure(client.delete_point("web@9", &DeletePointQuery::default()))),
        ("web@9", failure(client.changes("web", &since))),
        ("web@9", failure(client.restore(&restore))),
        ("0123", failure(client.job("0123"))),
    ];
    for (name, (kind, message)) in failures {
        assert_eq!(kind, Kind::NotFound, "{message}");
        assert!(message.contains(name), "{message}");
    }
    daemon.create("db", 1 << 20);
    // with two disks none is the default
    for name in ["nope", "web@9", "", "web@"] {
        let error = daemon.try_export(name).err().unwrap_or_else(|| panic!("{name:?} was opened"));
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(client.points(Some("web")).expect("points").points, [], "a refused backup makes no point");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let state = State::new();
    let daemon = state.start();
    let client = daemon.client();
    for (name, size) in [("Web", 1), ("", 1), ("a/b", 1), ("a@1", 1), ("web", 0), ("web", u64::MAX)] {
        let (kind, message) =
            failure(client.create_disk(&CreateDisk { name: name.into(), size, fill: false, base: None }));
        assert_eq!(kind, Kind::Invalid, "{message}");
    }
    for point in ["web", "web@x", "@1"] {
        assert_eq!(failure(client.point(point)).0, Kind::Invalid, "{point}");
    }
    let relative = CreateVault {
        name: "second".into(),
        store: "not/absolute".into(),
        soft_delete_days: None,
        ..CreateVault::default()
    };
    assert_eq!(failure(client.create_vault(&relative)).0, Kind::Invalid);
    assert_eq!(client.disks().expect("disks"), []);
    assert!(state.files("disks").is_empty());
    let raw = |request: &str| {
        let mut socket = UnixStream::connect(client.socket()).expect("a connection");
        socket.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let body = r#"{"name":"web","size":1,"colour":"red"}"#;
    let post = format!(
        "POST /v1/disks HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = raw(&post);
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("colour"), "{answer}");
    let answer = raw("GET /v1/nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("not-found"), "{answer}");
    assert!(client.status().is_ok());
}

#[test]
fn a_second_daemon_is_refused_and_the_first_serves_on() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let second = refused(&state.path(), &[]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(5), "{said}");
    assert!(
        said.starts_with("error: ") && said.contains("another blockd") && said.contains("\nhelp: "),
        "{said}"
    );
    assert!(said.contains(&fs::canonicalize(state.path()).expect("a path").display().to_string()), "{said}");
    daemon.write("web", 0, b"still here");
    assert_eq!(daemon.client().disks().expect("disks").len(), 1);
}

#[test]
fn what_cannot_be_served_is_refused_at_the_start() {
    let state = State::new();
    let code = |more: &[&str]| {
        let output = refused(&state.path(), more);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (exit, said) = code(&["--nbd-listen", "0.0.0.0:0"]);
    assert!(exit == Some(5) && said.contains("TLS"), "{exit:?} {said}");
    fs::write(state.file("blockd.toml"), "colour = \"red\"\n").expect("written");
    let (exit, said) = code(&[]);
    assert!(exit == Some(2) && said.contains("colour") && said.contains("blockd.toml"), "{exit:?} {said}");
    fs::write(state.file("blockd.toml"), "nbd-listen = \"127.0.0.1:0\"\n").expect("written");
    assert!(state.start().stop().success());
    let original = fs::read_to_string(state.file("state")).expect("a state file");
    fs::write(state.file("state"), original.replace("version = 1", "version = 2")).expect("written");
    let (exit, said) = code(&[]);
    assert!(exit == Some(5) && said.contains("version 2"), "{exit:?} {said}");
    fs::write(state.file("state"), "ver").expect("written");
    assert_eq!(code(&[]).0, Some(6));
    fs::write(state.file("state"), original).expect("written");
    assert!(state.start().stop().success());
}

#[test]
fn an_address_in_use_leaves_no_key_and_no_vault() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let state = State::new();
    let output = refused(&state.path(), &["--nbd-listen", &address]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(&address) && said.contains("\nhelp: ") && said.contains("ss -ltn"), "{said}");
    assert!(state.files("keys").is_empty() && state.files("vaults").is_empty(), "nothing was made");
    assert!(state.start().stop().success());
}

#[test]
fn a_vault_is_written_by_one_daemon() {
    let first = State::new();
    let daemon = first.start();
    let second = State::new();
    let other = second.start();
    let key = fs::read_to_string(first.file("keys/main.key")).expect("a key");
    let open = control::OpenVault {
        store: Some(first.file("vaults/main").display().to_string()),
        key,
        ..Default::default()
    };
    let error = other.client().open_vault("theirs", &open).expect_err("it is in use");
    assert!(error.kind() == Kind::Conflict && error.to_string().contains("another blockd"), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("stop that one")), "{:?}", error.help());
    assert!(daemon.stop().success());
    other.client().open_vault("theirs", &open).expect("it is free");
}

#[test]
fn a_vault_without_its_key_is_locked_and_the_disks_serve() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let content = noise(1, 1 << 20);
    daemon.write("web", 0, &content);
    let point = daemon.backup("web").point.expect("a point");
    assert!(daemon.stop().success());
    let (key, away) = (state.file("keys/main.key"), state.file("away"));
    fs::rename(&key, &away).expect("moved");
    let daemon = state.start();
    daemon.write("web", 0, b"written while locked");
    let vault = daemon.client().vault("main").expect("a vault");
    assert!(vault.locked);
    let request = BackupRequest { item: "web".into(), ..BackupRequest::default() };
    let (kind, message) = failure(daemon.client().backup(&request));
    assert!(
        kind == Kind::Unavailable && message.contains("main.key") && message.contains("locked"),
        "{message}"
    );
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("vault main") && warning.contains("locked")),
        "{warnings:?}"
    );
    assert!(!key.exists(), "no new key was made");
    assert!(daemon.stop().success());
    fs::write(&key, "no key at all\n").expect("written");
    let daemon = state.start();
    assert!(daemon.client().vault("main").expect("a vault").locked);
    assert!(daemon.stop().success());
    fs::rename(&away, &key).expect("moved");
    let daemon = state.start();
    assert_eq!(daemon.backup("web").base, Some(point.clone()));
    assert_eq!(daemon.read(&point), content);
}

/// Cuts every file of a kind to half and looks what is said; the file is as before afterwards.
fn each_truncated(files: &[PathBuf], mut look: impl FnMut(&Path)) {
    for path in files {
        let whole = fs::read(path).expect("a file");
        let file = fs::OpenOptions::new().write(true).open(path).expect("a file");
        file.set_len(whole.len() as u64 / 2).expect("truncated");
        look(path);
        fs::write(path, whole).expect("put back");
    }
}

#[test]
fn a_truncated_file_of_a_disk_stops_that_disk_only() {
    let state = State::new();
    let daemon = state.start();
    ["good", "hurt"].into_iter().for_each(|name| daemon.create(name, 1 << 20));
    let content = noise(1, 1 << 20);
    daemon.write("hurt", 0, &content);
    let point = daemon.snapshot("hurt");
    daemon.write("hurt", 0, b"later");
    let id = daemon.client().disk("hurt").expect("a disk").id;
    assert!(daemon.stop().success());
    let with_bytes = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
    let files: Vec<PathBuf> = state.files(&format!("disks/{id}")).into_iter().filter(with_bytes).collect();
    let ending = |path: &Path| path.extension().map(|ending| ending.to_string_lossy().into_owned());
    let judged = |ending: Option<&str>| matches!(ending, None | Some("layer" | "map" | "committed"));
    // blocks set aside hold nothing that could be missing
    let is_room = |path: &PathBuf| path.file_name().is_some_and(|name| name == "room");
    let judged = |path: &PathBuf| judged(ending(path).as_deref()) && !is_room(path);
    let files: Vec<PathBuf> = files.into_iter().filter(judged).collect();
    assert!(files.len() >= 4, "{files:?}");
    each_truncated(&files, |path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let daemon = state.start();
        daemon.write("good", 0, b"serves");
        let disk = daemon.client().disk("hurt").expect("a disk");
        let message = match disk.error {
            Some(error) => {
                assert_eq!(error.kind, Kind::Corrupt, "{name}: {}", error.message);
                error.message
            }
            // opened: then reading what is gone must say so
            None => {
                let read = |export: &str| -> Result<(), String> {
                    let export = daemon.try_export(export).map_err(|error| error.to_string())?;
                    let mut bytes = vec![0; 1 << 20];
                    export.read_at(ByteOffset::ZERO, &mut bytes).map_err(|error| error.to_string())
                };
                let said = [read("hurt"), read(&point)];
                said.into_iter()
                    .find_map(Result::err)
                    .unwrap_or_else(|| panic!("{name} is cut and all was read"))
            }
        };
        assert!(message.contains(&name) || message.contains("damaged"), "{name}: {message}");
        assert!(daemon.stop().success());
    });
    let daemon = state.start();
    assert_eq!(daemon.read(&point), content, "nothing was lost by looking");
}

/// Without a layer's map nobody can tell which blocks it has: a read would bring up older ones in their place.
#[test]
fn a_disk_without_the_map_of_a_layer_is_refused_and_its_backups_restore() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let content = noise(1, 1 << 20);
    daemon.write("web", 0, &content);
    let point = daemon.backup("web").point.expect("a point");
    daemon.write("web", 0, &noise(2, 8192));
    let id = daemon.client().disk("web").expect("a disk").id;
    assert!(daemon.stop().success());
    let mut maps = state.files(&format!("disks/{id}"));
    maps.retain(|path| path.extension().is_some_and(|ending| ending == "map"));
    each_truncated(&maps, |path| {
        let daemon = state.start();
        let error = daemon.client().disk("web").expect("a disk").error.expect("refused");
        let file = path.file_name().expect("a name").to_string_lossy();
        assert!(error.kind == Kind::Corrupt && error.message.contains(&*file), "{}", error.message);
        let help = error.help.expect("a next step");
        assert!(help.contains("blockctl restore disk web@N --to NEW"), "{help}");
        assert!(daemon.try_export("web").is_err() && daemon.client().snapshot(&["web".into()]).is_err());
        assert_eq!(daemon.restore(&point, "again").error, None);
        assert_eq!(daemon.read("again"), content);
        daemon.eventually("left", |client| client.disk("again").expect("a disk").writers == 0);
        daemon.client().delete_disk("again").expect("deleted");
        assert!(daemon.stop().success());
    });
    let daemon = state.start();
    assert!(daemon.read("web")[..8192] == noise(2, 8192), "nothing was lost by looking");
}

#[test]
fn a_truncated_file_of_a_vault_is_found_and_the_rest_restores() {
    let state = State::new();
    let daemon = state.start();
    for (seed, name) in [(1, "one"), (2, "two")] {
        daemon.create(name, 1 << 20);
        daemon.write(name, 0, &noise(seed, 1 << 20));
        assert_eq!(daemon.backup(name).error, None);
        daemon.client().delete_disk(name).expect("deleted");
    }
    assert!(daemon.stop().success());
    for shelf in ["packs", "points"] {
        let files: Vec<PathBuf> = state
            .files("vaults/main")
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(shelf))
            .collect();
        assert!(files.len() >= 2, "{files:?}");
        each_truncated(&files, |path| {
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            let daemon = state.start();
            let check = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
            assert_eq!(job_failure(&check).0, Kind::Corrupt);
            let found = check.check.expect("what was found");
            assert!(found.problems.iter().any(|problem| problem.what.contains(&name)), "{name}: {found:?}");
            let outcome = |name: &str, seed: u64| match daemon.try_export(&format!("{name}@1")) {
                Err(_) => false,
                Ok(export) => {
                    let mut bytes = vec![0; 1 << 20];
                    let read = export.read_at(ByteOffset::ZERO, &mut bytes);
                    assert!(read.is_err() || bytes == noise(seed, 1 << 20), "wrong bytes without an error");
                    read.is_ok()
                }
            };
            let good = [outcome("one", 1), outcome("two", 2)].into_iter().filter(|good| *good).count();
            assert_eq!(good, 1, "{name}: one of the two is hurt, the other is not");
            assert!(daemon.stop().success());
        });
    }
    let daemon = state.start();
    assert_eq!(daemon.read("one@1"), noise(1, 1 << 20));
}

#[test]
fn a_restore_that_fails_leaves_no_disk() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 4 << 20);
    daemon.write("web", 0, &noise(1, 4 << 20));
    assert_eq!(daemon.backup("web").error, None);
    daemon.client().delete_disk("web").expect("deleted");
    for path in state.files("vaults/main").iter().filter(|path| path.to_string_lossy().contains("packs")) {
        let mut bytes = fs::read(path).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("damaged");
    }
    let (kind, message) = job_failure(&daemon.restore("web@1", "web"));
    assert_eq!(kind, Kind::Corrupt, "{message}");
    assert!(message.contains("web@1"), "{message}");
    assert_eq!(daemon.client().disks().expect("disks"), []);
    assert!(state.files("disks").is_empty(), "{:?}", state.files("disks"));
}

#[test]
fn garbage_on_the_nbd_port_harms_nobody() {
    let state = State::new();
    let daemon = Daemon::start_with(&state.path(), &["--nbd-listen", "127.0.0.1:0"]).expect("ready");
    daemon.create("web", 1 << 20);
    let address = daemon.client().status().expect("status").daemon.nbd_listen.expect("an address");
    let living = daemon.export("web");
    for seed in 0..40 {
        let mut unix = UnixStream::connect(state.file("nbd.sock")).expect("a connection");
        let mut tcp = std::net::TcpStream::connect(&address).expect("a connection");
        let garbage = noise(seed, 1 + (seed as usize * 97) % 5000);
        // the server may hang up in the middle of it, as it should
        let _cut = unix.write_all(&garbage).and_then(|()| tcp.write_all(&garbage));
    }
    living.write_at(ByteOffset::new(0), b"alive").expect("served");
    assert_eq!(daemon.read("web")[..5], *b"alive");
    // over TCP it is another client
    drop(living);
    let uri: nbd::Uri = format!("nbd://{address}/web").parse().expect("a URI");
    let mut bytes = [0; 5];
    nbd::Client::connect(&uri, 1).expect("served").read_at(ByteOffset::ZERO, &mut bytes).expect("read");
    assert_eq!(&bytes, b"alive");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert!(daemon.stop().success());
}

#[test]
fn the_api_answers_while_idle_clients_take_what_they_can() {
    let state = State::new();
    let mut under = Command::new("prlimit");
    under.arg("--nofile=320:320");
    let daemon = Daemon::start_under(under, &state.path()).expect("ready");
    daemon.create("web", 1 << 20);
    // more than the API has places for, and more exports than there are descriptors for
    let idle: Vec<UnixStream> = (0..150)
        .map(|_| UnixStream::connect(daemon.client().socket()).expect("a connection"))
        .inspect(|mut stream| stream.write_all(b"GET /v1/sta").expect("sent"))
        .collect();
    let exports: Vec<_> = (0..150).filter_map(|_| daemon.try_export("web").ok()).collect();
    assert!((1..150).contains(&exports.len()), "{} clients were let in", exports.len());
    assert!(daemon.client().status().is_ok());
    daemon.create("second", 1 << 20);
    assert_eq!(daemon.snapshot("second"), "second@1");
    exports[0].write_at(ByteOffset::ZERO, b"served").expect("served");
    drop((idle, exports));
    assert_eq!(daemon.read("web")[..6], *b"served");
}

/// A small filesystem of its own; unmounted when dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn mount(mebibytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "blockd-test"])
            .arg(dir.path())
            .status();
        assert!(done.expect("mount").success(), "this test needs to mount a tmpfs, so it needs root");
        Self { dir }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(self.dir.path()).status();
        assert!(done.expect("umount").success());
    }
}

#[test]
fn a_full_disk_says_so_and_heals_when_there_is_room() {
    let small = Small::mount(48);
    let path = small.dir.path().join("state");
    let filler = small.dir.path().join("filler");
    fs::write(&filler, vec![1; 8 << 20]).expect("a filler");
    let daemon = Daemon::start(&path);
    daemon.create("web", 1 << 30);
    let export = daemon.export("web");
    let piece = noise(1, 1 << 20);
    let mut written = 0;
    let error = loop {
        match export.write_at(ByteOffset::new(written << 20), &piece) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 64, "more than there is room for");
    };
    assert_eq!(error.kind(), StorageKind::NoSpace, "{error}");
    assert!(written > 10);
    let read = |export: &nbd::Client, index: u64| {
        let mut bytes = vec![0; 1 << 20];
        export.read_at(ByteOffset::new(index << 20), &mut bytes).expect("read");
        bytes
    };
    assert_eq!(read(&export, written - 1), piece, "what was acknowledged is there");
    export.flush().expect("a flush works on a full filesystem");
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("nearly full")), "{warnings:?}");
    let request = BackupRequest { item: "web".into(), ..BackupRequest::default() };
    let job = daemon.client().backup(&request).expect("a job");
    let job = daemon.finished(&job);
    assert_eq!(job.state, JobState::Done, "the reserve is there for it, as it stores a piece only: {job:?}");
    fs::remove_file(&filler).expect("removed");
    export.write_at(ByteOffset::new(written << 20), &piece).expect("it heals");
    export.flush().expect("flushed");
    drop(export);
    assert!(daemon.stop().success());
    let daemon = Daemon::start(&path);
    let export = daemon.export("web");
    (0..=written).for_each(|index| assert_eq!(read(&export, index), piece, "{index}"));
    drop(export);
    assert!(daemon.stop().success());
}
