//! What a power cut takes and what it leaves.

use block::{ByteRange, Media, OpenHow};
use sim::{SimMedia, for_seeds};
use std::collections::BTreeSet;

type State = Vec<(String, Vec<u8>)>;

fn write(media: &SimMedia, path: &str, bytes: &[u8]) {
    let file = media.open(path, OpenHow::Truncate).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
}

fn content(media: &SimMedia) -> State {
    let dynamic: &dyn Media = media;
    media
        .files()
        .into_iter()
        .map(|(path, len)| (path.clone(), dynamic.read_whole(&path, len).unwrap()))
        .collect()
}

/// Every state that whole changes can leave.
fn outcomes(media: &SimMedia) -> BTreeSet<State> {
    media.fork().power_cut_all(1 << 12).map(|after| content(&after)).collect()
}

fn state(files: &[(&str, &[u8])]) -> State {
    files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

fn set(states: &[&[(&str, &[u8])]]) -> BTreeSet<State> {
    states.iter().map(|files| state(files)).collect()
}

#[test]
fn what_is_synced_with_its_name_stays_and_nothing_else_must() {
    let media = SimMedia::new();
    write(&media, "a", b"old");
    media.sync_dir("").unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"old")]]));
    let file = media.open("a", OpenHow::Write).unwrap();
    file.write_at(0, b"new").unwrap();
    file.set_len(5).unwrap();
    let (old, new) = (&[("a", &b"old"[..])], &[("a", &b"new"[..])]);
    assert_eq!(outcomes(&media), set(&[old, new, &[("a", b"old\0\0")], &[("a", b"new\0\0")]]));
    file.sync().unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"new\0\0")]]));
}

#[test]
fn a_synced_file_without_a_synced_name_may_vanish() {
    let media = SimMedia::new();
    write(&media, "a", b"1");
    assert_eq!(outcomes(&media), set(&[&[], &[("a", b"1")]]));
    media.create_dir("d").unwrap();
    write(&media, "d/b", b"2");
    media.sync_dir("d").unwrap();
    assert_eq!(
        outcomes(&media),
        set(&[&[], &[("a", b"1")], &[("d/b", b"2")], &[("a", b"1"), ("d/b", b"2")]])
    );
    media.sync_dir("").unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"1"), ("d/b", b"2")]]));
}

#[test]
fn an_unsynced_file_under_a_synced_name_may_be_empty() {
    let media = SimMedia::new();
    media.open("a", OpenHow::Create).unwrap().write_at(0, b"1").unwrap();
    media.sync_dir("").unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"")], &[("a", b"1")]]));
}

#[test]
fn a_rename_is_old_or_new_until_its_directories_are_synced() {
    let media = SimMedia::new();
    media.create_dir("d").unwrap();
    write(&media, "a", b"old");
    write(&media, "b", b"new");
    media.sync_dir("").unwrap();
    media.rename("b", "a").unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"old"), ("b", b"new")], &[("a", b"new")]]));
    media.sync_dir("").unwrap();
    media.rename("a", "d/a").unwrap();
    let both = set(&[&[("a", b"new")], &[("d/a", b"new")]]);
    assert_eq!(outcomes(&media), both);
    media.sync_dir("").unwrap();
    assert_eq!(outcomes(&media), both, "one of two directories is not enough");
    media.sync_dir("d").unwrap();
    assert_eq!(outcomes(&media), set(&[&[("d/a", b"new")]]));
}

#[test]
fn a_file_moved_twice_is_never_in_two_places() {
    let media = SimMedia::new();
    write(&media, "a", b"1");
    media.sync_dir("").unwrap();
    media.rename("a", "b").unwrap();
    media.rename("b", "c").unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"1")], &[("b", b"1")], &[("c", b"1")]]));
}

#[test]
fn a_removal_may_come_undone_until_the_directory_is_synced() {
    let media = SimMedia::new();
    write(&media, "a", b"1");
    media.sync_dir("").unwrap();
    media.remove("a").unwrap();
    assert_eq!(outcomes(&media), set(&[&[], &[("a", b"1")]]));
    media.sync_dir("").unwrap();
    assert_eq!(outcomes(&media), set(&[&[]]));
}

#[test]
fn punches_and_truncations_are_lost_like_writes() {
    let media = SimMedia::new();
    write(&media, "a", &[1; 8]);
    media.sync_dir("").unwrap();
    let file = media.open("a", OpenHow::Write).unwrap();
    file.punch(ByteRange::between(0, 4)).unwrap();
    file.set_len(6).unwrap();
    let outcomes = outcomes(&media);
    let lengths: Vec<(usize, u8)> = outcomes.iter().map(|state| (state[0].1.len(), state[0].1[0])).collect();
    assert_eq!(lengths, [(6, 0), (8, 0), (6, 1), (8, 1)]);
}

#[test]
fn opening_anew_may_leave_the_old_content() {
    let media = SimMedia::new();
    write(&media, "a", b"old");
    media.sync_dir("").unwrap();
    media.open("a", OpenHow::Truncate).unwrap();
    assert_eq!(outcomes(&media), set(&[&[("a", b"")], &[("a", b"old")]]));
}

/// Random cuts reach everything from "nothing landed" to "all landed", and torn writes in between.
#[test]
fn random_cuts_reach_both_ends_and_tear() {
    let media = SimMedia::new();
    write(&media, "a", &[1; 16384]);
    media.sync_dir("").unwrap();
    media.open("a", OpenHow::Write).unwrap().write_at(0, &[2; 16384]).unwrap();
    let mut seen = [0; 4];
    for_seeds(0..300, |rng| {
        let after = content(&media.power_cut(rng)).remove(0).1;
        assert_eq!(after.len(), 16384);
        assert!(after.chunks(8).all(|word| word == [1; 8] || word == [2; 8]));
        let old = after.chunks(8).filter(|word| word[0] == 1).count();
        let in_sector = after.chunks(512).any(|sector| sector.contains(&1) && sector.contains(&2));
        let kind = if old == 2048 {
            0
        } else if old == 0 {
            1
        } else if in_sector {
            2
        } else {
            3
        };
        seen[kind] += 1;
    });
    assert!(
        seen.iter().all(|&count| count >= 10),
        "old, new, torn in a sector, torn between sectors: {seen:?}"
    );
}

#[test]
fn a_cut_ends_memory_and_locks_and_begins_another_session() {
    let media = SimMedia::new();
    let memory = media.volatile("map", 8).unwrap();
    let _held = media.lock("lock").unwrap();
    for_seeds(0..20, |rng| {
        let after = media.power_cut(rng);
        assert!(after.list_volatile().unwrap().is_empty());
        assert!(after.lock("lock").is_ok());
        let again = after.power_cut(rng);
        let sessions = [media.power_cut(rng), after, again.clone(), again.power_cut(rng)];
        let boots: BTreeSet<_> =
            sessions.iter().map(|media| media.session()).filter_map(Result::ok).map(|at| at.boot).collect();
        // the one in the middle and its predecessor are off by now and tell nothing
        assert_eq!(boots.len(), 2);
    });
    assert!(memory.reserve(0..8).is_err());
}
