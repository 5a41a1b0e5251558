//! Vaults that are locked, badly placed, or have lost something.

use crate::fixture::{Daemon, State, failure, job_failure, noise};
use block::{BlockSource, ByteOffset};
use control::{BackupRequest, CreateVault, DeletePointQuery, Kind, OpenVault, RestoreRequest, ScrubVault};
use std::fs;
use std::time::Duration;

/// A state with disk `web`, of which a vault alone holds `web@1`, and a content to compare with.
fn stored() -> (State, Vec<u8>) {
    let state = State::new();
    let daemon = state.start();
    let content = noise(1, 1 << 20);
    daemon.create("web", content.len() as u64);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    let instant = DeletePointQuery::from(control::Tier::Instant);
    daemon.client().delete_point("web@1", &instant).expect("deleted");
    assert!(daemon.stop().success());
    (state, content)
}

#[test]
fn a_wrong_key_locks_and_a_damaged_one_is_named() {
    let (state, content) = stored();
    let other = State::new();
    assert!(other.start().stop().success());
    let key = state.file("keys/main.key");
    let own = fs::read(&key).expect("a key");
    let damaged = {
        let text = String::from_utf8(own.clone()).expect("text");
        let at = text.find("key 2: ").expect("a line") + 7;
        let swapped = if &text[at..=at] == "0" { "1" } else { "0" };
        [&text[..at], swapped, &text[at + 1..]].concat().into_bytes()
    };
    let wrong = fs::read(other.file("keys/main.key")).expect("a key");
    for (bytes, kind, says) in [
        (Some(wrong), Kind::Unavailable, "wrong key"),
        (Some(damaged), Kind::Corrupt, "key file"),
        (Some(b"\xff".to_vec()), Kind::Corrupt, "key file"),
        (None, Kind::Unavailable, "is missing"),
    ] {
        match bytes {
            Some(bytes) => fs::write(&key, bytes).expect("written"),
            None => fs::remove_file(&key).expect("removed"),
        }
        let daemon = state.start();
        let client = daemon.client();
        assert!(client.vault("main").expect("a vault").locked, "{says}");
        let backup = BackupRequest { item: "web".into(), ..BackupRequest::default() };
        let restore = RestoreRequest { point: "web@1".into(), to: "new".into(), ..Default::default() };
        let errors = [
            client.backup(&backup).expect_err("locked"),
            client.check_vault("main").expect_err("locked"),
            client.restore(&restore).expect_err("locked"),
            client.point("web@1").expect_err("locked"),
        ];
        for error in errors {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(says), "{error}");
            assert!(kind == Kind::Corrupt || !error.to_string().contains("damaged"), "{error}");
            assert!(error.help().is_some_and(|help| help.contains("recovery sheet")), "{:?}", error.help());
        }
        assert_eq!(daemon.read("web"), content, "the disks serve");
        assert!(daemon.stop().success());
    }
    fs::write(&key, own).expect("written");
    let daemon = state.start();
    assert_eq!(daemon.read("web@1"), content);
}

