//! The HTTP API. Every request is a plain function of the daemon, run on a thread that may block; this folder takes
//! requests apart, asks who may, and puts answers together. `control/docs/api.md` has the rules, `GET /v1/openapi.json` the
//! paths.

mod access;
mod answer;
mod approvals;
mod archive;
mod asked;
mod connections;
mod door;
mod events;
mod groups;
mod machines;
mod once;
mod openapi;
mod policies;
mod routes;
mod vaults;
mod verb;

use crate::daemon::Daemon;
use crate::error::Error;
use axum::Router;
use axum::http::Uri;
use std::sync::Arc;

pub use connections::Limits as ConnectionLimits;
pub use door::{Door, acceptor};
use verb::Verb;

/// Every verb.
fn verbs() -> Vec<Verb> {
    let parts = [
        routes::verbs(),
        policies::verbs(),
        groups::verbs(),
        vaults::verbs(),
        access::verbs(),
        approvals::verbs(),
        archive::verbs(),
        machines::verbs(),
        events::verbs(),
    ];
    parts.into_iter().flatten().collect()
}

fn router() -> Router<Arc<Daemon>> {
    let routes = verbs()
        .into_iter()
        .fold(Router::new(), |routes, Verb { facts, route }| routes.route(facts.path, route));
    routes.fallback(unknown).method_not_allowed_fallback(unknown)
}

async fn unknown(uri: Uri) -> Error {
    Error::not_found(format!("API request to {}", uri.path()))
}

/// Answers requests until it is dropped.
pub async fn answer(door: Door, daemon: Arc<Daemon>) {
    connections::answer(door, router().with_state(daemon), ConnectionLimits::default()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use verb::Effect;

    #[test]
    fn the_document_has_every_verb_once_with_its_roles_and_types() {
        let verbs = verbs();
        let document = openapi::document(&verbs);
        let paths = document["paths"].as_object().expect("paths");
        let operations: Vec<_> =
            paths.values().flat_map(|path| path.as_object().expect("methods").values()).collect();
        assert_eq!(operations.len(), verbs.len(), "two verbs on one path with one method");
        let mut ids: Vec<_> = operations.iter().map(|operation| operation["operationId"].as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), verbs.len(), "an id twice");
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().expect("schemas");
        for part in text.split("\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().unwrap_or_default();
            assert!(schemas.contains_key(name), "{name} is referred to and not there");
        }
        assert!(schemas["Job"]["properties"]["bytes_stored"].is_object(), "{}", schemas["Job"]);
    }

    #[test]
    fn what_is_got_changes_nothing_and_the_rest_is_not_for_every_role() {
        for Verb { facts, .. } in verbs() {
            let looks = facts.rights.effect == Effect::Looks;
            if facts.method == "GET" {
                assert!(looks, "{}", facts.action());
            }
            assert!(looks || facts.rights.roles.len() < 5, "{}", facts.action());
        }
    }
}
