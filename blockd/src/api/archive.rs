//! The paths of the archive tier.

use super::verb::{ADMINISTER, Call, LOOK, OPERATE, Verb, critical, verb};
use axum::http::Method;
use control::{ArchivePoint, RehydratePoint};

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(
            Method::GET,
            "/v1/points/{point}/archive",
            LOOK,
            "What moving a recovery point to an archive costs and frees; nothing is done",
            |daemon, call: &Call<ArchivePoint>| daemon.archive_cost(call.name("point"), &call.query.to),
        ),
        critical(
            Method::POST,
            "/v1/points/{point}/archive",
            ADMINISTER,
            "Moves a recovery point from its vaults to an archive, as a job",
            |_, _: &Call<(), ArchivePoint>| Ok(true),
            |daemon, call: &Call<(), ArchivePoint>| daemon.archive(call.name("point"), &call.body),
        ),
        verb(
            Method::POST,
            "/v1/points/{point}/rehydrate",
            OPERATE,
            "Brings an archived recovery point back to a vault for a time, as a job",
            |daemon, call: &Call<(), RehydratePoint>| daemon.rehydrate(call.name("point"), &call.body),
        ),
    ]
}
