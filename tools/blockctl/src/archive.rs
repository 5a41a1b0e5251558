//! `blockctl point archive` and `point rehydrate`.

use crate::failure::{Failure, Result};
use crate::job;
use crate::output::{Output, table};
use crate::size;
use control::{ArchiveCost, ArchivePoint, Client, Job, Kind, RehydratePoint};

/// Moves a point to an archive, once somebody knows what it costs.
pub fn to(
    client: &Client,
    output: &Output,
    point: &str,
    to: String,
    only_cost: bool,
    yes: bool,
) -> Result<()> {
    let cost = client.archive_cost(point, &to)?;
    if only_cost {
        return output.answer(&cost, show);
    }
    if let Some((point, why)) = cost.points.iter().find_map(|one| Some((&one.point, one.obstacle.as_ref()?)))
    {
        return Err(Failure::new(Kind::Refused, format!("archive {point}: {why}"))
            .with_help(format!("`blockctl point show {point}` says more")));
    }
    if !output.is_json() {
        eprintln!("{}", show(&cost));
    }
    output.confirm(&format!("move {point} from its vaults to the archive {to}"), yes)?;
    let begun = client.archive_point(point, &ArchivePoint { to })?;
    let done = job::follow(client, output, &begun)?;
    job::answer(output, &done, archived)
}

/// Brings a point back from an archive.
pub fn back(client: &Client, output: &Output, point: &str, request: &RehydratePoint) -> Result<()> {
    let begun = client.rehydrate_point(point, request)?;
    let done = job::follow(client, output, &begun)?;
    let shown = client.point(point).ok().and_then(|point| point.rehydrated_until);
    job::answer(output, &done, |job| {
        let until = shown.map_or_else(String::new, |until| format!(" until {until}"));
        format!("{point} is in vault {}{until}{}", job.vault.as_deref().unwrap_or("?"), moved(job))
    })
}

fn archived(job: &Job) -> String {
    let (point, to) = (job.point.as_deref().unwrap_or("?"), job.vault.as_deref().unwrap_or("?"));
    format!("{point} is in the archive {to}{}", moved(job))
}

fn moved(job: &Job) -> String {
    format!(
        ", {} read, {} stored, {:.2} s",
        size::show(job.bytes_read),
        size::show(job.bytes_stored),
        job.duration_ms as f64 / 1000.0
    )
}

fn show(cost: &ArchiveCost) -> String {
    let rows = cost.points.iter().map(|one| {
        vec![
            one.point.clone(),
            size::show(one.bytes_archived),
            one.vault.clone(),
            size::show(one.bytes_freed),
            one.obstacle.clone().unwrap_or_default(),
        ]
    });
    let takes = format!(">takes in {}", cost.archive);
    table(&["point", &takes, "leaves vault", ">frees there", "obstacle"], rows.collect())
}
