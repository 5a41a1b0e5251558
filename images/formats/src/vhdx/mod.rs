//! VHDX, fixed and dynamic; see `docs/vhdx.md`.

mod bat;
mod guid;
mod header;
mod log;
mod metadata;
mod write;

pub(crate) use write::VhdxWriter;

use crate::error::Result;
use crate::image::Image;
use crate::pages::Pages;
use bat::Blocks;
use block::BlockSource;
use std::sync::Arc;

/// What the file begins with.
pub(crate) const MAGIC: &[u8; 8] = b"vhdxfile";

/// Addresses of everything but log entries are multiples of this.
const MIB: u64 = 1 << 20;

/// Opens the image. A log that was not written back is replayed in memory.
pub(crate) fn open(name: &str, file: Arc<dyn BlockSource>) -> Result<Arc<dyn BlockSource>> {
    let pages = Pages::new(name, file.clone());
    let header = header::current(&pages)?;
    let replayed = log::replay(&pages, &header, file)?;
    let pages = Arc::new(Pages::new(name, replayed));
    let regions = header::regions(&pages)?;
    let metadata = metadata::read(&pages, regions.metadata)?;
    let blocks = Blocks::new(pages.clone(), regions.bat, &metadata)?;
    Ok(Arc::new(Image::new(blocks, pages, metadata.size, None)))
}
