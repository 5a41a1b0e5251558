//! Writing what is needed of packs into new ones, proven on the way.

use std::collections::HashMap;

use crate::chunk::{CHUNK_SIZE, Encoder, FRAME_CHUNKS, Kind, decode, fingerprints};
use crate::front::{Front, MOVED};
use crate::index::{INDEX_PACKS, PackRow};
use crate::inner::Inner;
use crate::manifest::Node;
use crate::moved::Moved;
use crate::name::{Address, Fingerprint, Shelf, Spot};
use crate::pack::{MAX_PACK_LEN, PackHead, PackWriter, open_entry, prove_frame, read_head, read_prints};
use crate::{Error, Result};

/// What is needed of a pack: by entry a bit for each chunk; the first for a node.
pub(crate) type Needed = HashMap<u32, u64>;
/// Asked for what is damaged.
pub(crate) type Heal<'a> = dyn FnMut(&Spot, &[Fingerprint], usize) -> Result<Option<Vec<u8>>> + 'a;

/// Packs that are emptied before the lists of where they went are put.
const PACKS_AT_ONCE: usize = 64;

/// Where something went that has no place yet, or has.
#[derive(Clone, Copy)]
enum Target {
    /// Which frame, counted since the last lists were put, and which chunk of it.
    Frame(usize, u8),
    Node(Spot),
}

/// A pack that was emptied, and where each part of it went.
struct Old {
    pack: Address,
    parts: Vec<(u32, u8, Target)>,
}

/// Writes packs anew. Nothing is moved before [`commit`](Self::commit), or before enough came together.
pub(crate) struct Rewrite<'a> {
    vault: &'a Inner,
    encoder: Encoder,
    writer: Option<PackWriter>,
    raw: Vec<u8>,
    prints: Vec<Fingerprint>,
    // the places of the frames that have one
    frames: Vec<Spot>,
    // what is in the pack being filled, and in the frame that will come into it or the next
    here: HashMap<Fingerprint, (usize, u8)>,
    stored: Vec<(PackRow, Vec<u64>)>,
    old: Vec<Old>,
    /// Bytes of new packs.
    pub(crate) bytes_stored: u64,
    /// Packs whose list is durable.
    pub(crate) done: Vec<Address>,
}

impl<'a> Rewrite<'a> {
    pub(crate) fn new(vault: &'a Inner) -> Result<Self> {
        Ok(Self {
            vault,
            encoder: Encoder::new(vault.options.compression).map_err(Error::Threads)?,
            writer: None,
            raw: Vec::new(),
            prints: Vec::new(),
            frames: Vec::new(),
            here: HashMap::new(),
            stored: Vec::new(),
            old: Vec::new(),
            bytes_stored: 0,
            done: Vec::new(),
        })
    }

    /// Takes over what is needed of a pack. What does not open or is not what its fingerprint says is asked of `heal`: its place, and which
    /// of the pack's fingerprints is its own. If that has it not the pack stays where it is, and the error says why.
    pub(crate) fn take(&mut self, pack: Address, needed: &Needed, heal: &mut Heal<'_>) -> Result<()> {
        let name = pack.name(Shelf::Packs);
        let bytes = self.vault.fetch(&name, MAX_PACK_LEN)?;
        let slice = |range: block::ByteRange| {
            let part = bytes.get(range.start() as usize..range.end() as usize);
            part.map(<[u8]>::to_vec)
                .ok_or_else(|| Error::damaged(&name, "length", "it is shorter than it says"))
        };
        let head = read_head(&self.vault.keys, self.vault.id, pack, bytes.len() as u64, &slice)?;
        let prints = match read_prints(&head, &slice) {
            Err(error) if error.is_damage() => self.prints_of_content(&head, &bytes, error)?,
            prints => prints?,
        };
        let mut taken = Vec::new();
        for (entry, number) in head.table.entries().zip(0..) {
            let Some(bits) = needed.get(&number).copied().filter(|bits| *bits != 0) else { continue };
            let mut opened = self.entry(&head, &prints, number, &bytes);
            if entry.record.kind == Kind::Node {
                taken.push((number, 0, Content::Node(opened?)));
                continue;
            }
            let first = entry.first as usize;
            let own = prints.get(first..first + entry.record.chunks() as usize).unwrap_or_default();
            for (chunk, print) in (0u8..).zip(own).filter(|(chunk, _)| bits >> chunk & 1 == 1) {
                let raw = match opened {
                    Ok(ref raw) => chunk_of(raw, chunk).to_vec(),
                    Err(error) => {
                        match heal(&Spot { pack, entry: number, chunk }, &prints, first + usize::from(chunk))?
                        {
                            Some(raw) => {
                                opened = Err(error);
                                raw
                            }
                            None => return Err(error),
                        }
                    }
                };
                taken.push((number, chunk, Content::Chunk(raw, *print)));
            }
        }
        self.push(pack, taken)
    }

