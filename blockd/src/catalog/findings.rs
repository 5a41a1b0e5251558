//! What the catalog knows of vaults: what their checks found, and which points they must hold.

use super::{Catalog, failed};
use crate::error::Result;
use crate::points::Stored;
use block::sync::lock;
use control::LastCheck;
use rusqlite::{OptionalExtension, params};
use std::collections::{HashMap, HashSet};

impl Catalog {
    /// Remembers which points a check of a vault found right and which damaged, and forgets what the last one found.
    ///
    /// # Errors
    /// What the host reports.
    pub fn set_checked(
        &self,
        vault: &str,
        check: &LastCheck,
        sound: &[String],
        hurt: &[String],
    ) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            let mut connection = lock(&self.connection);
            let change = connection.transaction()?;
            for (table, column, found) in [("verified", "state", sound), ("hurt", "manifest", hurt)] {
                change.execute(&format!("DELETE FROM {table} WHERE vault = ?1"), params![vault])?;
                let insert = format!("INSERT OR IGNORE INTO {table} (vault, {column}) VALUES (?1, ?2)");
                found.iter().try_for_each(|id| change.execute(&insert, params![vault, id]).map(|_| ()))?;
            }
            change.execute(
                "INSERT OR REPLACE INTO checks (vault, time, problems) VALUES (?1, ?2, ?3)",
                params![vault, check.time, i64::try_from(check.problems).unwrap_or(i64::MAX)],
            )?;
            change.commit()
        };
        write().map_err(|error| failed("write a check to", &error))
    }

    /// Remembers which points of a vault are damaged, instead of those it had.
    ///
    /// # Errors
    /// What the host reports.
    pub fn set_hurt(&self, vault: &str, hurt: &[String]) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            let mut connection = lock(&self.connection);
            let change = connection.transaction()?;
            change.execute("DELETE FROM hurt WHERE vault = ?1", params![vault])?;
            let insert = "INSERT OR IGNORE INTO hurt (vault, manifest) VALUES (?1, ?2)";
            hurt.iter().try_for_each(|id| change.execute(insert, params![vault, id]).map(|_| ()))?;
            change.commit()
        };
        write().map_err(|error| failed("write a repair to", &error))
    }

    /// How the last check of each vault ended, by the vault's name.
    ///
    /// # Errors
    /// What the host reports.
    pub fn last_checks(&self) -> Result<HashMap<String, LastCheck>> {
        let read = || -> rusqlite::Result<HashMap<String, LastCheck>> {
            let connection = lock(&self.connection);
            let mut query = connection.prepare_cached("SELECT vault, time, problems FROM checks")?;
            let rows = query.query_map([], |row| {
                let problems = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
                Ok((row.get(0)?, LastCheck { time: row.get(1)?, problems }))
            })?;
            rows.collect()
        };
        read().map_err(|error| failed("read checks from", &error))
    }

    /// The points that the last check of their vault found damaged, or an audit incomplete, with the vault.
    ///
    /// # Errors
    /// What the host reports.
    pub fn hurt(&self) -> Result<HashSet<(String, String)>> {
        self.pairs("SELECT vault, manifest FROM hurt UNION SELECT vault, manifest FROM missed")
    }

    /// The states that a check found right, with the vault they lie in.
    ///
    /// # Errors
    /// What the host reports.
    pub fn verified(&self) -> Result<HashSet<(String, String)>> {
        self.pairs("SELECT vault, state FROM verified")
    }

    fn pairs(&self, query: &str) -> Result<HashSet<(String, String)>> {
        let read = || -> rusqlite::Result<HashSet<(String, String)>> {
            let connection = lock(&self.connection);
            let mut query = connection.prepare_cached(query)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        read().map_err(|error| failed("read checks from", &error))
    }
}

