//! What is served over NBD, under the same words people use: `web-root` is the live disk, `web-root@3` a recovery
//! point, read-only, from whichever tier holds it.

use crate::disks::Named;
use crate::error::{Result, storage_kind};
use crate::points::Tiers;
use block::{BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Provision, Visit};
use layers::Disk;
use nbd::{Access, Export, ExportInfo, Exports, Peer};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The exports of both tiers.
pub struct Served(pub Arc<Tiers>);

impl Served {
    fn find(&self, name: &str) -> Result<Export> {
        if name.contains('@') {
            let held = self.0.find(name)?;
            let description = format!("recovery point {}, read-only", held.name);
            return Ok(Export { access: Access::ReadOnly(held.source()?), description });
        }
        let named = self.0.disks.get(name)?;
        let access = Access::ReadWrite(Arc::new(Writer::new(&named)?));
        Ok(Export { access, description: format!("disk {}", named.name) })
    }
}

impl Exports for Served {
    fn list(&self) -> Vec<ExportInfo> {
        let disks = self.0.disks.all().into_iter();
        let disks = disks.map(|named| ExportInfo {
            name: named.name.clone(),
            description: format!("disk {}", named.name),
        });
        let (points, _) = self.0.held(None);
        let points = points.into_iter().map(|held| ExportInfo {
            description: format!("recovery point of {}", held.item),
            name: held.name,
        });
        disks.chain(points).collect()
    }

    fn open(&self, name: &str, peer: &Peer) -> block::Result<Export> {
        self.find(name).map_err(|error| {
            let body = error.body();
            tracing::info!(export = name, %peer, "refused: {}", body.message);
            block::Error::refused(storage_kind(body.kind), format!("export {name:?}"), body.message)
        })
    }
}

/// A disk as one connection holds it; counted as long as it lives.
struct Writer {
    disk: Arc<Disk>,
    writers: Arc<AtomicU64>,
}

impl Writer {
    fn new(named: &Named) -> Result<Self> {
        let disk = named.disk()?.clone();
        named.writers.fetch_add(1, Ordering::SeqCst);
        Ok(Self { disk, writers: named.writers.clone() })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.writers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl BlockSource for Writer {
    fn size(&self) -> ByteCount {
        self.disk.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.disk.read_at(offset, buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        self.disk.extents(range, visit)
    }
}

impl BlockDevice for Writer {
    fn write_at(&self, offset: ByteOffset, buf: &[u8]) -> block::Result<()> {
        self.disk.write_at(offset, buf)
    }

    fn zero(&self, range: ByteRange, provision: Provision) -> block::Result<()> {
        self.disk.zero(range, provision)
    }

    fn discard(&self, range: ByteRange) -> block::Result<()> {
        self.disk.discard(range)
    }

    fn flush(&self) -> block::Result<()> {
        self.disk.flush()
    }
}
