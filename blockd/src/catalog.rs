//! The catalog: an index in SQLite that can be thrown away. What it alone knows is history: ended jobs, and which
//! recovery points a check found right and which the vaults must hold. Disks, points and vaults are read from their own files at every start.

mod archived;
mod audits;
mod findings;
mod once;
mod unwritten;

pub use audits::Audited;
pub use once::Begun;

use crate::error::{Error, Result};
use block::sync::{Mutex, lock};
use control::{Job, Kind};
use rusqlite::{Connection, params};
use std::collections::HashMap;
use std::path::Path;
use unwritten::Unwritten;

/// The file's name in the state directory.
pub const FILE: &str = "catalog.db";

/// The version of the tables. Another one is refused by name: a newer blockd wrote it, and may need it again.
const VERSION: i64 = 1;

/// Ended jobs kept. A year of a job every nine hours, and small enough to list.
const KEPT_JOBS: u32 = 1000;

/// The open catalog.
pub struct Catalog {
    // taken before the connection
    unwritten: Mutex<Unwritten>,
    connection: Mutex<Connection>,
    // how often what a vault must hold was changed, by the vault
    stored_changes: Mutex<HashMap<String, u64>>,
}

impl Catalog {
    /// Opens or makes the catalog in `dir`. One that cannot be used is set aside and begun anew; the second value then
    /// says so.
    ///
    /// # Errors
    /// What the host reports for a fresh one.
    pub fn open(dir: &Path) -> Result<(Self, Option<String>)> {
        let path = dir.join(FILE);
        match Self::open_file(&path) {
            Ok(catalog) => Ok((catalog, None)),
            // full, read-only, failing: nothing is wrong with the file
            Err(first) if !is_damaged(&first) => Err(failed("open", &first)),
            Err(first) => {
                let aside = set_aside(&path)?;
                let catalog = Self::open_file(&path).map_err(|error| failed("make", &error))?;
                Ok((
                    catalog,
                    Some(format!("the catalog could not be used ({first}) and was set aside as {aside}")),
                ))
            }
        }
    }

    fn open_file(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        // nobody else opens it; and what readers would share in a file of its own, on a full host too, stays in memory
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != 0 && version != VERSION {
            return Err(rusqlite::Error::IntegralValueOutOfRange(0, version));
        }
        connection.execute_batch(
            "CREATE TABLE IF NOT EXISTS jobs (
                 id TEXT PRIMARY KEY, number INTEGER UNIQUE NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS verified (
                 vault TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (vault, state));
             CREATE TABLE IF NOT EXISTS hurt (
                 vault TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (vault, manifest));
             CREATE TABLE IF NOT EXISTS damaged (
                 vault TEXT NOT NULL, pack TEXT NOT NULL, PRIMARY KEY (vault, pack));
             CREATE TABLE IF NOT EXISTS missed (
                 vault TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (vault, manifest));
             CREATE TABLE IF NOT EXISTS scrubs (
                 vault TEXT PRIMARY KEY, pack TEXT NOT NULL);
             CREATE TABLE IF NOT EXISTS audits (
                 disk TEXT NOT NULL, vault TEXT NOT NULL, next_byte INTEGER NOT NULL, round_ms INTEGER NOT NULL,
                 whole_since_ms INTEGER, last_ms INTEGER NOT NULL, missed INTEGER NOT NULL, missed_ms INTEGER,
                 PRIMARY KEY (disk, vault));
             CREATE TABLE IF NOT EXISTS checks (
                 vault TEXT PRIMARY KEY, time TEXT NOT NULL, problems INTEGER NOT NULL);
             CREATE TABLE IF NOT EXISTS stored (
                 vault TEXT NOT NULL, manifest TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (vault, manifest));
             CREATE TABLE IF NOT EXISTS archived (
                 vault TEXT NOT NULL, manifest TEXT NOT NULL, item TEXT NOT NULL, disk TEXT NOT NULL, state TEXT NOT NULL,
                 epoch INTEGER NOT NULL, time INTEGER NOT NULL, size INTEGER NOT NULL, stored INTEGER NOT NULL,
                 PRIMARY KEY (vault, manifest));
             CREATE TABLE IF NOT EXISTS once (
                 who TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, answer TEXT, time INTEGER NOT NULL,
                 PRIMARY KEY (who, key));",
        )?;
        if version != VERSION {
            connection.pragma_update(None, "user_version", VERSION)?;
        }
        let (unwritten, stored_changes) = (Mutex::default(), Mutex::default());
        Ok(Self { unwritten, connection: Mutex::new(connection), stored_changes })
    }

