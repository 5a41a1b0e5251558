//! What the catalog knows of audits: how far they are, and which points in vaults lack something.

use super::{Catalog, failed};
use crate::error::Result;
use block::sync::lock;
use rusqlite::{OptionalExtension, Row, params};

/// How far the audits of a disk's copies in a vault are. Times are milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audited {
    /// Where the next one begins.
    pub next_byte: u64,
    /// When the round that is under way began.
    pub round_ms: u64,
    /// Since when every block was compared: the beginning of the last round that came to the end of the disk.
    pub whole_since_ms: Option<u64>,
    /// When the last one was.
    pub last_ms: u64,
    /// Blocks that change tracking had missed, until a later round comes to its end.
    pub missed: u64,
    /// When that was found.
    pub missed_ms: Option<u64>,
}

impl Audited {
    /// Nothing was compared yet.
    pub const fn begun(now: u64) -> Self {
        Self { next_byte: 0, round_ms: now, whole_since_ms: None, last_ms: now, missed: 0, missed_ms: None }
    }

    /// Everything up to `end` was compared in this round.
    pub fn advance(&mut self, end: u64, size: u64, now: u64) {
        (self.next_byte, self.last_ms) = (end, now);
        if end >= size {
            self.whole_since_ms = Some(self.round_ms);
            if self.missed_ms.is_some_and(|missed| missed < self.round_ms) {
                (self.missed, self.missed_ms) = (0, None);
            }
            (self.next_byte, self.round_ms) = (0, now);
        }
    }
}

const COLUMNS: &str = "next_byte, round_ms, whole_since_ms, last_ms, missed, missed_ms";

fn of_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Audited> {
    let number = |at: usize| row.get::<_, i64>(first + at).map(|n| u64::try_from(n).unwrap_or(0));
    let maybe =
        |at: usize| row.get::<_, Option<i64>>(first + at).map(|n| n.and_then(|n| u64::try_from(n).ok()));
    Ok(Audited {
        next_byte: number(0)?,
        round_ms: number(1)?,
        whole_since_ms: maybe(2)?,
        last_ms: number(3)?,
        missed: number(4)?,
        missed_ms: maybe(5)?,
    })
}

impl Catalog {
    /// How far the audits of a disk in a vault are, by their ids.
    ///
    /// # Errors
    /// What the host reports.
    pub fn audited(&self, disk: &str, vault: &str) -> Result<Option<Audited>> {
        let query = format!("SELECT {COLUMNS} FROM audits WHERE disk = ?1 AND vault = ?2");
        lock(&self.connection)
            .query_row(&query, params![disk, vault], |row| of_row(row, 0))
            .optional()
            .map_err(|error| failed("read audits from", &error))
    }

    /// The same for all vaults, with the vault's id.
    ///
    /// # Errors
    /// What the host reports.
    pub fn audits(&self, disk: &str) -> Result<Vec<(String, Audited)>> {
        let read = || -> rusqlite::Result<Vec<(String, Audited)>> {
            let connection = lock(&self.connection);
            let query = format!("SELECT vault, {COLUMNS} FROM audits WHERE disk = ?1 ORDER BY vault");
            let mut query = connection.prepare_cached(&query)?;
            let rows = query.query_map([disk], |row| Ok((row.get(0)?, of_row(row, 1)?)))?;
            rows.collect()
        };
        read().map_err(|error| failed("read audits from", &error))
    }

    /// Remembers how far the audits of a disk in a vault are.
    ///
    /// # Errors
    /// What the host reports.
    pub fn set_audited(&self, disk: &str, vault: &str, known: &Audited) -> Result<()> {
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let values = params![
            disk,
            vault,
            number(known.next_byte),
            number(known.round_ms),
            known.whole_since_ms.map(number),
            number(known.last_ms),
            number(known.missed),
            known.missed_ms.map(number),
        ];
        let insert = format!(
            "INSERT OR REPLACE INTO audits (disk, vault, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
        );
        lock(&self.connection)
            .execute(&insert, values)
            .map(|_| ())
            .map_err(|error| failed("write audits to", &error))
    }

    /// Remembers that a point in a vault, by the vault's name, lacks something. No check can see that.
    ///
    /// # Errors
    /// What the host reports.
    pub fn add_missed(&self, vault: &str, manifest: &str) -> Result<()> {
        lock(&self.connection)
            .execute(
                "INSERT OR IGNORE INTO missed (vault, manifest) VALUES (?1, ?2)",
                params![vault, manifest],
            )
            .map(|_| ())
            .map_err(|error| failed("write audits to", &error))
    }
}
