//! Random histories under crashes. Long form: `BLOCKD_SOAK=1`.

use crate::common::{Plan, history};

/// Runs histories until so many crash states were looked at: a stop of the machine, the disk opened from what is left,
/// and all of it compared. Gives how many.
fn look_at(states: u64, plan: Plan) -> u64 {
    let (mut looked_at, mut seed) = (0, 0);
    while looked_at < states {
        sim::for_seeds(seed..seed + 1, |rng| match history(rng, plan) {
            Ok(crashes) => looked_at += crashes,
            Err(why) => panic!("{why}"),
        });
        if std::env::var_os(sim::SEED_VARIABLE).is_some() {
            return looked_at;
        }
        seed += 1;
    }
    println!(
        "{looked_at} crash states in {seed} histories, power {}: nothing acknowledged was lost",
        plan.power
    );
    looked_at
}

/// So many in a normal run, and in the long form.
fn of(normal: u64, long: u64) -> u64 {
    if std::env::var_os("BLOCKD_SOAK").is_some() { long } else { normal }
}

#[test]
fn without_crashes_the_disk_is_its_model() {
    sim::for_seeds(0..of(150, 3_000), |rng| {
        let plan = Plan { steps: 120, crash_every: 1_000_000, power: false, outcomes: 0 };
        history(rng, plan).unwrap_or_else(|why| panic!("{why}"));
    });
}

#[test]
fn a_dead_daemon_loses_nothing_acknowledged() {
    look_at(of(10_000, 200_000), Plan { steps: 60, crash_every: 8, power: false, outcomes: 1 });
}

/// The promise of durability: 100,000 crash states in a normal run, a million in the long form.
#[test]
fn a_power_cut_leaves_what_was_flushed_and_no_garbage() {
    look_at(of(100_000, 1_000_000), Plan { steps: 60, crash_every: 6, power: true, outcomes: 12 });
}
