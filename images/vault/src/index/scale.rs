//! How hooks behave in a vault of many TiB. The long form builds the file for as much unique data as `BLOCKD_SCALE_TIB` says, directly, and prints
//! what questions cost; `docs/decisions/0002-version-1.md` says how to run it with little memory.

use std::time::Instant;

use block::linux::LinuxMedia;

use super::*;
use crate::index::run::Run;
use crate::name::{ApplianceId, BlobId};
use block::VaultId;

const VAULT: VaultId = VaultId::from_bytes([1; 16]);
/// Hooks for each TiB of unique data: one block in 32, and the first of 64 that is not one of these.
const HOOKS_OF_TIB: f64 = (1u64 << 28) as f64 * (1.0 / 32.0 + 31.0 / 32.0 / 64.0);
/// Packs for each TiB: 16 MiB each of data that halves.
const PACKS_OF_TIB: f64 = 32_768.0;
const QUESTIONS: u64 = 20_000;

fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The keys of a vault, ascending, spread as those of fingerprints are.
struct Keys {
    count: u64,
    stride: u64,
}

impl Keys {
    // always even: an odd one is a miss
    fn key(&self, number: u64) -> u64 {
        (number * self.stride + mixed(number) % self.stride) & !1
    }
}

fn pack(row: u64) -> Address {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&mixed(row).to_le_bytes());
    Address { appliance: ApplianceId::from_bytes([2; 8]), id: BlobId::from_bytes(id) }
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process has a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("and memory");
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

#[expect(clippy::disallowed_methods, reason = "a measurement times what it starts")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed().as_secs_f64())
}

#[test]
fn a_question_costs_the_same_in_a_vault_of_any_size() {
    let tib: f64 = std::env::var("BLOCKD_SCALE_TIB").ok().map_or(0.02, |tib| tib.parse().expect("a number"));
    let dir = tempfile::tempdir_in(
        std::env::var_os("BLOCKD_SCALE_DIR").unwrap_or_else(|| std::env::temp_dir().into()),
    );
    let dir = dir.expect("a directory");
    let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
    let count = (HOOKS_OF_TIB * tib) as u64;
    let packs = (PACKS_OF_TIB * tib).ceil() as u64;
    let keys = Keys { count, stride: u64::MAX / count };
    let (_, built_s) = timed(|| {
        let hooks = |number: u64| Ok(Hook { key: keys.key(number), pack: (mixed(!number) % packs) as u32 });
        let mut all = (0..count).map(hooks);
        let run = Run::write(&media, "run", VAULT, count, &mut all, &mut (0..packs).map(|row| Ok(pack(row))));
        run.expect("the file is written")
    });
    let bytes = std::fs::metadata(dir.path().join("run")).expect("it is there").len();
    if let Some(hook) = std::env::var_os("BLOCKD_SCALE_PAUSE") {
        // the place to drop the host's caches
        std::process::Command::new("sh").arg("-c").arg(hook).status().expect("the command runs");
    }
    let before = resident_mib();
    let (run, open_s) = timed(|| Run::open(&media, "run", VAULT).expect("it opens"));
    let chosen = |question: u64| mixed(question ^ 0x5eed) % keys.count;
    let (_, hits_s) = timed(|| {
        for number in (0..QUESTIONS).map(chosen) {
            assert_eq!(run.find(keys.key(number)).expect("read"), Some(pack(mixed(!number) % packs)));
        }
    });
    let (_, misses_s) = timed(|| {
        for number in (QUESTIONS..2 * QUESTIONS).map(chosen) {
            assert_eq!(run.find(keys.key(number) | 1).expect("read"), None);
        }
    });
    println!(
        "{tib} TiB of unique data: {count} hooks in {:.1} GiB, built in {built_s:.0} s, opened in {:.2} ms; \
         hits {:.0}/s, misses {:.0}/s; memory {before} MiB before, {} MiB after",
        bytes as f64 / f64::from(1 << 30),
        open_s * 1000.0,
        QUESTIONS as f64 / hits_s,
        QUESTIONS as f64 / misses_s,
        resident_mib(),
    );
    assert!(resident_mib() < before + 16, "nothing of the file is kept");
    assert!(bytes < count * 18 + packs * 28 + (1 << 16), "17 bytes a hook");
}
