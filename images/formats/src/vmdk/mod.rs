//! VMDK: sparse extents, stream-optimized extents, and descriptor files that name extents; see `docs/vmdk.md`.

mod descriptor;
mod extents;
mod layout;
mod write;

pub(crate) use write::VmdkWriter;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::pages::Pages;
use block::{BlockSource, ByteCount, ByteRange, Window};
use descriptor::{Descriptor, Extent, Kind};
use extents::Extents;
use layout::Grains;
use std::sync::Arc;

const SECTOR: u64 = 512;

/// What a sparse extent begins with.
const SPARSE_MAGIC: &[u8; 4] = b"KDMV";
/// What older ESX delta disks begin with.
const COWD_MAGIC: &[u8; 4] = b"COWD";
/// What a descriptor file begins with.
const DESCRIPTOR_MAGIC: &[u8; 21] = b"# Disk DescriptorFile";

/// What files of the format begin with.
pub(crate) const MAGICS: [&[u8]; 3] = [SPARSE_MAGIC, COWD_MAGIC, DESCRIPTOR_MAGIC];

/// Opens the files that an image names.
pub(crate) trait Neighbours {
    /// A file that a descriptor names as an extent.
    fn extent(&mut self, name: &str) -> Result<Arc<dyn BlockSource>>;

    /// The image that a descriptor names as its parent, and the content id that this parent has.
    fn parent(&mut self, name: &str) -> Result<Parent>;
}

/// A disk below another.
pub(crate) struct Parent {
    pub disk: Arc<dyn BlockSource>,
    /// Changes with the content; a child names the one it was made on.
    pub content_id: Option<u32>,
}

/// Opens the image.
pub(crate) fn open(
    name: &str,
    file: Arc<dyn BlockSource>,
    neighbours: &mut dyn Neighbours,
) -> Result<Parent> {
    let pages = Arc::new(Pages::new(name, file));
    let mut magic = [0; 4];
    pages.read(0, &mut magic)?;
    if &magic == COWD_MAGIC {
        return Err(Error::unsupported(name, "an ESX COW disk (vmfsSparse)"));
    }
    if &magic != SPARSE_MAGIC {
        let descriptor = descriptor::of_file(&pages)?;
        let base = parent(name, &descriptor, neighbours)?;
        let disk = extents(name, &descriptor, base, neighbours)?;
        return Ok(Parent { disk, content_id: Some(descriptor.content_id) });
    }
    let grains = Grains::open(pages.clone())?;
    let descriptor = descriptor::embedded(&pages, grains.descriptor())?;
    let base = match &descriptor {
        Some(descriptor) => parent(name, descriptor, neighbours)?,
        None => None,
    };
    let content_id = descriptor.map(|descriptor| descriptor.content_id);
    let size = grains.size();
    Ok(Parent { disk: Arc::new(Image::new(grains, pages, size, base)), content_id })
}

/// The disk below, if the descriptor names one.
fn parent(
    name: &str,
    descriptor: &Descriptor,
    neighbours: &mut dyn Neighbours,
) -> Result<Option<Arc<dyn BlockSource>>> {
    let Some(wanted) = descriptor.parent_id else { return Ok(None) };
    let Some(hint) = &descriptor.parent_name else {
        return Err(Error::damaged(name, None, "it has a parent and does not name it"));
    };
    let parent = neighbours.parent(hint)?;
    if parent.content_id != Some(wanted) {
        let why = format!("its parent {hint} changed since: its content id is not {wanted:08x}");
        return Err(Error::damaged(name, None, why));
    }
    Ok(Some(parent.disk))
}

/// The disk that a descriptor file describes.
fn extents(
    name: &str,
    descriptor: &Descriptor,
    base: Option<Arc<dyn BlockSource>>,
    neighbours: &mut dyn Neighbours,
) -> Result<Arc<dyn BlockSource>> {
    let mut parts = Extents::default();
    for extent in &descriptor.extents {
        let range = parts.next(name, extent.bytes)?;
        let below = base.as_ref().map(|base| part_of_base(base, range)).transpose()?.flatten();
        parts.push(range, part(name, extent, below, neighbours)?);
    }
    Ok(Arc::new(parts))
}

/// The base under one extent, which may be shorter than the extent.
fn part_of_base(base: &Arc<dyn BlockSource>, range: ByteRange) -> Result<Option<Arc<dyn BlockSource>>> {
    let there = range.intersect(ByteRange::whole(base.size()));
    Ok(if there.is_empty() { None } else { Some(Arc::new(Window::new(base.clone(), there)?)) })
}

fn part(
    name: &str,
    extent: &Extent,
    base: Option<Arc<dyn BlockSource>>,
    neighbours: &mut dyn Neighbours,
) -> Result<Option<Arc<dyn BlockSource>>> {
    let size = ByteCount::new(extent.bytes);
    match &extent.kind {
        Kind::Zero => Ok(None),
        Kind::Flat { file, offset } => {
            let source = neighbours.extent(file)?;
            let range = ByteRange::between(*offset, offset.saturating_add(extent.bytes));
            let window = Window::new(source, range).map_err(|_| {
                Error::damaged(name, None, format!("extent {file} is shorter than the descriptor says"))
            })?;
            Ok(Some(Arc::new(window)))
        }
        Kind::Sparse { file } => {
            let pages = Arc::new(Pages::new(file, neighbours.extent(file)?));
            let grains = Grains::open(pages.clone())?;
            if grains.size() < size {
                return Err(Error::damaged(
                    name,
                    None,
                    format!("extent {file} is shorter than the descriptor says"),
                ));
            }
            Ok(Some(Arc::new(Image::new(grains, pages, size, base))))
        }
    }
}
