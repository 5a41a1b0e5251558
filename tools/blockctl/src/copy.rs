//! Bytes between files and NBD exports, sparse on both sides: holes are neither read nor written.

use crate::failure::{Failure, Result};
use crate::mark::{Mark, Part};
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
const SYNC_EVERY: u64 = if cfg!(test) { 1 << 20 } else { 256 << 20 };
/// A restore that can go on where it was cut short is done in parts of so many bytes that hold something, each durable before it is noted.
const MARK_EVERY: u64 = SYNC_EVERY;

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
/// is read ahead. Gives the bytes written. What a mark says is there already is left as it is, and the mark is moved on.
///
/// # Errors
/// What either side reports.
pub fn over_device(
    from: &dyn BlockSource,
    to: &dyn BlockDevice,
    mark: Option<&Mark>,
    progress: &mut Progress,
) -> Result<u64> {
    let total = from.size().get();
    let mut done = mark.map_or(0, Mark::until).min(total);
    let mut written = 0;
    for part in parts(from, done, mark.is_some())? {
        written += over_part(from, to, part, progress)?;
        to.flush()?;
        done = part.end();
        mark.filter(|_| done < total).map_or(Ok(()), |mark| mark.note(done))?;
    }
    if let Some(mark) = mark {
        mark.remove();
    }
    Ok(written)
}

/// What is to be done at a time, from a place on: all of it, or parts that hold about [`MARK_EVERY`] bytes.
fn parts(from: &dyn BlockSource, start: u64, in_parts: bool) -> Result<Vec<ByteRange>> {
    let total = from.size().get();
    let rest = ByteRange::between(start, total);
    if !in_parts || rest.is_empty() {
        return Ok(vec![rest]);
    }
    let (mut parts, mut begun, mut held) = (Vec::new(), start, 0);
    for window in (start..total).step_by(WINDOW as usize) {
        let window = ByteRange::between(window, total.min(window + WINDOW));
        from.extents(window, &mut |extent| {
            let mut at = extent.range.start();
            while extent.kind == block::ExtentKind::Data && held + (extent.range.end() - at) >= MARK_EVERY {
                at += MARK_EVERY - held;
                parts.push(ByteRange::between(begun, at));
                (begun, held) = (at, 0);
            }
            if extent.kind == block::ExtentKind::Data {
                held += extent.range.end() - at;
            }
            std::ops::ControlFlow::Continue(())
        })?;
    }
    if begun < total {
        parts.push(ByteRange::between(begun, total));
    }
    Ok(parts)
}

fn over_part(
    from: &dyn BlockSource,
    to: &dyn BlockDevice,
    part: ByteRange,
    progress: &mut Progress,
) -> Result<u64> {
    let (mut at, mut written) = (part.start(), 0);
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
    block::each_run(&Part { whole: from, part }, &mut visit, &mut |walked| {
        progress.at(walked.done.min(part.end()), walked.total);
        Ok(())
    })?;
    empty(at, part.end())?;
    Ok(written)
}

