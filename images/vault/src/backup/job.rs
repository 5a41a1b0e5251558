//! The part of a backup that decides and writes: packs, then indexes, then the point.

use std::collections::{BTreeMap, VecDeque};

use block::ByteCount;

use crate::backup::known::Known;
use crate::backup::stages::{Batch, Encoded, Frame, Piece, Stages};
use crate::backup::{Counts, Report};
use crate::chunk::{CHUNK_SIZE, Encoder, FRAME_CHUNKS, decode};
use crate::front::{Front, POINT};
use crate::index::{INDEX_PACKS, PackRow};
use crate::inner::Inner;
use crate::manifest::{
    Node, NodeReader, NodeStore, Point, Ref, Shape, TreeBuilder, decode_point, encode_point,
};
use crate::name::{Address, ByPrint, Fingerprint, Shelf, Spot};
use crate::pack::{Finished, PackWriter};
use crate::sweep::Pinned;
use crate::{Error, Result};

/// Keys asked of the index for one batch, besides samples: the first chunks of changes.
const MAX_ASKED: usize = 64;
/// Batches of at most this many chunks ask for every one.
const ASK_ALL: usize = 32;

/// Neighbouring chunks of the disk that come to the tree in their turn.
struct Waiting {
    first: u64,
    count: u64,
    what: What,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Known(Ref),
    /// In a frame of this number that has no place yet, from this chunk of it.
    New(u64, u8),
}

impl What {
    fn further(self, steps: u64) -> Self {
        match self {
            Self::Known(what) => Self::Known(what.further(steps)),
            Self::New(frame, chunk) => Self::New(frame, chunk.saturating_add(steps as u8)),
        }
    }
}

/// One backup's deciding side.
pub(crate) struct Job<'a> {
    vault: &'a Inner,
    shape: Shape,
    known: Known,
    // the chunks of this job that are in no stored pack yet, and in which frame
    fresh: ByPrint<Fingerprint, (u64, u8)>,
    open: Frame,
    // how many frames were closed, and where those are that may still be asked for
    closed_frames: u64,
    placed: BTreeMap<u64, Spot>,
    next_placed: u64,
    waiting: VecDeque<Waiting>,
    packs: Packs<'a>,
    pub(crate) counts: Counts,
}

/// The packs of a job.
struct Packs<'a> {
    vault: &'a Inner,
    // no point reaches them yet
    pinned: Pinned,
    encoder: Encoder,
    writer: Option<PackWriter>,
    full: VecDeque<PackWriter>,
    // the first frame that is not in a pack closed by then, by pack
    ends: VecDeque<u64>,
    next_frame: u64,
    stored: Vec<(PackRow, Vec<u64>)>,
    stored_bytes: u64,
    // planted bugs only: packs to be put too late
    late: Vec<Finished>,
}

impl<'a> Job<'a> {
    pub(crate) fn new(vault: &'a Inner, shape: Shape) -> Result<Self> {
        Ok(Self {
            vault,
            shape,
            known: Known::new(vault),
            fresh: ByPrint::default(),
            open: Frame { raw: Vec::new(), prints: Vec::new() },
            closed_frames: 0,
            placed: BTreeMap::new(),
            next_placed: 0,
            waiting: VecDeque::new(),
            packs: Packs {
                vault,
                pinned: Pinned::new(vault.pins.clone()),
                encoder: Encoder::new(vault.options.compression).map_err(Error::Threads)?,
                writer: None,
                full: VecDeque::new(),
                ends: VecDeque::new(),
                next_frame: 0,
                stored: Vec::new(),
                stored_bytes: 0,
                late: Vec::new(),
            },
            counts: Counts::default(),
        })
    }

    /// Decides for every chunk of a batch whether it is new. Gives the bytes of the disk it covers.
    pub(crate) fn take(&mut self, stages: &mut Stages, batch: Batch) -> Result<u64> {
        self.known.look(self.vault, &asked(&batch))?;
        let mut covered = 0;
        let mut chunks = batch.bytes.chunks(CHUNK_SIZE as usize).zip(&batch.prints);
        for piece in batch.pieces {
            match piece {
                Piece::Empty { chunks, what } => {
                    covered += self.shape.bytes(&chunks);
                    self.wait(chunks.start, chunks.end - chunks.start, What::Known(what));
                }
                Piece::Read { chunks: range } => {
                    let bytes = self.shape.bytes(&range);
                    covered += bytes;
                    self.counts.bytes_read += bytes;
                    let parts = range.clone().zip(&mut chunks);
                    for (number, (raw, print)) in parts {
                        let what = match print {
                            None => What::Known(Ref::Zero),
                            Some(print) => self.chunk(stages, raw, *print)?,
                        };
                        self.wait(number, 1, what);
                    }
                }
            }
        }
        Ok(covered)
    }

