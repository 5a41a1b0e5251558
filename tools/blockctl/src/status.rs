//! `blockctl status`.

use crate::failure::Result;
use crate::output::{Output, sheet};
use crate::{disk, run, size, vault};
use control::{CacheUse, Client, Space, SpaceState, Status};

/// Shows how everything is.
pub fn show(client: &Client, output: &Output) -> Result<()> {
    output.answer(&client.status()?, text)
}

fn text(status: &Status) -> String {
    let daemon = &status.daemon;
    let listen = daemon.nbd_listen.as_ref().map(|address| format!(" and {address}")).unwrap_or_default();
    let free = format!("{} of {} free", size::show(daemon.space_available), size::show(daemon.space_total));
    let mut text = sheet(&[
        ("daemon", format!("blockd {}, process {}, since {}", daemon.version, daemon.pid, daemon.started)),
        ("state", format!("{} ({free})", daemon.state)),
        ("exports", format!("{}{listen}", daemon.nbd_socket)),
        ("space", space_of(&status.space)),
        ("cache", cache_of(&status.cache)),
        ("points", status.points.to_string()),
        ("jobs", format!("{} active", status.jobs_active)),
    ]);
    if !status.disks.is_empty() {
        text.push('\n');
        text.push_str(&disk::table_of(&status.disks));
    }
    if !status.runs.is_empty() {
        text.push('\n');
        text.push_str(&run::list(&status.runs));
    }
    text.push('\n');
    text.push_str(&vault::table_of(&status.vaults));
    for warning in &status.warnings {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

/// The memory for decoded chunks in one line.
fn cache_of(cache: &CacheUse) -> String {
    let asked = cache.hits + cache.misses;
    let found = (cache.hits * 100).checked_div(asked).unwrap_or(0);
    format!(
        "{} of {} held, {found} % of {asked} chunks found in it",
        size::show(cache.held),
        size::show(cache.limit)
    )
}

/// The room of the instant tier in one line.
fn space_of(space: &Space) -> String {
    let state = match space.state {
        SpaceState::Enough => "enough",
        SpaceState::Low => "low",
        SpaceState::Exhausted => "exhausted",
    };
    let budget = space.budget.map(|budget| format!(" of a budget of {}", size::show(budget)));
    let mut text = format!(
        "{state}: {} used{}, {} left, reserve {}",
        size::show(space.used),
        budget.unwrap_or_default(),
        size::show(space.left),
        size::show(space.reserve)
    );
    if let Some(last) = space.shed.first() {
        let (count, many) = (space.shed_count, if space.shed_count == 1 { "" } else { "s" });
        text.push_str(&format!("; {count} point{many} left it, last {} at {}", last.point, last.time));
    }
    text
}
