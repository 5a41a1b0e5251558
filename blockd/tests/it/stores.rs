//! Vaults in buckets and in several directories, and what opens them.

use crate::fixture::{Daemon, Dice, State, failure, noise};
use block::{BlockDevice, BlockSource, ByteOffset};
use control::{AddKey, BackupRequest, CreateVault, Job, Kind, OpenVault, RepairVault, Vault};
use sim::server::{BUCKET, Server};
use std::fs;
use std::path::Path;
use std::time::Duration;

fn backup(daemon: &Daemon, disk: &str, vault: &str) -> Job {
    let request = BackupRequest { vault: Some(vault.to_owned()), ..daemon_request(disk) };
    daemon.finished(&daemon.client().backup(&request).expect("a job"))
}

fn daemon_request(disk: &str) -> BackupRequest {
    BackupRequest { item: disk.to_owned(), ..BackupRequest::default() }
}

/// A disk of noise, and the noise.
fn disk(daemon: &Daemon, name: &str, seed: u64) -> Vec<u8> {
    let content = noise(seed, 1 << 20);
    daemon.create(name, content.len() as u64);
    daemon.write(name, 0, &content);
    content
}

fn shown(daemon: &Daemon, name: &str) -> Vault {
    daemon.client().vault(name).expect("a vault")
}

fn options(port: u16) -> String {
    format!(
        "endpoint = http://127.0.0.1:{port}\nallow-http = true\nregion = us-east-1\naccess-key-id = test\n\
         secret-access-key = s3cr3t\n"
    )
}

fn drop_from_instant(daemon: &Daemon, point: &str) {
    let query = control::DeletePointQuery { tier: Some(control::Tier::Instant), ..Default::default() };
    daemon.client().delete_point(point, &query).expect("deleted");
}

/// A vault in a bucket: backups, a restart, the server away at a start and back, another host with the sheet alone.
#[test]
fn a_vault_in_a_bucket() {
    let server = Server::moto();
    let state = State::new();
    let daemon = state.start();
    let content = disk(&daemon, "web", 1);
    let store = format!("s3://{BUCKET}/site/one");
    let create = |store: &str, options: Option<String>| {
        let request = CreateVault {
            name: "far".into(),
            store: store.into(),
            store_options: options,
            ..CreateVault::default()
        };
        daemon.client().create_vault(&request)
    };
    let (kind, said) = failure(create(&store, Some("spead = 9".to_owned())));
    assert!(kind == Kind::Invalid && said.contains("spead"), "{said}");
    let (kind, said) = failure(create("s3://no-such-bucket/x", Some(options(server.port()))));
    assert!(kind == Kind::Unavailable && said.contains("bucket does not exist"), "{said}");
    assert!(!state.file("keys/far.key").exists() && !state.file("vaults/far.vault").exists());
    let made = create(&store, Some(options(server.port()))).expect("a vault");
    assert_eq!((made.store.as_str(), made.redundancy.as_str()), (store.as_str(), "none"));
    assert_eq!(backup(&daemon, "web", "far").error, None);
    drop_from_instant(&daemon, "web@1");
    assert_eq!(daemon.read("web@1"), content, "read from the bucket");
    let own = shown(&daemon, "far").writers;
    assert!(own.len() == 1 && own[0].own, "{own:?}");
    assert!(!daemon.log().contains("s3cr3t"));
    let sheet = fs::read_to_string(state.file("keys/far.sheet")).expect("a sheet");
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert_eq!(daemon.read("web@1"), content, "after a restart");
    // a second host has the sheet and the bucket
    let elsewhere = State::new();
    let second = elsewhere.start();
    let open = OpenVault {
        store: Some(store.clone()),
        store_options: Some(options(server.port())),
        key: sheet,
        ..OpenVault::default()
    };
    second.client().open_vault("old", &open).expect("opened");
    assert_eq!(second.read("web@1"), content);
    let both = shown(&second, "old").writers;
    assert!(both.len() == 2 && both.iter().filter(|writer| writer.own).count() == 1, "{both:?}");
    let other = disk(&second, "db", 2);
    assert_eq!(backup(&second, "db", "old").error, None, "both write to one vault");
    assert_eq!(backup(&daemon, "web", "far").error, None);
    assert_eq!(daemon.read("db@1"), other, "and each reads what the other wrote");
    let (kind, said) = failure(second.client().create_vault(&CreateVault {
        name: "again".into(),
        store: format!("{store}/below"),
        store_options: Some(options(server.port())),
        ..CreateVault::default()
    }));
    assert!(kind == Kind::Conflict && said.contains("vault old"), "{said}");
}

