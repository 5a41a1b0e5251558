//! Every verb and option, in one place: parsing, help, shell completions and man pages come from here.

mod access;
mod approval;
mod disk;
mod files;
mod hook;
mod machine;
mod policy;
mod run;
mod vault;

pub use access::{AuditVerb, NewToken, RoleName, TokenVerb};
pub use approval::{ApprovalVerb, ClockVerb};
pub use disk::{DiskVerb, ImageOptions};
pub use files::{CopyOptions, FilesOptions, FilesVerb, FindOptions, KindName, PassphraseOptions, TarOptions};
pub use hook::HookVerb;
pub use machine::{AttachOptions, MachineVerb, ModeName, machine};
pub use policy::{GroupVerb, PolicyFile, PolicyVerb, ProtectOptions, UnprotectOptions};
pub use run::{NetworkName, RestoreMachineOptions, RestoreVerb, RunOptions, RunVerb};
pub use vault::{
    ImmutabilityName, KeyArguments, KeyVerb, NewKey, ProtectArguments, RescueOptions, RescueVerb,
    StoreArguments, VaultVerb,
};

use crate::size;
use clap::{Args, Parser, Subcommand, ValueHint};
use control::Consistency;
use std::path::PathBuf;

/// Disks that are backed up: recovery points in milliseconds, a deduplicated vault, restores, files.
#[derive(Parser)]
#[command(name = "blockctl", version, max_term_width = 100, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub reach: Reach,
    /// Answer with one JSON object or array
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub verb: Verb,
}

