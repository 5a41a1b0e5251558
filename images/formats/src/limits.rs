//! Limits that every format shares.

use crate::error::{Error, Result};
use block::{ByteCount, MAX_DISK_SIZE};

/// The size of a disk that an image states, if there is a disk of that size here.
pub(crate) fn check_size(image: &str, size: u64) -> Result<ByteCount> {
    if size > MAX_DISK_SIZE {
        let what = format!("a disk of {size} bytes (at most {MAX_DISK_SIZE})");
        return Err(Error::unsupported(image, what));
    }
    Ok(ByteCount::new(size))
}
