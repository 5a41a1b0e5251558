//! The paths of policies, of items under them, and of what is said of points.

use super::answer::{Answer, call};
use super::routes::{Asked, Body, Name, Ours};
use crate::daemon::Daemon;
use axum::extract::{Path, Query, State};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use control::{HoldPoint, Item, Point, Policy, PolicyPlan, PolicyText, Protect, UnprotectQuery};
use std::sync::Arc;

/// Every path.
pub fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/policies", get(policies))
        .route("/v1/policies/{name}", get(policy).put(apply_policy).delete(delete_policy))
        .route("/v1/policies/{name}/plan", post(plan_policy))
        .route("/v1/plans/{id}/apply", post(apply_plan))
        .route("/v1/items", get(items))
        .route("/v1/items/{item}", put(protect).delete(unprotect))
        .route("/v1/points/{point}/hold", post(hold).delete(release))
        .route("/v1/points/{point}/undelete", post(undelete))
}

async fn policies(State(daemon): Ours) -> Answer<Vec<Policy>> {
    call(daemon, |daemon| daemon.show_policies()).await
}

async fn policy(State(daemon): Ours, name: Name) -> Answer<Policy> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.show_policy(&name)).await
}

async fn apply_policy(State(daemon): Ours, name: Name, body: Body<PolicyText>) -> Answer<Policy> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.apply_policy(&name, &request.text)).await
}

async fn delete_policy(State(daemon): Ours, name: Name) -> Answer<Policy> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.delete_policy(&name)).await
}

async fn plan_policy(State(daemon): Ours, name: Name, body: Body<PolicyText>) -> Answer<PolicyPlan> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.plan_policy(&name, &request.text)).await
}

async fn apply_plan(State(daemon): Ours, id: Name) -> Answer<Policy> {
    let Path(id) = id?;
    call(daemon, move |daemon| daemon.apply_plan(&id)).await
}

async fn items(State(daemon): Ours) -> Answer<Vec<Item>> {
    call(daemon, |daemon| daemon.items()).await
}

async fn protect(State(daemon): Ours, item: Name, body: Body<Protect>) -> Answer<Item> {
    let (Path(item), Json(request)) = (item?, body?);
    call(daemon, move |daemon| daemon.protect(&item, request.policy.as_deref())).await
}

async fn unprotect(State(daemon): Ours, item: Name, query: Asked<UnprotectQuery>) -> Answer<Item> {
    let (Path(item), Query(query)) = (item?, query?);
    call(daemon, move |daemon| daemon.unprotect(&item, &query)).await
}

async fn hold(State(daemon): Ours, point: Name, body: Body<HoldPoint>) -> Answer<Point> {
    let (Path(point), Json(request)) = (point?, body?);
    call(daemon, move |daemon| daemon.hold_point(&point, Some(&request.reason))).await
}

async fn release(State(daemon): Ours, point: Name) -> Answer<Point> {
    let Path(point) = point?;
    call(daemon, move |daemon| daemon.hold_point(&point, None)).await
}

async fn undelete(State(daemon): Ours, point: Name) -> Answer<Point> {
    let Path(point) = point?;
    call(daemon, move |daemon| daemon.undelete_point(&point)).await
}
