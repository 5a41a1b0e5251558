//! Every verb and option, in one place: parsing, help, shell completions and man pages come from here.

use crate::size;
use clap::{Args, Parser, Subcommand, ValueHint};
use std::path::PathBuf;

/// Disks that are backed up: recovery points in milliseconds, a deduplicated vault, restores, files.
#[derive(Parser)]
#[command(name = "blockctl", version, max_term_width = 100, propagate_version = true)]
pub struct Arguments {
    /// State directory of the daemon; else BLOCKD_STATE, /var/lib/blockd for root, $XDG_STATE_HOME/blockd
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// Answer with one JSON object or array
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand)]
pub enum Verb {
    /// The whole story on temporary state, with timings
    Demo(DemoOptions),
    /// Daemon, disks, points, vaults, warnings
    Status,
    /// Virtual disks, served over NBD
    #[command(subcommand)]
    Disk(DiskVerb),
    /// Recovery point now, of all named disks at one instant; prints its name
    Snapshot {
        /// Names of disks
        #[arg(required = true, value_name = "NAME")]
        disks: Vec<String>,
    },
    /// Recovery points
    #[command(subcommand)]
    Point(PointVerb),
    /// Recovery point, then its transfer to a vault; follows the job
    Backup(BackupOptions),
    /// A recovery point as a disk or a file
    #[command(subcommand)]
    Restore(RestoreVerb),
    /// A recovery point as a tree of files: disk.raw, partitions/N.raw, files/N/
    Mount(MountOptions),
    /// End a mount
    Umount {
        /// The directory it is at
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Vaults, where recovery points are kept apart from the disks
    #[command(subcommand)]
    Vault(VaultVerb),
    /// Backups, restores and checks, under way and past
    #[command(subcommand)]
    Job(JobVerb),
    /// Completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Man pages
    Man {
        /// Write a page for every verb into this directory; else the first page goes to standard output
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

#[derive(Args)]
pub struct DemoOptions {
    /// End when the story is told, instead of serving on
    #[arg(long)]
    pub exit: bool,
    /// How much of this machine's files to put on the disk
    #[arg(long, default_value = "200M", value_parser = size::parse)]
    pub size: u64,
}

#[derive(Subcommand)]
pub enum DiskVerb {
    /// A new disk, empty or with the content of an image
    Create {
        /// Its name: a-z 0-9 . _ -
        name: String,
        /// Its size, such as 20G; in bytes without a unit. That of the image if there is one
        #[arg(long, value_parser = size::parse, required_unless_present = "from")]
        size: Option<u64>,
        /// An image: a file, or an NBD URI
        #[arg(long, value_name = "FILE|NBD-URI")]
        from: Option<String>,
        /// The image's format; this version reads raw
        #[arg(long, default_value = "raw", value_parser = raw_only)]
        format: String,
    },
    /// Every disk
    List,
    /// One disk
    Show {
        /// Its name
        name: String,
    },
    /// The disk's NBD URI
    Uri {
        /// The name of a disk or a recovery point
        name: String,
    },
    /// What changed since a recovery point
    Changes {
        /// The disk's name
        name: String,
        /// The recovery point to compare with; without it, everything ever written
        #[arg(long, value_name = "POINT")]
        since: Option<String>,
        /// Up to this recovery point instead of now
        #[arg(long, value_name = "POINT")]
        until: Option<String>,
    },
    /// A disk or a recovery point as an image file
    Export {
        /// The name of a disk or a recovery point
        name: String,
        /// The file to write
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The image's format; this version writes raw
        #[arg(long, default_value = "raw", value_parser = raw_only)]
        format: String,
        /// Replace a file that exists, without asking
        #[arg(long)]
        yes: bool,
    },
    /// Delete a disk and its instant recovery points; those in vaults stay
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Subcommand)]
pub enum PointVerb {
    /// Recovery points of a disk, or all
    List {
        /// The disk's name
        item: Option<String>,
    },
    /// One recovery point
    Show {
        /// DISK@NUMBER, DISK@latest or DISK@TIME
        point: String,
    },
    /// Delete a recovery point from every tier, or from one
    Delete {
        /// DISK@NUMBER, DISK@latest or DISK@TIME
        point: String,
        /// Only from this tier
        #[arg(long)]
        tier: Option<TierName>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum TierName {
    /// The disk's own layers
    Instant,
    /// Every vault
    Vault,
}

#[derive(Args)]
pub struct BackupOptions {
    /// The disk's name
    pub item: String,
    /// The vault
    #[arg(long, default_value = "main")]
    pub vault: String,
    /// Read everything, whatever the vault holds already
    #[arg(long)]
    pub full: bool,
}

#[derive(Subcommand)]
pub enum RestoreVerb {
    /// A recovery point as a new disk, or as an image file
    Disk {
        /// DISK@NUMBER, DISK@latest or DISK@TIME
        point: String,
        #[command(flatten)]
        target: RestoreTarget,
        /// The image's format; this version writes raw
        #[arg(long, default_value = "raw", value_parser = raw_only)]
        format: String,
        /// Replace a file that exists, without asking
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct RestoreTarget {
    /// The new disk's name
    #[arg(long, value_name = "NAME")]
    pub to: Option<String>,
    /// The image file to write
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct MountOptions {
    /// DISK@NUMBER, DISK@latest or DISK@TIME
    pub point: String,
    /// An empty directory
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Serve in this process until it is interrupted or unmounted
    #[arg(long)]
    pub foreground: bool,
    /// Let other users look in, as far as the modes of the files allow
    #[arg(long)]
    pub allow_other: bool,
}

#[derive(Subcommand)]
pub enum VaultVerb {
    /// A new vault with a fresh key
    Create {
        /// Its name: a-z 0-9 . _ -
        name: String,
        /// The directory it is to live in, better on another device than the disks
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        store: PathBuf,
    },
    /// Every vault
    List,
    /// One vault, and where its key and recovery sheet are
    Show {
        /// Its name
        name: String,
    },
    /// Read and verify everything in a vault
    Check {
        /// Its name
        name: String,
    },
}

#[derive(Subcommand)]
pub enum JobVerb {
    /// Every job, newest first
    List,
    /// One job
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Follow a job to its end
    Watch {
        /// Its id, or the beginning of it
        id: String,
    },
    /// Ask a job to stop
    Cancel {
        /// Its id, or the beginning of it
        id: String,
    },
}

/// Image formats have names long before this version can read them: say so instead of guessing.
fn raw_only(text: &str) -> Result<String, String> {
    match text {
        "raw" => Ok(text.to_owned()),
        "qcow2" | "vhd" | "vhdx" | "vmdk" => Err(format!(
            "{text} is not supported by this version, only raw; `qemu-img convert` goes between them"
        )),
        _ => Err("no such format; this version knows raw".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn other_formats_are_refused_by_name() {
        let error = raw_only("qcow2").expect_err("not supported");
        assert!(error.contains("qcow2"), "{error}");
        assert!(raw_only("zip").is_err());
        let parsed =
            Arguments::try_parse_from(["blockctl", "disk", "export", "web", "f", "--format", "vhdx"]);
        assert_eq!(parsed.err().map(|error| error.exit_code()), Some(2));
    }
}
