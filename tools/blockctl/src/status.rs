//! `blockctl status`.

use crate::failure::Result;
use crate::output::{Output, sheet};
use crate::{disk, size, vault};
use control::{Client, Status};

/// Shows how everything is.
pub fn show(client: &Client, output: &Output) -> Result<()> {
    output.answer(&client.status()?, text)
}

fn text(status: &Status) -> String {
    let daemon = &status.daemon;
    let listen = daemon.nbd_listen.as_ref().map(|address| format!(" and {address}")).unwrap_or_default();
    let space = format!("{} of {} free", size::show(daemon.space_available), size::show(daemon.space_total));
    let mut text = sheet(&[
        ("daemon", format!("blockd {}, process {}, since {}", daemon.version, daemon.pid, daemon.started)),
        ("state", format!("{} ({space})", daemon.state)),
        ("exports", format!("{}{listen}", daemon.nbd_socket)),
        ("points", status.points.to_string()),
        ("jobs", format!("{} active", status.jobs_active)),
    ]);
    if !status.disks.is_empty() {
        text.push('\n');
        text.push_str(&disk::table_of(&status.disks));
    }
    text.push('\n');
    text.push_str(&vault::table_of(&status.vaults));
    for warning in &status.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}
