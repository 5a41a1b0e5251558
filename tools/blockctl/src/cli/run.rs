//! `blockctl run …` and `blockctl restore …`.

use super::ImageOptions;
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct RunOptions {
    #[command(subcommand)]
    pub verb: Option<RunVerb>,
    /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
    #[arg(required = true)]
    pub point: Option<String>,
    /// The name of the disk that runs from it
    #[arg(long, required = true)]
    pub name: Option<String>,
    /// Bring nothing in the background: the disk stays on the point until it is promoted
    #[arg(long)]
    pub no_hydrate: bool,
}

#[derive(Subcommand)]
pub enum RunVerb {
    /// How far disks are that run from a recovery point
    Status {
        /// The disk's name; else all
        name: Option<String>,
    },
    /// Make the disk independent of the point, as fast as that goes, and wait for it
    Promote {
        /// The disk's name
        name: String,
        /// Ask for it and do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// Delete the disk with all that was written to it; the point stays
    Discard {
        /// The disk's name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub enum RestoreVerb {
    /// A recovery point as a new disk, in the place of a disk, as an image file, or onto another NBD server
    Disk {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        #[arg(required_unless_present = "undo")]
        point: Option<String>,
        #[command(flatten)]
        target: RestoreTarget,
        #[command(flatten)]
        image: ImageOptions,
        /// With --replace: put back what the disk held before it was replaced last
        #[arg(long, requires = "replace", conflicts_with_all = ["point", "to", "output"])]
        undo: bool,
        /// With --replace: cut off the client that uses the disk, instead of refusing
        #[arg(long, requires = "replace", conflicts_with_all = ["to", "output"])]
        force_disconnect: bool,
        /// Read back what was written and compare it with the recovery point
        #[arg(long)]
        verify: bool,
        /// Say what it would take, cost and lose, and do nothing
        #[arg(long)]
        preflight: bool,
        /// With --output nbd://...: go on behind what an earlier attempt wrote, which nobody else has written to since
        #[arg(long, requires = "output")]
        resume: bool,
        /// Replace a disk, a file or what another server holds, without asking
        #[arg(long)]
        yes: bool,
    },
    /// A recovery point of a machine as a new machine, or in the place of what the machine holds
    #[command(name = "vm")]
    Machine(RestoreMachineOptions),
}

#[derive(Args)]
pub struct RestoreMachineOptions {
    /// MACHINE@NUMBER, MACHINE@latest, or MACHINE@TIME: vm/web@7
    #[arg(required_unless_present = "undo")]
    pub point: Option<String>,
    #[command(flatten)]
    pub target: RestoreMachineTarget,
    /// With --name: its disks run from the point at once, and it is started
    #[arg(long, requires = "name")]
    pub run: bool,
    /// With --name: no network cards, or the same networks with addresses of its own
    #[arg(long, requires = "name", value_enum, default_value = "none")]
    pub network: NetworkName,
    /// Only these disks, by target: vda,vdb
    #[arg(long, value_name = "TARGET", value_delimiter = ',')]
    pub disks: Vec<String>,
    /// With --name: the libvirt it is defined at; else the machine's own
    #[arg(long, requires = "name", value_name = "URI")]
    pub uri: Option<String>,
    /// With --name and a libvirt of another host: where that reaches our exports over TLS
    #[arg(long, requires = "name", value_name = "HOST:PORT")]
    pub exports_at: Option<String>,
    /// With --replace: put back what the machine held before it was replaced last
    #[arg(long, requires = "replace", conflicts_with = "point")]
    pub undo: bool,
    /// With --replace: read back what was written and compare it with the recovery point
    #[arg(long, requires = "replace")]
    pub verify: bool,
    /// With --replace: do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct RestoreMachineTarget {
    /// The new machine's name
    #[arg(long, value_parser = super::machine)]
    pub name: Option<String>,
    /// Instead: the machine whose content is replaced; it is shut off, and what it holds stays in a recovery point
    #[arg(long, value_name = "MACHINE", value_parser = super::machine)]
    pub replace: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum NetworkName {
    /// No network cards
    None,
    /// The networks of the machine it is made of
    Same,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct RestoreTarget {
    /// The new disk's name
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// The disk whose content it takes the place of; a recovery point of that is taken first
    #[arg(long, value_name = "NAME")]
    pub replace: Option<String>,
    /// The image file to write, or an export of another NBD server (nbd://HOST/NAME, nbd+unix:///NAME?socket=PATH)
    #[arg(long, value_name = "FILE|NBD-URI", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}
