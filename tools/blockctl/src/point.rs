//! `blockctl snapshot`, `point …` and `backup`.

use crate::archive;
use crate::cli::{BackupOptions, Level, PointVerb, TierName};
use crate::disk;
use crate::failure::Result;
use crate::history;
use crate::job;
use crate::output::{Output, sheet, table};
use crate::policy::reasons;
use crate::rehearse;
use crate::size;
use control::{
    BackupRequest, ChangesQuery, Client, DeletePointQuery, Job, Point, RehydratePoint, SnapshotRequest, Tier,
    TransferKind,
};

/// `blockctl snapshot`.
pub fn snapshot(client: &Client, output: &Output, disks: Vec<String>, require: Option<Level>) -> Result<()> {
    let request = SnapshotRequest { disks, require: require.map(Level::wanted) };
    let points = client.snapshot_with(&request)?;
    points.iter().filter_map(less).for_each(|warning| output.warn(&warning));
    output.answer(&points, |points| points.iter().map(|point| point.name.clone() + "\n").collect())
}

/// Why a point is less consistent than it was to be.
fn less(point: &Point) -> Option<String> {
    let why = point.consistency_why.as_ref()?;
    Some(format!("{} is {}-consistent: {why}", point.name, point.consistency.name()))
}

/// `blockctl point …`.
pub fn run(verb: PointVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        PointVerb::List { item, deleted } => {
            let item = item.as_deref();
            let found = if deleted { client.deleted_points(item)? } else { client.points(item)? };
            found.warnings.iter().for_each(|warning| output.warn(warning));
            output.answer(&found.points, |points| list(points))
        }
        PointVerb::Show { point } => output.answer(&client.point(&point)?, show),
        PointVerb::Diff { a, b, files, passphrases } => {
            let (mut older, mut newer) = (client.point(&a)?, client.point(&b)?);
            if older.epoch > newer.epoch {
                std::mem::swap(&mut older, &mut newer);
            }
            if files {
                return history::files_diff(client, output, &older, &newer, passphrases.read()?);
            }
            let query = ChangesQuery { since: Some(older.name), until: Some(newer.name) };
            output.answer(&client.changes(&newer.disk, &query)?, disk::changes)
        }
        PointVerb::Hold { point, reason } => output.answer(&client.hold_point(&point, &reason)?, show),
        PointVerb::Release { point } => output.answer(&client.release_point(&point)?, show),
        PointVerb::Accept { point } => output.answer(&client.accept_point(&point)?, show),
        PointVerb::Undelete { point } => output.answer(&client.undelete_point(&point)?, show),
        PointVerb::Archive { point, to, cost, yes } => archive::to(client, output, &point, to, cost, yes),
        PointVerb::Rehydrate { point, span, vault } => {
            archive::back(client, output, &point, &RehydratePoint { seconds: span, vault: Some(vault) })
        }
        PointVerb::Delete { point, tier, last_copy, yes } => {
            let tier = tier.map(|tier| match tier {
                TierName::Instant => Tier::Instant,
                TierName::Vault => Tier::Vault,
                TierName::Archive => Tier::Archive,
            });
            let found = client.point(&point)?;
            let from = match tier {
                Some(tier) => tiers(&[tier]),
                None => tiers(&found.tiers),
            };
            output.confirm(&format!("delete recovery point {} from {from}", found.name), yes)?;
            let deleted = client.delete_point(&found.name, &DeletePointQuery { tier, last_copy })?;
            output.answer(&deleted, |deleted| {
                let left = match deleted.remaining.as_slice() {
                    [] => String::new(),
                    left => format!("; still in {}", tiers(left)),
                };
                let name = &deleted.name;
                let back = deleted.until.as_ref().map_or_else(String::new, |until| {
                    format!("; until {until} `blockctl point undelete {name}` brings it back from the vault")
                });
                format!("deleted {name} from {}{left}{back}", tiers(&deleted.deleted))
            })
        }
    }
}

