//! The pipeline of a backup: one thread reads, several hash and compress, one puts packs; the caller's thread decides, in the order of
//! the disk, what is new and where it goes.
//!
//! Nobody waits for a full queue but the reader, which needs a ticket for every batch, and [`Stages::next`], which hands out
//! work only while there is room behind it. So no two stages can wait for each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use block::sync::lock;
use block::{BlockSource, ByteOffset};

use crate::backup::plan::{Stretch, stretches};
use crate::chunk::{CHUNK_SIZE, Encoder, Encoding, decode, fingerprint, is_zero};
use crate::inner::Inner;
use crate::manifest::{Ref, Shape};
use crate::name::Fingerprint;
use crate::pack::{Finished, PackWriter};
use crate::{Error, Result};

/// Bytes read at once.
const BATCH: usize = 1 << 20;
/// Pieces of one batch: a delta of many small changes is no batch for each.
const BATCH_PIECES: usize = 4096;
/// Batches that exist at once.
const BATCHES: usize = 8;
/// Frames on their way, from which on no further batch is handed out. Each has at most 64 KiB and its compressed form.
const FRAMES: usize = 96;
/// Packs on their way, from which on no further frame is handed out.
const PACKS: usize = 2;
/// More threads than this would wait for the one that decides.
const MAX_WORKERS: usize = 8;

/// A part of the disk in a batch.
pub(crate) enum Piece {
    /// Chunks the source's extents call empty.
    Empty { chunks: Range<u64>, what: Ref },
    /// Chunks that were read; their bytes follow those of the pieces before.
    Read { chunks: Range<u64> },
}

/// Pieces of the disk, ascending, and what was read of them.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) pieces: Vec<Piece>,
    /// Whole chunks.
    pub(crate) bytes: Vec<u8>,
    /// One for each chunk of `bytes`; none for zeros.
    pub(crate) prints: Vec<Option<Fingerprint>>,
}

/// New chunks, compressed together.
pub(crate) struct Frame {
    pub(crate) raw: Vec<u8>,
    pub(crate) prints: Vec<Fingerprint>,
}

/// A frame in its stored form, which was seen to decode.
pub(crate) struct Encoded {
    pub(crate) prints: Vec<Fingerprint>,
    pub(crate) raw_len: u32,
    pub(crate) encoding: Encoding,
    pub(crate) bytes: Vec<u8>,
}

/// What the caller's thread has to deal with.
pub(crate) enum Event {
    /// In the order of the disk.
    Batch(Batch),
    /// All batches were handed out: a frame that is not full will not become so.
    Read,
    /// In the order they were given to [`Stages::encode`].
    Encoded(Encoded),
    /// In the order they were given to [`Stages::put`]; durable and read back.
    Stored(Finished),
}

enum Work {
    Hash(u64, Batch),
    Encode(u64, Frame),
}

enum Done {
    Hashed(u64, Batch),
    // how many batches there were
    Read(u64),
    Encoded(u64, Encoded),
    Stored(Finished),
}

/// The caller's end of the pipeline.
pub(crate) struct Stages {
    work: Sender<Work>,
    packs: Sender<PackWriter>,
    tickets: Sender<()>,
    done: Receiver<Result<Done>>,
    batches: BTreeMap<u64, Batch>,
    frames: BTreeMap<u64, Encoded>,
    stored: Option<Finished>,
    next_batch: u64,
    all_batches: Option<u64>,
    told_end: bool,
    next_frame: u64,
    given_frames: u64,
    packs_under_way: usize,
}

