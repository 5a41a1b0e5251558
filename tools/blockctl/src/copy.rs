//! Bytes between files and NBD exports, sparse on both sides: holes are neither read nor written.

use crate::failure::{Failure, Result};
use crate::output::Progress;
use block::linux::LinuxMedia;
use block::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteCount, ByteOffset, ByteRange, Extent, ExtentKind, Media,
    MediaFile, OpenHow, Visit, check_range,
};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Bytes copied at a time.
const STEP: u64 = 4 << 20;

/// Extents are asked for in parts of this size.
const WINDOW: u64 = 1 << 30;

/// A host file as a source of blocks; its holes are holes.
pub struct FileSource {
    file: Arc<dyn MediaFile>,
    size: ByteCount,
}

impl FileSource {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open(path, OpenHow::Read)?;
        let size = ByteCount::new(file.size()?);
        Ok(Self { file, size })
    }
}

impl BlockSource for FileSource {
    fn size(&self) -> ByteCount {
        self.size
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
        self.file.read_at(offset.get(), buf)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> block::Result<()> {
        check_range(range.offset(), range.count().get(), self.size)?;
        let mut at = range.start();
        for data in self.file.data_ranges(range)? {
            for (end, kind) in [(data.start(), ExtentKind::Hole), (data.end(), ExtentKind::Data)] {
                if end > at && visit(Extent { range: ByteRange::between(at, end), kind }).is_break() {
                    return Ok(());
                }
                at = at.max(end);
            }
        }
        if at < range.end() {
            // the last extent: there is no walk left to stop
            let _stop = visit(Extent { range: ByteRange::between(at, range.end()), kind: ExtentKind::Hole });
        }
        Ok(())
    }
}

/// Opens a host file through the storage side's own seam.
fn open(path: &Path, how: OpenHow) -> Result<Arc<dyn MediaFile>> {
    let (dir, name) = split(path)?;
    Ok(LinuxMedia::new(dir, dir)?.open(name, how)?)
}

fn split(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Failure::usage(format!("{}: is not the name of a file", path.display())))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((dir, name))
}

/// Copies everything that may not be zero to a device that is all zeros. Gives the bytes written.
///
/// # Errors
/// What either side reports.
pub fn to_device(from: &dyn BlockSource, to: &dyn BlockDevice, progress: &mut Progress) -> Result<u64> {
    let mut written = 0;
    each_data(from, progress, &mut |at, bytes| {
        written += write_data(bytes, &mut |skip, part| Ok(to.write_at(ByteOffset::new(at + skip), part)?))?;
        Ok(())
    })?;
    to.flush()?;
    Ok(written)
}

/// Writes a source as a sparse raw file. It appears under its name when it is whole and on the disk.
///
/// # Errors
/// What either side reports; nothing is left under the name then.
#[expect(clippy::disallowed_methods, reason = "the file is the person's own, outside of any media")]
pub fn to_file(from: &dyn BlockSource, path: &Path, progress: &mut Progress) -> Result<u64> {
    let (dir, name) = split(path)?;
    let is_special = path.metadata().is_ok_and(|meta| !meta.is_file());
    if is_special {
        return Err(Failure::usage(format!("{}: is not a regular file", path.display()))
            .with_help("`nbdcopy` writes to devices: blockctl disk uri gives the URI"));
    }
    let part = dir.join(format!(".{name}.part"));
    let done = fill_file(from, &part, progress).and_then(|written| {
        std::fs::rename(&part, path)
            .map_err(|error| Failure::host(format!("rename to {}", path.display()), &error))?;
        Ok(written)
    });
    if done.is_err()
        && let Err(error) = std::fs::remove_file(&part)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("warning: {} is left behind: {error}", part.display());
    }
    done.map_err(|failure| failure.while_doing(format!("write {}", path.display())))
}

fn fill_file(from: &dyn BlockSource, path: &Path, progress: &mut Progress) -> Result<u64> {
    let file = open(path, OpenHow::Truncate)?;
    file.set_len(from.size().get())?;
    let mut written = 0;
    each_data(from, progress, &mut |at, bytes| {
        written += write_data(bytes, &mut |skip, part| Ok(file.write_at(at + skip, part)?))?;
        Ok(())
    })?;
    file.sync()?;
    Ok(written)
}