/// A daemon that starts while the server of a vault is away serves everything else, and opens the vault when it is back.
#[test]
fn a_bucket_that_is_away_at_the_start_comes_back() {
    let server = Server::moto();
    let state = State::new();
    let daemon = state.start();
    let content = disk(&daemon, "web", 1);
    let request = CreateVault {
        name: "far".into(),
        store: format!("s3://{BUCKET}/x"),
        store_options: Some(options(server.port())),
        ..CreateVault::default()
    };
    daemon.client().create_vault(&request).expect("a vault");
    assert!(daemon.stop().success());
    server.pause();
    let daemon = state.start();
    let away = shown(&daemon, "far");
    assert!(!away.locked && away.error.is_some_and(|error| error.kind == Kind::Unavailable));
    assert_eq!(daemon.read("web"), content, "the disks serve");
    assert_eq!(daemon.backup("web").error, None, "another vault works");
    server.resume();
    for _ in 0..600 {
        if shown(&daemon, "far").error.is_none() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(backup(&daemon, "web", "far").error, None, "it opened by itself");
}

/// A guest writes and reads while the store of a running backup answers nothing, and its 99th percentile is as without. The long form
/// prints it (`--nocapture`) and holds it to a fifth.
#[test]
#[expect(clippy::disallowed_methods, reason = "latency is what this measures")]
fn a_guest_notices_nothing_of_a_store_that_hangs() {
    let soak = std::env::var_os("BLOCKD_SOAK").is_some();
    let (rounds, requests, most) = if soak { (9, 20_000, 1.2) } else { (3, 2_000, 4.0) };
    let server = Server::moto();
    let state = State::new();
    let daemon = state.start();
    let request = CreateVault {
        name: "far".into(),
        store: format!("s3://{BUCKET}/slow"),
        store_options: Some(options(server.port())),
        ..CreateVault::default()
    };
    daemon.client().create_vault(&request).expect("a vault");
    daemon.create("web", 32 << 20);
    daemon.write("web", 0, &noise(1, 32 << 20));
    let device = daemon.export("web");
    let mut chance = Dice::new(3);
    let mut p99 = || {
        let mut took: Vec<u128> = Vec::new();
        let mut buf = vec![7; 4096];
        for number in 0..requests {
            let at = ByteOffset::new(chance.below(8192) * 4096);
            let began = std::time::Instant::now();
            match number % 3 {
                0 => device.read_at(at, &mut buf).expect("read"),
                _ => device.write_at(at, &buf).expect("written"),
            }
            took.push(began.elapsed().as_nanos());
        }
        took.sort_unstable();
        took[took.len() * 99 / 100] as f64 / 1000.0
    };
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        daemon.snapshot("web");
        let without = p99();
        server.pause();
        let begun =
            daemon.client().backup(&BackupRequest { vault: Some("far".into()), ..daemon_request("web") });
        let job = begun.expect("a job");
        let with = p99();
        let is_running = daemon.client().job(&job.id).expect("the job").ended.is_none();
        server.resume();
        assert!(is_running, "the store hangs");
        assert_eq!(daemon.finished(&job).error, None);
        println!(
            "99th percentile of 4 KiB reads and writes: {without:.1} µs, with a store that hangs {with:.1} µs"
        );
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    let (least, middle, longest) = (ratios[0], ratios[rounds / 2], ratios[rounds - 1]);
    println!("{middle:.2} ({least:.2}-{longest:.2}) times");
    assert!(middle < most, "{ratios:?}");
}

fn copies(state: &State) -> [String; 2] {
    ["a", "b"].map(|name| state.path().with_file_name(name).display().to_string())
}

fn hurt(dir: &str, part: &str, how: impl Fn(&Path)) {
    let mut dirs = vec![std::path::PathBuf::from(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.to_string_lossy().contains(part) => how(&path),
                false => {}
            }
        }
    }
}