/// Works through the plan: `drive` is called in this thread with the pipeline running.
pub(crate) fn run(
    vault: &Inner,
    source: &Arc<dyn BlockSource>,
    shape: Shape,
    plan: &[Range<u64>],
    drive: &mut dyn FnMut(&mut Stages) -> Result<()>,
) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, |cores| cores.get()).min(MAX_WORKERS);
    thread::scope(|scope| {
        let (work, work_out) = channel();
        let (packs, packs_out) = channel();
        let (tickets, tickets_out) = channel();
        let (done_in, done) = channel();
        let (to_work, read_done) = (work.clone(), done_in.clone());
        spawn(scope, "read", move || read(&**source, shape, plan, &tickets_out, &to_work, &read_done))?;
        let work_out = Arc::new(Mutex::new(work_out));
        for _ in 0..workers {
            let (work_out, done_in) = (work_out.clone(), done_in.clone());
            spawn(scope, "work", move || work_on(vault, &work_out, &done_in))?;
        }
        spawn(scope, "put", move || put(vault, &packs_out, &done_in))?;
        for _ in 0..BATCHES {
            // a reader that found nothing to read needs none
            tickets.send(()).ok();
        }
        let mut stages = Stages {
            work,
            packs,
            tickets,
            done,
            batches: BTreeMap::new(),
            frames: BTreeMap::new(),
            stored: None,
            next_batch: 0,
            all_batches: None,
            told_end: false,
            next_frame: 0,
            given_frames: 0,
            packs_under_way: 0,
        };
        // the other ends learn of the end by the senders dropped here
        drive(&mut stages)
    })
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() + Send + 'scope,
) -> Result<()> {
    let named = thread::Builder::new().name(format!("vault-{name}"));
    named.spawn_scoped(scope, body).map(drop).map_err(Error::Threads)
}

impl Stages {
    /// The next thing to deal with; `None` when everything given was dealt with.
    pub(crate) fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(pack) = self.stored.take() {
                self.packs_under_way -= 1;
                return Ok(Some(Event::Stored(pack)));
            }
            if self.packs_under_way < PACKS
                && let Some(frame) = self.frames.remove(&self.next_frame)
            {
                self.next_frame += 1;
                return Ok(Some(Event::Encoded(frame)));
            }
            let frames_under_way = (self.given_frames - self.next_frame) as usize;
            if frames_under_way < FRAMES
                && let Some(batch) = self.batches.remove(&self.next_batch)
            {
                self.next_batch += 1;
                // the reader may have come to its end and be gone
                self.tickets.send(()).ok();
                return Ok(Some(Event::Batch(batch)));
            }
            if self.all_batches == Some(self.next_batch) {
                if !std::mem::replace(&mut self.told_end, true) {
                    return Ok(Some(Event::Read));
                }
                if frames_under_way == 0 && self.packs_under_way == 0 {
                    return Ok(None);
                }
            }
            match self.done.recv().map_err(|_| Error::Cancelled)?? {
                Done::Hashed(number, batch) => drop(self.batches.insert(number, batch)),
                Done::Read(count) => self.all_batches = Some(count),
                Done::Encoded(number, frame) => drop(self.frames.insert(number, frame)),
                Done::Stored(pack) => self.stored = Some(pack),
            }
        }
    }

    /// Gives a frame to be compressed. Frames are numbered from 0 in this order.
    pub(crate) fn encode(&mut self, frame: Frame) -> Result<()> {
        let number = self.given_frames;
        self.given_frames += 1;
        self.work.send(Work::Encode(number, frame)).map_err(|_| Error::Cancelled)
    }

    /// Gives a pack to be put.
    pub(crate) fn put(&mut self, pack: PackWriter) -> Result<()> {
        self.packs_under_way += 1;
        self.packs.send(pack).map_err(|_| Error::Cancelled)
    }
}

fn read(
    source: &dyn BlockSource,
    shape: Shape,
    plan: &[Range<u64>],
    tickets: &Receiver<()>,
    work: &Sender<Work>,
    done: &Sender<Result<Done>>,
) {
    let mut reader = Reader { source, shape, tickets, work, number: 0, batch: Batch::default() };
    let mut end = plan
        .iter()
        .try_for_each(|chunks| stretches(source, shape, chunks, &mut |stretch: Stretch| reader.add(stretch)));
    end = end.and_then(|()| reader.send());
    done.send(end.map(|()| Done::Read(reader.number))).ok();
}

struct Reader<'a> {
    source: &'a dyn BlockSource,
    shape: Shape,
    tickets: &'a Receiver<()>,
    work: &'a Sender<Work>,
    number: u64,
    batch: Batch,
}

