//! Every planted bug must be caught by the test that is there for it.
//!
//! A bug is switched on for a whole process, so each runs in a process of its own: this binary again, with one test
//! and the bug's name in an environment variable.

use std::process::Command;

const VARIABLE: &str = "BLOCKD_PLANTED";

/// Runs a test that catches bugs, with the bug of the environment if this process was started for one.
pub fn allow(test: impl FnOnce()) {
    match std::env::var(VARIABLE) {
        Ok(bug) => block::planted::with(&bug, test),
        Err(_) => test(),
    }
}

/// Runs one test of this binary with a bug and gives whether it passed, and what it printed.
fn run(bug: &str, test: &str) -> (bool, String) {
    let me = std::env::current_exe().expect("this binary has a path");
    let out = Command::new(me)
        .args([test, "--exact", "--test-threads=1", "--nocapture"])
        .env(VARIABLE, bug)
        .output()
        .expect("this binary runs again");
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert!(text.contains("running 1 test"), "{test} is not a test: {text}");
    (out.status.success(), text)
}

/// The test finds the bug, says so in these words, and finds nothing where there is no bug.
fn caught(bug: &str, test: &str, words: &str) {
    let (passed, text) = run(bug, test);
    assert!(!passed, "{bug} was not caught by {test}");
    assert!(text.contains(words), "{bug} was caught by {test}, but not for {words:?}: {text}");
}

#[test]
fn a_blob_put_without_syncing_its_file() {
    caught("vault-blob-unsynced", "directory::a_put_that_returned_survives_every_power_cut", "is torn");
}

#[test]
fn a_blob_put_without_syncing_its_directory() {
    caught(
        "vault-directory-unsynced",
        "directory::a_put_that_returned_survives_every_power_cut",
        "and is gone",
    );
}

const POWER: &str = "power::every_power_cut_leaves_a_vault_that_keeps_its_word";

#[test]
fn a_point_put_before_its_packs() {
    caught("vault-point-before-pack", POWER, "damage");
}

#[test]
fn an_index_put_before_its_packs() {
    caught("vault-index-before-pack", POWER, "missing or damaged");
}

#[test]
fn deduplication_against_a_pack_nobody_looked_at() {
    let test = "damage::a_backup_never_deduplicates_against_damage";
    caught("vault-dedup-unverified", test, "relied on a damaged pack");
}

#[test]
fn a_seal_that_is_not_checked() {
    caught("vault-seal-unchecked", "damage::every_flipped_byte_is_found_and_its_blob_named", "flip");
}

#[test]
fn a_seal_that_does_not_say_where_it_belongs() {
    caught("vault-place-unbound", "damage::swapped_objects_are_refused", "restores otherwise");
}

#[test]
fn a_pack_known_to_be_damaged_and_relied_on() {
    let test = "damage::what_a_check_or_a_read_found_damaged_is_stored_anew";
    caught("vault-damage-reused", test, "relied on what is damaged");
}

#[test]
fn a_token_that_nobody_looks_at() {
    let test = "writers::the_same_identity_twice_is_fenced";
    caught("vault-token-unchecked", test, "an ended token still writes");
}

#[test]
fn a_copy_whose_absence_nobody_notes() {
    let test = "copies::a_copy_that_was_away_is_known_to_lack_something";
    caught("vault-copy-unmarked", test, "nobody knows");
}

const SWEEP: &str = "sweep::no_mixture_of_sweeps_and_backups_loses_what_a_point_needs";

#[test]
fn a_hit_in_a_pack_that_is_not_pinned() {
    caught("vault-hit-unpinned", SWEEP, "panicked");
}

#[test]
fn a_sweep_that_ignores_running_backups() {
    caught("vault-sweep-ignores-running", SWEEP, "panicked");
}

#[test]
fn a_hit_in_a_pack_in_quarantine() {
    caught("vault-quarantine-ignored", SWEEP, "panicked");
}