#[test]
fn a_vault_of_another_host_is_opened_with_its_sheet_alone() {
    let (state, content) = stored();
    let sheet = fs::read_to_string(state.file("keys/main.sheet")).expect("a sheet");
    let typed: Vec<&str> = sheet.lines().skip_while(|line| !line.starts_with("vault:")).take(6).collect();
    let typed = typed.join("\n").to_lowercase();
    let store = state.file("vaults/main").display().to_string();
    let elsewhere = State::new();
    let daemon = elsewhere.start();
    let open = |name: &str, store: Option<&str>, key: &str| {
        daemon.client().open_vault(
            name,
            &OpenVault { store: store.map(str::to_owned), key: key.to_owned(), ..OpenVault::default() },
        )
    };
    let strange = fs::read_to_string(elsewhere.file("keys/main.key")).expect("a key");
    let strange_sheet = fs::read_to_string(elsewhere.file("keys/main.sheet")).expect("a sheet");
    let empty = tempfile::tempdir().expect("a directory");
    for (name, at, key, kind) in [
        ("old", Some(store.as_str()), strange.as_str(), Kind::Invalid),
        ("old", Some(&store), &strange_sheet, Kind::Invalid),
        ("old", Some(&store), "key 1: 0", Kind::Invalid),
        ("old", None, &typed, Kind::NotFound),
        ("old", empty.path().to_str(), &typed, Kind::NotFound),
        ("main", Some(&store), &typed, Kind::Conflict),
    ] {
        let error = open(name, at, key).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!elsewhere.file("keys/old.key").exists(), "nothing is written before the vault is open");
    }
    let vault = open("old", Some(&store), &typed).expect("opened");
    assert!(!vault.locked && vault.points == Some(1), "{vault:?}");
    assert_eq!(daemon.read("web@1"), content);
    assert!(daemon.stop().success());
    let daemon = elsewhere.start();
    assert_eq!(daemon.read("web@1"), content, "it stays known");
    assert!(daemon.stop().success());
    // a key that went missing is brought back while the daemon serves
    fs::remove_file(elsewhere.file("keys/old.key")).expect("removed");
    let daemon = elsewhere.start();
    assert!(daemon.client().vault("old").expect("a vault").locked);
    let unlock = OpenVault { key: sheet, ..OpenVault::default() };
    assert!(!daemon.client().open_vault("old", &unlock).expect("unlocked").locked);
    assert_eq!(daemon.read("web@1"), content);
}

#[test]
fn a_number_never_comes_to_mean_a_point_of_a_later_disk() {
    let (state, content) = stored();
    let daemon = state.start();
    daemon.client().delete_disk("web").expect("deleted");
    let restored = daemon.finished(
        &daemon
            .client()
            .restore(&RestoreRequest { point: "web@1".into(), to: "web".into(), ..Default::default() })
            .expect("a job"),
    );
    assert_eq!(restored.error, None);
    let error = daemon.client().point("web@1").expect_err("today's disk has none");
    assert!(error.help().is_some_and(|help| help.contains("web@2")), "named by its time: {:?}", error.help());
    assert_eq!(daemon.snapshot("web"), "web@2", "the number is not used again");
    let points = daemon.client().points(Some("web")).expect("points").points;
    assert_eq!(daemon.read(&points[0].name), content);
}

#[test]
fn a_point_whose_blob_is_removed_is_missed_by_name() {
    let (state, _) = stored();
    let daemon = state.start();
    assert_eq!(daemon.backup("web").error, None);
    let check = || daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    assert!(check().check.is_some_and(|check| check.ok));
    let blobs: Vec<_> = state
        .files("vaults/main")
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("points"))
        .collect();
    assert_eq!(blobs.len(), 2);
    let away: Vec<_> = blobs.iter().map(|path| (path.clone(), fs::read(path).expect("a blob"))).collect();
    for (path, bytes) in &away {
        fs::remove_file(path).expect("removed");
        let job = check();
        assert_eq!(job_failure(&job).0, Kind::Corrupt);
        let found = job.check.expect("what was found");
        let blob = path.file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(!found.ok && found.problems.len() == 1, "{found:?}");
        assert!(
            found.problems[0].what.contains("web@") && found.problems[0].why.contains(&blob),
            "{found:?}"
        );
        let warnings = daemon.client().status().expect("status").warnings;
        assert!(warnings.iter().any(|warning| warning.contains(&blob)), "{warnings:?}");
        fs::write(path, bytes).expect("put back");
        assert!(check().check.is_some_and(|check| check.ok));
    }
    assert_eq!(daemon.client().point("web@1").expect("a point").vaults, ["main"]);
    // lost for good: asked for by name it is corrupt, not unknown; deleted it is forgotten
    away.iter().for_each(|(path, _)| fs::remove_file(path).expect("removed"));
    let (kind, message) = failure(daemon.client().point("web@1"));
    assert!(kind == Kind::Corrupt && message.contains("web@1") && message.contains("main"), "{message}");
    let error = daemon.client().point("web@1").expect_err("lost");
    assert!(error.help().is_some_and(|help| help.contains("point delete web@1")), "{:?}", error.help());
    daemon.client().delete_point("web@1", &DeletePointQuery::default()).expect("forgotten");
    assert_eq!(failure(daemon.client().point("web@1")).0, Kind::NotFound);
    // a catalog that is young learns from the vault
    assert!(daemon.stop().success());
    fs::write(&away[0].0, &away[0].1).expect("put back");
    fs::remove_file(state.file("catalog.db")).expect("removed");
    let daemon = state.start();
    fs::remove_file(&away[0].0).expect("removed");
    let check = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    assert_eq!(job_failure(&check).0, Kind::Corrupt);
}

