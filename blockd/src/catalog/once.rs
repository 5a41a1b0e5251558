//! Answers to requests that are to be carried out once, by who asked and the key they gave.

use super::{Catalog, failed};
use crate::error::{Error, Result};
use block::sync::lock;
use control::Kind;
use rusqlite::{OptionalExtension, params};

/// How long an answer is kept: a client that did not hear it asks within the day or not at all.
const KEPT_SECONDS: i64 = 24 * 3600;

/// Answers that are kept.
const MOST: i64 = 10_000;

/// How a request with a key stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// It has begun now.
    New,
    /// It was carried out.
    Answered(String),
    /// The key is of another request.
    Other,
    /// It had begun, and has not ended.
    Open,
}

impl Catalog {
    /// Begins a request with a key, unless that was done before.
    ///
    /// # Errors
    /// `Refused` if too many are kept; what the host reports.
    pub fn begin_once(&self, who: &str, key: &str, request: &str, now: i64) -> Result<Begun> {
        let connection = lock(&self.connection);
        let sql = |error| failed("write to", &error);
        connection
            .execute("DELETE FROM once WHERE time < ?1", params![now.saturating_sub(KEPT_SECONDS)])
            .map_err(sql)?;
        let found: Option<(String, Option<String>)> = connection
            .query_row(
                "SELECT request, answer FROM once WHERE who = ?1 AND key = ?2",
                params![who, key],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .map_err(sql)?;
        match found {
            Some((known, _)) if known != request => return Ok(Begun::Other),
            Some((_, Some(answer))) => return Ok(Begun::Answered(answer)),
            Some((_, None)) => return Ok(Begun::Open),
            None => {}
        }
        let count: i64 =
            connection.query_row("SELECT count(*) FROM once", [], |row| row.get(0)).map_err(sql)?;
        if count >= MOST {
            let why = format!("{MOST} keys are remembered already");
            return Err(
                Error::said(Kind::Refused, "Idempotency-Key", why).with_help("each is forgotten after a day")
            );
        }
        connection
            .execute(
                "INSERT INTO once (who, key, request, time) VALUES (?1, ?2, ?3, ?4)",
                params![who, key, request, now],
            )
            .map_err(sql)?;
        Ok(Begun::New)
    }

    /// Keeps the answer.
    ///
    /// # Errors
    /// What the host reports.
    pub fn end_once(&self, who: &str, key: &str, answer: &str) -> Result<()> {
        let sql = "UPDATE once SET answer = ?3 WHERE who = ?1 AND key = ?2";
        let done = lock(&self.connection).execute(sql, params![who, key, answer]);
        done.map(|_| ()).map_err(|error| failed("write to", &error))
    }

    /// Forgets a request that failed, so that it can be tried again.
    ///
    /// # Errors
    /// What the host reports.
    pub fn forget_once(&self, who: &str, key: &str) -> Result<()> {
        let sql = "DELETE FROM once WHERE who = ?1 AND key = ?2";
        let done = lock(&self.connection).execute(sql, params![who, key]);
        done.map(|_| ()).map_err(|error| failed("write to", &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_of_one_request_and_forgotten_after_a_day() {
        let dir = tempfile::tempdir().expect("a directory");
        let (catalog, _) = Catalog::open(dir.path()).expect("a catalog");
        let begin = |who, key, request, now| catalog.begin_once(who, key, request, now).expect("read");
        assert_eq!(begin("a", "k", "r", 1000), Begun::New);
        assert_eq!(begin("a", "k", "r", 1000), Begun::Open);
        assert_eq!(begin("b", "k", "r", 1000), Begun::New, "another's key is another key");
        catalog.end_once("a", "k", "{}").expect("written");
        drop(catalog);
        let (catalog, _) = Catalog::open(dir.path()).expect("a catalog");
        let begin = |who, key, request, now| catalog.begin_once(who, key, request, now).expect("read");
        assert_eq!(begin("a", "k", "r", 2000), Begun::Answered("{}".to_owned()));
        assert_eq!(begin("a", "k", "other", 2000), Begun::Other);
        catalog.forget_once("b", "k").expect("written");
        assert_eq!(begin("b", "k", "r", 2000), Begun::New);
        assert_eq!(begin("a", "k", "r", 1001 + KEPT_SECONDS), Begun::New);
    }
}