/// Which daemon to ask, and as whom.
#[derive(Args)]
pub struct Reach {
    /// State directory of the daemon; else BLOCKD_STATE, /var/lib/blockd for root, $XDG_STATE_HOME/blockd
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state: Option<PathBuf>,
    /// The daemon of another host, HOST:PORT, over TLS; its --ca and a --token-file are needed too
    #[arg(long, global = true, value_name = "ADDR", env = "BLOCKD_CONNECT", requires = "ca")]
    pub connect: Option<String>,
    /// The certificate of the authority that signed that daemon's, in PEM
    #[arg(long, global = true, value_name = "FILE", env = "BLOCKD_CA", value_hint = ValueHint::FilePath)]
    pub ca: Option<PathBuf>,
    /// A file whose first line is a token's secret: be that identity
    #[arg(long, global = true, value_name = "FILE", env = "BLOCKD_TOKEN_FILE", value_hint = ValueHint::FilePath)]
    pub token_file: Option<PathBuf>,
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
        /// Names of disks (web, vm/web/vda), machines (vm/web: all its disks) or groups (group/shop: all its members)
        #[arg(required = true, value_name = "NAME")]
        disks: Vec<String>,
        /// Make no point that is less consistent than this
        #[arg(long, value_name = "LEVEL")]
        require: Option<Level>,
    },
    /// Recovery points
    #[command(subcommand)]
    Point(PointVerb),
    /// Recovery point, then its transfer to a vault; follows the job
    Backup(BackupOptions),
    /// A recovery point as a disk or a file
    #[command(subcommand)]
    Restore(RestoreVerb),
    /// A writable disk that reads from a recovery point, at once; the rest is brought in the background
    Run(RunOptions),
    /// Start a recovery point as a machine that reaches nothing, to see whether it would, and keep what it showed; follows the job
    Rehearse(RehearseOptions),
    /// A recovery point as a tree of files, disk.raw, partitions/N.raw, files/N/; or all points of a disk or machine,
    /// by-time/ and by-file/
    Mount(MountOptions),
    /// End a mount
    Umount {
        /// The directory it is at
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
    },
    /// Files of a recovery point, without a mount: list, print, copy out, find, pack
    Files(FilesOptions),
    /// Vaults, where recovery points are kept apart from the disks
    #[command(subcommand)]
    Vault(VaultVerb),
    /// Policies: when backups are made, and how long recovery points stay
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// Groups: disks and machines whose recovery points are made at one instant
    #[command(subcommand)]
    Group(GroupVerb),
    /// Put a disk, a machine or a group under a policy, or resume its protection
    Protect(ProtectOptions),
    /// End or pause the protection of a disk, a machine or a group
    Unprotect(UnprotectOptions),
    /// Machines: their disks as one item, their definitions
    #[command(subcommand, name = "vm")]
    Machine(MachineVerb),
    /// Backups, restores and checks, under way and past
    #[command(subcommand)]
    Job(JobVerb),
    /// Tokens: identities with a role and a scope
    #[command(subcommand)]
    Token(TokenVerb),
    /// Approvals: requests that need a second person, a guard
    #[command(subcommand)]
    Approval(ApprovalVerb),
    /// The appliance's time, which never goes back and does not jump unseen
    #[command(subcommand)]
    Clock(ClockVerb),
    /// The last events: failed jobs, late items, low space and what else somebody may want to know at once
    Events,
    /// The audit log: who asked for which change or restore, when, and how it ended
    #[command(subcommand)]
    Audit(AuditVerb),
    /// A disk's files, dumped and checked without the daemon
    #[command(subcommand)]
    Inspect(InspectVerb),
    /// Called by other programs around the life of a machine
    #[command(subcommand)]
    Hook(HookVerb),
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
pub struct InspectKey {
    /// Key file or recovery sheet of the vault the file lies in; - reads it from standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum InspectVerb {
    /// A sealed layer, or what is committed of the active one
    Layer {
        /// NUMBER.layer in a disk's directory
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Hold every block against its checksum
        #[arg(long)]
        check: bool,
    },
    /// A map: which blocks a layer has, or what changed in an epoch
    Map {
        /// NUMBER.map in a disk's directory
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Hold it against the chain beside it too
        #[arg(long)]
        check: bool,
    },
    /// A pack of a vault: frames and nodes
    Pack {
        /// packs/A/XX/ID.BLOB in a vault's directory
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Open every entry and hold it against its fingerprints; without --key only the checksum of all
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        key: InspectKey,
    },
    /// An index of a vault: which packs there are
    Index {
        /// index/A/ID.BLOB in a vault's directory
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// End with an error if anything is wrong
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        key: InspectKey,
    },
    /// A manifest of a vault: the blob of a recovery point
    Manifest {
        /// points/A/ID.BLOB in a vault's directory
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// End with an error if anything is wrong; `vault check` follows its tree
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        key: InspectKey,
    },
    /// A disk's whole directory
    Disk {
        /// The directory, disks/ID in the daemon's state
        #[arg(value_hint = ValueHint::DirPath)]
        dir: PathBuf,
        /// Check every file, and every block against its checksum
        #[arg(long)]
        check: bool,
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
pub enum PointVerb {
    /// Recovery points of a disk, or all
    List {
        /// The name of a disk, of a machine (vm/web), or of one point
        item: Option<String>,
        /// Those that were deleted from a vault and can be undeleted
        #[arg(long)]
        deleted: bool,
    },
    /// One recovery point
    Show {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
    },
    /// What differs between two recovery points of a disk
    Diff {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        a: String,
        /// Another point of the same disk; which of both is older does not matter
        b: String,
        /// The files instead of the bytes: + added, - removed, * changed, ~ only owner, mode, times or attributes
        #[arg(long)]
        files: bool,
        #[command(flatten)]
        passphrases: PassphraseOptions,
    },
    /// Hold a recovery point: nothing deletes it, whatever a policy says
    Hold {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
        /// Why; whoever wants to delete it is told
        #[arg(long)]
        reason: String,
    },
    /// End a hold
    Release {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
    },
    /// Say that a suspect recovery point is right: far smaller or far more changed than its past, and meant to be
    Accept {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
    },
    /// Bring back a recovery point that was deleted from a vault, until its term is over
    Undelete {
        /// Its name, as `point list --deleted` shows it
        point: String,
    },
    /// Move a recovery point from its vaults to an archive; says first what it costs and frees
    Archive {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
        /// The archive, a vault that was made with --archive
        #[arg(long, value_name = "ARCHIVE")]
        to: String,
        /// Only say what it costs and frees
        #[arg(long)]
        cost: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Bring an archived recovery point back to a vault for a time; asked again it sets the time anew
    Rehydrate {
        /// DISK@NUMBER, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
        /// For how long: 12h, 7d, 8w
        #[arg(long = "for", value_name = "SPAN", value_parser = crate::span::parse)]
        span: u64,
        /// The vault
        #[arg(long, default_value = "main")]
        vault: String,
    },
    /// Delete a recovery point from every tier, or from one; a vault keeps it for some days
    Delete {
        /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z)
        point: String,
        /// Only from this tier
        #[arg(long)]
        tier: Option<TierName>,
        /// Also if only damaged copies of it are left then
        #[arg(long)]
        last_copy: bool,
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
    /// Every archive
    Archive,
}

#[derive(Args)]
pub struct BackupOptions {
    /// The name of a disk, of a machine (vm/web: all its disks at one instant) or of a group (group/shop: all its members)
    pub item: String,
    /// The vault
    #[arg(long, default_value = "main")]
    pub vault: String,
    /// Read everything, whatever the vault holds already
    #[arg(long)]
    pub full: bool,
    /// Keep the point for so long at least, whatever a policy says: 12h, 30d, 8w
    #[arg(long, value_name = "SPAN", value_parser = crate::span::parse)]
    pub keep: Option<u64>,
    /// Make no point that is less consistent than this
    #[arg(long, value_name = "LEVEL")]
    pub require: Option<Level>,
}

#[derive(Args)]
pub struct RehearseOptions {
    /// DISK@NUMBER or, for all disks of a machine, vm/web@NUMBER; also @latest and @TIME
    pub point: String,
    /// What shows that the machine is up: agent, its guest agent answers; console:TEXT, its serial console shows TEXT
    #[arg(long, value_name = "SIGN", default_value = "agent")]
    pub wait: String,
    /// How long that may take
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
    /// A command that the guest's agent runs in its shell then, and that has to end well
    #[arg(long, value_name = "CMD")]
    pub probe: Option<String>,
    /// The machine's memory
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = size::parse)]
    pub memory: u64,
}

/// How consistent a point has to be.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Level {
    /// As after a power cut of the guest
    Crash,
    /// The guest's filesystems written out and held still
    Filesystem,
    /// Its applications too
    #[value(alias = "application")]
    App,
}