/// Two directories: damage in one is read around and repaired, a lost one is named, replaced and filled, and each alone is a
/// vault.
#[test]
fn a_vault_with_two_copies() {
    let state = State::new();
    let daemon = state.start();
    let content = disk(&daemon, "web", 1);
    let [a, b] = copies(&state);
    let request = CreateVault {
        name: "safe".into(),
        store: a.clone(),
        copies: vec![b.clone()],
        ..CreateVault::default()
    };
    let made = daemon.client().create_vault(&request).expect("a vault");
    assert_eq!((made.redundancy.as_str(), made.copies.len()), ("local:2", 2));
    assert_eq!(backup(&daemon, "web", "safe").error, None);
    drop_from_instant(&daemon, "web@1");
    hurt(&a, "packs", |path| {
        let mut bytes = fs::read(path).expect("a pack");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("written");
    });
    hurt(&a, "points", |path| fs::remove_file(path).expect("removed"));
    assert_eq!(daemon.read("web@1"), content, "the other copy");
    let repair = |request: &RepairVault| {
        daemon.finished(&daemon.client().repair_vault("safe", request).expect("a job"))
    };
    let done = repair(&RepairVault { all: true, ..RepairVault::default() });
    assert_eq!(done.error, None);
    assert!(done.repair.is_some_and(|repair| repair.hopeless == 0 && repair.blobs > 3));
    // a vault of one copy is healed from the disks
    let begun = daemon.client().repair_vault("main", &RepairVault::default()).expect("a job");
    assert_eq!(daemon.finished(&begun).error, None);
    assert!(daemon.stop().success());
    // the second device is gone
    fs::rename(&b, format!("{b}-away")).expect("moved");
    fs::create_dir(&b).expect("an empty mount point");
    let daemon = state.start();
    let degraded = shown(&daemon, "safe");
    assert_eq!(degraded.copies[1].state, "absent");
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(
        warnings.iter().any(|warning| warning.contains("copy 2") && warning.contains("mounted")),
        "{warnings:?}"
    );
    assert_eq!(backup(&daemon, "web", "safe").error, None, "one copy takes backups");
    assert!(
        fs::read_dir(&b).expect("a directory").next().is_none(),
        "nothing is written to an empty mount point"
    );
    // it comes back, lacks something, and is given it
    assert!(daemon.stop().success());
    fs::remove_dir(&b).expect("removed");
    fs::rename(format!("{b}-away"), &b).expect("moved back");
    let daemon = state.start();
    assert_eq!(shown(&daemon, "safe").copies[1].state, "behind");
    let repair = |request: &RepairVault| {
        daemon.finished(&daemon.client().repair_vault("safe", request).expect("a job"))
    };
    assert_eq!(repair(&RepairVault::default()).error, None);
    assert_eq!(shown(&daemon, "safe").copies[1].state, "good");
    assert!(daemon.stop().success());
    // and one that is lost for good is made again elsewhere
    fs::remove_dir_all(&a).expect("removed");
    let daemon = state.start();
    let new = state.path().with_file_name("new").display().to_string();
    let request = RepairVault { copy: Some(1), store: Some(new.clone()), ..RepairVault::default() };
    let done = daemon.finished(&daemon.client().repair_vault("safe", &request).expect("a job"));
    assert_eq!(done.error, None);
    assert!(daemon.stop().success());
    fs::rename(&b, format!("{b}-away")).expect("moved");
    let daemon = state.start();
    assert_eq!(daemon.read("web@1"), content, "the new copy alone has everything");
    assert_eq!(shown(&daemon, "safe").store, format!("{new}, {b}"));
}

