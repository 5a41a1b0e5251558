//! Random histories under crashes. Long form: `BLOCKD_SOAK=1`.

use crate::common::{Plan, history};

/// Histories of one kind: in a normal run, and in the long form.
fn seeds(normal: u64, long: u64) -> std::ops::Range<u64> {
    0..if std::env::var_os("BLOCKD_SOAK").is_some() { long } else { normal }
}

fn run(seeds: std::ops::Range<u64>, plan: Plan) {
    let mut states = 0;
    sim::for_seeds(seeds, |rng| match history(rng, plan) {
        Ok(crashes) => states += crashes,
        Err(why) => panic!("{why}"),
    });
    println!("{states} crash states");
}

#[test]
fn without_crashes_the_disk_is_its_model() {
    run(seeds(150, 3_000), Plan { steps: 120, crash_every: 1_000_000, power: false });
}

#[test]
fn a_dead_daemon_loses_nothing_acknowledged() {
    run(seeds(600, 40_000), Plan { steps: 60, crash_every: 8, power: false });
}

#[test]
fn a_power_cut_leaves_what_was_flushed_and_no_garbage() {
    run(seeds(1_500, 150_000), Plan { steps: 60, crash_every: 8, power: true });
}
