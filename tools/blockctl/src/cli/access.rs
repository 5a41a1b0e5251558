//! The verbs of identities and of the audit log.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum TokenVerb {
    /// Every token: role, scope, end
    List,
    /// A new token; its secret is printed, this once
    Create(NewToken),
    /// Remove a token: whoever shows it is nobody from then on
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub struct NewToken {
    /// Its name: a-z 0-9 . _ -
    pub name: String,
    /// What it may do
    #[arg(long)]
    pub role: RoleName,
    /// A vault it may name; all if none is given; may be repeated
    #[arg(long, value_name = "VAULT")]
    pub vault: Vec<String>,
    /// A disk or machine it may name, * at the end for all that begin so; all if none is given; may be repeated
    #[arg(long, value_name = "ITEM")]
    pub item: Vec<String>,
    /// For how many days it is good; else until it is removed
    #[arg(long)]
    pub days: Option<u32>,
    /// Of a guard: the file with its public key
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,
    /// Write the secret into this file, which must not exist, instead of printing it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub enum RoleName {
    /// Look at everything
    Reader,
    /// Back up, protect, check
    Operator,
    /// Restore and run
    Restorer,
    /// Everything but approving
    Admin,
    /// Approve what an admin asks for
    Guard,
}

#[derive(Subcommand)]
pub enum AuditVerb {
    /// Who did what: the newest entries, oldest first
    List {
        /// Only entries with a higher number
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
        /// At most so many, up to 1000
        #[arg(long, value_name = "COUNT", default_value_t = 50)]
        limit: usize,
    },
    /// Go through the whole log: every entry unchanged, in its place, none missing
    Verify {
        /// A head that was noted earlier, NUMBER:HASH, and must be in the log
        #[arg(long)]
        head: Option<String>,
    },
}