impl Reader<'_> {
    fn add(&mut self, stretch: Stretch) -> Result<()> {
        match stretch.empty {
            Some(what) => self.batch.pieces.push(Piece::Empty { chunks: stretch.chunks, what }),
            None => return self.read(stretch.chunks),
        }
        self.send_if_full()
    }

    fn read(&mut self, chunks: Range<u64>) -> Result<()> {
        let mut first = chunks.start;
        while first < chunks.end {
            let start = self.batch.bytes.len();
            let room = ((BATCH - start) as u64 / CHUNK_SIZE).max(1);
            let part = first..chunks.end.min(first + room);
            first = part.end;
            let end = start + self.shape.bytes(&part) as usize;
            self.batch.bytes.resize(end.next_multiple_of(CHUNK_SIZE as usize), 0);
            let buf = &mut self.batch.bytes[start..end];
            self.source.read_at(ByteOffset::new(part.start * CHUNK_SIZE), buf).map_err(Error::Source)?;
            self.batch.pieces.push(Piece::Read { chunks: part });
            self.send_if_full()?;
        }
        Ok(())
    }

    fn send_if_full(&mut self) -> Result<()> {
        match self.batch.bytes.len() >= BATCH || self.batch.pieces.len() >= BATCH_PIECES {
            true => self.send(),
            false => Ok(()),
        }
    }

    // what fails here fails only because the job has ended already, for a reason of its own
    fn send(&mut self) -> Result<()> {
        if self.batch.pieces.is_empty() {
            return Ok(());
        }
        self.tickets.recv().map_err(|_| Error::Cancelled)?;
        let batch = std::mem::take(&mut self.batch);
        self.work.send(Work::Hash(self.number, batch)).map_err(|_| Error::Cancelled)?;
        self.number += 1;
        Ok(())
    }
}

fn work_on(vault: &Inner, work: &Mutex<Receiver<Work>>, done: &Sender<Result<Done>>) {
    let mut encoder = match Encoder::new(vault.options.compression) {
        Ok(encoder) => encoder,
        Err(error) => {
            done.send(Err(Error::Threads(error))).ok();
            return;
        }
    };
    loop {
        let received = lock(work).recv();
        let result = match received {
            Ok(Work::Hash(number, batch)) => Ok(Done::Hashed(number, hash(vault, batch))),
            Ok(Work::Encode(number, frame)) => {
                encode(&mut encoder, frame).map(|frame| Done::Encoded(number, frame))
            }
            Err(_) => return,
        };
        if done.send(result).is_err() {
            return;
        }
    }
}

fn hash(vault: &Inner, mut batch: Batch) -> Batch {
    let chunks = batch.bytes.chunks(CHUNK_SIZE as usize);
    batch.prints = chunks.map(|chunk| (!is_zero(chunk)).then(|| fingerprint(&vault.keys, chunk))).collect();
    batch
}

/// Compresses a frame and sees that it decodes to what was read.
fn encode(encoder: &mut Encoder, frame: Frame) -> Result<Encoded> {
    let Frame { raw, prints } = frame;
    let (encoding, bytes) = encoder.encode(&raw);
    let back = decode(encoding, &bytes, raw.len());
    if back.as_deref() != Ok(&raw[..]) {
        let why = back.err().unwrap_or_else(|| "to other bytes".to_owned());
        return Err(Error::NotDecodable { what: "a new frame".to_owned(), why });
    }
    Ok(Encoded { prints, raw_len: raw.len() as u32, encoding, bytes })
}

fn put(vault: &Inner, packs: &Receiver<PackWriter>, done: &Sender<Result<Done>>) {
    while let Ok(pack) = packs.recv() {
        let stored = pack.finish(&vault.keys).and_then(|pack| vault.put_pack(pack));
        if let Ok(pack) = &stored {
            vault.note_arrived(pack.address);
        }
        if done.send(stored.map(Done::Stored)).is_err() {
            return;
        }
    }
}
