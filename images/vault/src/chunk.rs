//! Chunks and frames: fingerprints, and the encodings frames and nodes are stored in.

use std::cell::RefCell;

use block::BLOCK_SIZE;

use crate::key::Keys;
use crate::name::Fingerprint;

/// Bytes of a chunk, the unit of deduplication: a block. Chunk N of a disk holds the bytes from N · this; the last one is filled up with
/// zeros.
pub const CHUNK_SIZE: u64 = BLOCK_SIZE;
/// Chunks in a full frame. They are compressed and sealed together, so reading one of them decodes 256 KiB at most.
pub(crate) const FRAME_CHUNKS: usize = 64;
/// The most raw bytes of an entry.
pub(crate) const MAX_RAW: usize = FRAME_CHUNKS * CHUNK_SIZE as usize;

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
    /// zstd at this level; level 1 is the default.
    Zstd(i32),
    /// lz4: a little faster, a sixth larger.
    Lz4,
}

impl Default for Compression {
    fn default() -> Self {
        Self::Zstd(1)
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
    Zstd(zstd::bulk::Compressor<'static>),
    Lz4,
}

impl Encoder {
    pub(crate) fn new(compression: Compression) -> std::io::Result<Self> {
        Ok(match compression {
            Compression::Zstd(level) => Self::Zstd(zstd::bulk::Compressor::new(level)?),
            Compression::Lz4 => Self::Lz4,
        })
    }

    /// The stored form of `raw`; what does not become smaller stays as it is.
    pub(crate) fn encode(&mut self, raw: &[u8]) -> (Encoding, Vec<u8>) {
        let (encoding, bytes) = match self {
            Self::Zstd(compressor) => (Encoding::Zstd, compressor.compress(raw).ok()),
            Self::Lz4 => (Encoding::Lz4, Some(lz4_flex::block::compress(raw))),
        };
        match bytes {
            Some(bytes) if bytes.len() < raw.len() => (encoding, bytes),
            _ => (Encoding::Raw, raw.to_vec()),
        }
    }
}

thread_local! {
    // a context costs more to make than a chunk to decode
    static DECODER: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Decodes `bytes` to exactly `raw_len` bytes. Allocates no more than that.
///
/// # Errors
/// What does not fit, as text.
pub(crate) fn decode(encoding: Encoding, bytes: &[u8], raw_len: usize) -> Result<Vec<u8>, String> {
    let raw = match encoding {
        Encoding::Raw => bytes.to_vec(),
        Encoding::Zstd => decode_zstd(bytes, raw_len).map_err(|error| format!("zstd: {error}"))?,
        Encoding::Lz4 => {
            let mut raw = vec![0; raw_len];
            let len =
                lz4_flex::block::decompress_into(bytes, &mut raw).map_err(|error| format!("lz4: {error}"))?;
            raw.truncate(len);
            raw
        }
    };
    match raw.len() == raw_len {
        true => Ok(raw),
        false => Err(format!("{} bytes long, {raw_len} expected", raw.len())),
    }
}

fn decode_zstd(bytes: &[u8], raw_len: usize) -> std::io::Result<Vec<u8>> {
    DECODER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new()?);
        }
        match slot {
            Some(decoder) => decoder.decompress(bytes, raw_len),
            None => Err(std::io::ErrorKind::OutOfMemory.into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_encoding_gives_back_what_it_got() {
        let text: Vec<u8> = (0..MAX_RAW).map(|i| (i / 100) as u8).collect();
        let noise: Vec<u8> =
            (0..MAX_RAW / 4).flat_map(|i| blake3::hash(&i.to_le_bytes()).as_bytes()[..4].to_vec()).collect();
        for compression in [Compression::Zstd(1), Compression::Lz4] {
            let mut encoder = Encoder::new(compression).unwrap();
            for raw in [&text[..], &text[..1], &noise] {
                let (encoding, stored) = encoder.encode(raw);
                assert!(stored.len() <= raw.len());
                assert_eq!(decode(encoding, &stored, raw.len()).unwrap(), raw);
                assert!(decode(encoding, &stored, raw.len() + 1).is_err());
                assert!(decode(encoding, &stored, raw.len() - 1).is_err());
            }
            assert_eq!(encoder.encode(&noise).0, Encoding::Raw);
        }
    }
}