/// `blockctl backup`.
pub fn backup(client: &Client, output: &Output, options: &BackupOptions) -> Result<()> {
    let request = BackupRequest {
        item: options.item.clone(),
        vault: Some(options.vault.clone()),
        full: options.full,
        keep_seconds: options.keep,
        require: options.require.map(Level::wanted),
    };
    let begun = client.backup(&request)?;
    let done = job::follow(client, output, &begun)?;
    job::answer(output, &done, backed_up)
}

/// What a backup did, in a sentence.
pub fn backed_up(job: &Job) -> String {
    let kind = match (job.kind, &job.base) {
        (Some(TransferKind::Incremental), Some(base)) => {
            format!("incremental since {base}, {} changed", size::show(job.bytes_changed))
        }
        _ => format!("full, {} of data", size::show(job.bytes_read)),
    };
    format!(
        "{} in vault {}: {kind}, {} stored ({}, {} reused), {:.2} s",
        job.point.as_deref().unwrap_or("?"),
        job.vault.as_deref().unwrap_or("?"),
        size::show(job.bytes_stored),
        size::count(job.chunks_new, "new chunk"),
        job.chunks_reused,
        job.duration_ms as f64 / 1000.0,
    ) + &job.note.as_ref().map_or_else(String::new, |note| format!("\nnote: {note}"))
}

fn tiers(tiers: &[Tier]) -> String {
    tiers.iter().map(|tier| tier.name()).collect::<Vec<_>>().join("+")
}

fn list(points: &[Point]) -> String {
    let row = |point: &Point| {
        vec![
            point.name.clone(),
            point.time.clone(),
            size::show(point.size),
            tiers(&point.tiers),
            point.consistency.name().to_owned(),
            verified(point).to_owned(),
        ]
    };
    table(&["point", "time", ">size", "tiers", "consistency", "verified"], points.iter().map(row).collect())
}

fn rehearsed(point: &Point) -> String {
    match point.rehearsals.last() {
        None => "no".to_owned(),
        Some(last) => rehearse::show(last).replace('\n', "; "),
    }
}

/// How whole it is to the guest, and why it is not more.
fn consistency(point: &Point) -> String {
    let frozen =
        point.frozen_ms.map_or_else(String::new, |ms| format!(", filesystems held still for {ms} ms"));
    let why = point.consistency_why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    format!("{}{frozen}{why}", point.consistency.name())
}

/// What is known of its copies in vaults, in a word: damage before anything else.
fn verified(point: &Point) -> &'static str {
    match (point.damaged.is_empty(), point.verified) {
        (false, _) => "damaged",
        (true, true) => "yes",
        (true, false) => "no",
    }
}

fn show(point: &Point) -> String {
    let is_verified = match point.damaged.as_slice() {
        [] => verified(point).to_owned(),
        vaults => format!("damaged in vault {}", vaults.join(" and in vault ")),
    };
    let held = point.seal_ns.map_or_else(|| "unknown".to_owned(), |ns| format!("{:.3} ms", ns as f64 / 1e6));
    sheet(&[
        ("name", point.name.clone()),
        ("disk", format!("{} ({})", point.disk, point.disk_id)),
        ("time", point.time.clone()),
        ("size", format!("{} ({} bytes)", size::show(point.size), point.size)),
        ("tiers", tiers(&point.tiers)),
        ("vaults", point.vaults.join(", ")),
        ("archives", point.archives.join(", ")),
        (
            "rehydrated",
            point.rehydrated_until.as_ref().map_or("no".to_owned(), |until| format!("until {until}")),
        ),
        ("consistency", consistency(point)),
        ("verified", is_verified),
        ("writes held", held),
        ("state", point.state.clone()),
        ("uri", point.uri.clone()),
        ("held", point.hold.clone().unwrap_or_else(|| "no".to_owned())),
        ("suspect", point.suspect.clone().unwrap_or_else(|| "no".to_owned())),
        (
            "made to be kept",
            point.keep_until.as_ref().map_or("no".to_owned(), |until| format!("until {until}")),
        ),
        ("policy", point.policy.clone().unwrap_or_else(|| "none".to_owned())),
        ("kept by it", reasons(&point.kept)),
        ("rehearsed", rehearsed(point)),
    ])
}
