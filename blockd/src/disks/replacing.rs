//! Disks whose content gives way to a recovery point: nobody else writes meanwhile, and a crash leaves a disk that says
//! what it is becoming.

use super::{Disks, Named};
use crate::disk_file::{self, DiskFile, ReplaceRecord};
use crate::error::{Error, Result};
use block::sync::lock;
use control::Kind;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Disks {
    /// Keeps everybody out of a disk from now on, until [`end_replacing`](Self::end_replacing); durable.
    ///
    /// # Errors
    /// `Conflict` while a client is connected, unless it is to be cut off: then nothing of it is written any more when
    /// this returns.
    pub fn begin_replacing(&self, named: &Arc<Named>, record: &ReplaceRecord, cut_off: bool) -> Result<()> {
        let _told = lock(&named.told);
        if named.writers.load(Ordering::SeqCst) > 0 {
            if !cut_off {
                return Err(still_connected(named));
            }
            named.cut_off();
        }
        self.write_replaced(named, record)?;
        *lock(&named.replacing) = Some(record.clone());
        Ok(())
    }

    /// Whether nobody is connected, once whoever said good-bye just now is gone.
    ///
    /// # Errors
    /// `Refused` naming the clients.
    pub fn check_left_alone(&self, named: &Named) -> Result<()> {
        if named.is_left_alone() { Ok(()) } else { Err(still_connected(named)) }
    }

    /// Lets clients in again.
    ///
    /// # Errors
    /// What the host reports; the disk stays closed to them then.
    pub fn end_replacing(&self, named: &Arc<Named>) -> Result<()> {
        let Some(record) = lock(&named.replacing).clone() else { return Ok(()) };
        self.write_replaced(named, &ReplaceRecord { done: true, ..record })?;
        *lock(&named.replacing) = None;
        Ok(())
    }

    /// The last replacement of a disk, if there was one.
    ///
    /// # Errors
    /// What the host reports.
    pub fn replaced(&self, named: &Named) -> Result<Option<ReplaceRecord>> {
        Ok(disk_file::read(&*self.env.media, named.id)?.replaced)
    }

    fn write_replaced(&self, named: &Arc<Named>, record: &ReplaceRecord) -> Result<()> {
        let table = lock(&self.table);
        if table.disks.get(&named.name).is_none_or(|there| there.id != named.id) {
            return Err(Error::not_found(format!("disk {}", named.name)));
        }
        let file = disk_file::read(&*self.env.media, named.id)?;
        disk_file::change(&*self.env.media, named.id, &DiskFile { replaced: Some(record.clone()), ..file })
    }
}

impl Named {
    /// What is taking the place of what it holds, if anything is.
    pub fn replacing(&self) -> Option<ReplaceRecord> {
        lock(&self.replacing).clone()
    }
}

fn still_connected(named: &Named) -> Error {
    let clients: Vec<String> = named.claim.clients().into_iter().map(|client| client.client).collect();
    let why = format!("a client is connected to it: {}", clients.join(", "));
    Error::said(Kind::Refused, format!("replace disk {}", named.name), why).with_help(
        "shut the machine down first; or --force-disconnect ends its connection, and what it has not flushed is lost to it",
    )
}
