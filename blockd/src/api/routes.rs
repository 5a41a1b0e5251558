//! The paths of version 1.

use super::answer::{Answer, call};
use crate::daemon::Daemon;
use crate::error::Error;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::Uri;
use axum::routing::{get, post};
use axum::{Json, Router};
use control::{
    BackupRequest, Changes, ChangesQuery, CreateDisk, CreateVault, DeleteDiskQuery, DeletePointQuery, Disk,
    Export, Job, OpenVault, Point, PointDeleted, Points, PointsQuery, Preflight, RecoverQuery, ResizeDisk,
    RestoreRequest, Run, RunRequest, ShareDisk, SnapshotRequest, Status, SweepRun, Vault, VaultUsage,
    WaitQuery,
};
use std::sync::Arc;
use std::time::Duration;

pub(super) type Ours = State<Arc<Daemon>>;
pub(super) type Name = Result<Path<String>, PathRejection>;
pub(super) type Asked<T> = Result<Query<T>, QueryRejection>;
pub(super) type Body<T> = Result<Json<T>, JsonRejection>;

/// Every path.
pub fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/disks", get(disks).post(create_disk))
        .route("/v1/disks/{name}", get(disk).delete(delete_disk))
        .route("/v1/disks/{name}/resize", post(resize_disk))
        .route("/v1/disks/{name}/ready", post(disk_ready))
        .route("/v1/disks/{name}/changes", get(changes))
        .route("/v1/disks/{name}/scrub", post(scrub_disk))
        .route("/v1/disks/{name}/recover", post(recover_disk))
        .route("/v1/disks/{name}/share", post(share_disk))
        .route("/v1/disks/{name}/release", post(release_disk))
        .route("/v1/exports", get(exports))
        .route("/metrics", get(metrics))
        .route("/v1/snapshots", post(snapshot))
        .route("/v1/points", get(points))
        .route("/v1/points/{point}", get(point).delete(delete_point))
        .route("/v1/backups", post(backup))
        .route("/v1/restores", post(restore))
        .route("/v1/restores/preflight", post(preflight))
        .route("/v1/runs", get(runs).post(run))
        .route("/v1/runs/{name}", get(run_status).delete(discard))
        .route("/v1/runs/{name}/promote", post(promote))
        .route("/v1/vaults", get(vaults).post(create_vault))
        .route("/v1/vaults/{name}", get(vault))
        .route("/v1/vaults/{name}/open", post(open_vault))
        .route("/v1/vaults/{name}/usage", get(vault_usage))
        .route("/v1/vaults/{name}/check", post(check_vault))
        .route("/v1/vaults/{name}/sweep", post(sweep_vault))
        .route("/v1/vaults/{name}/sweeps", get(sweeps))
        .route("/v1/vaults/{name}/sweeps/{run}/undo", post(undo_sweep))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/cancel", post(cancel_job))
        .merge(super::policies::routes())
        .merge(super::vaults::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
}

async fn unknown(uri: Uri) -> Error {
    Error::not_found(format!("API request to {}", uri.path()))
}

async fn status(State(daemon): Ours) -> Answer<Status> {
    call(daemon, |daemon| daemon.status()).await
}

async fn disks(State(daemon): Ours) -> Answer<Vec<Disk>> {
    call(daemon, |daemon| Ok(daemon.disks())).await
}

async fn create_disk(State(daemon): Ours, body: Body<CreateDisk>) -> Answer<Disk> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.create_disk(&request)).await
}

async fn disk(State(daemon): Ours, name: Name) -> Answer<Disk> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.disk(&name)).await
}

async fn disk_ready(State(daemon): Ours, name: Name) -> Answer<Disk> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.disk_ready(&name)).await
}

async fn delete_disk(State(daemon): Ours, name: Name, query: Asked<DeleteDiskQuery>) -> Answer<Disk> {
    let (Path(name), Query(query)) = (name?, query?);
    call(daemon, move |daemon| daemon.delete_disk(&name, &query)).await
}

async fn resize_disk(State(daemon): Ours, name: Name, body: Body<ResizeDisk>) -> Answer<Disk> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.resize_disk(&name, &request)).await
}

async fn scrub_disk(State(daemon): Ours, name: Name) -> Answer<Job> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.scrub_disk(&name)).await
}

async fn recover_disk(State(daemon): Ours, name: Name, query: Asked<RecoverQuery>) -> Answer<Disk> {
    let (Path(name), Query(query)) = (name?, query?);
    call(daemon, move |daemon| daemon.recover_disk(&name, query)).await
}