impl Catalog {
    /// Remembers which packs of a vault are damaged, by the vault's id, instead of those it had.
    ///
    /// # Errors
    /// What the host reports.
    pub fn set_damaged(&self, vault: &str, packs: &[String]) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            let mut connection = lock(&self.connection);
            let change = connection.transaction()?;
            change.execute("DELETE FROM damaged WHERE vault = ?1", params![vault])?;
            for pack in packs {
                change.execute("INSERT INTO damaged (vault, pack) VALUES (?1, ?2)", params![vault, pack])?;
            }
            change.commit()
        };
        write().map_err(|error| failed("write damaged packs to", &error))
    }

    /// The packs of a vault that are damaged.
    ///
    /// # Errors
    /// What the host reports.
    pub fn damaged(&self, vault: &str) -> Result<Vec<String>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let connection = lock(&self.connection);
            let mut query = connection.prepare_cached("SELECT pack FROM damaged WHERE vault = ?1")?;
            let rows = query.query_map([vault], |row| row.get(0))?;
            rows.collect()
        };
        read().map_err(|error| failed("read damaged packs from", &error))
    }

    /// Remembers behind which pack the scrub of a vault goes on, by the vault's id; it has come to its end if there is none.
    ///
    /// # Errors
    /// What the host reports.
    pub fn set_scrubbed(&self, vault: &str, pack: Option<&str>) -> Result<()> {
        let connection = lock(&self.connection);
        let done = match pack {
            Some(pack) => connection
                .execute("INSERT OR REPLACE INTO scrubs (vault, pack) VALUES (?1, ?2)", params![vault, pack]),
            None => connection.execute("DELETE FROM scrubs WHERE vault = ?1", params![vault]),
        };
        done.map(|_| ()).map_err(|error| failed("write a scrub to", &error))
    }

    /// Behind which pack the scrub of a vault goes on.
    ///
    /// # Errors
    /// What the host reports.
    pub fn scrubbed(&self, vault: &str) -> Result<Option<String>> {
        lock(&self.connection)
            .query_row("SELECT pack FROM scrubs WHERE vault = ?1", params![vault], |row| row.get(0))
            .optional()
            .map_err(|error| failed("read a scrub from", &error))
    }

    /// Remembers points a vault holds, by the vault's id.
    ///
    /// # Errors
    /// What the host reports.
    pub fn put_stored(&self, vault: &str, points: &[Stored]) -> Result<()> {
        self.count_change(vault);
        let write = || -> rusqlite::Result<()> {
            let mut connection = lock(&self.connection);
            let change = connection.transaction()?;
            for Stored { manifest, name } in points {
                change.execute(
                    "INSERT OR IGNORE INTO stored (vault, manifest, name) VALUES (?1, ?2, ?3)",
                    params![vault, manifest, name],
                )?;
            }
            change.commit()
        };
        write().map_err(|error| failed("write stored points to", &error))
    }

    /// Forgets a point that is deleted from a vault on request.
    ///
    /// # Errors
    /// What the host reports.
    pub fn forget_stored(&self, vault: &str, manifest: &str) -> Result<()> {
        self.count_change(vault);
        lock(&self.connection)
            .execute("DELETE FROM stored WHERE vault = ?1 AND manifest = ?2", params![vault, manifest])
            .map(|_| ())
            .map_err(|error| failed("write stored points to", &error))
    }

    fn count_change(&self, vault: &str) {
        *lock(&self.stored_changes).entry(vault.to_owned()).or_default() += 1;
    }

    /// How often that was changed since the start, or may have been.
    pub fn stored_changes(&self, vault: &str) -> u64 {
        lock(&self.stored_changes).get(vault).copied().unwrap_or(0)
    }

    /// The points a vault must hold.
    ///
    /// # Errors
    /// What the host reports.
    pub fn stored(&self, vault: &str) -> Result<Vec<Stored>> {
        let read = || -> rusqlite::Result<Vec<Stored>> {
            let connection = lock(&self.connection);
            let mut query =
                connection.prepare_cached("SELECT manifest, name FROM stored WHERE vault = ?1")?;
            let rows =
                query.query_map([vault], |row| Ok(Stored { manifest: row.get(0)?, name: row.get(1)? }))?;
            rows.collect()
        };
        read().map_err(|error| failed("read stored points from", &error))
    }
}