#[test]
fn a_deleted_point_is_not_missed() {
    let (state, _) = stored();
    state.make_lab();
    let daemon = state.start();
    daemon.client().delete_point("web@1", &DeletePointQuery::default()).expect("deleted");
    let check = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    assert!(check.check.as_ref().is_some_and(|check| check.ok && check.points == 0), "{check:?}");
    assert_eq!(failure(daemon.client().point("web@1")).0, Kind::NotFound);
}

#[test]
fn a_store_goes_where_it_harms_nothing() {
    let state = State::new();
    let daemon = state.start();
    let outside = tempfile::tempdir().expect("a directory");
    let make = |name: &str, store: &str| {
        daemon.client().create_vault(&CreateVault {
            name: name.into(),
            store: store.into(),
            soft_delete_days: None,
            ..CreateVault::default()
        })
    };
    let in_state = |name: &str| state.file(name).display().to_string();
    for (store, kind, says) in [
        ("sftp://host/vault".to_owned(), Kind::Unsupported, "\"sftp\""),
        (in_state("disks"), Kind::Refused, "state directory"),
        (in_state("keys/second"), Kind::Refused, "state directory"),
        (in_state("vaults/main"), Kind::Conflict, "vault main"),
        (outside.path().join("no/such").display().to_string(), Kind::NotFound, "no/such"),
        (state.path().display().to_string(), Kind::Refused, "state directory"),
    ] {
        let error = make("second", &store).expect_err(&store);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says) && error.help().is_some(), "{error}");
    }
    assert!(!state.file("keys/second.key").exists(), "no key is made for a vault that is not");
    assert_eq!(daemon.client().vaults().expect("vaults").len(), 1);
    let url = format!("file://{}", outside.path().join("second").display());
    make("second", &url).expect("a vault");
    let error = make("third", &url).expect_err("taken");
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(daemon.stop().success());
    assert_eq!(state.start().client().vaults().expect("vaults").len(), 2);
}

/// Turns a bit of every pack over, in the middle.
fn hurt_packs(state: &State) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut packs = state.files("vaults/main");
    packs.retain(|path| path.to_string_lossy().contains("/packs/"));
    let hurt = |path: std::path::PathBuf| {
        let whole = fs::read(&path).expect("a pack");
        let mut bytes = whole.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("damaged");
        (path, whole)
    };
    packs.into_iter().map(hurt).collect()
}

#[test]
fn what_a_check_found_damaged_is_known_and_its_last_sound_copy_is_kept() {
    let state = State::new();
    let daemon = state.start();
    let content = noise(1, 4 << 20);
    daemon.create("web", content.len() as u64);
    daemon.write("web", 0, &content);
    assert_eq!(daemon.backup("web").error, None);
    assert_eq!(daemon.client().vault("main").expect("a vault").checked, None);
    hurt_packs(&state);
    let job = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    let found = job.check.expect("what was found");
    assert!(found.problems.iter().any(|problem| problem.what == "recovery point web@1"), "{found:?}");
    assert!(daemon.stop().success());

    let daemon = state.start();
    let client = daemon.client();
    let point = client.point("web@1").expect("a point");
    assert_eq!((point.damaged.as_slice(), point.verified), (&["main".to_owned()][..], false));
    let status = client.status().expect("status");
    let names_it = |warning: &String| warning.contains("vault main") && warning.contains("web@1");
    assert!(status.warnings.iter().any(names_it), "{:?}", status.warnings);
    let checked = status.vaults[0].checked.as_ref().expect("a check");
    assert_eq!(checked.problems, found.problems.len() as u64);
    let instant = DeletePointQuery::from(control::Tier::Instant);
    let error = client.delete_point("web@1", &instant).expect_err("the last sound copy");
    assert!(error.kind() == Kind::Refused && error.to_string().contains("vault main"), "{error}");
    assert!(error.help().is_some_and(|help| help.contains("--last-copy")), "{:?}", error.help());
    assert_eq!(daemon.read("web@1"), content);
    // from the vault alone it may go, and from everywhere; and what is asked for in so many words is done
    client.delete_point("web@1", &DeletePointQuery { last_copy: true, ..instant }).expect("deleted");
    assert_eq!(job_failure(&daemon.restore("web@1", "new")).0, Kind::Corrupt);
    client.delete_point("web@1", &DeletePointQuery::default()).expect("deleted");
    assert!(!client.status().expect("status").warnings.iter().any(names_it), "no longer there");
}

