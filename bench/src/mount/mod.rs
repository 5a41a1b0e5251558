//! Files through our mount beside the kernel's own mount of the same image, and beside the FUSE programs that read it.
//!
//! Each round mounts every subject afresh and measures it twice: cold (the daemon started anew, the host's caches
//! dropped) and warm, right after. The kernel reads the raw image through a loop device, we read the recovery point
//! that was made of it: the tree from the vault alone, the large file from the instant tier.

mod image;
mod subject;

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::appliance::{Appliance, Setting, now};
use crate::report::spread;
use crate::server::run as call;
use image::Image;
use subject::{Mounted, Subject};

/// Options of the workload. It needs root, for loop devices and to drop the host's caches.
#[derive(clap::Args)]
pub struct Options {
    /// Rounds; the median over them is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Small files in the tree
    #[arg(long, default_value_t = 20_000)]
    files: u32,
    /// MiB of the large file
    #[arg(long, default_value_t = 512)]
    large_mib: u64,
    /// GiB of the disk whose mount is timed
    #[arg(long, default_value_t = 1024)]
    disk_gib: u64,
    /// What is on the disk; the kernel mounts no NTFS here, so that is beside ntfs-3g alone
    #[arg(long, value_enum, default_value_t = Format::Ext4)]
    format: Format,
    #[command(flatten)]
    setting: Setting,
}

/// Filesystems measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Beside the kernel's mount and fuse2fs.
    Ext4,
    /// Beside ntfs-3g.
    Ntfs,
}

impl Format {
    /// Who is measured; the others are told as a multiple of the last.
    const fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Ext4 => &[Subject::Vault, Subject::Instant, Subject::Fuse2fs, Subject::Kernel],
            Self::Ntfs => &[Subject::Vault, Subject::Instant, Subject::Ntfs3g],
        }
    }
}

/// Seconds of every round, by cell and subject.
type Times = BTreeMap<(&'static str, &'static str), Vec<f64>>;

/// What is timed in a mounted directory, in this order.
const CELLS: [(&str, &str, &str); 3] = [
    ("find, cold", "find, warm", "find . -printf '%s %m %U %T@ %p\\n' > /dev/null"),
    (
        "sha256 of every file, cold",
        "sha256 of every file, warm",
        "find ./tree -type f -print0 | xargs -0 sha256sum > /dev/null",
    ),
    ("large file, cold", "large file, warm", "dd if=large of=/dev/null bs=1M status=none"),
];

/// Measures and prints the tables.
///
/// # Errors
/// A program is missing or fails.
pub fn run(options: &Options) -> Result<()> {
    let mut appliance = Appliance::start(&options.setting)?;
    let image = Image::make(&appliance, options)?;
    let mut times = Times::new();
    let mut subjects = options.format.subjects().to_vec();
    for round in 0..options.rounds {
        for &subject in &subjects {
            for (cold, warm, line) in CELLS {
                appliance.restart()?;
                drop_caches()?;
                let mounted = Mounted::new(subject, &appliance, &image, options)?;
                for cell in [cold, warm] {
                    let began = now();
                    shell(line, mounted.path())?;
                    let seconds = began.elapsed().as_secs_f64();
                    times.entry((cell, subject.name())).or_default().push(seconds);
                }
            }
        }
        subjects.reverse();
        eprintln!("round {round} of {} is done", options.rounds);
    }
    tables(&times, options.format.subjects());
    ready(&mut appliance, options)
}

fn shell(line: &str, dir: &Path) -> Result<String> {
    call(Command::new("sh").args(["-ec", line]).current_dir(dir))
}

/// Forgets what the host has read.
fn drop_caches() -> Result<()> {
    call(&mut Command::new("sync"))?;
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop the host's caches, which takes root")
}

fn tables(times: &Times, subjects: &[Subject]) {
    let names: Vec<&'static str> = subjects.iter().map(|subject| subject.name()).collect();
    let Some((peer, others)) = names.split_last() else { return };
    let of = |cell: &'static str, name: &'static str| times.get(&(cell, name)).map_or(&[][..], Vec::as_slice);
    table("seconds, median (lowest–highest)", &names, &|cell, name| {
        spread(of(cell, name).to_vec()).map(|(low, mid, high)| format!("{mid:.3} ({low:.3}–{high:.3})"))
    });
    table(&format!("time as a multiple of {peer}'s, median of the rounds"), others, &|cell, name| {
        let rounds = of(cell, name).iter().zip(of(cell, peer));
        let ratios = rounds.map(|(ours, theirs)| ours / theirs).collect();
        spread(ratios).map(|(low, mid, high)| format!("**{mid:.2}** ({low:.2}–{high:.2})"))
    });
}

fn table(title: &str, names: &[&'static str], cell: &dyn Fn(&'static str, &'static str) -> Option<String>) {
    println!("\n| {title} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()));
    for name in CELLS.iter().flat_map(|(cold, warm, _)| [*cold, *warm]) {
        let row = names.iter().map(|subject| cell(name, subject).unwrap_or_else(|| "–".into()));
        println!("| {name} | {} |", row.collect::<Vec<_>>().join(" | "));
    }
}

/// A disk in the vault, from the command to the first listing of its files.
fn ready(appliance: &mut Appliance, options: &Options) -> Result<()> {
    let image = Image::sparse(appliance, options)?;
    let mut seconds = Vec::new();
    for _ in 0..options.rounds.max(3) {
        appliance.restart()?;
        drop_caches()?;
        let began = now();
        let mounted = Mounted::new(Subject::Vault, appliance, &image, options)?;
        shell("ls > /dev/null", mounted.path())?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    if let Some((low, mid, high)) = spread(seconds) {
        println!(
            "\nmount of a disk of {} GiB in the vault and first listing, cold: {:.0} ms ({:.0}–{:.0})",
            options.disk_gib,
            mid * 1e3,
            low * 1e3,
            high * 1e3
        );
    }
    Ok(())
}
