//! The paths of keys and copies of vaults.

use super::answer::{Answer, call};
use super::routes::{Body, Name, Ours};
use crate::daemon::Daemon;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use control::{AddKey, Job, KeyAdded, RepairVault, VaultKeySlot};
use std::sync::Arc;

type Names = Result<Path<(String, String)>, PathRejection>;

/// Every path.
pub fn routes() -> Router<Arc<Daemon>> {
    Router::new()
        .route("/v1/vaults/{name}/keys", get(keys).post(add_key))
        .route("/v1/vaults/{name}/keys/{slot}", delete(remove_key))
        .route("/v1/vaults/{name}/rotate", post(rotate_key))
        .route("/v1/vaults/{name}/repair", post(repair))
}

async fn keys(State(daemon): Ours, name: Name) -> Answer<Vec<VaultKeySlot>> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.tiers().vaults.keys(&name)).await
}

async fn add_key(State(daemon): Ours, name: Name, body: Body<AddKey>) -> Answer<KeyAdded> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.tiers().vaults.add_key(&name, &request)).await
}

async fn remove_key(State(daemon): Ours, names: Names) -> Answer<Vec<VaultKeySlot>> {
    let Path((name, slot)) = names?;
    call(daemon, move |daemon| daemon.tiers().vaults.remove_key(&name, &slot)).await
}

async fn rotate_key(State(daemon): Ours, name: Name) -> Answer<Vec<VaultKeySlot>> {
    let Path(name) = name?;
    call(daemon, move |daemon| daemon.tiers().vaults.rotate_key(&name)).await
}

async fn repair(State(daemon): Ours, name: Name, body: Body<RepairVault>) -> Answer<Job> {
    let (Path(name), Json(request)) = (name?, body?);
    call(daemon, move |daemon| daemon.repair_vault(&name, &request)).await
}