#[test]
fn damage_that_a_read_meets_is_known_until_a_check_finds_none() {
    let (state, content) = stored();
    let whole = hurt_packs(&state);
    let daemon = state.start();
    let damaged = || daemon.client().point("web@1").expect("a point").damaged;
    assert!(damaged().is_empty(), "nobody looked yet");
    let mut bytes = vec![0; content.len()];
    daemon.export("web@1").read_at(ByteOffset::ZERO, &mut bytes).expect_err("damaged");
    assert_eq!(damaged(), ["main"]);
    let warnings = daemon.client().status().expect("status").warnings;
    assert!(warnings.iter().any(|warning| warning.contains("damaged in it: web@1")), "{warnings:?}");
    whole.iter().for_each(|(path, bytes)| fs::write(path, bytes).expect("put back"));
    let job = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    assert_eq!(job.error, None);
    assert!(damaged().is_empty());
    assert_eq!(daemon.read("web@1"), content);
}

/// The disk still has what rotted in the vault: a full backup stores it anew, also after a restart, and those that follow rely on that.
#[test]
fn what_was_found_damaged_is_stored_anew_by_the_next_full_backup() {
    for by_check in [true, false] {
        let state = State::new();
        let daemon = state.start();
        let content = noise(1, 1 << 20);
        daemon.create("web", content.len() as u64);
        daemon.write("web", 0, &content);
        assert_eq!(daemon.backup("web").error, None);
        let instant = DeletePointQuery::from(control::Tier::Instant);
        hurt_packs(&state);
        if by_check {
            let job = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
            assert_eq!(job_failure(&job).0, Kind::Corrupt);
        } else {
            assert_eq!(daemon.backup("web").error, None);
            daemon.client().delete_point("web@1", &instant).expect("deleted");
            let mut bytes = vec![0; content.len()];
            daemon.export("web@1").read_at(ByteOffset::ZERO, &mut bytes).expect_err("damaged");
            // the upkeep writes it down within a second
            std::thread::sleep(Duration::from_secs(3));
        }
        assert!(daemon.stop().success());

        let daemon = state.start();
        let full = |daemon: &crate::fixture::Daemon| {
            let item = "web".to_owned();
            let request = BackupRequest { item, vault: None, full: true, ..BackupRequest::default() };
            let job = daemon.finished(&daemon.client().backup(&request).expect("a job"));
            assert_eq!(job.error, None);
            job
        };
        let healed = full(&daemon);
        assert_eq!((healed.chunks_new, healed.chunks_reused), (256, 0), "found by a check: {by_check}");
        let point = healed.point.expect("a point");
        daemon.client().delete_point(&point, &instant).expect("deleted");
        assert_eq!(daemon.read(&point), content);
        assert!(daemon.stop().success());

        let daemon = state.start();
        let next = full(&daemon);
        assert_eq!((next.chunks_new, next.chunks_reused), (0, 256));
    }
}

