//! The paths of disks, recovery points, runs and jobs.

use super::verb::{ADMINISTER, Call, LOOK, OPERATE, RESTORE, Verb, critical, raw, verb};
use crate::error::{Error, Result};
use crate::identity::Caller;
use crate::jobs::Urgency;
use crate::names;
use axum::http::Method;
use axum::response::IntoResponse;
use control::{
    BackupRequest, ChangesQuery, CreateDisk, DeleteDiskQuery, DeletePointQuery, Job, Kind, NewBase,
    PageQuery, PointsQuery, RecoverQuery, RehearseRequest, RenameDisk, ResizeDisk, RestoreRequest, Role,
    RunRequest, ShareDisk, SnapshotRequest, Tier, WaitQuery,
};
use std::time::Duration;

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    let parts = [overview(), disks(), points(), runs(), jobs()];
    parts.into_iter().flatten().collect()
}

fn overview() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/status", LOOK, "Daemon, disks, vaults and warnings", |daemon, call: &Call| {
            let mut status = daemon.status()?;
            if !call.caller.is_whole() {
                status.disks.retain(|disk| call.caller.sees_item(&disk.name));
                status.runs.retain(|run| call.caller.sees_item(&run.name));
                status.vaults.retain(|vault| call.caller.sees_vault(&vault.name));
                status.space.shed.retain(|shed| call.caller.sees_item(&shed.disk));
                // they name whatever they are about
                status.warnings.clear();
            }
            Ok(status)
        }),
        verb(
            Method::GET,
            "/v1/exports",
            LOOK.whole(),
            "Exports and how they are used: requests, bytes, errors and latencies by command",
            |daemon, _: &Call| Ok(daemon.exports()),
        ),
        raw(
            "/metrics",
            LOOK.whole(),
            "The same and more as text for Prometheus",
            |daemon, _, _| async move {
                // it looks into vaults
                let text = tokio::task::spawn_blocking(move || daemon.metrics()).await;
                let defect = |error| Error::said(Kind::Io, "metrics", format!("ended by a defect: {error}"));
                Ok(text.map_err(defect)??.into_response())
            },
        ),
    ]
}

fn disks() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/disks", LOOK, "Every disk", |daemon, call: &Call| {
            let mut disks = daemon.disks();
            disks.retain(|disk| call.caller.sees_item(&disk.name));
            Ok(disks)
        }),
        verb(
            Method::POST,
            "/v1/disks",
            OPERATE,
            "Makes a disk; on a file of the host only for an admin",
            |daemon, call: &Call<(), CreateDisk>| {
                if matches!(call.body.base, Some(NewBase::Image { .. } | NewBase::Adopt(_))) {
                    call.caller.check_role(&[Role::Admin], "make a disk on a file of the host")?;
                }
                not_a_definition(&call.body.name)?;
                daemon.create_disk(&call.body)
            },
        ),
        verb(Method::GET, "/v1/disks/{disk}", LOOK, "One disk", |daemon, call: &Call| {
            daemon.disk(call.name("disk"))
        }),
        verb(
            Method::DELETE,
            "/v1/disks/{disk}",
            ADMINISTER,
            "Deletes a disk and its instant recovery points; it is answered as it was",
            |daemon, call: &Call<DeleteDiskQuery>| daemon.delete_disk(call.name("disk"), &call.query),
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/resize",
            OPERATE,
            "Makes a disk larger or smaller",
            |daemon, call: &Call<(), ResizeDisk>| daemon.resize_disk(call.name("disk"), &call.body),
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/ready",
            OPERATE,
            "Ends the filling of a disk that was made with `fill`",
            |daemon, call: &Call| daemon.disk_ready(call.name("disk")),
        ),
        verb(
            Method::GET,
            "/v1/disks/{disk}/changes",
            LOOK,
            "The ranges of a disk that changed",
            |daemon, call: &Call<ChangesQuery>| {
                let (since, until) = (call.query.since.as_deref(), call.query.until.as_deref());
                daemon.tiers().changes(call.name("disk"), since, until)
            },
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/scrub",
            OPERATE,
            "Reads and verifies everything sealed of a disk, as a job",
            |daemon, call: &Call| daemon.scrub_disk(call.name("disk")),
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/recover",
            OPERATE,
            "Opens a disk again at its last committed state, if it does not serve",
            |daemon, call: &Call<RecoverQuery>| daemon.recover_disk(call.name("disk"), call.query),
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/rename",
            OPERATE,
            "Calls a disk something else; its points and its policy go with it",
            |daemon, call: &Call<(), RenameDisk>| {
                not_a_definition(&call.body.to)?;
                daemon.rename_disk(call.name("disk"), &call.body.to)
            },
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/share",
            OPERATE,
            "Lets several clients write to a disk, or only one again",
            |daemon, call: &Call<(), ShareDisk>| daemon.share_disk(call.name("disk"), call.body.shared),
        ),
        verb(
            Method::POST,
            "/v1/disks/{disk}/release",
            OPERATE,
            "Lets remote clients write to a disk again after an unclean end of the host",
            |daemon, call: &Call| daemon.release_disk(call.name("disk")),
        ),
    ]
}