    fn chunk(&mut self, stages: &mut Stages, raw: &[u8], print: Fingerprint) -> Result<What> {
        if let Some(&(frame, chunk)) = self.fresh.get(&print) {
            self.counts.chunks_reused += 1;
            return Ok(match self.placed.get(&frame) {
                Some(spot) => What::Known(Ref::Stored(Spot { chunk, ..*spot })),
                None => What::New(frame, chunk),
            });
        }
        if let Some(spot) = self.known.find(self.vault, &print)? {
            self.counts.chunks_reused += 1;
            return Ok(What::Known(Ref::Stored(spot)));
        }
        self.counts.chunks_new += 1;
        let what = (self.closed_frames, self.open.prints.len() as u8);
        self.fresh.insert(print, what);
        self.open.raw.extend_from_slice(raw);
        self.open.prints.push(print);
        if self.open.prints.len() == FRAME_CHUNKS {
            self.close_frame(stages)?;
        }
        Ok(What::New(what.0, what.1))
    }

    /// Gives the open frame on.
    pub(crate) fn close_frame(&mut self, stages: &mut Stages) -> Result<()> {
        if self.open.prints.is_empty() {
            return Ok(());
        }
        let room =
            Frame { raw: Vec::with_capacity(self.open.raw.len()), prints: Vec::with_capacity(FRAME_CHUNKS) };
        self.closed_frames += 1;
        stages.encode(std::mem::replace(&mut self.open, room))
    }

    fn wait(&mut self, first: u64, count: u64, what: What) {
        match self.waiting.back_mut() {
            Some(last) if last.first + last.count == first && last.what.further(last.count) == what => {
                last.count += count;
            }
            _ => self.waiting.push_back(Waiting { first, count, what }),
        }
    }

    /// Puts a frame into the open pack.
    pub(crate) fn place(&mut self, frame: &Encoded) -> Result<()> {
        let spot =
            self.packs.writer()?.push_frame(&frame.prints, frame.raw_len, frame.encoding, &frame.bytes);
        self.placed.insert(self.next_placed, spot);
        self.next_placed += 1;
        self.packs.next_frame = self.next_placed;
        self.packs.close_if_full();
        Ok(())
    }