/// The first sweep names what nothing reaches, undoing it brings that back, and the second of two deletes it for good.
#[test]
fn sweeps_give_back_what_deleted_points_took() {
    let (state, content) = stored();
    state.make_lab();
    let daemon = state.start();
    let client = daemon.client();
    let sweep = || {
        let job = daemon.finished(&client.sweep_vault("main").expect("a job"));
        assert_eq!(job.error, None);
        job.sweep.expect("what it did")
    };
    daemon.write("web", 0, &noise(9, 1 << 20));
    let second = daemon.backup("web").point.expect("a point");
    assert_eq!(sweep().run, None, "everything is reached");
    let before = client.vault_usage("main").expect("usage");
    client.delete_point("web@1", &DeletePointQuery::from(control::Tier::Vault)).expect("deleted");
    let found = sweep();
    assert!(found.bytes_quarantined > content.len() as u64 / 2 && found.deleted.is_empty(), "{found:?}");
    let run = found.run.expect("a run");
    let listed = client.sweeps("main").expect("runs");
    assert_eq!((listed.len(), &listed[0].run, listed[0].bytes), (1, &run, found.bytes_quarantined));
    assert_eq!(client.undo_sweep("main", &run).expect("undone").packs, found.quarantined.len() as u64);
    assert_eq!(failure(client.undo_sweep("main", &run)).0, Kind::NotFound);
    assert_eq!(sweep().quarantined, found.quarantined);
    let last = sweep();
    assert_eq!((last.deleted, last.run), (found.quarantined, None));
    let after = client.vault_usage("main").expect("usage");
    assert!(before.bytes_stored - after.bytes_stored >= found.bytes_quarantined, "{before:?}, {after:?}");
    let check = daemon.finished(&client.check_vault("main").expect("a job"));
    assert_eq!(check.error, None);
    let instant = DeletePointQuery::from(control::Tier::Instant);
    client.delete_point(&second, &instant).expect("deleted");
    assert_eq!(daemon.read(&second), noise(9, 1 << 20));
}

/// A scrub that is cut off goes on behind what it read, over a restart too, and names what it found before and after that.
#[test]
fn a_scrub_goes_on_where_it_was_cut_off() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    for seed in 1..4 {
        daemon.write("web", 0, &noise(seed, 1 << 20));
        assert_eq!(daemon.backup("web").error, None);
    }
    hurt_packs(&state);
    let slow = ScrubVault { bytes_per_second: Some(1), restart: false };
    let job = daemon.client().scrub_vault("main", &slow).expect("a job");
    daemon.eventually("a pack is read", |client| client.job(&job.id).is_ok_and(|job| job.bytes_done > 0));
    daemon.client().cancel_job(&job.id).expect("cancelled");
    assert_eq!(daemon.finished(&job).state, control::JobState::Cancelled);
    assert!(daemon.stop().success());

    let daemon = state.start();
    let scrub = |restart| {
        let request = ScrubVault { bytes_per_second: None, restart };
        daemon.finished(&daemon.client().scrub_vault("main", &request).expect("a job"))
    };
    let job = scrub(false);
    assert!(job.note.as_deref().is_some_and(|note| note.contains("goes on behind packs/")), "{:?}", job.note);
    assert_eq!(job_failure(&job).0, Kind::Corrupt);
    let found = job.check.expect("what was found");
    assert_eq!((found.ok, found.packs), (false, 3), "the damaged one that was read before is read again");
    let named =
        |point: &str| found.problems.iter().any(|problem| problem.what == format!("recovery point {point}"));
    assert!(["web@1", "web@2", "web@3"].into_iter().all(named), "{found:?}");
    assert_eq!(daemon.client().point("web@2").expect("a point").damaged, ["main"]);
    let again = scrub(false);
    assert_eq!(again.note, None, "the last one came to its end");
}

