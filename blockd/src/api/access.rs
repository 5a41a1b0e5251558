//! The paths of tokens, of the audit log, and of the description of them all.

use super::verb::{ADMINISTER, AUDIT, Call, LOOK, Verb, critical, raw, verb};
use super::{openapi, verbs as all};
use axum::Json;
use axum::http::Method;
use axum::response::IntoResponse;
use control::{AuditQuery, AuditVerifyQuery, CreateToken, Role};
use serde_json::Value;
use std::sync::LazyLock;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| openapi::document(&all()));

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        raw("/v1/openapi.json", LOOK, "This document", |_, _, _| async {
            Ok(Json(&*DOCUMENT).into_response())
        }),
        verb(Method::GET, "/v1/tokens", AUDIT, "Every token, without its secret", |daemon, _: &Call| {
            Ok(daemon.tokens().list())
        }),
        critical(
            Method::POST,
            "/v1/tokens",
            ADMINISTER.whole().secret(),
            "Makes a token; its secret is in the answer, this once",
            |_, call: &Call<(), CreateToken>| Ok(call.body.role == Role::Guard),
            |daemon, call: &Call<(), CreateToken>| daemon.tokens().create(&call.body),
        ),
        critical(
            Method::DELETE,
            "/v1/tokens/{token}",
            ADMINISTER.whole(),
            "Removes a token; it is answered as it was",
            |daemon, call: &Call| Ok(daemon.tokens().is_guard(call.name("token"))),
            |daemon, call: &Call| daemon.tokens().remove(call.name("token")),
        ),
        verb(
            Method::GET,
            "/v1/audit",
            AUDIT,
            "Entries of the audit log, oldest first; the newest unless `after` is given",
            |daemon, call: &Call<AuditQuery>| daemon.audit().entries(&call.query),
        ),
        verb(
            Method::GET,
            "/v1/audit/verify",
            AUDIT,
            "Goes through the whole audit log",
            |daemon, call: &Call<AuditVerifyQuery>| daemon.audit().verify(call.query.head.as_deref()),
        ),
    ]
}
