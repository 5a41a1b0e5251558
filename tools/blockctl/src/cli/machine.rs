//! Whole machines.

use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub enum MachineVerb {
    /// Protected machines, and those that libvirt has besides
    List {
        #[command(flatten)]
        libvirt: Libvirt,
    },
    /// One protected machine
    Show {
        /// Its name, vm/web
        #[arg(value_parser = machine)]
        machine: String,
    },
    /// Protect a machine of libvirt: its disks are one item, and its definition is kept with each recovery point
    Protect {
        /// What libvirt calls it
        domain: String,
        /// Its name here, vm/NAME; else libvirt's
        #[arg(long, value_parser = machine)]
        name: Option<String>,
        /// Only this disk, by target or serial; may be given several times
        #[arg(long, value_name = "DISK")]
        include: Vec<String>,
        /// Not this disk, by target or serial; may be given several times
        #[arg(long, value_name = "DISK")]
        exclude: Vec<String>,
        /// Whether its disks are ours, or stay on its own images and are pulled from its qemu
        #[arg(long, default_value = "served")]
        mode: ModeName,
        #[command(flatten)]
        libvirt: Libvirt,
    },
    /// Forget a machine; its disks and recovery points stay
    Unprotect {
        /// Its name, vm/web
        #[arg(value_parser = machine)]
        machine: String,
    },
    /// Give a disk to a machine: in its definition, and now if it runs
    Attach(AttachOptions),
    /// Move the disks of a running machine here, without stopping it; a protected machine's disks that are not here yet
    MigrateIn {
        /// Its name, vm/web
        #[arg(value_parser = machine)]
        machine: String,
        /// Only these disks, by target: vda,vdb
        #[arg(long, value_name = "TARGET", value_delimiter = ',')]
        disks: Vec<String>,
    },
    /// Move the disks of a running machine to files of its host, without stopping it
    MigrateOut {
        /// Its name, vm/web
        #[arg(value_parser = machine)]
        machine: String,
        /// The directory the files are made in: NAME-TARGET.FORMAT
        #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
        to: String,
        /// Their format
        #[arg(long, default_value = "qcow2", value_parser = ["qcow2", "raw"])]
        format: String,
        /// Only these disks, by target: vda,vdb
        #[arg(long, value_name = "TARGET", value_delimiter = ',')]
        disks: Vec<String>,
    },
    /// The arguments that give a disk to a qemu without libvirt
    CommandLine {
        /// The disk
        disk: String,
        /// What the disk is called in the machine
        #[arg(long, default_value = "vda")]
        target: String,
    },
    /// The definition that a recovery point of a machine holds
    Definition {
        /// MACHINE@NUMBER, MACHINE@latest, or MACHINE@TIME
        point: String,
    },
}

#[derive(Args)]
pub struct AttachOptions {
    /// What libvirt calls the machine
    pub domain: String,
    /// The disk
    pub disk: String,
    /// What it is called in the machine; else the next free one of vda, vdb, … A disk that has the name is replaced
    #[arg(long)]
    pub target: Option<String>,
    /// Only from the machine's next start on, although it runs
    #[arg(long)]
    pub at_next_start: bool,
    #[command(flatten)]
    pub libvirt: Libvirt,
}

/// Where the disks of a machine are.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ModeName {
    /// They are disks of ours
    Served,
    /// They are images of its own
    Attached,
}

#[derive(Args)]
pub struct Libvirt {
    /// The libvirt: qemu:///session, qemu+unix:///system?socket=PATH, qemu+ssh://root@HOST/system; else qemu:///system
    #[arg(long, value_name = "URI")]
    pub uri: Option<String>,
}

/// The name of a machine, with or without what begins it.
pub fn machine(text: &str) -> Result<String, String> {
    let word = text.strip_prefix("vm/").unwrap_or(text);
    match word.is_empty() || word.contains(['/', '@']) {
        true => Err("a machine is called like vm/web".to_owned()),
        false => Ok(format!("vm/{word}")),
    }
}
