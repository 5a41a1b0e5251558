//! Opening an image with all the files it stands on.

use crate::error::{Error, Result};
use crate::format::{Format, probe};
use crate::vmdk::{Neighbours, Parent};
use crate::{qcow2, vhd, vhdx, vmdk};
use block::linux::{open_below, open_named};
use block::{BlockSource, FileSource};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Images that stand on each other: deeper chains than this are mistakes or malice.
const DEPTH_LIMIT: usize = 64;

/// Files of one image. A disk of 8 TiB in extents of 2 GiB has half as many.
const FILES_LIMIT: usize = 8192;

/// Which files an image may name. What an image says is not what its owner says: a guest's disk can be made to name
/// any file of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Files in the folder of the image that was asked for, and below; no link leads out of it.
    Below,
    /// Any file that this process may read.
    Anywhere,
}

/// An open image.
pub struct Opened {
    /// The disk.
    pub disk: Arc<dyn BlockSource>,
    /// Its format.
    pub format: Format,
    /// Every file it stands on, the image itself first.
    pub files: Vec<PathBuf>,
}

/// Opens an image for reading. Without a format, name and bytes must agree on one; see `docs/opening.md`.
///
/// # Errors
/// [`Error::Refused`] where a format must be named, or a file that the image names is out of reach;
/// [`Error::Unsupported`] naming what is not read; [`Error::Damaged`] where and why.
pub fn open(path: &Path, format: Option<Format>, reach: Reach) -> Result<Opened> {
    let file: Arc<dyn BlockSource> = Arc::new(FileSource::new(open_named(path)?)?);
    let format = format.map_or_else(|| probe(path, &*file), Ok)?;
    let (folder, name) = (folder_of(path), Path::new(path.file_name().unwrap_or_default()));
    let mut files = Files { folder, reach, opened: vec![path.to_owned()], depth: 1 };
    let disk = files.disk(name, file, format)?.disk;
    Ok(Opened { disk, format, files: files.opened })
}

/// Reads an image that is not a file of this host, and can name none.
///
/// # Errors
/// As [`open`].
pub fn read(name: &str, source: Arc<dyn BlockSource>, format: Format) -> Result<Arc<dyn BlockSource>> {
    Ok(of_format(name, source, format, &mut Alone(name))?.disk)
}

/// The disk in a file of this format.
fn of_format(
    name: &str,
    file: Arc<dyn BlockSource>,
    format: Format,
    around: &mut dyn Around,
) -> Result<Parent> {
    let disk = match format {
        Format::Raw => file,
        Format::Vhd => vhd::open(name, file)?,
        Format::Vhdx => vhdx::open(name, file)?,
        Format::Vmdk => return vmdk::open(name, file, around.neighbours()),
        Format::Qcow2 => {
            let opening = qcow2::open(name, file)?;
            let base = match opening.backing() {
                Some(backing) => Some(around.backing(&backing.name, backing.format)?),
                None => None,
            };
            opening.over(base)
        }
    };
    Ok(Parent { disk, content_id: None })
}

/// The files around an image, as each format asks for them.
trait Around {
    /// A disk below, of this format if its name is known.
    fn backing(&mut self, name: &str, format: Option<Format>) -> Result<Arc<dyn BlockSource>>;

    fn neighbours(&mut self) -> &mut dyn Neighbours;
}

/// Nothing is around.
struct Alone<'a>(&'a str);

impl Alone<'_> {
    fn refuse<T>(&self, name: &str) -> Result<T> {
        Err(Error::refused(self.0, format!("stands on another file, {name:?}, and is no file itself")))
    }
}

impl Around for Alone<'_> {
    fn backing(&mut self, name: &str, _format: Option<Format>) -> Result<Arc<dyn BlockSource>> {
        self.refuse(name)
    }

    fn neighbours(&mut self) -> &mut dyn Neighbours {
        self
    }
}

impl Neighbours for Alone<'_> {
    fn extent(&mut self, name: &str) -> Result<Arc<dyn BlockSource>> {
        self.refuse(name)
    }

    fn parent(&mut self, name: &str) -> Result<Parent> {
        self.refuse(name)
    }
}

