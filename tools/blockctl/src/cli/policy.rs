//! The verbs of policies and of what they protect.

use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

#[derive(Subcommand)]
pub enum PolicyVerb {
    /// Every policy, and what stands under it
    List,
    /// One policy, its items and its file
    Show {
        /// VAULT/NAME, or NAME of the vault main
        name: String,
    },
    /// The file of a policy, on standard output
    Export {
        /// VAULT/NAME, or NAME of the vault main
        name: String,
    },
    /// What a file would do to existing points if it were applied; prints the plan's id
    Plan(PolicyFile),
    /// Write a policy; one that lets points go takes a plan
    Apply {
        #[command(flatten)]
        file: OptionalFile,
        /// Do what this plan says
        #[arg(long, value_name = "ID", conflicts_with_all = ["file", "name"])]
        plan: Option<String>,
    },
    /// Remove a policy that nothing stands under
    Delete {
        /// VAULT/NAME, or NAME of the vault main
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Every disk, machine and group under a policy, with its newest point and its next backup
    Items,
}

#[derive(Subcommand)]
pub enum GroupVerb {
    /// Every group, with its members and its policy
    List,
    /// One group and its disks
    Show {
        /// group/NAME
        name: String,
    },
    /// Make a group, or give it other members
    Set {
        /// group/NAME
        name: String,
        /// All its members: names of disks and machines
        #[arg(required = true, value_name = "MEMBER")]
        members: Vec<String>,
    },
    /// Remove a group; its members and their recovery points stay
    Delete {
        /// group/NAME
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args)]
pub struct PolicyFile {
    /// A policy's file: blockd/docs/policy.md
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// VAULT/NAME, or NAME of the vault main; else the file's name without its ending
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Args)]
pub struct OptionalFile {
    /// A policy's file: blockd/docs/policy.md
    #[arg(value_hint = ValueHint::FilePath, required_unless_present = "plan")]
    pub file: Option<PathBuf>,
    /// VAULT/NAME, or NAME of the vault main; else the file's name without its ending
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Args)]
pub struct ProtectOptions {
    /// The name of a disk, of a machine (vm/web: all its disks at one instant) or of a group (group/shop: all its members)
    pub item: String,
    /// VAULT/NAME, or NAME of the vault main; else the one it stands under, whose protection is resumed, or default
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
}

#[derive(Args)]
pub struct UnprotectOptions {
    /// The name of a disk, a machine or a group
    pub item: String,
    #[command(flatten)]
    pub data: WhatOfData,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct WhatOfData {
    /// Its recovery points stay, until somebody deletes them
    #[arg(long)]
    pub retain_data: bool,
    /// Its recovery points in the policy's vault are deleted; until their term is over they can be undeleted
    #[arg(long)]
    pub delete_data: bool,
    /// Neither backups nor pruning until `protect` resumes it
    #[arg(long)]
    pub pause: bool,
}
