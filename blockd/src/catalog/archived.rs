//! What lies in archives, as it was when each was last seen: an archive is out of reach most of the time.

use super::{Catalog, failed};
use crate::error::Result;
use block::sync::lock;
use block::{ByteCount, Epoch, Time};
use rusqlite::{Row, params};
use vault::{PointKind, VaultPoint};

impl Catalog {
    /// Remembers what an archive holds, by its name, instead of what it held.
    ///
    /// # Errors
    /// What the host reports.
    pub fn set_archived(&self, archive: &str, points: &[VaultPoint]) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            let mut connection = lock(&self.connection);
            let change = connection.transaction()?;
            change.execute("DELETE FROM archived WHERE vault = ?1", params![archive])?;
            let mut insert = change.prepare(
                "INSERT INTO archived (vault, manifest, item, disk, state, epoch, time, size, stored)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            for point in points {
                insert.execute(params![
                    archive,
                    point.manifest.to_string(),
                    point.item,
                    point.disk.to_string(),
                    point.state.to_string(),
                    point.epoch.get().cast_signed(),
                    point.time.unix_ms.cast_signed(),
                    point.size.get().cast_signed(),
                    point.bytes_stored.get().cast_signed(),
                ])?;
            }
            drop(insert);
            change.commit()
        };
        write().map_err(|error| failed("write archived points to", &error))
    }

    /// What an archive held when it was last seen.
    ///
    /// # Errors
    /// What the host reports.
    pub fn archived(&self, archive: &str) -> Result<Vec<VaultPoint>> {
        let read = || -> rusqlite::Result<Vec<VaultPoint>> {
            let connection = lock(&self.connection);
            let mut query = connection.prepare_cached(
                "SELECT manifest, item, disk, state, epoch, time, size, stored FROM archived WHERE vault = ?1
                 ORDER BY time",
            )?;
            let rows = query.query_map([archive], point)?;
            rows.collect()
        };
        read().map_err(|error| failed("read archived points from", &error))
    }
}

/// What a row says; of how the point came there nothing was kept.
fn point(row: &Row<'_>) -> rusqlite::Result<VaultPoint> {
    Ok(VaultPoint {
        manifest: id(row, 0)?,
        item: row.get(1)?,
        disk: id(row, 2)?,
        state: id(row, 3)?,
        base: None,
        epoch: Epoch::new(number(row, 4)?),
        time: Time { unix_ms: number(row, 5)? },
        made: Time { unix_ms: number(row, 5)? },
        size: ByteCount::new(number(row, 6)?),
        kind: PointKind::Full,
        bytes_changed: ByteCount::new(0),
        bytes_read: ByteCount::new(0),
        chunks_new: 0,
        chunks_reused: 0,
        bytes_stored: ByteCount::new(number(row, 7)?),
    })
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn id<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let wrong =
        || rusqlite::Error::InvalidColumnType(column, "an id".to_owned(), rusqlite::types::Type::Text);
    row.get::<_, String>(column)?.parse().map_err(|_| wrong())
}
