//! The verbs of `files`.

use crate::size;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Args)]
pub struct FilesOptions {
    #[command(flatten)]
    pub passphrases: PassphraseOptions,
    #[command(subcommand)]
    pub verb: FilesVerb,
}

/// What opens volumes encrypted with LUKS.
#[derive(Args)]
pub struct PassphraseOptions {
    /// Open volumes encrypted with LUKS with the first line of this file (- asks on the terminal); may be given several times.
    /// What partition N holds is then volume luks-N
    #[arg(long = "passphrase-file", value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub passphrase_files: Vec<PathBuf>,
}

#[derive(Subcommand)]
pub enum FilesVerb {
    /// What is in a directory, or one file; POINT alone shows its partitions
    Ls {
        /// POINT:N:/path, N being the partition, 0 for a disk without a table, or the name of an LVM or MD volume; or POINT
        path: OsString,
    },
    /// The bytes of files, one after the other
    Cat {
        /// POINT:N:/path
        #[arg(required = true)]
        paths: Vec<OsString>,
    },
    /// Copy out, with owners, modes, times, attributes, access lists, hard links and holes as far as you may set them
    Cp(CopyOptions),
    /// Which points hold another version of a file or directory, found from the blocks that changed
    History {
        /// DISK:N:/path
        path: OsString,
    },
    /// Every file below a directory that fits
    Find(FindOptions),
    /// Read every name and attribute of every filesystem of recovery points; ends with 6 if one cannot be read
    Check {
        /// POINT of a disk, or of a machine (vm/web@3: those of all its disks)
        #[arg(required = true, value_name = "POINT")]
        points: Vec<String>,
    },
    /// An archive of a directory or file, which keeps everything whoever makes it
    Tar(TarOptions),
}

#[derive(Args)]
pub struct CopyOptions {
    /// POINT:N:/path ... and last where to: a directory that exists, or the name the only copy is to have
    #[arg(required = true, num_args = 2.., value_names = ["POINT:N:/path", "TO"])]
    pub paths: Vec<OsString>,
    /// Replace files that exist there; without it they are left alone and count as failures
    #[arg(long)]
    pub replace: bool,
    /// Fail if anything is not kept
    #[arg(long)]
    pub strict: bool,
}

#[derive(Args)]
pub struct FindOptions {
    /// POINT:N:/path
    pub path: OsString,
    /// Names that look like this: * any characters, ? one, [a-z] one of these
    #[arg(long, value_name = "PATTERN")]
    pub name: Option<OsString>,
    /// Of this kind
    #[arg(long, value_enum)]
    pub kind: Option<KindName>,
    /// Files of at least this size
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub larger: Option<u64>,
    /// Files of at most this size
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub smaller: Option<u64>,
    /// Changed after this time (2026-11-21T16:30:00Z)
    #[arg(long, value_name = "TIME", value_parser = crate::files::parse_time)]
    pub newer: Option<i64>,
    /// Changed before this time
    #[arg(long, value_name = "TIME", value_parser = crate::files::parse_time)]
    pub older: Option<i64>,
    /// So many directories down at most
    #[arg(long, value_name = "N")]
    pub depth: Option<usize>,
    /// End each path with a zero byte, for `xargs -0`
    #[arg(long, short = '0', conflicts_with = "json")]
    pub null: bool,
}

#[derive(Args)]
pub struct TarOptions {
    /// POINT:N:/path
    pub path: OsString,
    /// The archive to write; standard output without it
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Fail if anything is not kept: sockets
    #[arg(long)]
    pub strict: bool,
}

/// Kinds of files.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// Plain files
    File,
    /// Directories
    Directory,
    /// Symbolic links
    Link,
    /// Fifos, sockets and devices
    Special,
}