impl Level {
    /// As the API says it.
    pub const fn wanted(self) -> Consistency {
        match self {
            Self::Crash => Consistency::Crash,
            Self::Filesystem => Consistency::Filesystem,
            Self::App => Consistency::Application,
        }
    }
}

#[derive(Args)]
pub struct MountOptions {
    /// DISK@NUMBER, DISK@latest, or DISK@TIME for the newest at or before it (2026-11-21T16:30:00Z); a disk or machine
    /// without @ for all its points
    ///
    /// Several are the disks of one machine, whose LVM volumes and MD arrays are put together: vm/web/vda@3 vm/web/vdb@3
    #[arg(required = true, num_args = 1.., value_name = "POINT")]
    pub points: Vec<String>,
    /// An empty directory
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Serve in this process until it is interrupted or unmounted
    #[arg(long)]
    pub foreground: bool,
    /// Let other users look in, as far as the modes of the files allow
    #[arg(long)]
    pub allow_other: bool,
    #[command(flatten)]
    pub passphrases: PassphraseOptions,
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
        /// Its id, or at least four digits of its beginning
        #[arg(value_parser = job_to_cancel)]
        id: String,
    },
}

/// A slip must not stop another job.
fn job_to_cancel(id: &str) -> Result<String, String> {
    if id.len() < 4 { Err("give at least four digits of the job's id".to_owned()) } else { Ok(id.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use formats::Format;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_run_is_of_a_point_or_a_verb() {
        let parse =
            |words: &[&str]| Arguments::try_parse_from([&["blockctl", "run"], words].concat()).is_ok();
        assert!(parse(&["web@1", "--name", "try"]) && parse(&["web@1", "--name", "try", "--no-hydrate"]));
        assert!(parse(&["status"]) && parse(&["promote", "try"]) && parse(&["discard", "try", "--yes"]));
        assert!(!parse(&["web@1"]) && !parse(&[]) && !parse(&["--name", "try"]));
        let restore = |words: &[&str]| {
            Arguments::try_parse_from([&["blockctl", "restore", "disk"], words].concat()).is_ok()
        };
        assert!(restore(&["web@1", "--to", "new"]) && restore(&["--replace", "web", "--undo"]));
        assert!(!restore(&["--to", "new"]) && !restore(&["web@1", "--to", "new", "--undo"]));
        assert!(!restore(&["web@1", "--to", "new", "--force-disconnect"]) && !restore(&["web@1"]));
    }

    #[test]
    fn formats_are_known_by_name() {
        let parse = |format: &str| {
            Arguments::try_parse_from(["blockctl", "disk", "export", "web", "f", "--format", format])
                .err()
                .map(|error| error.exit_code())
        };
        for format in Format::ALL {
            assert_eq!(parse(format.name()), None);
        }
        assert_eq!(parse("zip"), Some(2));
    }
}