    /// Tells the tree of everything whose place is known by now, up to the first that has none.
    pub(crate) fn settle(&mut self, tree: &mut TreeBuilder) -> Result<()> {
        while let Some(next) = self.waiting.front() {
            let what = match next.what {
                What::Known(what) => what,
                What::New(frame, chunk) => match self.placed.get(&frame) {
                    Some(spot) => Ref::Stored(Spot { chunk, ..*spot }),
                    None => return Ok(()),
                },
            };
            let (first, count) = (next.first, next.count);
            tree.set(&mut self.packs, first, count, what)?;
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Gives full packs on.
    pub(crate) fn put_full(&mut self, stages: &mut Stages) -> Result<()> {
        while let Some(pack) = self.packs.full.pop_front() {
            stages.put(pack)?;
        }
        Ok(())
    }

    /// A pack is durable: from now on its chunks are found as those of any other.
    pub(crate) fn stored(&mut self, pack: Finished) -> Result<()> {
        let end = self.packs.ends.pop_front().unwrap_or(self.next_placed);
        for print in &pack.prints {
            self.fresh.remove(print);
        }
        let asked_for = |waiting: &Waiting| match waiting.what {
            What::New(frame, _) => Some(frame),
            What::Known(_) => None,
        };
        let first_asked = self.waiting.iter().filter_map(asked_for).min().unwrap_or(end);
        self.placed = self.placed.split_off(&end.min(first_asked));
        self.packs.list(&pack)?;
        self.known.add_own(pack);
        Ok(())
    }

    /// Writes the rest of the tree, and what is left of packs and index. Gives the root, the address for the point and the counts.
    pub(crate) fn close(&mut self, tree: TreeBuilder) -> Result<(Ref, Address, Counts)> {
        let root = tree.finish(&mut self.packs)?;
        self.packs.close_all()?;
        self.counts.bytes_stored = self.packs.stored_bytes;
        Ok((root, self.vault.fresh_address()?, self.counts))
    }

    /// Lists the packs that are durable, so that the next attempt finds them.
    pub(crate) fn give_up(&mut self) -> Result<()> {
        self.packs.put_index()
    }

    /// Puts the point, after everything it relies on is durable, and reads it back.
    pub(crate) fn commit(mut self, address: Address, mut point: Point) -> Result<Report> {
        let vault = self.vault;
        let front = Front::fresh(POINT, vault.id, address, &*vault.env.entropy)?;
        // the point counts itself; its length does not depend on the number it says
        let len = encode_point(&vault.keys, &front, &point).len() as u64;
        point.about.bytes_stored = ByteCount::new(self.counts.bytes_stored + len);
        let bytes = encode_point(&vault.keys, &front, &point);
        let not = |why: &str| Error::NotDecodable { what: "a new point".to_owned(), why: why.to_owned() };
        if decode_point(&vault.keys, vault.id, address, &bytes).map_err(|e| not(&e.to_string()))? != point {
            return Err(not("other content"));
        }
        vault.put(&address.name(Shelf::Points), &bytes)?;
        self.packs.put_late()?;
        if vault.read_point(address)? != point {
            return Err(not("the store gave back something else"));
        }
        let about = point.about;
        Ok(Report {
            manifest: about.manifest,
            bytes_changed: about.bytes_changed,
            bytes_read: about.bytes_read,
            chunks_new: about.chunks_new,
            chunks_reused: about.chunks_reused,
            bytes_stored: about.bytes_stored,
        })
    }
}

/// The fingerprints of a batch to ask the index for: samples, and the first chunks of changes; every one if they are few.
fn asked(batch: &Batch) -> Vec<Fingerprint> {
    if batch.prints.len() <= ASK_ALL {
        return batch.prints.iter().copied().flatten().collect();
    }
    let mut asked: Vec<Fingerprint> =
        batch.prints.iter().copied().flatten().filter(Fingerprint::is_sample).collect();
    let mut at = 0;
    let limit = asked.len() + MAX_ASKED;
    for piece in &batch.pieces {
        if let Piece::Read { chunks } = piece {
            let end = at + (chunks.end - chunks.start) as usize;
            let first = batch.prints.get(at..end).unwrap_or_default().iter().copied().flatten().next();
            asked.extend(first.filter(|_| asked.len() < limit));
            at = end;
        }
    }
    asked
}

impl Packs<'_> {
    fn writer(&mut self) -> Result<&mut PackWriter> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let (vault, address) = (self.vault, self.vault.fresh_address()?);
                self.pinned.pin(address);
                PackWriter::new(&vault.keys, vault.id, address, &*vault.env.entropy)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    fn close_if_full(&mut self) {
        if self.writer.as_ref().is_some_and(PackWriter::is_full) {
            self.ends.push_back(self.next_frame);
            self.full.extend(self.writer.take());
        }
    }

    /// Takes note of a pack that is durable.
    fn list(&mut self, pack: &Finished) -> Result<()> {
        self.stored_bytes += pack.len;
        self.stored.push((pack.row(), pack.hooks()));
        match self.stored.len() == INDEX_PACKS {
            true => self.put_index(),
            false => Ok(()),
        }
    }

    fn put_index(&mut self) -> Result<()> {
        if !self.stored.is_empty() {
            let packs: Vec<Address> = self.stored.iter().map(|(row, _)| row.address).collect();
            self.stored_bytes += self.vault.put_index(std::mem::take(&mut self.stored))?;
            self.vault.forget_arrived(&packs);
        }
        Ok(())
    }

    /// Puts what is left, in this thread.
    fn close_all(&mut self) -> Result<()> {
        for writer in std::mem::take(&mut self.full).into_iter().chain(self.writer.take()) {
            let pack = writer.finish(&self.vault.keys)?;
            if block::planted!("vault-point-before-pack") || block::planted!("vault-index-before-pack") {
                self.list(&pack)?;
                self.late.push(pack);
                continue;
            }
            let pack = self.vault.put_pack(pack)?;
            self.vault.note_arrived(pack.address);
            self.list(&pack)?;
        }
        self.put_index()?;
        match block::planted!("vault-point-before-pack") {
            true => Ok(()),
            false => self.put_late(),
        }
    }

    fn put_late(&mut self) -> Result<()> {
        for pack in std::mem::take(&mut self.late) {
            self.vault.put_pack(pack)?;
        }
        Ok(())
    }
}

impl NodeReader for Packs<'_> {
    fn node(&self, spot: &Spot, level: u8, count: usize) -> Result<std::sync::Arc<Node>> {
        Ok(std::sync::Arc::new(self.vault.read_node(spot, level, count)?))
    }
}

impl NodeStore for Packs<'_> {
    fn store(&mut self, node: &Node) -> Result<Spot> {
        let raw = node.encode();
        let (encoding, bytes) = self.encoder.encode(&raw);
        let not = |why: String| Error::NotDecodable { what: "a new node".to_owned(), why };
        let back = decode(encoding, &bytes, raw.len()).map_err(not)?;
        if Node::decode(&back).map_err(|why| not(why.to_string()))? != *node {
            return Err(not("another node".to_owned()));
        }
        let spot = self.writer()?.push_node(raw.len() as u32, encoding, &bytes);
        self.close_if_full();
        Ok(spot)
    }
}
