//! Fields at fixed places of a structure, in either byte order. Every access is checked: a field that passes the end
//! of its bytes is an error, never a panic.

use crate::{Error, Result};

/// The `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let field = at.checked_add(N).and_then(|end| bytes.get(at..end));
    match field.and_then(|field| field.try_into().ok()) {
        Some(field) => Ok(field),
        None => Err(Error::corrupt(
            "a structure",
            format!("its field of {N} bytes at {at} passes its end at {}", bytes.len()),
        )),
    }
}

/// The byte at `at`.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Result<u8> {
    array::<1>(bytes, at).map(|[byte]| byte)
}

/// Two little-endian bytes.
pub(crate) fn le16(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

/// Four little-endian bytes.
pub(crate) fn le32(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

/// Eight little-endian bytes.
pub(crate) fn le64(bytes: &[u8], at: usize) -> Result<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// Two big-endian bytes.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// Four big-endian bytes.
pub(crate) fn be32(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_be_bytes)
}

/// Eight big-endian bytes.
pub(crate) fn be64(bytes: &[u8], at: usize) -> Result<u64> {
    array(bytes, at).map(u64::from_be_bytes)
}