fn points() -> Vec<Verb> {
    vec![
        verb(
            Method::POST,
            "/v1/snapshots",
            OPERATE,
            "Recovery point now, of all named disks at one instant, as consistent as their machines can be had",
            |daemon, call: &Call<(), SnapshotRequest>| daemon.snapshot(&call.body),
        ),
        verb(
            Method::GET,
            "/v1/points",
            LOOK,
            "Recovery points, oldest first within a disk",
            |daemon, call: &Call<PointsQuery>| {
                let (after, limit) = (call.query.after.as_deref(), call.query.limit);
                let sees = |name: &str| call.caller.sees_item(name);
                let mut points = match (limit, &call.query.item, call.query.deleted) {
                    (Some(limit), None, false) => daemon.points_page(after, limit, &sees)?,
                    _ => {
                        let mut points = daemon.points(&call.query)?;
                        points.points.retain(|point| sees(&point.name));
                        let is_more = page(&mut points.points, after, limit, |point| &point.name);
                        points.next =
                            points.points.last().filter(|_| is_more).map(|point| point.name.clone());
                        points
                    }
                };
                if !call.caller.is_whole() {
                    // they name whatever they are about
                    points.warnings.clear();
                }
                Ok(points)
            },
        ),
        verb(Method::GET, "/v1/points/{point}", LOOK, "One recovery point", |daemon, call: &Call| {
            daemon.point(call.name("point"))
        }),
        critical(
            Method::DELETE,
            "/v1/points/{point}",
            ADMINISTER,
            "Deletes a recovery point from a tier or from all; from vaults it can be undone for a term",
            |_, call: &Call<DeletePointQuery>| Ok(call.query.tier != Some(Tier::Instant)),
            |daemon, call: &Call<DeletePointQuery>| {
                let (name, tier) = (call.name("point"), call.query.tier);
                call.caller.check_scope(&[], &daemon.tiers().stores_of(name, tier))?;
                daemon.delete_point(name, &call.query)
            },
        ),
        verb(
            Method::POST,
            "/v1/backups",
            OPERATE,
            "Recovery point, then its transfer to a vault, as a job",
            |daemon, call: &Call<(), BackupRequest>| daemon.backup(&call.body),
        ),
        verb(
            Method::POST,
            "/v1/rehearsals",
            OPERATE,
            "Starts a recovery point as a machine that reaches nothing, to see whether it would, as a job",
            |daemon, call: &Call<(), RehearseRequest>| daemon.rehearse(&call.body, Urgency::ByHand),
        ),
        verb(
            Method::POST,
            "/v1/restores",
            RESTORE,
            "A recovery point as a new disk or in the place of one, as a job",
            |daemon, call: &Call<(), RestoreRequest>| {
                not_a_definition(&call.body.to)?;
                daemon.restore(&call.body)
            },
        ),
        verb(
            Method::POST,
            "/v1/restores/preflight",
            LOOK,
            "What a restore would take and cost; nothing is done",
            |daemon, call: &Call<(), RestoreRequest>| daemon.preflight(&call.body),
        ),
    ]
}

