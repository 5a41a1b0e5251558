//! `blockctl job …`, and following a job to its end.

use crate::cli::JobVerb;
use crate::failure::{Failure, Result};
use crate::output::{Output, sheet, table};
use crate::size;
use control::{Client, Job, JobState, Kind};

/// `blockctl job …`.
pub fn run(verb: JobVerb, client: &Client, output: &Output) -> Result<()> {
    match verb {
        JobVerb::List => output.answer(&client.jobs()?, |jobs| list(jobs)),
        JobVerb::Show { id } => output.answer(&client.job(&id)?, show),
        JobVerb::Watch { id } => {
            let begun = client.job(&id)?;
            let done = follow(client, output, &begun)?;
            answer(output, &done, show)
        }
        JobVerb::Cancel { id } => {
            output.answer(&client.cancel_job(&id)?, |job| format!("asked job {} to stop", job.id))
        }
    }
}

/// Follows a job to its end, with a bar if it takes long.
pub fn follow(client: &Client, output: &Output, begun: &Job) -> Result<Job> {
    let what = begun.point.as_ref().unwrap_or(&begun.item);
    let mut progress = output.progress(&format!("{} {what}", begun.operation));
    Ok(client.follow(&begun.id, &mut |job| progress.at(job.bytes_done, job.bytes_total))?)
}

/// Answers with a job that has ended; fails as the job did.
pub fn answer(output: &Output, job: &Job, text: impl FnOnce(&Job) -> String) -> Result<()> {
    if job.state == JobState::Done {
        return output.answer(job, text);
    }
    if output.is_json() {
        output.answer(job, |_| String::new())?;
    }
    Err(failure(job))
}

/// Why a job did not succeed.
pub fn failure(job: &Job) -> Failure {
    match job.error.clone() {
        Some(body) => Failure::from(body).while_doing(format!("job {}", &job.id[..job.id.len().min(8)])),
        None => Failure::new(Kind::Io, format!("job {}: ended as {}", job.id, job.state.name())),
    }
}

fn list(jobs: &[Job]) -> String {
    let row = |job: &Job| {
        vec![
            job.id[..job.id.len().min(8)].to_owned(),
            job.operation.clone(),
            job.point.clone().unwrap_or_else(|| job.item.clone()),
            job.target.clone().or_else(|| job.vault.clone()).unwrap_or_default(),
            job.state.name().to_owned(),
            job.created.clone(),
            format!("{:.2} s", job.duration_ms as f64 / 1000.0),
            job.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
        ]
    };
    let titles = ["job", "operation", "of", "to", "state", "created", ">took", "error"];
    table(&titles, jobs.iter().map(row).collect())
}

fn show(job: &Job) -> String {
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let mut rows = vec![
        ("id", job.id.clone()),
        ("operation", job.operation.clone()),
        ("item", job.item.clone()),
        ("point", optional(&job.point)),
        ("base", optional(&job.base)),
        ("vault", optional(&job.vault)),
        ("target", optional(&job.target)),
        ("state", job.state.name().to_owned()),
        ("created", job.created.clone()),
        ("ended", optional(&job.ended)),
        ("took", format!("{:.2} s", job.duration_ms as f64 / 1000.0)),
        ("progress", format!("{} of {}", size::show(job.bytes_done), size::show(job.bytes_total))),
        ("changed", size::show(job.bytes_changed)),
        ("read", size::show(job.bytes_read)),
        ("chunks", format!("{} new, {} reused", job.chunks_new, job.chunks_reused)),
        ("stored", size::show(job.bytes_stored)),
    ];
    rows.extend(job.note.clone().map(|note| ("note", note)));
    if let Some(error) = &job.error {
        rows.push(("error", error.message.clone()));
    }
    sheet(&rows)
}