    /// The fingerprints of a pack whose own are damaged, if all its frames open.
    fn prints_of_content(&self, head: &PackHead, bytes: &[u8], damage: Error) -> Result<Vec<Fingerprint>> {
        let mut prints = Vec::with_capacity(head.footer.chunks as usize);
        for (entry, number) in
            head.table.entries().zip(0..).filter(|(entry, _)| entry.record.kind == Kind::Frame)
        {
            let end = entry.offset as usize + entry.record.stored as usize;
            let mut sealed = bytes.get(entry.offset as usize..end).unwrap_or_default().to_vec();
            match open_entry(&head.key, &head.address, number, &entry.record, &mut sealed) {
                Ok(raw) => prints.extend(fingerprints(&self.vault.keys, &raw)),
                Err(_) => return Err(damage),
            }
        }
        Ok(prints)
    }

    fn entry(&self, head: &PackHead, prints: &[Fingerprint], number: u32, bytes: &[u8]) -> Result<Vec<u8>> {
        let name = head.address.name(Shelf::Packs);
        let place = || format!("entry {number}");
        let entry = head.table.get(number).ok_or_else(|| Error::damaged(&name, place(), "there is none"))?;
        let end = entry.offset as usize + entry.record.stored as usize;
        let mut sealed = bytes.get(entry.offset as usize..end).unwrap_or_default().to_vec();
        let raw = open_entry(&head.key, &head.address, number, &entry.record, &mut sealed)?;
        prove_frame(&self.vault.keys, head, prints, number, &raw)?;
        if entry.record.kind == Kind::Node {
            Node::decode(&raw).map_err(|why| Error::damaged(&name, place(), why))?;
        }
        Ok(raw)
    }

    fn push(&mut self, pack: Address, taken: Vec<(u32, u8, Content)>) -> Result<()> {
        let mut parts = Vec::with_capacity(taken.len());
        for (entry, chunk, content) in taken {
            let target = match content {
                Content::Node(raw) => Target::Node(self.node(&raw)?),
                Content::Chunk(raw, print) => self.chunk(&raw, print)?,
            };
            parts.push((entry, chunk, target));
        }
        self.old.push(Old { pack, parts });
        // where packs belong to one point each, so do those they go to
        let alone = self.vault.options.self_contained;
        match alone || self.old.len() >= PACKS_AT_ONCE || self.stored.len() >= INDEX_PACKS {
            true => self.commit(),
            false => Ok(()),
        }
    }

    fn chunk(&mut self, raw: &[u8], print: Fingerprint) -> Result<Target> {
        if let Some(&(frame, chunk)) = self.here.get(&print) {
            return Ok(Target::Frame(frame, chunk));
        }
        let (frame, chunk) = (self.frames.len(), self.prints.len() as u8);
        self.here.insert(print, (frame, chunk));
        self.raw.extend_from_slice(raw);
        self.prints.push(print);
        if self.prints.len() == FRAME_CHUNKS {
            self.close_frame()?;
        }
        Ok(Target::Frame(frame, chunk))
    }

    fn node(&mut self, raw: &[u8]) -> Result<Spot> {
        let (encoding, bytes) = self.encoder.encode(raw);
        must_decode("a node", decode(encoding, &bytes, raw.len()), raw)?;
        let spot = self.writer()?.push_node(raw.len() as u32, encoding, &bytes);
        self.close_pack_if_full()?;
        Ok(spot)
    }