    /// Writes a job as it is now. On a full host it is remembered, and written once there is room.
    ///
    /// # Errors
    /// What the host reports.
    pub fn put_job(&self, job: &Job) -> Result<()> {
        let mut unwritten = lock(&self.unwritten);
        match self.write_after_earlier(&mut unwritten, job) {
            Err(error) if error.kind() == Kind::NoSpace => {
                tracing::warn!(job = job.id, "{}; it is written later", error.body().message);
                unwritten.put(job);
                Ok(())
            }
            done => done,
        }
    }

    fn write_after_earlier(&self, unwritten: &mut Unwritten, job: &Job) -> Result<()> {
        while let Some(first) = unwritten.first().filter(|first| first.id != job.id).cloned() {
            self.write_job(&first)?;
            unwritten.forget(&first.id);
        }
        self.write_job(job)?;
        unwritten.forget(&job.id);
        Ok(())
    }

    fn write_job(&self, job: &Job) -> Result<()> {
        let body = serde_json::to_string(job)
            .map_err(|error| Error::said(Kind::Io, format!("job {}", job.id), error.to_string()))?;
        let connection = lock(&self.connection);
        connection
            .execute(
                "INSERT INTO jobs (id, number, state, body)
                 VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM jobs), ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET state = ?2, body = ?3",
                params![job.id, job.state.name(), body],
            )
            .and_then(|_| {
                connection.execute(
                    "DELETE FROM jobs WHERE state NOT IN ('queued', 'running')
                     AND number <= (SELECT max(number) FROM jobs) - ?1",
                    params![KEPT_JOBS],
                )
            })
            .map(|_| ())
            .map_err(|error| failed("write a job to", &error))
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// What the host reports.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let connection = lock(&self.connection);
            let mut query = connection.prepare_cached("SELECT body FROM jobs ORDER BY number DESC")?;
            let rows = query.query_map([], |row| row.get(0))?;
            rows.collect()
        };
        let unwritten = lock(&self.unwritten);
        let bodies = read().map_err(|error| failed("read jobs from", &error))?;
        let written = bodies.iter().map(|body| parse(body)).collect::<Result<_>>()?;
        Ok(unwritten.over(written))
    }

    /// The jobs whose id begins with `prefix`, at most two: enough to know whether it is unique.
    ///
    /// # Errors
    /// What the host reports.
    pub fn jobs_like(&self, prefix: &str) -> Result<Vec<Job>> {
        let read = || -> rusqlite::Result<Vec<String>> {
            let connection = lock(&self.connection);
            let mut query =
                connection.prepare_cached("SELECT body FROM jobs WHERE substr(id, 1, ?1) = ?2 LIMIT 2")?;
            let rows = query.query_map(params![prefix.len() as i64, prefix], |row| row.get(0))?;
            rows.collect()
        };
        let unwritten = lock(&self.unwritten);
        let bodies = read().map_err(|error| failed("read jobs from", &error))?;
        let written = bodies.iter().map(|body| parse(body)).collect::<Result<_>>()?;
        let mut found = unwritten.over(written);
        found.retain(|job| job.id.starts_with(prefix));
        Ok(found)
    }
}

fn parse(body: &str) -> Result<Job> {
    serde_json::from_str(body)
        .map_err(|error| Error::said(Kind::Corrupt, "catalog", format!("a job: {error}")))
}