/// The files that were opened for one image.
struct Files {
    // where the first image is
    folder: PathBuf,
    reach: Reach,
    opened: Vec<PathBuf>,
    depth: usize,
}

/// The files around one image of a chain.
struct Beside<'a> {
    files: &'a mut Files,
    // the image, from the folder
    image: &'a Path,
}

impl Files {
    /// The disk in an open file; `path` is where it is, from the folder.
    fn disk(&mut self, path: &Path, file: Arc<dyn BlockSource>, format: Format) -> Result<Parent> {
        let shown = self.folder.join(path).display().to_string();
        of_format(&shown, file, format, &mut Beside { files: self, image: path })
    }

    fn open(&mut self, path: &Path) -> Result<Arc<dyn BlockSource>> {
        if self.opened.len() == FILES_LIMIT {
            let first = self.opened[0].display().to_string();
            return Err(Error::unsupported(&first, format!("an image of more than {FILES_LIMIT} files")));
        }
        let file = match self.reach {
            Reach::Below => open_below(&self.folder, path)?,
            Reach::Anywhere => open_named(&self.folder.join(path))?,
        };
        self.opened.push(self.folder.join(path));
        Ok(Arc::new(FileSource::new(file)?))
    }
}

impl Beside<'_> {
    fn shown(&self) -> String {
        self.files.folder.join(self.image).display().to_string()
    }

    /// Where a file is that this image names, from the folder.
    fn find(&self, name: &str) -> Result<PathBuf> {
        let protocol = name.split(['/', '\\']).next().is_some_and(|first| first.contains(':'));
        if protocol || name.contains('\0') || name.is_empty() {
            return Err(Error::unsupported(
                &self.shown(),
                format!("a file named {name:?}, which is no path"),
            ));
        }
        let path = self.image.parent().unwrap_or(Path::new("")).join(name);
        if self.files.reach == Reach::Anywhere {
            return Ok(path);
        }
        let folder = self.files.folder.canonicalize();
        let inside = match &folder {
            Ok(folder) if path.is_absolute() => path.strip_prefix(folder).ok().map(Path::to_owned),
            _ => (!climbs(&path)).then_some(path),
        };
        inside.ok_or_else(|| {
            let why = format!("stands on {name}, which is not in its folder");
            Error::refused(&self.shown(), why)
                .with_help("an image can name any file of this host; if you trust this one: --follow")
        })
    }

    /// The disk of another image of the chain.
    fn below(&mut self, name: &str, format: Option<Format>) -> Result<Parent> {
        if self.files.depth == DEPTH_LIMIT {
            let why = format!("stands on more than {DEPTH_LIMIT} images, or on itself");
            return Err(Error::refused(&self.shown(), why));
        }
        let path = self.find(name)?;
        let file = self.files.open(&path)?;
        let format = match format {
            Some(format) => format,
            None => probe(&path, &*file).map_err(|error| {
                error.with_help(
                    "write the base's format into the image: `qemu-img rebase -u -b BASE -F FORMAT`",
                )
            })?,
        };
        self.files.depth += 1;
        let disk = self.files.disk(&path, file, format);
        self.files.depth -= 1;
        disk
    }
}

/// Whether a relative path leads out of where it begins, or is absolute.
fn climbs(path: &Path) -> bool {
    let mut depth = 0i32;
    path.components().any(|part| {
        match part {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => depth = i32::MIN / 2,
        }
        depth < 0
    })
}

impl Around for Beside<'_> {
    fn backing(&mut self, name: &str, format: Option<Format>) -> Result<Arc<dyn BlockSource>> {
        Ok(self.below(name, format)?.disk)
    }

    fn neighbours(&mut self) -> &mut dyn Neighbours {
        self
    }
}

impl Neighbours for Beside<'_> {
    fn extent(&mut self, name: &str) -> Result<Arc<dyn BlockSource>> {
        let path = self.find(name)?;
        self.files.open(&path)
    }

    fn parent(&mut self, name: &str) -> Result<Parent> {
        self.below(name, Some(Format::Vmdk))
    }
}

/// The folder a file is in.
fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}
