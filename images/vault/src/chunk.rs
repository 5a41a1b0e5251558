//! Chunks and frames: fingerprints, and the encodings frames and nodes are stored in.

use std::cell::RefCell;

use block::BLOCK_SIZE;
use zstd::zstd_safe::zstd_sys::ZSTD_EndDirective;
use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, compress_bound, get_error_name,
};

use crate::key::Keys;
use crate::name::Fingerprint;

/// Bytes of a chunk, the unit of deduplication: a block. Chunk N of a disk holds the bytes from N · this; the last one is filled up with
/// zeros.
pub const CHUNK_SIZE: u64 = BLOCK_SIZE;
/// Chunks that are compressed and sealed together: reading one of them decodes 64 KiB at most.
pub(crate) const FRAME_CHUNKS: usize = 16;
/// The most chunks of a valid frame.
pub(crate) const MAX_FRAME_CHUNKS: usize = 64;
/// The most raw bytes of an entry.
pub(crate) const MAX_RAW: usize = MAX_FRAME_CHUNKS * CHUNK_SIZE as usize;

/// A zstd block ends every so many raw bytes, so that a reader of what lies at the front of a frame decodes no more than this
/// beyond it. It costs no space: what is in a block is alike more often than what is in a frame.
const ZSTD_BLOCK: usize = 16 << 10;
/// The header of a zstd block, with room to spare.
const ZSTD_BLOCK_HEADER: usize = 16;
/// No frame's window is larger than [`MAX_RAW`].
const ZSTD_WINDOW_LOG: u32 = MAX_RAW.ilog2();

/// What a pack entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Chunks, compressed together.
    Frame,
    /// A node of a tree.
    Node,
}

impl Kind {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Frame, Self::Node].into_iter().find(|kind| kind.code() == code)
    }
}

/// The fingerprint of a whole chunk.
pub(crate) fn fingerprint(keys: &Keys, chunk: &[u8]) -> Fingerprint {
    let mut print = [0; 16];
    print.copy_from_slice(&blake3::keyed_hash(&keys.chunk, chunk).as_bytes()[..16]);
    Fingerprint::from_bytes(print)
}

/// The fingerprints of a frame's raw bytes.
pub(crate) fn fingerprints<'a>(keys: &'a Keys, raw: &'a [u8]) -> impl Iterator<Item = Fingerprint> + 'a {
    raw.chunks(CHUNK_SIZE as usize).map(|chunk| fingerprint(keys, chunk))
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

/// How frames and nodes are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// zstd at this level; level 2 is the default.
    Zstd(i32),
    /// lz4: a little faster, a sixth larger.
    Lz4,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(2)
    }
}

/// How the bytes of an entry are encoded before sealing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Raw,
    Zstd,
    Lz4,
}

impl Encoding {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::Raw, Self::Zstd, Self::Lz4].into_iter().find(|encoding| encoding.code() == code)
    }
}

/// Compresses raw bytes; each thread of a backup has its own.
pub(crate) enum Encoder {
    Zstd(CCtx<'static>),
    Lz4,
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::Zstd(level) => {
                let mut context = CCtx::try_create().ok_or(std::io::ErrorKind::OutOfMemory)?;
                context.set_parameter(CParameter::CompressionLevel(level)).map_err(zstd_error)?;
                Self::Zstd(context)
            }
            Compression::Lz4 => Self::Lz4,
        })
    }

    /// The stored form of `raw`; what does not become smaller stays as it is.
    pub(crate) fn encode(&mut self, raw: &[u8]) -> (Encoding, Vec<u8>) {
        let (encoding, bytes) = match self {
            Self::Zstd(context) => (Encoding::Zstd, encode_zstd(context, raw).ok()),
            Self::Lz4 => (Encoding::Lz4, Some(lz4_flex::block::compress(raw))),
        };
        match bytes {
            Some(bytes) if bytes.len() < raw.len() => (encoding, bytes),
            _ => (Encoding::Raw, raw.to_vec()),
        }
    }
}

fn zstd_error(code: usize) -> std::io::Error {
    std::io::Error::other(format!("zstd: {}", get_error_name(code)))
}

