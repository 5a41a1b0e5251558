//! The object-store seam: whole immutable blobs under flat names.

use crate::{ByteCount, ByteRange, Error, Kind, Result};
use std::ops::ControlFlow;

/// A store of immutable blobs. Names are `/`-separated segments, see [`check_blob_name`].
pub trait BlobStore: Send + Sync {
    /// Stores a blob, whole or not at all, and only once. On return it is durable, and so is its name.
    ///
    /// # Errors
    /// `Conflict` if the name exists, even with equal bytes; the stored blob is untouched. `NoSpace` if the store is
    /// full: nothing is left under the name.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Reads `range` of a blob; fails rather than return fewer bytes.
    ///
    /// # Errors
    /// `NotFound` if there is no such blob, `OutOfRange` if the range passes its end.
    fn get(&self, name: &str, range: ByteRange) -> Result<Vec<u8>>;

    /// The length of a blob.
    ///
    /// # Errors
    /// `NotFound` if there is no such blob.
    fn size(&self, name: &str) -> Result<ByteCount>;

    /// Visits the name and length of every blob whose name starts with `prefix`, ascending by name. A blob whose put
    /// has not returned may be visited or not, never in part. Breaking stops the walk early.
    ///
    /// # Errors
    /// What the store reports.
    fn list(&self, prefix: &str, visit: &mut dyn FnMut(&str, ByteCount) -> ControlFlow<()>) -> Result<()>;

    /// Removes a blob, durably. Only sweep calls this.
    ///
    /// # Errors
    /// `NotFound` if there is no such blob.
    fn delete(&self, name: &str) -> Result<()>;
}

/// Checks the form of a blob's name: 1 to 200 bytes; segments of `a-z 0-9 . _ -` separated by single `/`, none
/// beginning with a dot. Such a name is safe as a relative path and as an object key.
///
/// # Errors
/// `Invalid` naming what is wrong.
pub fn check_blob_name(name: &str) -> Result<()> {
    let fits = |segment: &str| {
        !segment.is_empty()
            && !segment.starts_with('.')
            && segment.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    };
    if (1..=200).contains(&name.len()) && name.split('/').all(fits) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Error::refused(
        Kind::Invalid,
        format!("blob name {shown:?}"),
        "segments are a-z 0-9 . _ - and '/' between",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_store_are_refused() {
        for good in ["a", "packs/00ff", "m/2026-11-20_a.b"] {
            assert!(check_blob_name(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "/a", "a/", "a//b", "../a", "a/.tmp", "A", "a b", "a\0", &"x".repeat(201)] {
            assert!(check_blob_name(bad).is_err(), "{bad:?}");
        }
    }
}
