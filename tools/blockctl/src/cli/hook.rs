//! What other programs call.

use clap::Subcommand;

#[derive(Subcommand)]
pub enum HookVerb {
    /// libvirt's hook for qemu, called as libvirt calls it; the machine's definition is read from standard input
    LibvirtQemu {
        /// The machine's name
        guest: String,
        /// What is about to happen or has happened: prepare, start, started, stopped, release, …
        operation: String,
        /// begin, end or -
        sub_operation: String,
        /// Not used
        #[arg(default_value = "-")]
        extra: String,
    },
}