/// One directory with parity: what is flipped or lost in it reads as it was and comes back, and says so.
#[test]
fn a_vault_with_parity() {
    let state = State::new();
    let daemon = state.start();
    let content = disk(&daemon, "web", 1);
    let [a, b] = copies(&state);
    let request = CreateVault {
        name: "safe".into(),
        store: a.clone(),
        parity: Some("4+2".into()),
        ..CreateVault::default()
    };
    let with_copy = CreateVault { copies: vec![b], ..request.clone() };
    let too_much = CreateVault { parity: Some("1+9".into()), ..request.clone() };
    for wrong in [with_copy, too_much] {
        assert_eq!(failure(daemon.client().create_vault(&wrong)).0, Kind::Invalid);
    }
    let made = daemon.client().create_vault(&request).expect("a vault");
    assert_eq!((made.redundancy.as_str(), made.copies.len()), ("parity:4+2", 0));
    assert_eq!(backup(&daemon, "web", "safe").error, None);
    drop_from_instant(&daemon, "web@1");
    assert!(daemon.stop().success());
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).expect("a blob");
        bytes[130] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    hurt(&format!("{a}/packs"), "", |path| fs::remove_file(path).expect("removed"));
    hurt(&format!("{a}/points"), "", flip);
    let daemon = state.start();
    assert_eq!(shown(&daemon, "safe").redundancy, "parity:4+2");
    assert_eq!(daemon.read("web@1"), content, "from its parity");
    hurt(&format!("{a}/parity/twin/points"), "", |path| fs::remove_file(path).expect("removed"));
    let request = RepairVault { all: true, ..RepairVault::default() };
    let done = daemon.finished(&daemon.client().repair_vault("safe", &request).expect("a job"));
    assert_eq!(done.error, None);
    assert!(done.repair.is_some_and(|repair| repair.hopeless == 0 && repair.repaired > 0), "its twin");
    hurt(&format!("{a}/packs"), "", flip);
    let check =
        || daemon.finished(&daemon.client().check_vault("safe").expect("a job")).check.expect("found");
    let found = check();
    assert!(found.problems.iter().any(|problem| problem.why.contains("parity")), "{:?}", found.problems);
    let again = check();
    assert!(again.ok && again.problems.is_empty(), "{:?}", again.problems);
}

