//! What keeping the change map costs a request.
//!
//! Two builds of the daemon serve a disk of the same size whose every block is in the active layer: the product, and
//! one that writes without looking at the map, as if it tracked nothing. Of each the CPU time of the server a request is
//! measured, in passes that take turns, so that what else the host does falls on both alike, and, once, in a pass under
//! strace, its system calls. Each run starts both anew.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::appliance::{Appliance, Setting};
use crate::fio::{self, Access};
use crate::report::spread;

const DISK: &str = "bench";
/// Requests that are counted under strace, which slows them down a hundredfold.
const TRACED_BYTES: u64 = 16 << 20;
/// They are made one at a time: in how many batches a deep queue arrives is chance.
const TRACED: Access = Access { depth: 1, ..fio::WRITE_EACH_BLOCK_ONCE };

/// Options of the workload.
#[derive(clap::Args)]
pub struct Options {
    /// Runs of each build; the median over them is reported
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Passes of each build in a run, in turn
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    passes: u32,
    /// MiB of the disk, all of which each pass writes once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..))]
    size_mib: u64,
    /// The daemon built with the feature `untracked`
    #[arg(long, env = "BLOCKD_UNTRACKED")]
    untracked: PathBuf,
    #[command(flatten)]
    setting: Setting,
}

/// Measures and prints the table.
///
/// # Errors
/// A program is missing, or a daemon or fio fails.
pub fn run(options: &Options) -> Result<()> {
    let size_bytes = options.size_mib << 20;
    let mut ratios = Vec::new();
    let mut micros = [Vec::new(), Vec::new()];
    let mut traced = None;
    for round in 0..options.rounds as usize {
        // where a process and its pages happen to lie is worth some per cent: each run has daemons of its own
        let subjects = Subject::both(options, round % 2, size_bytes)?;
        let mut run = [0.0; 2];
        for pass in 0..options.passes as usize {
            for turn in [(round + pass) % 2, 1 - (round + pass) % 2] {
                run[turn] += subjects[turn].cpu_us(size_bytes)? / f64::from(options.passes);
            }
        }
        ratios.push(run[0] / run[1]);
        micros.iter_mut().zip(run).for_each(|(all, run)| all.push(run));
        if traced.is_none() {
            traced = Some([calls(&subjects[0])?, calls(&subjects[1])?]);
        }
    }
    let calls = traced.context("no round")?;
    let [with, without] = micros.map(|micros| spread(micros).map_or(0.0, |(_, mid, _)| mid));
    let (low, mid, high) = spread(ratios).context("no round")?;
    println!(
        "| a 4 KiB write to a block that is present | with tracking | without | ratio |\n|---|---|---|---|"
    );
    println!("| server CPU | {with:.2} µs | {without:.2} µs | **{mid:.3}** ({low:.3}–{high:.3}) |");
    let requests = (TRACED_BYTES / 4096) as f64;
    println!(
        "| pwrite64 a request | {:.3} | {:.3} | |",
        calls[0].writes as f64 / requests,
        calls[1].writes as f64 / requests
    );
    println!(
        "| system calls in all, a request | {:.3} | {:.3} | |",
        calls[0].all as f64 / requests,
        calls[1].all as f64 / requests
    );
    Ok(())
}

/// A daemon with a disk whose every block was written.
struct Subject {
    appliance: Appliance,
    uri: String,
}

impl Subject {
    /// The product and the build that tracks nothing; started in this order, or if `first` is 1 in the other.
    fn both(options: &Options, first: usize, size_bytes: u64) -> Result<[Self; 2]> {
        let start = |turn: usize| match turn {
            0 => Self::filled(Appliance::start(&options.setting)?, size_bytes),
            _ => Self::filled(Appliance::start_program(&options.setting, &options.untracked)?, size_bytes),
        };
        let (one, other) = (start(first)?, start(1 - first)?);
        Ok(if first == 0 { [one, other] } else { [other, one] })
    }

    fn filled(appliance: Appliance, size_bytes: u64) -> Result<Self> {
        let uri = appliance.create(DISK, size_bytes)?.uri;
        fio::run(&uri, size_bytes, 1, fio::FILL)?;
        Ok(Self { appliance, uri })
    }

    /// Server CPU time of one request of a pass over the disk, microseconds.
    fn cpu_us(&self, size_bytes: u64) -> Result<f64> {
        let server = self.appliance.server()?;
        let before = server.cpu_s()?;
        let measured = fio::run(&self.uri, size_bytes, 1, fio::WRITE_EACH_BLOCK_ONCE)?;
        Ok((server.cpu_s()? - before) * 1e6 / measured.requests)
    }
}

/// System calls of a server.
struct Calls {
    writes: u64,
    /// Of the connection's thread all that concern the request: receiving, writing, answering.
    all: u64,
}

/// Counts the server's system calls for a pass over the first [`TRACED_BYTES`].
fn calls(subject: &Subject) -> Result<Calls> {
    let (appliance, uri) = (&subject.appliance, &subject.uri);
    let counts = tempfile::NamedTempFile::new()?;
    let mut command = Command::new("strace");
    command.args(["-f", "-c", "-o"]).arg(counts.path());
    command.args(["-p", &appliance.server()?.pid().to_string()]);
    let mut strace = command.stderr(Stdio::null()).spawn().context("strace cannot be started")?;
    // attached once the tracer shows in the status of the process
    let status = format!("/proc/{}/status", appliance.server()?.pid());
    while !std::fs::read_to_string(&status)?
        .lines()
        .any(|line| line == format!("TracerPid:\t{}", strace.id()))
    {
        if strace.try_wait()?.is_some() {
            bail!("strace ended before it was attached");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    fio::run(uri, TRACED_BYTES, 1, TRACED)?;
    crate::server::run(Command::new("kill").args(["-INT", &strace.id().to_string()]))?;
    strace.wait()?;
    let table = std::fs::read_to_string(counts.path())?;
    let of = |wanted: &[&str]| -> u64 {
        let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|row| row.last().is_some_and(|name| wanted.contains(name)));
        rows.filter_map(|row| row.get(3)?.parse::<u64>().ok()).sum()
    };
    let writes = of(&["pwrite64", "pwritev", "pwritev2"]);
    if writes == 0 {
        bail!("strace saw no write:\n{table}");
    }
    let request =
        ["recvfrom", "recvmsg", "sendto", "sendmsg", "read", "write", "writev", "pread64", "preadv2"];
    Ok(Calls { writes, all: writes + of(&request) })
}