/// Writes a source as a sparse image file. It appears under its name when it is whole and on the disk. With a mark what is there
/// is kept for the next attempt if this one fails: of a raw image; others begin anew, as their tables are written last.
///
/// # Errors
/// What either side reports; nothing is left under the name then.
#[expect(clippy::disallowed_methods, reason = "the file is the person's own, outside of any media")]
pub fn to_file(
    from: &dyn BlockSource,
    path: &Path,
    output: formats::Output,
    mark: Option<&Mark>,
    progress: &mut Progress,
) -> Result<u64> {
    let mark = mark.filter(|_| matches!(output, formats::Output::Raw));
    let (dir, name) = split(path)?;
    let is_special = path.metadata().is_ok_and(|meta| !meta.is_file());
    if is_special {
        return Err(Failure::usage(format!("{}: is not a regular file", path.display()))
            .with_help("`nbdcopy` writes to devices: blockctl disk uri gives the URI"));
    }
    let part = dir.join(format!(".{name}.part"));
    let done = fill_file(from, &part, name, output, mark, progress).and_then(|written| {
        std::fs::rename(&part, path)
            .and_then(|()| std::fs::File::open(dir)?.sync_all())
            .map_err(|error| Failure::host(format!("rename to {}", path.display()), &error))?;
        Ok(written)
    });
    match (&done, mark) {
        (Ok(_), Some(mark)) => mark.remove(),
        // the same command goes on with it
        (Err(_), Some(mark)) if mark.until() > 0 => {
            return done.map_err(|failure| failure.while_doing(format!("write {}", path.display())));
        }
        _ => {}
    }
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
    mark: Option<&Mark>,
    progress: &mut Progress,
) -> Result<u64> {
    let is_whole = path.metadata().is_ok_and(|meta| meta.len() == from.size().get());
    let done = mark.filter(|_| is_whole).map_or(0, Mark::until);
    let file = open(path, if done > 0 { OpenHow::Write } else { OpenHow::Truncate })?;
    let parts = parts(from, done, mark.is_some())?;
    // up to where all was written when a sync begins; none where that is not noted
    let (due, turns) = channel::<Option<u64>>();
    std::thread::scope(|scope| {
        let to = &file;
        let syncing = scope.spawn(move || {
            turns.iter().try_for_each(|until| {
                to.sync()?;
                until.zip(mark).map_or(Ok(()), |(until, mark)| mark.note(until))
            })
        });
        let mut written = Ok(0);
        for part in parts {
            let mut synced_at = 0;
            let pace = &mut |walked: block::Walked| {
                progress.at(walked.done.min(part.end()), walked.total);
                if walked.read - synced_at >= SYNC_EVERY {
                    synced_at = walked.read;
                    // it ends early only if a sync failed, which is said below
                    due.send(None).ok();
                }
                Ok(())
            };
            let source = Part { whole: from, part };
            let more = formats::write(&source, &**to, output, name, &KernelEntropy, pace);
            written = written.and_then(|written| Ok(written + more?.get()));
            if written.is_err() {
                break;
            }
            due.send(mark.map(|_| part.end())).ok();
        }
        drop(due);
        let synced: Result<()> = syncing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // a sync that failed is final, whatever a later one says
        let written = written.and_then(|written: u64| synced.map(|()| written))?;
        file.sync()?;
        Ok(written)
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
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn a_file_and_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = MemoryDisk::new(ByteCount::new(3 << 20 | 513));
        disk.write_at(ByteOffset::new(1 << 20 | 7), b"here").expect("written");
        disk.write_at(ByteOffset::new((3 << 20) + 510), b"end").expect("written");
        let path = dir.path().join("image");
        let mut quiet = Output::new(true).progress("");
        let written = to_file(&disk, &path, formats::Output::Raw, None, &mut quiet).expect("exported");
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
        assert_eq!(over_device(&file, &full, None, &mut quiet).expect("copied"), 4096 + 513);
        let front = block::Window::new(Arc::new(full), ByteRange::whole(file.size())).expect("its front");
        assert_eq!(compare(&file, &front, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        assert_eq!(update_device(&file, &other, &mut quiet).expect("updated"), 4096);
        assert_eq!(compare(&file, &other, &mut quiet).expect("read"), Ok(3 << 20 | 513));
        assert_eq!(compare(&disk, &back, &mut quiet).expect("read"), Err(77));
        let names: Vec<_> = std::fs::read_dir(dir.path()).expect("listed").collect();
        assert_eq!(names.len(), 1);
    }

    /// A source that fails from some place on, and counts what is read of it.
    struct Failing {
        disk: MemoryDisk,
        from: u64,
        read: AtomicU64,
    }

    impl BlockSource for Failing {
        fn size(&self) -> ByteCount {
            self.disk.size()
        }

        fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> block::Result<()> {
            if offset.get() + buf.len() as u64 > self.from {
                return Err(block::Error::refused(block::Kind::Unavailable, "a source", "is gone"));
            }
            self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
            self.disk.read_at(offset, buf)
        }

        fn extents(&self, range: ByteRange, visit: &mut block::Visit<'_>) -> block::Result<()> {
            self.disk.extents(range, visit)
        }
    }

    fn failing() -> Failing {
        let disk = MemoryDisk::new(ByteCount::new(64 << 20));
        for mib in (0..60).filter(|mib| mib % 7 != 3) {
            disk.write_at(ByteOffset::new(mib << 20 | 5), &vec![mib as u8 + 1; 1 << 20]).expect("written");
        }
        Failing { disk, from: 40 << 20, read: AtomicU64::new(0) }
    }

    #[test]
    fn what_was_cut_short_goes_on_where_it_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, mut quiet) = (dir.path().join("image"), Output::new(true).progress(""));
        let mut from = failing();
        let mark = Mark::beside(&path, "5c0e", from.size().get()).expect("a mark");
        let raw = formats::Output::Raw;
        to_file(&from, &path, raw, Some(&mark), &mut quiet).expect_err("the source is gone");
        assert!(!path.exists() && (16 << 20..=40 << 20).contains(&mark.until()), "{}", mark.until());
        // of another point nothing is there
        let other = Mark::beside(&path, "81d2", from.size().get()).expect("a mark");
        assert_eq!(other.until(), 0);
        from.from = u64::MAX;
        let read = from.read.swap(0, Ordering::Relaxed);
        to_file(&from, &path, raw, Some(&mark), &mut quiet).expect("it goes on");
        assert!(from.read.load(Ordering::Relaxed) < (60 << 20) - read / 2, "the front is not read again");
        let file = open_named(&path).and_then(FileSource::new).expect("opened");
        assert_eq!(compare(&from.disk, &file, &mut quiet).expect("read"), Ok(64 << 20));
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1, "nothing else is left");

        let mut from = failing();
        let to = MemoryDisk::new(from.size());
        to.write_at(ByteOffset::ZERO, &vec![0xee; 64 << 20]).expect("written");
        over_device(&from, &to, Some(&mark), &mut quiet).expect_err("the source is gone");
        assert!(mark.until() > 16 << 20);
        from.from = u64::MAX;
        let read = from.read.swap(0, Ordering::Relaxed);
        over_device(&from, &to, Some(&mark), &mut quiet).expect("it goes on");
        assert!(from.read.load(Ordering::Relaxed) < (60 << 20) - read / 2, "the front is not read again");
        assert_eq!(compare(&from.disk, &to, &mut quiet).expect("read"), Ok(64 << 20));
        assert_eq!(mark.until(), 0);
    }
}
