//! Compressed parts of images: each is one unit (a cluster, a grain) by itself.

use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe;

/// How a unit is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// Bare deflate (RFC 1951).
    Deflate,
    /// Deflate with zlib's frame (RFC 1950).
    Zlib,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

/// Fills `out` from compressed bytes; what follows in `packed` is padding. Allocates nothing by what the bytes say: zstd
/// frames are unpacked at once, with the output as their window.
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn unpack(codec: Codec, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    match codec {
        Codec::Deflate => inflate(&mut Decompress::new(false), packed, out),
        Codec::Zlib => inflate(&mut Decompress::new(true), packed, out),
        Codec::Zstd => unpack_zstd(packed, out),
    }
}

fn inflate(state: &mut Decompress, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let status = state
        .decompress(packed, out, FlushDecompress::Finish)
        .map_err(|error| format!("compressed data: {error}"))?;
    let filled = state.total_out();
    if filled == out.len() as u64 {
        return Ok(());
    }
    let why = if status == Status::StreamEnd { "ends" } else { "breaks off" };
    Err(format!("compressed data {why} after {filled} of {} bytes", out.len()))
}

fn unpack_zstd(mut packed: &[u8], out: &mut [u8]) -> Result<(), String> {
    let failed = |code| format!("compressed data: {}", zstd_safe::get_error_name(code));
    let mut filled = 0;
    while filled < out.len() {
        let frame = zstd_safe::find_frame_compressed_size(packed).map_err(failed)?;
        let count = zstd_safe::decompress(&mut out[filled..], &packed[..frame]).map_err(failed)?;
        if count == 0 {
            return Err(format!("compressed data ends after {filled} of {} bytes", out.len()));
        }
        filled += count;
        packed = &packed[frame..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};

    fn deflated(bytes: &[u8], zlib: bool) -> Vec<u8> {
        let mut packed = Vec::with_capacity(bytes.len() + 100);
        Compress::new(Compression::fast(), zlib)
            .compress_vec(bytes, &mut packed, FlushCompress::Finish)
            .expect("compressed");
        packed
    }

    #[test]
    fn padding_behind_is_ignored_and_less_than_a_unit_is_not_taken() {
        let bytes: Vec<u8> = (0..65536u32).map(|i| (i / 7) as u8).collect();
        let zstd = zstd::bulk::compress(&bytes, 3).expect("compressed");
        for (codec, mut packed) in [
            (Codec::Deflate, deflated(&bytes, false)),
            (Codec::Zlib, deflated(&bytes, true)),
            (Codec::Zstd, zstd),
        ] {
            packed.extend([0xa5; 300]);
            let mut out = vec![0; bytes.len()];
            assert_eq!(unpack(codec, &packed, &mut out), Ok(()), "{codec:?}");
            assert_eq!(out, bytes);
            assert!(unpack(codec, &packed, &mut vec![0; bytes.len() + 1]).is_err(), "{codec:?}");
            assert!(unpack(codec, &packed[..40], &mut out).is_err(), "{codec:?}");
        }
    }
}
