//! `bench`: workloads that measure blockd beside its peers, in one run, as ratios.
//!
//! Machines are shared and noisy: a figure alone says little, the ratio of two measured in adjacent windows says
//! more. Every workload therefore measures all its subjects round by round, in alternating order, and reports the
//! median of the rounds' ratios. The subject is the real daemon, driven through `blockctl` and an NBD client.

mod appliance;
mod bare;
mod fio;
mod fold;
mod increments;
mod many_points;
mod mount;
mod nbd;
mod report;
mod run;
mod seal_pause;
mod server;
mod tracking;
mod vault;

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
    /// The NBD server beside nbdkit and qemu-nbd
    Nbd(nbd::Options),
    /// How long writes are held while a recovery point is taken, under load
    #[command(name = "seal-pause")]
    SealPause(seal_pause::Options),
    /// What folding deleted points costs a guest, and how fast it is without one
    #[command(name = "fold")]
    Fold(fold::Options),
    /// A disk with 500 recovery points beside one with a single point
    #[command(name = "many-points")]
    ManyPoints(many_points::Options),
    /// A recovery point that runs: how soon, how fast it reads beside qemu-nbd, and how fast it is hydrated
    #[command(name = "run")]
    Run(run::Options),
    /// Files through our mount beside the kernel's own and other FUSE programs
    Mount(mount::Options),
    /// What keeping the change map costs, beside a build that does not
    #[command(name = "tracking")]
    Tracking(tracking::Options),
    /// The server without checks or a data path that stands beside others in the workload nbd
    #[command(name = "bare-server", hide = true)]
    BareServer(bare::Options),
    /// Increments of a large, sparse disk beside those of a small one
    #[command(name = "increments")]
    Increments(increments::Options),
    /// Backups into a vault beside restic, borg and qemu-img
    #[command(name = "vault")]
    Vault(vault::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().workload {
        Workload::Nbd(options) => nbd::run(&options),
        Workload::SealPause(options) => seal_pause::run(&options),
        Workload::Fold(options) => fold::run(&options),
        Workload::ManyPoints(options) => many_points::run(&options),
        Workload::Run(options) => run::run(&options),
        Workload::Mount(options) => mount::run(&options),
        Workload::Tracking(options) => tracking::run(&options),
        Workload::BareServer(options) => bare::run(&options),
        Workload::Increments(options) => increments::run(&options),
        Workload::Vault(options) => vault::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
