//! VHD, fixed and dynamic; see `docs/vhd.md`.

mod dynamic;
mod footer;
mod write;

pub(crate) use write::{DynamicWriter, finish_fixed};

use crate::error::{Error, Result};
use crate::image::Image;
use crate::pages::Pages;
use block::{BlockSource, ByteRange, Window};
use dynamic::Blocks;
use footer::{Footer, Kind};
use std::sync::Arc;

/// The unit of addresses and sizes.
const SECTOR: u64 = 512;

/// Whether the file has a footer, or the copy of one that a dynamic image begins with.
pub(crate) fn is_marked(file: &dyn BlockSource) -> Result<bool> {
    footer::is_marked(file)
}

/// Opens the image.
pub(crate) fn open(name: &str, file: Arc<dyn BlockSource>) -> Result<Arc<dyn BlockSource>> {
    let pages = Arc::new(Pages::new(name, file.clone()));
    let footer = footer::find(&pages)?;
    match footer.kind {
        Kind::Fixed => fixed(&pages, &footer, file),
        Kind::Dynamic => {
            let size = footer.size;
            let blocks = Blocks::open(pages.clone(), &footer)?;
            Ok(Arc::new(Image::new(blocks, pages, size, None)))
        }
        Kind::Differencing => Err(Error::unsupported(name, "a differencing VHD")
            .with_help("merge it into its parent first, with the tool that made it")),
    }
}

fn fixed(pages: &Pages, footer: &Footer, file: Arc<dyn BlockSource>) -> Result<Arc<dyn BlockSource>> {
    pages.holds(0, footer.size.get().saturating_add(SECTOR), "the disk with its footer")?;
    Ok(Arc::new(Window::new(file, ByteRange::whole(footer.size))?))
}
