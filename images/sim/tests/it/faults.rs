//! The fault plan does what it says.

use block::{ByteRange, Kind, Media, MediaFile, OpenHow};
use sim::{Effect, Fault, Op, SimMedia};
use std::sync::Arc;

/// A media with the durable file `a` of 4096 ones.
fn start() -> (SimMedia, Arc<dyn MediaFile>) {
    let media = SimMedia::new();
    let file = media.open("a", OpenHow::Create).unwrap();
    file.write_at(0, &[1; 4096]).unwrap();
    file.sync().unwrap();
    media.sync_dir("").unwrap();
    (media, file)
}

fn first_byte(media: &SimMedia) -> u8 {
    let mut byte = [0];
    media.open("a", OpenHow::Read).unwrap().read_at(0, &mut byte).unwrap();
    byte[0]
}

/// The first byte after each possible cut.
fn after_cuts(media: &SimMedia) -> Vec<u8> {
    let mut bytes: Vec<u8> = media.fork().power_cut_all(64).map(|after| first_byte(&after)).collect();
    bytes.sort();
    bytes.dedup();
    bytes
}

#[test]
fn a_failed_sync_is_never_made_good_by_a_later_one() {
    for effect in [Effect::Eio, Effect::Enospc] {
        let (media, file) = start();
        file.write_at(0, &[2; 10]).unwrap();
        media.inject(Fault::new(Op::Sync, effect));
        assert!(file.sync().is_err());
        file.write_at(4000, &[3; 8]).unwrap();
        file.sync().unwrap();
        assert_eq!(first_byte(&media), 2, "readers still see it");
        assert_eq!(after_cuts(&media), [1], "the next sync did not save it");
        let after = media.power_cut_all(1).next().unwrap();
        let mut word = [0; 8];
        after.open("a", OpenHow::Read).unwrap().read_at(4000, &mut word).unwrap();
        assert_eq!(word, [3; 8], "what was written after the failure is safe");
    }
}

#[test]
fn a_failed_directory_sync_is_never_made_good_either() {
    let (media, _file) = start();
    media.open("b", OpenHow::Create).unwrap();
    media.inject(Fault::new(Op::SyncDir, Effect::Eio));
    assert_eq!(media.sync_dir("").unwrap_err().kind(), Kind::Io);
    media.sync_dir("").unwrap();
    assert_eq!(media.files().len(), 2);
    assert_eq!(media.power_cut_all(1).next().unwrap().files().len(), 1);
}

#[test]
fn a_lying_sync_makes_nothing_durable() {
    let (media, file) = start();
    file.write_at(0, &[2; 10]).unwrap();
    media.inject(Fault::new(Op::Sync, Effect::Lie).on("a").forever());
    file.sync().unwrap();
    file.sync().unwrap();
    assert_eq!(media.faults_fired(), 2);
    assert_eq!(after_cuts(&media), [1, 2]);
}

#[test]
fn writes_are_lost_or_land_elsewhere() {
    let (media, file) = start();
    media.inject(Fault::new(Op::Write, Effect::Lose));
    file.write_at(0, &[2; 8]).unwrap();
    assert_eq!(first_byte(&media), 1);
    media.inject(Fault::new(Op::Write, Effect::Misdirect { to: 0 }));
    file.write_at(8, &[3; 8]).unwrap();
    let mut both = [0; 16];
    file.read_at(0, &mut both).unwrap();
    assert_eq!(both, [3, 3, 3, 3, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1]);
}

#[test]
fn a_stale_read_is_as_of_the_last_sync() {
    let (media, file) = start();
    file.write_at(0, &[2; 8]).unwrap();
    media.inject(Fault::new(Op::Read, Effect::Stale));
    assert_eq!(first_byte(&media), 1);
    assert_eq!(first_byte(&media), 2);
}

#[test]
fn faults_choose_their_call_by_kind_path_and_count() {
    let (media, file) = start();
    media.inject(Fault::new(Op::Write, Effect::Eio).on("b").after(1));
    let other = media.open("b", OpenHow::Create).unwrap();
    file.write_at(0, b"x").unwrap();
    other.write_at(0, b"x").unwrap();
    file.write_at(0, b"x").unwrap();
    assert_eq!(other.write_at(0, b"x").unwrap_err().kind(), Kind::Io);
    other.write_at(0, b"x").unwrap();
    media.inject(Fault::new(Op::Rename, Effect::Enospc).on("c").forever());
    assert_eq!(media.rename("b", "c").unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(media.rename("b", "c").unwrap_err().kind(), Kind::NoSpace);
    media.clear_faults();
    media.rename("b", "c").unwrap();
}

#[test]
fn damage_is_durable_at_once() {
    let (media, file) = start();
    media.flip_bit("a", 0, 7);
    assert_eq!((first_byte(&media), after_cuts(&media)), (0x81, vec![0x81]));
    let after = media.process_crash();
    after.truncate("a", 1);
    after.overwrite("a", 0, &[9]);
    assert_eq!(after.files(), [("a".to_owned(), 1)]);
    assert_eq!(after_cuts(&after), [9]);
    assert!(file.read_at(0, &mut [0]).is_err());
}

#[test]
fn a_full_filesystem_refuses_new_pages_and_no_others() {
    let (media, file) = start();
    media.set_capacity(3 * 4096);
    file.allocate(ByteRange::between(4096, 8192)).unwrap();
    let other = media.open("b", OpenHow::Create).unwrap();
    assert_eq!(other.allocate(ByteRange::between(0, 8192)).unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(other.write_at(0, &[1; 8192]).unwrap_err().kind(), Kind::NoSpace);
    assert_eq!(other.size().unwrap(), 4096, "a part was written");
    assert_eq!(media.space().unwrap().available, 0);
    file.write_at(0, &[2; 8192]).unwrap();
    file.set_len(1 << 44).unwrap();
    file.punch(ByteRange::between(0, 4096)).unwrap();
    other.write_at(4096, &[1; 4096]).unwrap();
    media.remove("b").unwrap();
    assert_eq!(media.space().unwrap().available, 0, "an open file keeps its pages");
    drop(other);
    assert_eq!(media.space().unwrap().available, 8192);
}

#[test]
#[should_panic(expected = "cannot happen")]
fn senseless_faults_are_refused() {
    Fault::new(Op::Read, Effect::Lie);
}