/// What a check found damaged is healed by chunk from what the host still has, the disk and instant points; what it has no more is named.
#[test]
fn a_repair_heals_from_the_disk_and_its_instant_points() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 4 << 20);
    let states = [noise(1, 4 << 20), noise(2, 1 << 20)];
    for content in &states {
        daemon.write("web", 0, content);
        assert_eq!(daemon.backup("web").error, None);
    }
    hurt_packs(&state);
    let check = || daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    let repair =
        || daemon.finished(&daemon.client().repair_vault("main", &Default::default()).expect("a job"));
    assert_eq!(job_failure(&check()).0, Kind::Corrupt);
    assert_eq!(daemon.client().point("web@1").expect("a point").damaged, ["main"]);
    let job = repair();
    assert_eq!(job.error, None);
    let done = job.repair.expect("what was done");
    assert_eq!((done.packs_healed.len(), done.hopeless), (2, 0), "{done:?}");
    assert!(done.chunks_from_disks > 0, "{done:?}");
    for point in ["web@1", "web@2"] {
        assert!(daemon.client().point(point).expect("a point").damaged.is_empty(), "{point}");
    }
    assert_eq!(check().error, None);
    // also when the host has it no more, and the damaged packs are gone
    daemon.client().delete_disk("web").expect("deleted");
    for _ in 0..2 {
        let swept = daemon.finished(&daemon.client().sweep_vault("main").expect("a job"));
        assert_eq!(swept.error, None);
    }
    assert_eq!(daemon.restore("web@1", "back").error, None);
    assert!(daemon.read("back") == states[0]);

    // and what the host has no more is named
    hurt_packs(&state);
    assert_eq!(job_failure(&check()).0, Kind::Corrupt);
    let job = repair();
    assert_eq!(job_failure(&job).0, Kind::Corrupt);
    let left = job.repair.expect("what was done");
    assert!(left.hopeless > 0 && left.problems[0].what.starts_with("packs/"), "{left:?}");
}

/// What can be undone is still a point: a sweep leaves it alone.
#[test]
fn a_deletion_that_can_be_undone_is_not_swept() {
    let (state, content) = stored();
    let daemon = state.start();
    let client = daemon.client();
    client.delete_point("web@1", &DeletePointQuery::default()).expect("deleted");
    for _ in 0..3 {
        let job = daemon.finished(&client.sweep_vault("main").expect("a job"));
        assert_eq!((job.error, job.sweep.and_then(|sweep| sweep.run)), (None, None));
    }
    client.undelete_point("web@1").expect("back");
    assert_eq!(daemon.read("web@1"), content);
}

#[test]
fn what_no_point_needs_is_counted() {
    let (state, content) = stored();
    state.make_lab();
    let daemon = state.start();
    let usage = || daemon.client().vault_usage("main").expect("usage");
    let whole = usage();
    assert_eq!((whole.points, whole.bytes_unreferenced), (1, 0));
    assert!(whole.bytes_referenced > content.len() as u64 / 2 && whole.bytes_referenced < whole.bytes_stored);
    // a second point shares almost all of the first, so that deleting it frees only what it alone needs
    daemon.write("web", 0, &noise(9, 65536));
    let second = daemon.backup("web").point.expect("a point");
    let both = usage();
    assert_eq!(both.bytes_unreferenced, 0);
    let from_vault = DeletePointQuery::from(control::Tier::Vault);
    daemon.client().delete_point(&second, &from_vault).expect("deleted");
    let after = usage();
    assert_eq!(after.bytes_referenced, whole.bytes_referenced);
    assert_eq!(after.bytes_unreferenced, both.bytes_referenced - whole.bytes_referenced);
    assert!(after.bytes_unreferenced > 65536, "a chunk and its nodes: {after:?}");
    let check = daemon.finished(&daemon.client().check_vault("main").expect("a job")).check.expect("found");
    assert_eq!(check.bytes_unreferenced, Some(after.bytes_unreferenced));
    // what a backup that was cut off left behind
    assert!(daemon.stop().success());
    for path in state.files("vaults/main").iter().filter(|path| path.to_string_lossy().contains("points")) {
        fs::remove_file(path).expect("removed");
    }
    let daemon = state.start();
    let left = daemon.client().vault_usage("main").expect("usage");
    assert_eq!((left.points, left.bytes_referenced), (0, 0));
    assert_eq!(left.bytes_unreferenced, both.bytes_referenced);
}

