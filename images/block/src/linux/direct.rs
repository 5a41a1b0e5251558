//! Writes past the host's memory (`O_DIRECT`).

use rustix::fs::{Mode, OFlags, open};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Where such a write may begin and end, in the file and in memory. More than any device asks for that has blocks of 4 KiB.
const ALIGN: usize = 4096;
/// Bytes given to the device at once.
const STEP: usize = 4 << 20;
/// Less than this is not worth waiting for the device.
const LEAST: usize = 256 << 10;

thread_local! {
    // what is to be written lies anywhere in memory; room for a step and for moving its beginning
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The same file, opened so that writes go past memory; none where the filesystem cannot.
pub(super) fn reopen(file: &File) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path, OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}

/// Writes the front of `buf` that can go past memory. Gives its length, which may be 0.
pub(super) fn write_front(direct: &File, offset: u64, buf: &[u8]) -> io::Result<usize> {
    if buf.len() < LEAST || !offset.is_multiple_of(ALIGN as u64) {
        return Ok(0);
    }
    let front = &buf[..buf.len() / ALIGN * ALIGN];
    if front.as_ptr().align_offset(ALIGN) == 0 {
        return Ok(if taken(direct, offset, front)? { front.len() } else { 0 });
    }
    ROOM.with_borrow_mut(|room| {
        room.resize(STEP + ALIGN, 0);
        let start = room.as_ptr().align_offset(ALIGN);
        let mut done = 0;
        for step in front.chunks(STEP) {
            let Some(aligned) = room.get_mut(start..start + step.len()) else { break };
            aligned.copy_from_slice(step);
            if !taken(direct, offset + done as u64, aligned)? {
                break;
            }
            done += step.len();
        }
        Ok(done)
    })
}

/// Writes; false if the device wants it otherwise, and it has to go the usual way.
fn taken(direct: &File, offset: u64, bytes: &[u8]) -> io::Result<bool> {
    match direct.write_all_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use crate::linux::LinuxMedia;
    use crate::{Media, OpenHow};

    #[test]
    fn what_goes_past_memory_reads_as_it_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let media = LinuxMedia::new(dir.path(), dir.path()).expect("a media");
        let file = media.open("file", OpenHow::Create).expect("a file");
        let bytes: Vec<u8> =
            (0..(9 << 20) + 777u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut expected = vec![0; 4096 + 5];
        for (offset, len) in [(0, bytes.len()), (4096, 300_000), (5, 1 << 20), (8192, 100)] {
            // from odd places in memory too
            let part = &bytes[offset % 7..][..len - offset % 7];
            file.write_past(offset as u64, part).expect("written");
            let end = offset + part.len();
            if expected.len() < end {
                expected.resize(end, 0);
            }
            expected[offset..end].copy_from_slice(part);
            let mut back = vec![0; file.size().expect("a size") as usize];
            file.read_at(0, &mut back).expect("read");
            assert!(back == expected[..back.len()], "at {offset}");
        }
        file.sync().expect("synced");
    }
}
