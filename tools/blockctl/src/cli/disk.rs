//! `blockctl disk …`, as clap sees it.

use crate::size;
use clap::{Args, Subcommand, ValueHint};
use formats::Format;
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum DiskVerb {
    /// A new disk, empty or with the content of an image
    Create {
        /// Its name: a-z 0-9 . _ -, or vm/MACHINE/DISK for a disk of a machine
        name: String,
        /// Its size, such as 20G (units are powers of 1024); in bytes without a unit. That of the image if there is one
        #[arg(long, value_parser = size::parse, required_unless_present_any = ["from", "base"])]
        size: Option<u64>,
        /// An image: a file, or an NBD URI
        #[arg(long, value_name = "FILE|NBD-URI")]
        from: Option<String>,
        /// The image's format: raw, qcow2, vhd, vhdx or vmdk. Without it, the one that the file's name ends like and its
        /// bytes begin like; where these disagree you are asked to say it. An NBD export is raw
        #[arg(long, value_parser = str::parse::<Format>)]
        format: Option<Format>,
        /// Read other files that the image names (a backing file, extents) wherever they are, not only in its folder
        #[arg(long)]
        follow: bool,
        /// What to stand on without copying it: a recovery point, DISK@N, or an image file, which is only read and must stay
        /// as it is. It shows until it is written; the size is that of the base if none is given
        #[arg(long, value_name = "POINT|FILE", conflicts_with = "from")]
        base: Option<String>,
    },
    /// Make an existing raw file a disk, in place: it becomes what lies below all that is written, and is never written
    Adopt {
        /// The new disk's name
        name: String,
        /// The file; the daemon opens it itself
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Hand a disk back as one plain raw file, and forget it with its instant recovery points; those in vaults stay
    Leave {
        /// Its name
        name: String,
        /// The file to write
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// Do not ask, also where the file exists
        #[arg(long)]
        yes: bool,
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
    /// Make a disk larger or smaller, while it serves
    Resize {
        /// Its name
        name: String,
        /// Its new size, such as 20G (units are powers of 1024); in bytes without a unit
        #[arg(value_parser = size::parse)]
        size: u64,
        /// Shrink also while clients are connected; they keep the size they were told
        #[arg(long)]
        attached: bool,
        /// Shrink without asking
        #[arg(long)]
        yes: bool,
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
        #[command(flatten)]
        image: ImageOptions,
        /// Replace a file that exists, without asking
        #[arg(long)]
        yes: bool,
    },
    /// Read every sealed layer of a disk and hold it against its checksums; names what is damaged
    Scrub {
        /// Its name
        name: String,
    },
    /// Open a disk again at its last committed state, after a failed sync or a failed open
    Recover {
        /// Its name
        name: String,
        /// Take the image it stands on as it is now, although it changed. Older instant points show the change too, and the
        /// next backup reads everything
        #[arg(long)]
        accept_base: bool,
    },
    /// Call a disk something else; its recovery points and its policy go with it
    Rename {
        /// The disk's name
        name: String,
        /// Its new name
        to: String,
    },
    /// What disks take of the host
    Du {
        /// The name of a disk; else all
        name: Option<String>,
    },
    /// Let a second client write to the disk, as a live migration needs for a while
    Share {
        /// The disk's name
        name: String,
        /// One client only again; those who are connected stay
        #[arg(long)]
        stop: bool,
    },
    /// Let remote clients write again after the host went down before the disk was closed
    Release {
        /// The disk's name
        name: String,
    },
    /// How the exports are used: requests, bytes, errors, latencies
    Stats {
        /// Only those of this disk and its points, or of this point
        name: Option<String>,
    },
    /// Delete a disk and its instant recovery points; those in vaults stay, and so does a file it adopted
    Delete {
        /// Its name
        name: String,
        /// Delete the file that the disk adopted too
        #[arg(long)]
        adopted_file: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// How to write an image file.
#[derive(Args)]
pub struct ImageOptions {
    /// The image's format: raw, qcow2, vhd, vhdx or vmdk. Without it, the one the file's name ends like, else raw
    #[arg(long, value_parser = str::parse::<Format>)]
    pub format: Option<Format>,
    /// Compress a qcow2's clusters (zstd; qemu reads it since 5.1)
    #[arg(long)]
    pub compress: bool,
    /// Write a VHD of the fixed kind, as Azure takes it
    #[arg(long)]
    pub fixed: bool,
}
