//! What rehearsals came to: a directory each in `rehearsals`, with the report, the console and the screen. `docs/rehearsal.md`.

use crate::error::{Doing, Error, Result};
use block::sync::{Mutex, lock};
use block::{Media, OpenHow, StateId};
use control::{Kind, Rehearsal};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directory in the state directory.
const DIR: &str = "rehearsals";
/// What came of one, as the API shows it.
const REPORT: &str = "report.json";
const CONSOLE: &str = "console.log";
/// Written by qemu.
const SCREEN: &str = "screen.png";
/// A report with a line for each of some hundred volumes is far shorter.
const REPORT_LIMIT: u64 = 4 << 20;
/// How many of an item are kept: the newest.
const KEPT: usize = 20;

/// All that were kept.
pub struct Evidence {
    media: Arc<dyn Media>,
    dir: PathBuf,
    // by time and id
    reports: Mutex<BTreeMap<(String, String), Rehearsal>>,
}

impl Evidence {
    /// Reads them. One without a report was cut off, and goes.
    ///
    /// # Errors
    /// What keeps the directory from being read.
    pub fn open(media: Arc<dyn Media>, state: &Path) -> Result<Self> {
        media.create_dir(DIR).and_then(|()| media.sync_dir("")).doing(|| format!("make {DIR}"))?;
        let mut reports = BTreeMap::new();
        for entry in media.list(DIR).doing(|| format!("list {DIR}"))? {
            let path = format!("{DIR}/{}/{REPORT}", entry.name);
            let report = media.read_whole(&path, REPORT_LIMIT).ok();
            match report.and_then(|text| serde_json::from_slice::<Rehearsal>(&text).ok()) {
                Some(report) if report.id == entry.name => {
                    reports.insert((report.time.clone(), report.id.clone()), report);
                }
                _ => tracing::warn!("rehearsal {}: has no report that can be read", entry.name),
            }
        }
        Ok(Self { media, dir: state.join(DIR), reports: Mutex::new(reports) })
    }

    /// Begins with one: where its screen is to be written.
    ///
    /// # Errors
    /// What the host reports.
    pub fn begin(&self, id: &str) -> Result<PathBuf> {
        self.media.create_dir(&format!("{DIR}/{id}")).doing(|| format!("make {DIR}/{id}"))?;
        Ok(self.dir.join(id).join(SCREEN))
    }

    /// Keeps one, with what its console showed. It is durable when this returns.
    ///
    /// # Errors
    /// What the host reports.
    pub fn keep(&self, report: &mut Rehearsal, console: &[u8]) -> Result<()> {
        let dir = format!("{DIR}/{}", report.id);
        let doing = || format!("keep rehearsal {}", report.id);
        self.write(&format!("{dir}/{CONSOLE}"), console).doing(doing)?;
        report.console = Some(self.dir.join(&report.id).join(CONSOLE).display().to_string());
        let screen = self.dir.join(&report.id).join(SCREEN);
        report.screenshot = screen.exists().then(|| screen.display().to_string());
        let text = serde_json::to_vec_pretty(report).map_err(|error| {
            Error::said(Kind::Io, format!("keep rehearsal {}", report.id), error.to_string())
        })?;
        let doing = || format!("keep rehearsal {}", report.id);
        self.media.replace(&format!("{dir}/{REPORT}"), &text).doing(doing)?;
        self.media.sync_dir(DIR).doing(doing)?;
        let mut reports = lock(&self.reports);
        reports.insert((report.time.clone(), report.id.clone()), report.clone());
        self.let_go(&mut reports, &report.item);
        Ok(())
    }

    fn write(&self, path: &str, bytes: &[u8]) -> block::Result<()> {
        let file = self.media.open(path, OpenHow::Truncate)?;
        file.write_at(0, bytes)?;
        file.sync()
    }

    /// Removes the oldest of an item that has too many.
    fn let_go(&self, reports: &mut BTreeMap<(String, String), Rehearsal>, item: &str) {
        let of_item: Vec<(String, String)> =
            reports.iter().filter(|(_, report)| report.item == item).map(|(key, _)| key.clone()).collect();
        for key in of_item.iter().take(of_item.len().saturating_sub(KEPT)) {
            reports.remove(key);
            self.remove(&key.1);
        }
    }

    /// Removes what is there of one.
    fn remove(&self, id: &str) {
        // the report first: without it, what is left is nothing
        for name in [REPORT, CONSOLE, SCREEN] {
            self.media.remove(&format!("{DIR}/{id}/{name}")).ok();
        }
        if let Err(error) = std::fs::remove_dir(self.dir.join(id)) {
            tracing::warn!("rehearsal {id}: its directory stays: {error}");
        }
    }

    /// Those of a state, the oldest first.
    pub fn of(&self, state: StateId) -> Vec<Rehearsal> {
        let state = state.to_string();
        let reports = lock(&self.reports);
        reports.values().filter(|report| report.states.contains(&state)).cloned().collect()
    }

    /// The newest of an item, and the newest that passed.
    pub fn newest(&self, item: &str) -> (Option<Rehearsal>, Option<Rehearsal>) {
        let reports = lock(&self.reports);
        let of_item = || reports.values().rev().filter(|report| report.item == item);
        (of_item().next().cloned(), of_item().find(|report| report.passed).cloned())
    }
}
