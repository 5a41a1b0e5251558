//! Requests that say with `Idempotency-Key` that they are to be carried out once, however often they are sent: whoever did not
//! hear the answer asks again, and is given it.

use super::verb::Facts;
use crate::audit_log::hash;
use crate::catalog::Begun;
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use axum::http::HeaderMap;
use control::Kind;
use serde::Serialize;
use serde_json::Value;

/// The longest key.
const LONGEST: usize = 200;

/// The key of a request, if it has one.
///
/// # Errors
/// `Invalid` for one that is none.
pub fn key(headers: &HeaderMap, facts: &Facts) -> Result<Option<String>> {
    let Some(shown) = headers.get("idempotency-key") else { return Ok(None) };
    if facts.rights.secret {
        let why = "is not taken where the answer holds a secret, which is kept nowhere";
        return Err(Error::said(Kind::Invalid, "Idempotency-Key", why));
    }
    match shown.to_str() {
        Ok(key) if (1..=LONGEST).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let why = format!("is not 1 to {LONGEST} plain characters");
            Err(Error::said(Kind::Invalid, "Idempotency-Key", why))
        }
    }
}

/// Does something, unless it was done for this key before; its answer either way. What failed may be tried again.
///
/// # Errors
/// `Conflict` if the key was used for another request, or for one of which nobody knows how it ended; what `work` reports.
pub fn once<A: Serialize>(
    daemon: &Daemon,
    (who, key): (&str, &str),
    request: &[u8],
    work: impl FnOnce() -> Result<A>,
) -> Result<Value> {
    let catalog = &daemon.tiers().catalog;
    let conflict = |why: &str| Error::said(Kind::Conflict, format!("Idempotency-Key {key}"), why);
    match catalog.begin_once(who, key, &hash(request), daemon.now().as_second())? {
        Begun::New => {}
        Begun::Answered(answer) => return parse(&answer),
        Begun::Other => return Err(conflict("was used for another request").with_help("draw a new key")),
        Begun::Open => {
            return Err(conflict("is of a request that has begun, and nobody knows yet how it ended")
                .with_help(
                    "ask again later; after a crash of the daemon `blockctl audit list` says what was done",
                ));
        }
    }
    let done = work().and_then(|answer| {
        serde_json::to_value(answer).map_err(|error| Error::said(Kind::Io, "answer", error.to_string()))
    });
    match &done {
        Ok(answer) => catalog.end_once(who, key, &answer.to_string())?,
        Err(_) => catalog.forget_once(who, key)?,
    }
    done
}

fn parse(answer: &str) -> Result<Value> {
    serde_json::from_str(answer)
        .map_err(|error| Error::said(Kind::Corrupt, "catalog", format!("an answer: {error}")))
}