/// Key files, passphrases and commands open a vault; a rotated key file opens nothing.
#[test]
fn what_opens_a_vault_is_changed_while_it_serves() {
    let state = State::new();
    let daemon = state.start();
    let content = disk(&daemon, "web", 1);
    assert_eq!(daemon.backup("web").error, None);
    drop_from_instant(&daemon, "web@1");
    let client = daemon.client();
    let old = fs::read_to_string(state.file("keys/main.key")).expect("a key file");
    let before: Vec<_> = state
        .files("vaults/main")
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("keys"))
        .collect();
    let slots = client.rotate_vault_key("main").expect("rotated");
    assert_eq!(slots.len(), 1);
    let after: Vec<_> = state
        .files("vaults/main")
        .into_iter()
        .filter(|path| !path.to_string_lossy().contains("keys"))
        .collect();
    assert_eq!(before, after, "nothing but the slot was written");
    assert_ne!(fs::read_to_string(state.file("keys/main.key")).expect("a key file"), old);
    let passphrase =
        AddKey { kind: "passphrase".into(), passphrase: Some("correct horse".into()), ..AddKey::default() };
    client.add_vault_key("main", &passphrase).expect("a slot");
    let spare = client
        .add_vault_key("main", &AddKey { kind: "key-file".into(), ..AddKey::default() })
        .expect("a slot");
    let spare_file = spare.key_file.expect("its text");
    let wrong = AddKey { current_passphrase: Some("wrong horse".into()), ..passphrase.clone() };
    let (kind, said) = failure(client.add_vault_key("main", &wrong));
    assert!(kind == Kind::Invalid && said.contains("wrong key") && !said.contains("damaged"), "{said}");
    let (kind, said) =
        failure(client.add_vault_key("main", &AddKey { kind: "command".into(), ..AddKey::default() }));
    assert!(kind == Kind::Invalid && said.contains("no command"), "{said}");
    // without a key file on the host it is locked, and the passphrase opens it
    let own = client
        .vault_keys("main")
        .expect("slots")
        .into_iter()
        .find(|slot| slot.slot != spare.slot && slot.kind == "key-file");
    client.remove_vault_key("main", &own.expect("the key file's slot").slot).expect("removed");
    assert!(!state.file("keys/main.key").exists(), "the file that opens nothing is gone");
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert!(shown(&daemon, "main").locked);
    for (key, passphrase, opens) in
        [(old.as_str(), None, false), ("", Some("wrong horse"), false), ("", Some("correct horse"), true)]
    {
        let open =
            OpenVault { key: key.into(), passphrase: passphrase.map(str::to_owned), ..OpenVault::default() };
        match daemon.client().open_vault("main", &open) {
            Ok(vault) => assert!(opens && !vault.locked),
            Err(error) => assert!(!opens && error.to_string().contains("wrong key"), "{error}"),
        }
    }
    assert_eq!(daemon.read("web@1"), content);
    assert!(!state.file("keys/main.key").exists(), "a passphrase leaves nothing behind");
    assert!(daemon.stop().success());
    // a command of the host
    fs::write(state.file("blockd.toml"), "[key-commands]\nmain = [\"echo\", \"from the vault of keys\"]\n")
        .expect("written");
    let daemon = state.start();
    let open = OpenVault { key: spare_file, ..OpenVault::default() };
    daemon.client().open_vault("main", &open).expect("the spare key file");
    daemon
        .client()
        .add_vault_key("main", &AddKey { kind: "command".into(), ..AddKey::default() })
        .expect("a slot");
    assert!(daemon.stop().success());
    fs::remove_file(state.file("keys/main.key")).expect("removed");
    let daemon = state.start();
    assert_eq!(daemon.read("web@1"), content, "the command opens it at the start");
}

/// A vault made with a passphrase keeps neither key nor sheet on the host.
#[test]
fn a_vault_with_a_passphrase_leaves_no_key_on_the_host() {
    let state = State::new();
    let daemon = state.start();
    let [a, _] = copies(&state);
    let request = CreateVault {
        name: "sealed".into(),
        store: a,
        passphrase: Some("correct horse".into()),
        ..CreateVault::default()
    };
    let made = daemon.client().create_vault(&request).expect("a vault");
    let sheet = made.recovery_sheet_text.expect("the sheet, once");
    assert!(sheet.contains("sheet:"));
    assert_eq!(shown(&daemon, "sealed").recovery_sheet_text, None);
    let content = disk(&daemon, "web", 1);
    assert_eq!(backup(&daemon, "web", "sealed").error, None);
    for name in ["keys/sealed.key", "keys/sealed.sheet"] {
        assert!(!state.file(name).exists(), "{name}");
    }
    drop_from_instant(&daemon, "web@1");
    assert!(daemon.stop().success());
    let daemon = state.start();
    assert_eq!(failure(daemon.client().point("web@1")).0, Kind::Unavailable);
    let open = OpenVault { passphrase: Some("correct horse".into()), ..OpenVault::default() };
    daemon.client().open_vault("sealed", &open).expect("unlocked");
    assert_eq!(daemon.read("web@1"), content);
}