async fn share_disk(State(daemon): Ours, name: Name, body: Body<ShareDisk>) -> Answer<Disk> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.share_disk(&name, request.shared)).await
}

async fn release_disk(State(daemon): Ours, name: Name) -> Answer<Disk> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.release_disk(&name)).await
}

async fn exports(State(daemon): Ours) -> Answer<Vec<Export>> {
    call(daemon, |daemon| Ok(daemon.exports())).await
}

async fn metrics(State(daemon): Ours) -> String {
    daemon.metrics()
}

async fn changes(State(daemon): Ours, name: Name, query: Asked<ChangesQuery>) -> Answer<Changes> {
    let (Path(name), Query(query)) = (name?, query?);
    call(daemon, move |daemon| daemon.tiers().changes(&name, query.since.as_deref(), query.until.as_deref()))
        .await
}

async fn snapshot(State(daemon): Ours, body: Body<SnapshotRequest>) -> Answer<Vec<Point>> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.snapshot(&request.disks)).await
}

async fn points(State(daemon): Ours, query: Asked<PointsQuery>) -> Answer<Points> {
    let Query(query) = query?;
    call(daemon, move |daemon| daemon.points(&query)).await
}

async fn point(State(daemon): Ours, name: Name) -> Answer<Point> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.point(&name)).await
}

async fn delete_point(
    State(daemon): Ours,
    name: Name,
    query: Asked<DeletePointQuery>,
) -> Answer<PointDeleted> {
    let (Path(name), Query(query)) = (name?, query?);
    call(daemon, move |daemon| daemon.delete_point(&name, &query)).await
}

async fn backup(State(daemon): Ours, body: Body<BackupRequest>) -> Answer<Job> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.backup(&request)).await
}

async fn restore(State(daemon): Ours, body: Body<RestoreRequest>) -> Answer<Job> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.restore(&request)).await
}

async fn preflight(State(daemon): Ours, body: Body<RestoreRequest>) -> Answer<Preflight> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.preflight(&request)).await
}

async fn runs(State(daemon): Ours) -> Answer<Vec<Run>> {
    call(daemon, |daemon| Ok(daemon.runs())).await
}

async fn run(State(daemon): Ours, body: Body<RunRequest>) -> Answer<Run> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.run(&request)).await
}

async fn run_status(State(daemon): Ours, name: Name) -> Answer<Run> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.run_status(&name)).await
}

async fn promote(State(daemon): Ours, name: Name) -> Answer<Run> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.promote(&name)).await
}

async fn discard(State(daemon): Ours, name: Name) -> Answer<Disk> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.discard(&name)).await
}

async fn vaults(State(daemon): Ours) -> Answer<Vec<Vault>> {
    call(daemon, |daemon| daemon.vaults()).await
}

async fn create_vault(State(daemon): Ours, body: Body<CreateVault>) -> Answer<Vault> {
    let Json(request) = body?;
    call(daemon, move |daemon| daemon.create_vault(&request)).await
}

async fn vault(State(daemon): Ours, name: Name) -> Answer<Vault> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.vault(&name)).await
}

async fn open_vault(State(daemon): Ours, name: Name, body: Body<OpenVault>) -> Answer<Vault> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.open_vault(&name, &request)).await
}

async fn vault_usage(State(daemon): Ours, name: Name) -> Answer<VaultUsage> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.tiers().vaults.usage(&name)).await
}

async fn check_vault(State(daemon): Ours, name: Name) -> Answer<Job> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.check_vault(&name)).await
}

async fn sweep_vault(State(daemon): Ours, name: Name) -> Answer<Job> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.sweep_vault(&name)).await
}

async fn sweeps(State(daemon): Ours, name: Name) -> Answer<Vec<SweepRun>> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.sweeps(&name)).await
}

async fn undo_sweep(
    State(daemon): Ours,
    names: Result<Path<(String, String)>, PathRejection>,
) -> Answer<SweepRun> {
    let Path((name, run)) = names?;
    call(daemon, move |daemon| daemon.undo_sweep(&name, &run)).await
}

async fn jobs(State(daemon): Ours) -> Answer<Vec<Job>> {
    call(daemon, |daemon| daemon.jobs().list()).await
}

async fn job(State(daemon): Ours, id: Name, query: Asked<WaitQuery>) -> Answer<Job> {
    let (Path(id), Query(query)) = (id?, query?);
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0));
    call(daemon, move |daemon| daemon.jobs().wait_for(&id, wait)).await
}

async fn cancel_job(State(daemon): Ours, id: Name) -> Answer<Job> {
    let Path(id) = id?;
    call(daemon, move |daemon| daemon.jobs().cancel(&id)).await
}