/// Makes a device equal to a source of the same size by writing the blocks that differ. Gives the bytes written.
///
/// # Errors
/// What either side reports.
pub fn update_device(from: &dyn BlockSource, to: &dyn BlockDevice, progress: &mut Progress) -> Result<u64> {
    let size = from.size().get().min(to.size().get());
    let (mut new, mut old) = (vec![0; STEP as usize], vec![0; STEP as usize]);
    let mut written = 0;
    for at in (0..size).step_by(STEP as usize) {
        let count = STEP.min(size - at) as usize;
        from.read_at(ByteOffset::new(at), &mut new[..count])?;
        to.read_at(ByteOffset::new(at), &mut old[..count])?;
        let blocks = new[..count].chunks(BLOCK_SIZE as usize).zip(old[..count].chunks(BLOCK_SIZE as usize));
        for (index, (new, _)) in blocks.enumerate().filter(|(_, (new, old))| new != old) {
            to.write_at(ByteOffset::new(at + index as u64 * BLOCK_SIZE), new)?;
            written += new.len() as u64;
        }
        progress.at(at + count as u64, size);
    }
    to.flush()?;
    Ok(written)
}

/// Compares two sources byte by byte. Gives the bytes that were read on both sides, or where they first differ.
///
/// # Errors
/// What either side reports.
pub fn compare(
    left: &dyn BlockSource,
    right: &dyn BlockSource,
    progress: &mut Progress,
) -> Result<std::result::Result<u64, u64>> {
    let size = left.size().get();
    if size != right.size().get() {
        return Ok(Err(size.min(right.size().get())));
    }
    let (mut a, mut b) = (vec![0; STEP as usize], vec![0; STEP as usize]);
    for at in (0..size).step_by(STEP as usize) {
        let count = STEP.min(size - at) as usize;
        left.read_at(ByteOffset::new(at), &mut a[..count])?;
        right.read_at(ByteOffset::new(at), &mut b[..count])?;
        if a[..count] != b[..count] {
            let differs = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            return Ok(Err(at + differs as u64));
        }
        progress.at(at + count as u64, size);
    }
    Ok(Ok(size))
}

/// Visits the bytes of every data extent, piece by piece.
fn each_data(
    from: &dyn BlockSource,
    progress: &mut Progress,
    visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let size = from.size().get();
    let mut buf = Vec::new();
    for start in (0..size).step_by(WINDOW as usize) {
        let window = ByteRange::between(start, size.min(start + WINDOW));
        let mut data = Vec::new();
        from.extents(window, &mut |extent| {
            if extent.kind == ExtentKind::Data {
                data.push(extent.range);
            }
            ControlFlow::Continue(())
        })?;
        for range in data {
            for at in (range.start()..range.end()).step_by(STEP as usize) {
                buf.resize((range.end() - at).min(STEP) as usize, 0);
                from.read_at(ByteOffset::new(at), &mut buf)?;
                visit(at, &buf)?;
                progress.at(at + buf.len() as u64, size);
            }
        }
        progress.at(window.end(), size);
    }
    Ok(())
}

/// Writes the runs of blocks that are not all zeros. Gives the bytes written.
fn write_data(bytes: &[u8], write: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<u64> {
    let is_zero = |block: &[u8]| block.iter().all(|&byte| byte == 0);
    let (mut start, mut written) = (0, 0);
    while start < bytes.len() {
        let blocks = bytes[start..].chunks(BLOCK_SIZE as usize);
        let zero = blocks.clone().next().is_some_and(is_zero);
        let run: usize = blocks.take_while(|block| is_zero(block) == zero).map(<[u8]>::len).sum();
        if !zero {
            write(start as u64, &bytes[start..start + run])?;
            written += run as u64;
        }
        start += run;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;
    use block::MemoryDisk;

    #[test]
    fn a_file_and_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = MemoryDisk::new(ByteCount::new(3 << 20 | 513));
        disk.write_at(ByteOffset::new(1 << 20 | 7), b"here").expect("written");
        disk.write_at(ByteOffset::new((3 << 20) + 510), b"end").expect("written");
        let path = dir.path().join("image");
        let mut quiet = Output::new(true).progress("");
        let written = to_file(&disk, &path, &mut quiet).expect("exported");
        assert_eq!(written, 4096 + 513);
        let file = FileSource::open(&path).expect("opened");
        assert_eq!(compare(&disk, &file, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        let back = MemoryDisk::new(file.size());
        to_device(&file, &back, &mut quiet).expect("copied");
        assert_eq!(compare(&disk, &back, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        back.write_at(ByteOffset::new(77), b"x").expect("written");
        let other = MemoryDisk::new(file.size());
        to_device(&back, &other, &mut quiet).expect("copied");
        assert_eq!(update_device(&file, &other, &mut quiet).expect("updated"), 4096);
        assert_eq!(compare(&file, &other, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        assert_eq!(compare(&disk, &back, &mut quiet).expect("read"), Err(77));
        let names: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
        assert_eq!(names.len(), 1);
    }
}