/// Whether the file is no catalog any more, as opposed to a host that cannot serve it now.
fn is_damaged(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

fn failed(doing: &str, error: &rusqlite::Error) -> Error {
    if let rusqlite::Error::IntegralValueOutOfRange(_, version) = error {
        let why = format!("has version {version}, this blockd knows version {VERSION}");
        return Error::said(Kind::Refused, FILE, why).with_help("serve it with the blockd that wrote it");
    }
    let full = error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    let kind = if full { Kind::NoSpace } else { Kind::Io };
    Error::said(kind, format!("cannot {doing} the catalog"), error.to_string())
}

/// Moves the file and its companions out of the way.
#[expect(
    clippy::disallowed_methods,
    reason = "the catalog is SQLite's and can be lost; no durability rule applies"
)]
fn set_aside(path: &Path) -> Result<String> {
    let aside = path.with_extension("db.unusable");
    for suffix in ["-wal", "-shm"] {
        let mut companion = path.as_os_str().to_owned();
        companion.push(suffix);
        match std::fs::remove_file(&companion) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::host(format!("remove {}", companion.display()), error));
            }
            _ => {}
        }
    }
    std::fs::rename(path, &aside)
        .map_err(|error| Error::host(format!("set aside {}", path.display()), error))?;
    Ok(aside.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::job;
    use crate::points::Stored;
    use control::JobState;
    use control::LastCheck;
    use std::collections::HashSet;

    #[test]
    fn jobs_are_found_again_newest_first_and_pruned() {
        let dir = tempfile::tempdir().expect("a directory");
        let (catalog, warning) = Catalog::open(dir.path()).expect("a catalog");
        assert_eq!(warning, None);
        for number in 0..KEPT_JOBS + 5 {
            catalog.put_job(&job(&format!("{number:032x}"), JobState::Done)).expect("written");
        }
        assert_eq!(catalog.jobs().expect("read").len(), KEPT_JOBS as usize);
        let jobs = catalog.jobs().expect("read");
        assert_eq!(jobs.first().map(|job| job.id.clone()), Some(format!("{:032x}", KEPT_JOBS + 4)));
        assert_eq!(catalog.jobs_like("0000").expect("read").len(), 2);
        assert_eq!(catalog.jobs_like(&format!("{:032x}", 77)).expect("read").len(), 1);
    }

    #[test]
    fn a_catalog_that_is_none_is_set_aside() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join(FILE), vec![7; 8192]).expect("garbage");
        let (catalog, warning) = Catalog::open(dir.path()).expect("a fresh catalog");
        assert!(warning.is_some_and(|text| text.contains("set aside")));
        assert_eq!(catalog.jobs().expect("read"), Vec::new());
        assert!(dir.path().join("catalog.db.unusable").exists());
    }

    #[test]
    fn a_check_replaces_what_the_last_one_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let (catalog, _) = Catalog::open(dir.path()).expect("a catalog");
        let check = |time: &str, problems| LastCheck { time: time.to_owned(), problems };
        catalog
            .set_checked("main", &check("yesterday", 1), &["a".into(), "b".into()], &["c".into()])
            .expect("written");
        catalog.set_checked("main", &check("today", 2), &["b".into()], &["a".into()]).expect("written");
        let seen = catalog.verified().expect("read");
        assert_eq!(seen, HashSet::from([("main".to_owned(), "b".to_owned())]));
        let hurt = catalog.hurt().expect("read");
        assert_eq!(hurt, HashSet::from([("main".to_owned(), "a".to_owned())]));
    }

    #[test]
    fn what_a_vault_must_hold_is_kept_until_it_is_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let (catalog, _) = Catalog::open(dir.path()).expect("a catalog");
        let point = |manifest: &str| Stored { manifest: manifest.into(), name: "web@1".into() };
        catalog.put_stored("v", &[point("a"), point("b")]).expect("written");
        catalog.put_stored("v", &[point("b")]).expect("written");
        catalog.forget_stored("v", "a").expect("written");
        assert_eq!(catalog.stored("v").expect("read"), [point("b")]);
        assert_eq!(catalog.stored("w").expect("read"), []);
    }
}