/// One zstd frame whose blocks end where readers may stop.
fn encode_zstd(context: &mut CCtx<'static>, raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let blocks = raw.len().div_ceil(ZSTD_BLOCK).max(1);
    let mut bytes = Vec::with_capacity(compress_bound(raw.len()) + blocks * ZSTD_BLOCK_HEADER);
    context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
    context.set_pledged_src_size(Some(raw.len() as u64)).map_err(zstd_error)?;
    let (mut out, mut pos) = (OutBuffer::around(&mut bytes), 0);
    for block in 1..=blocks {
        let mut input = InBuffer { src: &raw[..(block * ZSTD_BLOCK).min(raw.len())], pos };
        let how = match block == blocks {
            true => ZSTD_EndDirective::ZSTD_e_end,
            false => ZSTD_EndDirective::ZSTD_e_flush,
        };
        if context.compress_stream2(&mut out, &mut input, how).map_err(zstd_error)? != 0 {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        pos = input.pos;
    }
    Ok(bytes)
}

thread_local! {
    // a context costs more to make than a chunk to decode
    static DECODER: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

/// Decodes `bytes` to exactly `raw_len` bytes. Allocates no more than that.
///
/// # Errors
/// What does not fit, as text.
pub(crate) fn decode(encoding: Encoding, bytes: &[u8], raw_len: usize) -> Result<Vec<u8>, String> {
    decode_front(encoding, bytes, raw_len, raw_len)
}

/// Decodes at least `until` of `raw_len` bytes from the front, and not much more where the encoding lets it stop there. That
/// all of them would decode to `raw_len` bytes is only proven if all of them are given.
///
/// # Errors
/// What does not fit, as text.
pub(crate) fn decode_front(
    encoding: Encoding,
    bytes: &[u8],
    raw_len: usize,
    until: usize,
) -> Result<Vec<u8>, String> {
    let until = until.next_multiple_of(ZSTD_BLOCK).min(raw_len);
    let (raw, expected) = match encoding {
        Encoding::Raw if bytes.len() == raw_len => (bytes[..until].to_vec(), until),
        Encoding::Raw => return Err(format!("{} bytes long, {raw_len} expected", bytes.len())),
        Encoding::Zstd => (decode_zstd(bytes, raw_len, until).map_err(|error| error.to_string())?, until),
        Encoding::Lz4 => {
            let mut raw = vec![0; raw_len];
            let len =
                lz4_flex::block::decompress_into(bytes, &mut raw).map_err(|error| format!("lz4: {error}"))?;
            raw.truncate(len);
            (raw, raw_len)
        }
    };
    match raw.len() == expected {
        true => Ok(raw),
        false => Err(format!("{} bytes long, {expected} expected", raw.len())),
    }
}

fn decode_zstd(bytes: &[u8], raw_len: usize, until: usize) -> std::io::Result<Vec<u8>> {
    DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = DCtx::try_create();
        }
        let context = slot.as_mut().ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mut raw = Vec::with_capacity(until);
        if until == raw_len {
            context.decompress(&mut raw, bytes).map_err(zstd_error)?;
            return Ok(raw);
        }
        context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(zstd_error)?;
        let (mut out, mut input) = (OutBuffer::around(&mut raw), InBuffer::around(bytes));
        // ends with the bytes that are wanted, or with those there are
        while out.pos() < until && input.pos < bytes.len() {
            context.decompress_stream(&mut out, &mut input).map_err(zstd_error)?;
        }
        Ok(raw)
    })
}

/// The stored form of a frame or node, behind a byte that says how it is encoded and two lengths: of what it decodes to, and of
/// what is wanted of that.
pub fn fuzz_encoded(bytes: &[u8]) {
    let Some(([encoding, a, b, c, d, e, f], rest)) = bytes.split_first_chunk::<7>() else { return };
    let Some(encoding) = Encoding::from_code(encoding % 3) else { return };
    let raw_len = (u32::from_le_bytes([*a, *b, *c, 0]) as usize).min(MAX_RAW);
    let until = (u32::from_le_bytes([*d, *e, *f, 0]) as usize).min(raw_len);
    let (whole, front) = (decode(encoding, rest, raw_len), decode_front(encoding, rest, raw_len, until));
    if let Ok(front) = &front {
        assert!((until..=raw_len).contains(&front.len()));
        assert!(whole.is_err() || whole.is_ok_and(|whole| whole.starts_with(front)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_back_what_it_got() {
        let text: Vec<u8> = (0..MAX_RAW).map(|i| (i / 100) as u8).collect();
        let noise: Vec<u8> =
            (0..MAX_RAW / 4).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..4].to_vec()).collect();
        for compression in [Compression::default(), Compression::Zstd(9), Compression::Lz4] {
            let mut encoder = Encoder::new(compression).unwrap();
            for raw in [&text[..], &text[..1], &text[..ZSTD_BLOCK], &text[..ZSTD_BLOCK + 1], &noise] {
                let (encoding, stored) = encoder.encode(raw);
                assert!(stored.len() <= raw.len());
                assert_eq!(decode(encoding, &stored, raw.len()).unwrap(), raw);
                for until in [1, 4096, ZSTD_BLOCK, raw.len() / 2, raw.len() - 1] {
                    let front = decode_front(encoding, &stored, raw.len(), until.min(raw.len())).unwrap();
                    assert!(front.len() >= until.min(raw.len()) && raw.starts_with(&front), "{until}");
                    assert!(
                        encoding == Encoding::Lz4 || front.len() < until + ZSTD_BLOCK,
                        "no more than asked"
                    );
                }
                assert!(decode(encoding, &stored, raw.len() + 1).is_err());
                assert!(decode(encoding, &stored, raw.len() - 1).is_err());
            }
            assert_eq!(encoder.encode(&noise).0, Encoding::Raw);
        }
    }
}
