//! Bytes between files and NBD exports, sparse on both sides: holes are neither read nor written.

use crate::failure::{Failure, Result};
use crate::output::Progress;
use block::linux::{KernelEntropy, LinuxMedia};
use block::{
    BLOCK_SIZE, BlockDevice, BlockSource, ByteOffset, ByteRange, Media, MediaFile, OpenHow, Provision,
};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

/// Bytes compared or written at a time.
const STEP: u64 = 4 << 20;
/// Zeros are asked for in parts of this size.
const WINDOW: u64 = 1 << 30;
/// A file is synced after this many bytes, beside what is still written: the host's disk begins early, and the end waits for little.
const SYNC_EVERY: u64 = 256 << 20;

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

/// Copies everything that is not zero to a device that is all zeros, durably. Gives the bytes written.
///
/// # Errors
/// What either side reports.
pub fn to_device(from: &dyn BlockSource, to: &dyn BlockDevice, progress: &mut Progress) -> Result<u64> {
    let written = block::copy(from, to, &mut |walked| {
        progress.at(walked.done, walked.total);
        Ok(())
    })?;
    to.flush()?;
    Ok(written.get())
}

/// Makes the front of a device, whatever it holds, equal to a source, durably: what is empty in the source is made zero. The source
/// is read ahead. Gives the bytes written.
///
/// # Errors
/// What either side reports.
pub fn over_device(from: &dyn BlockSource, to: &dyn BlockDevice, progress: &mut Progress) -> Result<u64> {
    let (total, mut at, mut written) = (from.size().get(), 0, 0);
    let empty = |start: u64, end: u64| {
        (start..end).step_by(WINDOW as usize).try_for_each(|start| {
            to.zero(ByteRange::between(start, end.min(start + WINDOW)), Provision::Sparse)
        })
    };
    let mut visit = |offset: ByteOffset, run: &[u8]| {
        empty(at, offset.get())?;
        to.write_at(offset, run)?;
        written += run.len() as u64;
        at = offset.get() + run.len() as u64;
        Ok(())
    };
    block::each_run(from, &mut visit, &mut |walked| {
        progress.at(walked.done, walked.total);
        Ok(())
    })?;
    empty(at, total)?;
    to.flush()?;
    Ok(written)
}

/// Writes a source as a sparse image file. It appears under its name when it is whole and on the disk.
///
/// # Errors
/// What either side reports; nothing is left under the name then.
#[expect(clippy::disallowed_methods, reason = "the file is the person's own, outside of any media")]
pub fn to_file(
    from: &dyn BlockSource,
    path: &Path,
    output: formats::Output,
    progress: &mut Progress,
) -> Result<u64> {
    let (dir, name) = split(path)?;
    let is_special = path.metadata().is_ok_and(|meta| !meta.is_file());
    if is_special {
        return Err(Failure::usage(format!("{}: is not a regular file", path.display()))
            .with_help("`nbdcopy` writes to devices: blockctl disk uri gives the URI"));
    }
    let part = dir.join(format!(".{name}.part"));
    let done = fill_file(from, &part, name, output, progress).and_then(|written| {
        std::fs::rename(&part, path)
            .and_then(|()| std::fs::File::open(dir)?.sync_all())
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

fn fill_file(
    from: &dyn BlockSource,
    path: &Path,
    name: &str,
    output: formats::Output,
    progress: &mut Progress,
) -> Result<u64> {
    let file = open(path, OpenHow::Truncate)?;
    let ((due, turns), mut synced_at) = (channel(), 0);
    std::thread::scope(|scope| {
        let to = &file;
        let syncing = scope.spawn(move || turns.iter().try_for_each(|()| to.sync()));
        let pace = &mut |walked: block::Walked| {
            progress.at(walked.done, walked.total);
            if walked.read - synced_at >= SYNC_EVERY {
                synced_at = walked.read;
                // it ends early only if a sync failed, which is said below
                due.send(()).ok();
            }
            Ok(())
        };
        let written = formats::write(from, &*file, output, name, &KernelEntropy, pace);
        drop(due);
        let synced = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // a sync that failed is final, whatever a later one says
        let written = written.and_then(|written| synced.map(|()| written))?;
        file.sync()?;
        Ok(written.get())
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;
    use block::linux::open_named;
    use block::{ByteCount, FileSource, MemoryDisk};

    #[test]
    fn a_file_and_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = MemoryDisk::new(ByteCount::new(3 << 20 | 513));
        disk.write_at(ByteOffset::new(1 << 20 | 7), b"here").expect("written");
        disk.write_at(ByteOffset::new((3 << 20) + 510), b"end").expect("written");
        let path = dir.path().join("image");
        let mut quiet = Output::new(true).progress("");
        let written = to_file(&disk, &path, formats::Output::Raw, &mut quiet).expect("exported");
        assert_eq!(written, 4096 + 513);
        let file = open_named(&path).and_then(FileSource::new).expect("opened");
        assert_eq!(compare(&disk, &file, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        let back = MemoryDisk::new(file.size());
        to_device(&file, &back, &mut quiet).expect("copied");
        assert_eq!(compare(&disk, &back, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        back.write_at(ByteOffset::new(77), b"x").expect("written");
        let other = MemoryDisk::new(file.size());
        to_device(&back, &other, &mut quiet).expect("copied");
        let full = MemoryDisk::new(ByteCount::new((3 << 20) + 8192));
        full.write_at(ByteOffset::ZERO, &vec![0xee; (3 << 20) + 8192]).expect("written");
        assert_eq!(over_device(&file, &full, &mut quiet).expect("copied"), 4096 + 513);
        let front = block::Window::new(Arc::new(full), ByteRange::whole(file.size())).expect("its front");
        assert_eq!(compare(&file, &front, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        assert_eq!(update_device(&file, &other, &mut quiet).expect("updated"), 4096);
        assert_eq!(compare(&file, &other, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        assert_eq!(compare(&disk, &back, &mut quiet).expect("read"), Err(77));
        let names: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
        assert_eq!(names.len(), 1);
    }
}
