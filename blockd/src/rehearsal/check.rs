//! The filesystems of a point, read through. It is not done here: nothing that can write parses a guest's filesystem. `blockctl`
//! does it in its sandbox, and is started for that.

use crate::error::{Doing, Error, Result};
use crate::points::Held;
use control::{CheckedVolume, Kind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A disk with many million files takes its time.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Reads through every filesystem of the points.
///
/// # Errors
/// `blockctl` is not there, or cannot say.
pub fn files(state: &Path, points: &[Held]) -> Result<Vec<CheckedVolume>> {
    let what = || "read through the files of the point".to_owned();
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("blockctl"));
    let program = beside.filter(|path| path.is_file()).unwrap_or_else(|| "blockctl".into());
    let mut command = Command::new(&program);
    command.arg("--state").arg(state).args(["--json", "files", "check"]);
    command.args(points.iter().map(|held| held.name.as_str()));
    let ended = machines::command::run(command, b"", LIMIT).doing(what)?;
    // damage is told in the answer, and with an exit code of its own
    serde_json::from_slice(&ended.output).map_err(|error| {
        let said = if ended.complaint.is_empty() { error.to_string() } else { ended.complaint };
        Error::said(Kind::Io, what(), said.chars().take(1000).collect::<String>())
    })
}
