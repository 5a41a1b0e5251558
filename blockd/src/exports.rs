//! What is served over NBD, under the same words people use: `web-root` is the live disk, `web-root@3` a recovery
//! point, read-only, from whichever tier holds it.

use crate::audit_log::{About, Said};
use crate::config::ClientAccess;
use crate::contexts::{ChangedSince, OfLive};
use crate::disks::Attached;
use crate::error::{Error, Result, storage_kind};
use crate::identity::{Caller, LocalUser};
use crate::names;
use crate::points::Tiers;
use crate::space::Space;
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Provision, Stored, Visit};
use control::{AuditOutcome, Kind, Role};
use nbd::{Access, Export, ExportInfo, Exports, Peer};
use std::sync::Arc;

/// The exports of both tiers, and which client is shown which.
pub struct Served {
    /// Where they are.
    pub tiers: Arc<Tiers>,
    /// What the certificates of remote clients are good for.
    pub access: Vec<ClientAccess>,
    /// What users of this host may do, those of whom something is said.
    pub users: Vec<LocalUser>,
    /// Where writers find room.
    pub space: Arc<Space>,
}

impl Served {
    fn find(&self, name: &str) -> Result<Export> {
        if name.contains('@') {
            let held = self.tiers.find(name)?;
            let description = format!("recovery point {}, read-only", held.name);
            let access = Access::ReadOnly(held.source()?);
            let contexts = ChangedSince::new(self.tiers.clone(), held);
            return Ok(Export { contexts: Some(Arc::new(contexts)), ..Export::new(access, description) });
        }
        // clients that name none want the only one
        let named = match (name, self.tiers.disks.all().as_slice()) {
            ("", [only]) => only.clone(),
            _ => self.tiers.disks.get(name)?,
        };
        if names::is_definition(&named.name) {
            let why = "holds a machine's definition, which no client writes";
            return Err(Error::said(Kind::Refused, format!("disk {}", named.name), why).with_help(
                "`blockctl vm definition MACHINE@latest` shows it; its recovery points are exports",
            ));
        }
        let attached = named.attach()?;
        let contexts = OfLive(attached.disk.clone());
        let access = Access::ReadWrite(Arc::new(Writer(attached, self.space.clone())));
        let mut export = Export::new(access, format!("disk {}", named.name));
        export.contexts = Some(Arc::new(contexts));
        export.gate = Some(Arc::new(named.claim.clone()));
        Ok(export)
    }
}

impl Served {
    /// Local clients passed the permissions of the socket, and have what their user's role lets them, if one is said; remote
    /// ones have what their certificate is good for.
    fn may_see(&self, peer: &Peer, name: &str) -> bool {
        match peer {
            Peer::Unix { uid, .. } if self.users.iter().any(|user| user.uid == *uid) => {
                match Caller::user(*uid, &self.users).role {
                    Role::Operator | Role::Admin => true,
                    // read-only: stored data, and nothing that a guest has
                    Role::Restorer => name.contains('@'),
                    Role::Reader | Role::Guard => false,
                }
            }
            Peer::Unix { .. } | Peer::Tcp { .. } => true,
            // the default export is not named by any binding
            Peer::Tls { certificate, .. } => {
                self.access.iter().any(|access| access.is_of(certificate) && access.covers(name))
            }
        }
    }
}

impl Served {
    /// Who reads a recovery point takes data out of it. A log that cannot be written keeps nobody from their data.
    fn note_reader(&self, name: &str, peer: &Peer) {
        let about = About::from([("point".to_owned(), names::shown(name).into())]);
        let said = Said { who: peer.to_string(), action: "read over NBD".to_owned(), about };
        if let Err(error) = self.tiers.audit.write(&said, AuditOutcome::Asked, None, None) {
            tracing::error!(export = names::shown(name), %peer, "{}", error.body().message);
        }
    }
}

impl Exports for Served {
    fn list(&self, peer: &Peer) -> Vec<ExportInfo> {
        let disks = self.tiers.disks.all().into_iter();
        let disks = disks.map(|named| ExportInfo {
            name: named.name.clone(),
            description: format!("disk {}", named.name),
        });
        let (points, _) = self.tiers.held(None);
        let points = points.into_iter().map(|held| ExportInfo {
            description: format!("recovery point of {}", held.item),
            name: held.name,
        });
        disks.chain(points).filter(|export| self.may_see(peer, &export.name)).collect()
    }

    fn open(&self, name: &str, peer: &Peer) -> block::Result<Export> {
        if !self.may_see(peer, name) {
            tracing::info!(export = names::shown(name), %peer, "refused: certificate or role are not good for it");
            // as if there were none: a client learns nothing of what is not its own
            return Err(block::Error::NotFound { what: format!("export {:?}", names::shown(name)) });
        }
        if name.contains('@') {
            self.note_reader(name, peer);
        }
        self.find(name).map_err(|error| {
            let body = error.body();
            tracing::info!(export = names::shown(name), %peer, "refused: {}", body.message);
            block::Error::refused(
                storage_kind(body.kind),
                format!("export {:?}", names::shown(name)),
                body.message,
            )
        })
    }
}

/// A disk as one connection holds it. Where there is no room, its requests wait while some is made.
struct Writer(Attached, Arc<Space>);

impl BlockSource for Writer {
    fn size(&self) -> ByteCount {
        self.0.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        let _inside = self.0.request()?;
        self.0.disk.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.0.disk.extents(range, visit)
    }

    fn stored(&self, range: ByteRange) -> Option<Stored> {
        let _inside = self.0.request().ok()?;
        self.0.disk.stored(range)
    }

    fn is_near(&self, range: ByteRange) -> bool {
        self.0.disk.is_near(range)
    }
}

impl BlockDevice for Writer {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> block::Result<()> {
        let _inside = self.0.request()?;
        self.1.with_room(|| self.0.disk.write_at(offset, buf))
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> block::Result<()> {
        let _inside = self.0.request()?;
        self.1.with_room(|| self.0.disk.zero(range, provision))
    }

    fn discard(&self, range: ByteRange) -> block::Result<()> {
        let _inside = self.0.request()?;
        self.1.with_room(|| self.0.disk.discard(range))
    }

    fn flush(&self) -> block::Result<()> {
        let _inside = self.0.request()?;
        self.1.with_room(|| self.0.disk.flush())
    }
}