fn runs() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/runs", LOOK, "Disks that run from a recovery point", |daemon, call: &Call| {
            let mut runs = daemon.runs();
            runs.retain(|run| call.caller.sees_item(&run.name));
            Ok(runs)
        }),
        verb(
            Method::POST,
            "/v1/runs",
            RESTORE,
            "A writable disk that reads from a recovery point, at once",
            |daemon, call: &Call<(), RunRequest>| {
                not_a_definition(&call.body.name)?;
                daemon.run(&call.body)
            },
        ),
        verb(Method::GET, "/v1/runs/{run}", LOOK, "One of them", |daemon, call: &Call| {
            daemon.run_status(call.name("run"))
        }),
        verb(
            Method::DELETE,
            "/v1/runs/{run}",
            RESTORE,
            "Deletes it; refused once it is independent",
            |daemon, call: &Call| daemon.discard(call.name("run")),
        ),
        verb(
            Method::POST,
            "/v1/runs/{run}/promote",
            RESTORE,
            "Makes it independent of the point as soon as it can be",
            |daemon, call: &Call| daemon.promote(call.name("run")),
        ),
    ]
}

fn jobs() -> Vec<Verb> {
    vec![
        verb(Method::GET, "/v1/jobs", LOOK, "Jobs, newest first", |daemon, call: &Call<PageQuery>| {
            let mut jobs = daemon.jobs().list()?;
            jobs.retain(|job| sees_job(&call.caller, job));
            page(&mut jobs, call.query.after.as_deref(), call.query.limit, |job| &job.id);
            Ok(jobs)
        }),
        verb(
            Method::GET,
            "/v1/jobs/{job}",
            LOOK,
            "One job, by its id or the beginning of it; with `wait_ms` at its end or after that time",
            |daemon, call: &Call<WaitQuery>| {
                let wait = Duration::from_millis(call.query.wait_ms.unwrap_or(0));
                daemon.jobs().wait_for(call.name("job"), wait)
            },
        ),
        verb(Method::POST, "/v1/jobs/{job}/cancel", OPERATE, "Asks a job to stop", |daemon, call: &Call| {
            daemon.jobs().cancel(call.name("job"))
        }),
    ]
}

/// Refuses a name under which a disk would be believed to say what a machine is.
fn not_a_definition(name: &str) -> Result<()> {
    if !names::is_definition(name) {
        return Ok(());
    }
    let why = "is where the definition of a protected machine is kept, which nobody else writes";
    Err(Error::said(Kind::Refused, format!("disk {name}"), why).with_help("choose another name"))
}

/// Cuts a page out of a list: behind the one called `after`, at most `limit`. Whether there is more behind it.
pub(super) fn page<T>(
    list: &mut Vec<T>,
    after: Option<&str>,
    limit: Option<usize>,
    name: impl Fn(&T) -> &String,
) -> bool {
    if let Some(after) = after {
        // one that is gone by now: begin anew rather than end early
        let begin = list.iter().position(|one| name(one) == after).map_or(0, |at| at + 1);
        list.drain(..begin);
    }
    let length = list.len();
    list.truncate(limit.unwrap_or(usize::MAX));
    list.len() < length
}

fn sees_job(caller: &Caller, job: &Job) -> bool {
    let vault = job.vault.as_deref();
    vault.is_none_or(|vault| caller.sees_vault(vault))
        && (vault == Some(&job.item) || caller.sees_item(&job.item))
}
