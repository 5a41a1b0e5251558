//! The paths of version 1.

use super::answer::{Answer, call};
use crate::daemon::Daemon;
use crate::error::Error;
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::Uri;
use axum::routing::{get, post};
use control::{Job, Status, WaitQuery};
use std::sync::Arc;
use std::time::Duration;

type Ours = State<Arc<Daemon>>;
type Name = Result<Path<String>, PathRejection>;

/// Every path.
pub fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/jobs", get(jobs))
        .route("/v1/jobs/{id}", get(job))
        .route("/v1/jobs/{id}/cancel", post(cancel_job))
        .fallback(unknown)
}

async fn unknown(uri: Uri) -> Error {
    Error::not_found(format!("API path {}", uri.path()))
}

async fn status(State(daemon): Ours) -> Answer<Status> {
    call(daemon, |daemon| daemon.status()).await
}

async fn jobs(State(daemon): Ours) -> Answer<Vec<Job>> {
    call(daemon, |daemon| daemon.jobs().list()).await
}

async fn job(State(daemon): Ours, id: Name, query: Result<Query<WaitQuery>, QueryRejection>) -> Answer<Job> {
    let (Path(id), Query(query)) = (id?, query?);
    let wait = Duration::from_millis(query.wait_ms.unwrap_or(0));
    call(daemon, move |daemon| daemon.jobs().wait_for(&id, wait)).await
}

async fn cancel_job(State(daemon): Ours, id: Name) -> Answer<Job> {
    let Path(id) = id?;
    call(daemon, move |daemon| daemon.jobs().cancel(&id)).await
}
