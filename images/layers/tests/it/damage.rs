//! Damaged files: named, never believed, never a panic.

use crate::common::env;
use block::{BlockDevice, ByteCount, ByteOffset, DiskId, Kind};
use layers::{BlockState, Chain, Disk, Entry, FrozenMap, read_records};
use proptest::prelude::*;
use sim::{Rng, SimMedia};

/// A closed disk with two points.
fn machine() -> SimMedia {
    let (media, mut rng) = (SimMedia::new(), Rng::new(5));
    let env = env(&media, &mut rng);
    let disk = Disk::create(&env, "d", DiskId::from_bytes([1; 16]), ByteCount::new(40 * 4096)).unwrap();
    for round in 1..=3u8 {
        disk.write_at(ByteOffset::new(u64::from(round) * 4096), &[round; 9000]).unwrap();
        if round < 3 {
            disk.seal().unwrap();
        }
    }
    assert!(disk.make_sums(&mut |_| true).unwrap());
    disk.close().unwrap();
    drop(disk);
    media.process_crash()
}

fn open(media: &SimMedia) -> Result<(), layers::Error> {
    Disk::open(&env(media, &mut Rng::new(6)), "d").map(drop)
}

fn files(media: &SimMedia) -> Vec<(String, u64)> {
    // the others hold nothing: a lock, and blocks set aside
    let says_nothing = |name: &str| ["lock", ".new", "room"].iter().any(|end| name.ends_with(end));
    media.files().into_iter().filter(|(name, _)| !says_nothing(name)).collect()
}

#[test]
fn a_truncated_file_is_named() {
    let healthy = machine();
    assert!(open(&healthy.fork()).is_ok());
    for (name, len) in files(&healthy) {
        for cut in [0, 1, len / 2, len - 1] {
            let media = healthy.fork();
            media.truncate(&name, cut);
            let error = open(&media).expect_err(&format!("{name} cut to {cut} is not noticed"));
            assert_eq!(error.kind(), Kind::Corrupt, "{name} cut to {cut}: {error}");
            assert!(error.to_string().contains(&name), "{name} cut to {cut}: {error}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    use block::Media;
    let healthy = machine();
    for (name, _) in files(&healthy) {
        let media = healthy.fork();
        media.remove(&name).unwrap();
        let error = open(&media).expect_err(&format!("{name} is not missed"));
        assert_eq!(error.kind(), Kind::Corrupt, "{name}: {error}");
        assert!(error.to_string().contains(&name), "{name}: {error}");
    }
}

/// Every bit of every map and of the chain. (Bytes of layers are covered by checksums in a later format.)
#[test]
fn a_flipped_bit_in_metadata_is_found() {
    let healthy = machine();
    for (name, len) in
        files(&healthy).into_iter().filter(|(name, _)| name.ends_with("chain") || name.ends_with(".map"))
    {
        for bit in 0..len * 8 {
            let media = healthy.fork();
            media.flip_bit(&name, bit / 8, (bit % 8) as u8);
            let error = open(&media).expect_err(&format!("{name} bit {bit} is not noticed"));
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "{name} bit {bit}: {error}");
        }
    }
}

/// After an orderly close no flipped bit of the active layer's maps changes what the disk reads without being named.
#[test]
fn a_flipped_bit_in_a_closed_disks_committed_state_is_found_or_harmless() {
    use block::BlockSource;
    let healthy = machine();
    let content = |media: &SimMedia| {
        let disk = Disk::open(&env(media, &mut Rng::new(6)), "d")?;
        let mut bytes = vec![0; 40 * 4096];
        disk.read_at(ByteOffset::ZERO, &mut bytes)?;
        Ok::<_, layers::Error>(bytes)
    };
    let expected = content(&healthy.fork()).unwrap();
    let mut found = 0;
    for (name, len) in files(&healthy) {
        let step = match name.rsplit_once('.') {
            Some((_, "committed")) => 5,
            Some((_, "journal")) => 1,
            _ => continue,
        };
        for bit in (0..(len * 8).min(120_000)).step_by(step) {
            let media = healthy.fork();
            media.flip_bit(&name, bit / 8, (bit % 8) as u8);
            match content(&media) {
                Ok(bytes) => assert!(bytes == expected, "{name} bit {bit} changes what is read"),
                Err(error) => {
                    found += 1;
                    assert!(error.to_string().contains(&name), "{name} bit {bit}: {error}");
                }
            }
        }
    }
    assert!(found > 1_000, "only {found} flips were noticed");
}

fn any_map() -> impl Strategy<Value = FrozenMap> {
    let run = (0u64..40_000, 1u64..300, 0u8..4);
    prop::collection::vec(run, 0..20).prop_map(|runs| {
        let mut map = FrozenMap::new(40_000);
        for (first, count, state) in runs {
            let state = [BlockState::Absent, BlockState::Hydrated, BlockState::Zero, BlockState::Data]
                [usize::from(state)];
            map.overlay(&FrozenMap::of_run(40_000, first, count.min(40_000 - first), state));
        }
        map
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn maps_round_trip(map in any_map()) {
        let disk = DiskId::from_bytes([3; 16]);
        let bytes = map.encode(disk, 9).unwrap();
        prop_assert!(bytes.len() as u64 <= FrozenMap::max_encoded_len(40_000));
        prop_assert_eq!(FrozenMap::decode(&bytes, disk, 9, 40_000, "m").unwrap(), map);
        prop_assert!(FrozenMap::decode(&bytes, disk, 8, 40_000, "m").is_err());
    }

    #[test]
    fn decoders_survive_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), blocks in 0u64..1 << 34) {
        let disk = DiskId::from_bytes([3; 16]);
        prop_assert!(Chain::decode(&bytes, "c").is_err());
        prop_assert!(FrozenMap::decode(&bytes, disk, 9, blocks, "m").is_err());
        let _: Vec<Entry> = read_records(&bytes, 100);
    }

    /// Bytes with a right header and checksum reach the inner decoders.
    #[test]
    fn inner_decoders_survive_any_bytes(body in prop::collection::vec(any::<u8>(), 0..600), map in any_map()) {
        let disk = DiskId::from_bytes([3; 16]);
        let head = map.encode(disk, 9).unwrap();
        let mut bytes = head[..32 + 32].to_vec();
        bytes.extend(&body);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        // an error or another map, but no panic
        let _any = FrozenMap::decode(&bytes, disk, 9, 40_000, "m");
    }
}