    fn close_frame(&mut self) -> Result<()> {
        if self.prints.is_empty() {
            return Ok(());
        }
        let (raw, prints) = (std::mem::take(&mut self.raw), std::mem::take(&mut self.prints));
        let (encoding, bytes) = self.encoder.encode(&raw);
        must_decode("a frame", decode(encoding, &bytes, raw.len()), &raw)?;
        let spot = self.writer()?.push_frame(&prints, raw.len() as u32, encoding, &bytes);
        self.frames.push(spot);
        self.close_pack_if_full()
    }

    fn writer(&mut self) -> Result<&mut PackWriter> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let vault = self.vault;
                PackWriter::new(&vault.keys, vault.id, vault.fresh_address()?, &*vault.env.entropy)?
            }
        };
        Ok(self.writer.insert(writer))
    }

    fn close_pack_if_full(&mut self) -> Result<()> {
        match self.writer.as_ref().is_some_and(PackWriter::is_full) {
            true => self.close_pack(),
            false => Ok(()),
        }
    }

    fn close_pack(&mut self) -> Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let pack = self.vault.put_pack(writer.finish(&self.vault.keys)?)?;
        self.bytes_stored += pack.len;
        self.stored.push((pack.row(), pack.hooks()));
        let open = self.frames.len();
        self.here.retain(|_, (frame, _)| *frame == open);
        Ok(())
    }

    /// Makes everything taken so far durable, then says where it went: packs, index, lists.
    pub(crate) fn commit(&mut self) -> Result<()> {
        self.close_frame()?;
        self.close_pack()?;
        while !self.stored.is_empty() {
            let some = self.stored.drain(..self.stored.len().min(INDEX_PACKS)).collect();
            self.bytes_stored += self.vault.put_index(some)?;
        }
        for old in std::mem::take(&mut self.old) {
            let mut moved = Moved::default();
            for (entry, chunk, target) in old.parts {
                let spot = match target {
                    Target::Node(spot) => spot,
                    Target::Frame(frame, chunk) => {
                        let placed = self.frames.get(frame).copied();
                        let not = || Error::NotDecodable {
                            what: "a move".to_owned(),
                            why: "it has no place".to_owned(),
                        };
                        Spot { chunk, ..placed.ok_or_else(not)? }
                    }
                };
                moved.push(entry, chunk, &spot);
            }
            self.vault.put_moved(old.pack, &moved)?;
            self.done.push(old.pack);
        }
        self.frames.clear();
        self.here.clear();
        Ok(())
    }
}

/// A chunk of a frame that was proven, and so has it.
fn chunk_of(raw: &[u8], chunk: u8) -> &[u8] {
    let at = usize::from(chunk) * CHUNK_SIZE as usize;
    raw.get(at..at + CHUNK_SIZE as usize).unwrap_or_default()
}

enum Content {
    Node(Vec<u8>),
    Chunk(Vec<u8>, Fingerprint),
}

fn must_decode(what: &str, back: Result<Vec<u8>, String>, raw: &[u8]) -> Result<()> {
    match back {
        Ok(back) if back == raw => Ok(()),
        Ok(_) => Err(Error::NotDecodable { what: what.to_owned(), why: "to other bytes".to_owned() }),
        Err(why) => Err(Error::NotDecodable { what: what.to_owned(), why }),
    }
}

impl Inner {
    /// Puts the list of where the content of a pack is and reads it back. From then on it is found there too.
    fn put_moved(&self, pack: Address, moved: &Moved) -> Result<()> {
        let front = Front::fresh(MOVED, self.id, pack, &*self.env.entropy)?;
        let name = pack.name(Shelf::Moved);
        self.put(&name, &moved.encode(&self.keys, &front))?;
        match self.moved(&pack)?.as_deref() == Some(moved) {
            true => Ok(()),
            false => Err(Error::damaged(&name, "body", "the store gave back another")),
        }
    }
}
