//! A disk with many recovery points beside one with a single point.
//!
//! Every block of the many-points disk was written once, in an epoch drawn at random, so that its owners are scattered as
//! badly as they can be. Reads are measured first, while nothing is written: both disks have an empty active layer.
//! Then the points are folded to ten, and at last both disks are written.

use std::path::Path;

use anyhow::{Context, Result};
use block::{BlockDevice, ByteOffset};

use crate::appliance::{Appliance, Setting};
use crate::fio::{self, Access};
use crate::report::spread;

const ONE: &str = "one";
const MANY: &str = "many";
const BLOCK: u64 = 4096;

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Recovery points of the disk that has many
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(10..))]
    points: u64,
    /// Rounds; the median over them is reported
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds a cell lasts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// MiB of each disk
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..))]
    size_mib: u64,
    #[command(flatten)]
    setting: Setting,
}

/// Measures and prints the tables.
///
/// # Errors
/// The daemon or fio fails.
pub fn run(options: &Options) -> Result<()> {
    let mut appliance = Appliance::start(&options.setting)?;
    let field = Field::make(&appliance, options)?;
    let opened = appliance.restart()?;
    println!("| {} points beside 1 | median (lowest–highest) |\n|---|---|", options.points);
    let (read, in_order) = (Access::read(options.seconds), Access::read_in_order(options.seconds));
    field.row(&appliance, "4 KiB random read, requests a second", read)?;
    let descriptors = descriptors(appliance.server()?.pid(), &appliance.state().join("disks"))?;
    field.row(&appliance, "128 KiB sequential read over scattered owners", in_order)?;
    let memory = Memory::of(appliance.server()?.pid())?;
    let disk = appliance.client().disk(MANY)?;
    for point in
        field.points.iter().enumerate().filter(|(place, _)| (place + 1) % (field.points.len() / 10) != 0)
    {
        appliance.delete(point.1)?;
    }
    let folded = appliance.wait_until_folded(MANY)?;
    let left = appliance.client().disk(MANY)?.points;
    field.row(&appliance, &format!("the same, folded to {left} points"), in_order)?;
    field.row(&appliance, "4 KiB random write, folded", Access::write(options.seconds))?;
    println!("\n| the daemon with both disks | |\n|---|---|");
    println!("| killed, started, all disks open | {} ms |", opened.as_millis());
    println!("| descriptors in the disks' folders after random reads | {descriptors} |");
    println!("| memory of the process alone | {:.1} MiB |", memory.alone_mib);
    println!("| of it mapped from files, evictable | {:.1} MiB |", memory.mapped_mib);
    let mib = |bytes: Option<u64>| bytes.unwrap_or_default() as f64 / 1048576.0;
    println!(
        "| maps and owner index of the disk, on the host | {:.1} and {:.1} MiB |",
        mib(disk.maps),
        mib(disk.index)
    );
    println!("| folding {} points away | {:.1} s |", options.points - left, folded.as_secs_f64());
    Ok(())
}

/// Both disks.
struct Field<'a> {
    options: &'a Options,
    size_bytes: u64,
    one: String,
    many: String,
    points: Vec<String>,
}

impl<'a> Field<'a> {
    fn make(appliance: &Appliance, options: &'a Options) -> Result<Self> {
        let size_bytes = options.size_mib << 20;
        let one = appliance.create(ONE, size_bytes)?.uri;
        fio::run(&one, size_bytes, 1, fio::FILL)?;
        appliance.snapshot(ONE)?;
        let many = appliance.create(MANY, size_bytes)?.uri;
        let mut points = Vec::new();
        let disk = nbd::Client::connect(&many.parse()?, 1)?;
        let order = shuffled(size_bytes / BLOCK);
        for epoch in order.chunks(order.len().div_ceil(options.points as usize)) {
            for &block in epoch {
                disk.write_at(ByteOffset::new(block * BLOCK), &[block as u8 | 1; BLOCK as usize])?;
            }
            points.push(appliance.snapshot(MANY)?.name);
        }
        appliance.settle()?;
        Ok(Self { options, size_bytes, one, many, points })
    }

    /// Measures both disks in turn and prints how the one with many points compares.
    fn row(&self, appliance: &Appliance, name: &str, access: Access) -> Result<()> {
        let mut ratios = Vec::new();
        for round in 0..self.options.rounds {
            appliance.settle()?;
            let measure = |uri: &str| Ok::<_, anyhow::Error>(fio::run(uri, self.size_bytes, 1, access)?.iops);
            let (many, one) = if round % 2 == 0 {
                let many = measure(&self.many)?;
                (many, measure(&self.one)?)
            } else {
                let one = measure(&self.one)?;
                (measure(&self.many)?, one)
            };
            ratios.push(many / one);
        }
        let (low, mid, high) = spread(ratios).context("no round")?;
        println!("| {name} | **{mid:.2}** ({low:.2}–{high:.2}) |");
        Ok(())
    }
}

/// All blocks in an order that is the same in every run.
fn shuffled(blocks: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..blocks).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for place in (1..order.len()).rev() {
        // xorshift: good enough to scatter, and no dependency
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(place, (state % (place as u64 + 1)) as usize);
    }
    order
}

/// Descriptors of a process that lead into a folder.
fn descriptors(pid: u32, folder: &Path) -> Result<usize> {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let targets = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    Ok(targets.filter(|target| target.starts_with(folder)).count())
}

/// What a process holds in memory.
struct Memory {
    /// That only its end gives back.
    alone_mib: f64,
    /// That the host can write out or drop.
    mapped_mib: f64,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = std::fs::read_to_string(&path)?;
        let kib = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context(path.clone())?;
            Ok(line.trim().trim_end_matches("kB").trim().parse()?)
        };
        let mapped = kib("RssFile:")? + kib("RssShmem:")?;
        Ok(Self { alone_mib: kib("RssAnon:")? / 1024.0, mapped_mib: mapped / 1024.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_in_the_order_once() {
        let mut order = shuffled(1000);
        assert!(order.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count() < 20, "hardly shuffled");
        order.sort_unstable();
        assert!(order.into_iter().eq(0..1000));
    }
}
