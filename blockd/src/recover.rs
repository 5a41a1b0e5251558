//! Opening a disk again without a restart: after a failed sync ended its promises, and after it could not be opened for
//! lack of space or descriptors.
//!
//! What is opened is a new value in the table. Connections and jobs that still hold the old one fail, and must: what the
//! guest wrote since the last good flush may be gone, and only a client that connects anew knows that.

use crate::disk_file::layers_dir;
use crate::disks::{Disks, Named};
use crate::error::{Doing, Error, Result};
use block::sync::lock;
use control::Kind;
use layers::Disk;
use std::sync::Arc;

impl Disks {
    /// Opens a disk at its last committed state, if it does not serve now. A disk that serves is left as it is.
    ///
    /// # Errors
    /// Why it cannot be opened; it stays in its place and says so.
    pub fn recover(&self, name: &str) -> Result<Arc<Named>> {
        let _turn = lock(&self.recovering);
        let named = self.get(name)?;
        match named.disk() {
            Ok(disk) if disk.poisoned_by().is_none() => return Ok(named),
            Ok(disk) => disk.abandon().doing(|| format!("give up disk {name}"))?,
            Err(_) => {}
        }
        self.reopen(&named)
    }

    /// Tries again to open the disks that lacked space or descriptors when they were opened last.
    pub fn reopen_what_lacked_room(&self) {
        let lacked = |error: Error| matches!(error.kind(), Kind::NoSpace | Kind::Unavailable);
        for named in self.all().iter().filter(|named| named.disk().is_err_and(lacked)) {
            let _turn = lock(&self.recovering);
            match self.reopen(named) {
                Ok(_) => tracing::info!(disk = named.name, "opened after all"),
                Err(error) => tracing::debug!(disk = named.name, "{}", error.body().message),
            }
        }
    }

    fn reopen(&self, named: &Arc<Named>) -> Result<Arc<Named>> {
        let doing = || format!("open disk {}", named.name);
        let open = Disk::open(self.env(), &layers_dir(named.id)).doing(doing).map_err(missing_is_damage);
        let failure = open.as_ref().err().map(Error::body);
        let anew = Arc::new(named.reopened(open.map_err(|error| error.body())));
        self.await_release(&anew);
        if !self.replace(named, anew.clone()) {
            return Err(Error::not_found(format!("disk {}", named.name)));
        }
        match failure {
            Some(body) => Err(Error::said(body.kind, format!("recover disk {}", named.name), body.message)),
            None => Ok(anew),
        }
    }
}

/// A disk that has a name has layers: if they are gone, that is damage and not absence.
pub fn missing_is_damage(error: Error) -> Error {
    match error.kind() {
        Kind::NotFound => {
            let body = error.body();
            Error::said(Kind::Corrupt, body.message, "its name is there and its layers are not")
        }
        _ => error,
    }
}
