//! Whether an increment costs what changed, and not what the disk is: the same blocks change on a small disk and on a large, sparse one.

use anyhow::{Context, Result};
use block::{BlockDevice, ByteOffset};

use crate::appliance::{Appliance, Setting, now};
use crate::report::spread;
use crate::server::run as run_program;

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Increments of each disk
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Blocks of 4 KiB that change, anywhere in the first GiB
    #[arg(long, default_value_t = 2621, value_parser = clap::value_parser!(u64).range(1..=262_144))]
    blocks: u64,
    /// GiB of the large disk
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(2..=16384))]
    large_gib: u64,
    #[command(flatten)]
    setting: Setting,
}

const BLOCK: u64 = 4096;
const GIB: u64 = 1 << 30;

/// Measures and prints the times and their ratio.
///
/// # Errors
/// A program is missing or fails.
pub fn run(options: &Options) -> Result<()> {
    let appliance = Appliance::start(&options.setting)?;
    let disks = [("small", GIB), ("large", options.large_gib * GIB)];
    for (name, size) in disks {
        appliance.create(name, size)?;
        // something everywhere it will change, so that increments meet trees that are there
        change(&appliance, name, 0, options.blocks)?;
        backup(options, &appliance, name)?;
    }
    let mut seconds = [Vec::new(), Vec::new()];
    for round in 1..=options.rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            change(&appliance, disks[at].0, round, options.blocks)?;
            appliance.settle()?;
            let began = now();
            backup(options, &appliance, disks[at].0)?;
            seconds[at].push(began.elapsed().as_secs_f64());
        }
    }
    let ratios = seconds[1].iter().zip(&seconds[0]).map(|(large, small)| large / small).collect();
    let (low, middle, high) = spread(ratios).context("no rounds")?;
    println!("| disk | increment, ms |\n|---|---|");
    for ((_, size), seconds) in disks.iter().zip(&seconds) {
        let (low, middle, high) = spread(seconds.clone()).context("no rounds")?;
        let ms = |seconds: f64| seconds * 1000.0;
        println!("| {} GiB | {:.1} ({:.1}–{:.1}) |", size / GIB, ms(middle), ms(low), ms(high));
    }
    println!("\nlarge, as a multiple of small: **{middle:.2}** ({low:.2}–{high:.2})");
    Ok(())
}

fn backup(options: &Options, appliance: &Appliance, disk: &str) -> Result<()> {
    run_program(options.setting.blockctl(appliance).args(["backup", disk])).map(drop)
}

/// Overwrites the chosen blocks with what nobody has.
fn change(appliance: &Appliance, disk: &str, round: u32, blocks: u64) -> Result<()> {
    let uri = appliance.client().disk(disk)?.uri;
    let device = nbd::Client::connect(&uri.parse()?, 1)?;
    let step = GIB / BLOCK / blocks;
    for number in 0..blocks {
        let mut state = number << 32 | u64::from(round) << 8 | disk.len() as u64 | 1;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state
        };
        let content: Vec<u8> = (0..BLOCK / 8).flat_map(|_| next().to_le_bytes()).collect();
        device.write_at(ByteOffset::new(number * step * BLOCK), &content)?;
    }
    Ok(device.flush()?)
}
