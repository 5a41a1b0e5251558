//! The verbs of vaults.

use super::ImageOptions;
use crate::size;
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum VaultVerb {
    /// A new vault with a fresh key
    Create {
        /// Its name: a-z 0-9 . _ -
        name: String,
        #[command(flatten)]
        place: StoreArguments,
        /// Keep parity in the one directory: M for every K packs, so that any M of them may be damaged or lost; costs M/K of the room
        #[arg(long, value_name = "K+M", conflicts_with = "copy")]
        parity: Option<String>,
        /// Open it by a passphrase, the first line of this file (- asks on the terminal), instead of a key file on the daemon's host
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "sheet")]
        passphrase_file: Option<PathBuf>,
        /// Where to write the recovery sheet of a vault with a passphrase: it is kept nowhere else
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "passphrase_file")]
        sheet: Option<PathBuf>,
        /// For how many days a deleted recovery point can be undeleted, 14 to 180
        #[arg(long, value_name = "DAYS", default_value_t = 14)]
        soft_delete_days: u32,
        /// For tries only: deleting is final at once
        #[arg(long, conflicts_with = "soft_delete_days")]
        lab: bool,
    },
    /// Bring in a vault that exists, of another host for instance
    Open {
        /// The name it is to have here: a-z 0-9 . _ -
        name: String,
        #[command(flatten)]
        place: StoreArguments,
        #[command(flatten)]
        key: KeyArguments,
        /// No other appliance will write to it again: be its writer from now on
        #[arg(long)]
        take_over: bool,
    },
    /// Unlock a vault whose key is missing, damaged or another's, or that opens by a passphrase
    Unlock {
        /// Its name
        name: String,
        #[command(flatten)]
        key: KeyArguments,
    },
    /// What opens a vault: key files, passphrases, commands
    #[command(subcommand)]
    Key(KeyVerb),
    /// Every vault
    List,
    /// One vault: where it lies, its copies and writers, where its key and recovery sheet are
    Show {
        /// Its name
        name: String,
    },
    /// What a vault takes, and how much of it no recovery point needs
    Usage {
        /// Its name
        name: String,
    },
    /// Put what no recovery point needs into quarantine, and delete what an earlier sweep put there
    Sweep {
        /// Its name
        name: String,
        /// Bring back what this run put into quarantine, and do nothing else
        #[arg(long, value_name = "RUN", conflicts_with = "list")]
        undo: Option<String>,
        /// Only show the runs whose packs are in quarantine
        #[arg(long)]
        list: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Read and verify everything in a vault
    Check {
        /// Its name
        name: String,
    },
    /// Read and prove all packs of a vault at a pace, from where the last scrub was cut off
    Scrub {
        /// Its name
        name: String,
        /// Read at most so much a second, such as 50M
        #[arg(long, value_name = "SIZE", value_parser = size::parse)]
        rate: Option<u64>,
        /// Begin anew
        #[arg(long)]
        restart: bool,
    },
    /// Give each copy of a vault what it lacks, restore what is damaged from parity, and heal what is known to be damaged from other packs and from the disks
    Repair {
        /// Its name
        name: String,
        /// Read and prove every byte of every copy, or of the parity, instead of comparing names and lengths
        #[arg(long)]
        all: bool,
        /// The number of a copy that is lost, and is to be made again in the directory of --store
        #[arg(long, value_name = "NUMBER", requires = "store")]
        copy: Option<u8>,
        /// The lost copy's new place, an empty directory
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "copy")]
        store: Option<String>,
    },
    /// For how long deletions can be undone, and for how long nothing can be deleted; less of it needs a guard, where there is one
    Protect {
        /// Its name
        name: String,
        #[command(flatten)]
        how: ProtectArguments,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Read a vault with nothing but its store and a key: no daemon, no catalog
    Rescue(RescueOptions),
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub struct ProtectArguments {
    /// For how many days a deleted recovery point can be undeleted, 14 to 180
    #[arg(long, value_name = "DAYS")]
    pub soft_delete_days: Option<u32>,
    /// Whether recovery points can be deleted before their time; `locked` never goes back
    #[arg(long, value_name = "HOW")]
    pub immutability: Option<ImmutabilityName>,
    /// For how many days after it was made a recovery point cannot be deleted
    #[arg(long, value_name = "DAYS")]
    pub immutable_days: Option<u32>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum ImmutabilityName {
    /// They can be
    Off,
    /// They cannot be, until that is turned off
    On,
    /// They cannot be, and nobody can change that; the days can only become more
    Locked,
}

#[derive(Args)]
pub struct StoreArguments {
    /// A directory or file:///DIR, better on another device than the disks; s3://BUCKET/PREFIX, az://CONTAINER/PREFIX, gs://BUCKET/PREFIX
    #[arg(long, value_name = "STORE", value_hint = ValueHint::DirPath)]
    pub store: String,
    /// A further directory that keeps a copy of everything, on a device of its own; may be repeated
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub copy: Vec<String>,
    /// A file with lines `name = value` that say how to reach a bucket: endpoint, credentials, limits
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub store_options: Option<PathBuf>,
    /// An archive: recovery points are moved there, each by itself, and brought back before they are read
    #[arg(long)]
    pub archive: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct KeyArguments {
    /// A file with its key: the key file, or the recovery sheet from "vault:" to "sheet:"; - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,
    /// A file whose first line is its passphrase; - asks on the terminal
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum KeyVerb {
    /// Everything that opens a vault
    List {
        /// The vault
        name: String,
    },
    /// Let something more open a vault; the vault key stays the same and is wrapped once more
    Add {
        /// The vault
        name: String,
        #[command(flatten)]
        new: NewKey,
        /// A key that opens it now, if none is on the daemon's host
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        current_key: Option<PathBuf>,
        /// Or a passphrase that does
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "current_key")]
        current_passphrase_file: Option<PathBuf>,
    },
    /// Let something open a vault no more
    Remove {
        /// The vault
        name: String,
        /// The slot, as `list` shows it
        slot: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// A fresh key file on the daemon's host; the one there now opens nothing from then on
    Rotate {
        /// The vault
        name: String,
    },
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct NewKey {
    /// A key file, which is made and written here
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,
    /// A passphrase, the first line of this file; - asks on the terminal
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
    /// What the command prints that blockd.toml names under [key-commands]
    #[arg(long)]
    pub command: bool,
}

#[derive(Args)]
pub struct RescueOptions {
    /// Where the vault lies, as for `vault create --store`
    #[arg(value_name = "STORE", value_hint = ValueHint::DirPath)]
    pub store: String,
    /// A further directory with a copy of it; may be repeated
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub copy: Vec<String>,
    /// A file with lines `name = value` that say how to reach a bucket; else the environment does
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub store_options: Option<PathBuf>,
    #[command(flatten)]
    pub key: KeyArguments,
    #[command(subcommand)]
    pub verb: RescueVerb,
}

#[derive(Subcommand)]
pub enum RescueVerb {
    /// Every recovery point that can be read
    List,
    /// One recovery point as an image file
    Restore {
        /// ITEM@NUMBER, ITEM@latest, or at least eight digits of its id
        point: String,
        /// The image file to write
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        #[command(flatten)]
        image: ImageOptions,
        /// Replace a file that exists, without asking
        #[arg(long)]
        yes: bool,
    },
}
