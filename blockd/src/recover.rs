//! Opening a disk again without a restart: after a failed sync ended its promises, and after it could not be opened for
//! lack of space or descriptors.
//!
//! What is opened is a new value in the table. Connections and jobs that still hold the old one fail, and must: what the
//! guest wrote since the last good flush may be gone, and only a client that connects anew knows that.

use crate::bases::{Asked, BaseRecord, HeldImage, On};
use crate::disk_file::{self, DiskFile};
use crate::disks::{Disks, Ground, Named};
use crate::error::{Doing, Error, Result};
use block::sync::lock;
use control::Kind;
use std::path::Path;
use std::sync::Arc;

impl Disks {
    /// Opens a disk at its last committed state, if it does not serve now. A disk that serves is left as it is.
    ///
    /// # Errors
    /// Why it cannot be opened; it stays in its place and says so. `Unavailable` while it is being filled.
    pub fn recover(&self, name: &str) -> Result<Arc<Named>> {
        let _turn = lock(&self.recovering);
        let named = self.get(name)?;
        named.filled()?;
        match named.disk() {
            Ok(disk) if disk.poisoned_by().is_none() => return Ok(named),
            Ok(disk) => disk.abandon().doing(|| format!("give up disk {name}"))?,
            Err(_) => {}
        }
        self.reopen(&named)
    }

    /// Takes the image that a disk stands on as it is now, although it changed, and opens the disk on that. What changed in
    /// it is not known, so history begins anew: the next backup reads everything.
    ///
    /// # Errors
    /// `Conflict` if the disk serves or others stand on it; what [`HeldImage::begin`] reports, or the layers for an image
    /// that became shorter. The disk stays as it was then.
    pub fn accept_base(&self, name: &str) -> Result<Arc<Named>> {
        let _turn = lock(&self.recovering);
        let named = self.get(name)?;
        let doing = || format!("open disk {name} on what is there now");
        let refuse = |kind, why: String| Err(Error::said(kind, doing(), why));
        let Some((record, image)) = named.base.as_ref().and_then(|record| Some((record, record.image()?)))
        else {
            return refuse(Kind::Invalid, "it stands on no image".to_owned());
        };
        if named.served().is_ok() {
            return refuse(Kind::Conflict, "it serves, on what it was made on".to_owned());
        }
        if let Some(child) = self.children(named.id).first() {
            return refuse(
                Kind::Conflict,
                format!("disk {child} stands on it, and would change under its user"),
            );
        }
        let first = image.files.first().map_or("", |file| &file.path);
        let format = image.format.parse().ok();
        let asked = Asked { path: Path::new(first), format, follow: image.follow, adopted: image.adopted };
        let (held, image) = HeldImage::begin(&asked)?;
        let record = BaseRecord { on: On::Image(image), ..record.clone() };
        let ground = Ground::Image(Arc::new(held));
        let disk = self.open_on(named.id, name, Some((&record, &ground)))?;
        // before the image is written down as accepted: no increment may ever span this
        disk.begin_history_anew().doing(doing)?;
        let file = disk_file::read(&*self.env().media, named.id)?;
        let file = DiskFile { base: Some(record.clone()), ..file };
        disk_file::change(&*self.env().media, named.id, &file)?;
        tracing::warn!(disk = name, "stands on an image that changed; its history begins anew");
        let anew = Arc::new(named.reopened_on(Some(record), Ok((disk, Some(ground)))));
        self.await_release(&anew);
        match self.replace(&named, anew.clone()) {
            true => Ok(anew),
            false => Err(Error::not_found(format!("disk {name}"))),
        }
    }

    /// Tries again to open the disks that lacked space or descriptors when they were opened last.
    pub fn reopen_what_lacked_room(&self) {
        let lacked = |error: Error| matches!(error.kind(), Kind::NoSpace | Kind::Unavailable);
        // one that is being filled is open, and must not be opened twice
        let lacked_room = |named: &Arc<Named>| named.filled().is_ok() && named.served().is_err_and(lacked);
        for named in self.all().into_iter().filter(lacked_room) {
            let _turn = lock(&self.recovering);
            // somebody may have opened or deleted it since
            let Some(named) = self.get(&named.name).ok().filter(lacked_room) else { continue };
            match self.reopen(&named) {
                Ok(_) => tracing::info!(disk = named.name, "opened after all"),
                Err(error) => tracing::debug!(disk = named.name, "{}", error.body().message),
            }
        }
    }

    fn reopen(&self, named: &Arc<Named>) -> Result<Arc<Named>> {
        let open = self.open_layers(named.id, &named.name, named.base.as_ref());
        let failure = open.as_ref().err().map(Error::body);
        let anew = Arc::new(named.reopened(open.map_err(|error| error.body())));
        self.await_release(&anew);
        if !self.replace(named, anew.clone()) {
            return Err(Error::not_found(format!("disk {}", named.name)));
        }
        match failure {
            Some(body) => {
                let error = Error::said(body.kind, format!("recover disk {}", named.name), body.message);
                Err(match body.help {
                    Some(help) => error.with_help(help),
                    None => error,
                })
            }
            None => {
                self.stand_anew(&anew);
                Ok(anew)
            }
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
