//! `bench`: workloads that measure blockd beside its peers, in one run, as ratios.
//!
//! Machines are shared and noisy: a figure alone says little, the ratio of two measured in adjacent windows says
//! more. Every workload therefore measures all its subjects round by round, in alternating order, and reports the
//! median of the rounds' ratios. The subject is the real daemon, driven through `blockctl` and an NBD client.

mod fio;
mod nbd_4k;
mod report;
mod seal_pause;
mod server;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "bench", about = "Measures blockd beside its peers, in one run, as ratios")]
struct Cli {
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Subcommand)]
enum Workload {
    /// 4 KiB random reads and writes over NBD beside nbdkit and qemu-nbd
    #[command(name = "nbd-4k")]
    Nbd4k(nbd_4k::Options),
    /// How long writes are held while a recovery point is taken, under load
    #[command(name = "seal-pause")]
    SealPause(seal_pause::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().workload {
        Workload::Nbd4k(options) => nbd_4k::run(&options),
        Workload::SealPause(options) => seal_pause::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
