//! When the directories of a vault were last touched, so that it is listed and counted again only then.

use super::NamedVault;
use crate::store::Location;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Names that come and go within this time may leave a directory's time as it was.
const BLUR: Duration = Duration::from_millis(100);

/// Where every backup, deletion and sweep leaves a trace.
const PARTS: [&str; 3] = ["points", "index", "quarantine"];

/// The state of these directories, or that nobody can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// It lies in a bucket.
    Unknown,
    /// Device, inode and time of each directory; none for one that is not there.
    Known {
        /// They.
        dirs: Vec<Option<(u64, u64, i64, i64)>>,
        /// Whether none was touched so short a while ago that a further change could hide.
        settled: bool,
    },
}

impl Touched {
    /// Whether the same state later means that nothing changed.
    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Known { settled: true, .. })
    }
}

impl NamedVault {
    /// When it was last touched.
    #[expect(clippy::disallowed_methods, reason = "held against times that the host itself wrote")]
    pub fn touched(&self) -> Touched {
        let Location::Directories(paths) = &self.store else { return Touched::Unknown };
        let (mut dirs, mut settled) = (Vec::new(), true);
        let mut look = |path: &Path| {
            let found = std::fs::metadata(path).ok();
            dirs.push(found.as_ref().map(|meta| (meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec())));
            let age = found
                .and_then(|meta| meta.modified().ok())
                .map(|time| SystemTime::now().duration_since(time));
            // one of the future says nothing
            settled &= age.is_none_or(|age| age.is_ok_and(|age| age > BLUR));
        };
        for path in paths {
            look(path);
            for part in PARTS {
                let part = path.join(part);
                look(&part);
                let Ok(entries) = std::fs::read_dir(&part) else { continue };
                let mut appliances: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                appliances.sort();
                appliances.iter().for_each(|path| look(path));
            }
        }
        Touched::Known { dirs, settled }
    }
}