#[test]
fn a_store_begins_in_an_empty_directory() {
    let state = State::new();
    let daemon = state.start();
    let outside = tempfile::tempdir().expect("a directory");
    let make = |name: &str| {
        let store = outside.path().join("store").display().to_string();
        daemon.client().create_vault(&CreateVault {
            name: name.into(),
            store,
            soft_delete_days: None,
            ..CreateVault::default()
        })
    };
    fs::create_dir(outside.path().join("store")).expect("a directory");
    let inside = |name: &str| outside.path().join("store").join(name);
    fs::create_dir(inside("photos")).expect("a directory");
    fs::write(inside("thesis.odt"), b"years of work").expect("a file");
    fs::create_dir(inside("lost+found")).expect("what mkfs makes");
    let error = make("second").expect_err("somebody else's directory");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    for part in ["photos", "thesis.odt", "2 in all"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(error.help().is_some_and(|help| help.contains("empty directory")), "{:?}", error.help());
    assert_eq!(fs::read_dir(inside("")).expect("a directory").count(), 3, "nothing is put there");
    assert!(!state.file("keys/second.key").exists());
    fs::remove_dir(inside("photos")).expect("removed");
    fs::remove_file(inside("thesis.odt")).expect("removed");
    make("second").expect("a lone lost+found is in nobody's way");
}

#[test]
fn a_store_without_its_first_blob_is_damaged_and_not_absent() {
    let (state, _) = stored();
    let blob = state.file("vaults/main/vault.BLOB");
    let bytes = fs::read(&blob).expect("the blob");
    let daemon = state.start();
    fs::remove_file(&blob).expect("removed");
    let check = daemon.finished(&daemon.client().check_vault("main").expect("a job"));
    assert_eq!(job_failure(&check).0, Kind::Corrupt);
    assert_eq!(check.check.expect("what it found").problems[0].what, "vault");
    assert!(daemon.stop().success());
    let daemon = state.start();
    let restore = RestoreRequest { point: "web@1".into(), to: "new".into(), ..Default::default() };
    let errors = [
        daemon.client().check_vault("main").expect_err("it cannot be opened"),
        daemon.client().restore(&restore).expect_err("it cannot be opened"),
    ];
    for error in errors {
        assert_eq!(error.kind(), Kind::Corrupt, "{error}");
        assert!(error.to_string().contains("vault.BLOB"), "{error}");
    }
    fs::write(&blob, bytes).expect("put back");
    opens_by_itself(&daemon);
    assert_eq!(daemon.restore("web@1", "new").error, None);
}

/// As when a filesystem is mounted after the daemon has started.
#[test]
fn a_store_that_comes_after_the_start_is_opened_by_itself() {
    let (state, _) = stored();
    let (store, elsewhere) = (state.file("vaults/main"), state.file("elsewhere"));
    fs::rename(&store, &elsewhere).expect("taken away");
    let daemon = state.start();
    assert_eq!(failure(daemon.client().check_vault("main")).0, Kind::Unavailable);
    fs::rename(&elsewhere, &store).expect("back");
    opens_by_itself(&daemon);
    assert_eq!(daemon.restore("web@1", "new").error, None);
}

fn opens_by_itself(daemon: &Daemon) {
    let is_open =
        || daemon.client().check_vault("main").is_ok_and(|job| daemon.finished(&job).error.is_none());
    let patience = (0..120).find(|_| {
        std::thread::sleep(Duration::from_millis(500));
        is_open()
    });
    assert!(patience.is_some(), "it stays closed for a minute");
}

#[test]
fn a_recovery_sheet_that_is_none_is_warned_of() {
    let state = State::new();
    let daemon = state.start();
    let sheet = state.file("keys/main.sheet");
    let warns = |says: &str| {
        let warnings = daemon.client().status().expect("status").warnings;
        warnings.iter().any(|warning| warning.contains("main.sheet") && warning.contains(says))
    };
    let own = fs::read(&sheet).expect("a sheet");
    assert!(!warns(""));
    fs::write(&sheet, b"coffee\n").expect("written");
    assert!(warns("is damaged"));
    fs::write(&sheet, b"\xff").expect("written");
    assert!(warns("not UTF-8"));
    fs::remove_file(&sheet).expect("removed");
    assert!(warns("is missing"));
    fs::write(&sheet, own).expect("put back");
    assert!(!warns(""));
}
