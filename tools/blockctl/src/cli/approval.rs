//! The verbs of approvals and of the appliance's time.

use clap::{Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum ApprovalVerb {
    /// Requests that need a guard, newest first
    List,
    /// One of them: who asks for what, and what a guard signs
    Show {
        /// Its id, or the beginning of it
        id: String,
    },
    /// As a guard: let the request pass, once
    Approve {
        /// Its id, or the beginning of it
        id: String,
        /// The file with the guard's private key
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        key: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// As a guard: say no to the request
    Deny {
        /// Its id, or the beginning of it
        id: String,
        /// The file with the guard's private key
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        key: PathBuf,
    },
    /// A fresh key of a guard: the private one into this file, which must not exist, the public one into FILE.pub
    Keygen {
        /// The file; keep it away from the daemon's host
        #[arg(value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
}

#[derive(Subcommand)]
pub enum ClockVerb {
    /// The appliance's time, and whether it jumped
    Show,
    /// Say that the host's time is right after a jump; until then nothing is deleted
    Accept {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}
