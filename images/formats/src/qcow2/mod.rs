//! qcow2 versions 2 and 3; see `docs/qcow2.md`.

mod header;
mod layout;
mod write;

pub(crate) use write::Qcow2Writer;

use crate::error::Result;
use crate::format::Format;
use crate::image::Image;
use crate::pages::Pages;
use block::BlockSource;
use header::Header;
use layout::Clusters;
use std::sync::Arc;

/// What the file begins with.
pub(crate) const MAGIC: &[u8; 4] = b"QFI\xfb";

/// The file below, as a header names it.
pub(crate) struct Backing {
    pub name: String,
    /// Its format, where the header says it.
    pub format: Option<Format>,
}

/// A header that was read; the base is not open yet.
pub(crate) struct Opening {
    pages: Arc<Pages>,
    header: Header,
}

/// Reads the header.
pub(crate) fn open(name: &str, file: Arc<dyn BlockSource>) -> Result<Opening> {
    let pages = Arc::new(Pages::new(name, file));
    let header = header::read(&pages)?;
    Ok(Opening { pages, header })
}

impl Opening {
    /// The file below, if there is one.
    pub(crate) fn backing(&self) -> Option<&Backing> {
        self.header.backing.as_ref()
    }

    /// The disk, above its base.
    pub(crate) fn over(self, base: Option<Arc<dyn BlockSource>>) -> Arc<dyn BlockSource> {
        let size = self.header.size;
        let clusters = Clusters::new(self.header, self.pages.clone());
        Arc::new(Image::new(clusters, self.pages, size, base))
    }
}
