//! The pipeline: one thread reads, several hash and compress, the caller's thread takes the results in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use block::sync::lock;
use block::{BlockSource, ByteOffset};

use crate::backup::plan::{Stretch, stretches};
use crate::chunk::{CHUNK_SIZE, Encoder, Encoding, Kind};
use crate::index::Index;
use crate::inner::Inner;
use crate::manifest::{Ref, Shape};
use crate::name::ContentId;
use crate::{Error, Result};

/// Chunks read at once: 1 MiB.
const READ_CHUNKS: u64 = 16;
/// Batches waiting between two stages. With those at work, at most `2 · QUEUE + 2 · MAX_WORKERS + 2` batches exist at once, each at most
/// 2 MiB with its compressed form.
const QUEUE: usize = 4;
/// More threads than this would wait for the one that packs.
const MAX_WORKERS: usize = 8;

/// A chunk's bytes, its name, and its compressed form unless the vault seemed to have it already.
pub(crate) struct Data {
    pub(crate) id: ContentId,
    pub(crate) raw: Vec<u8>,
    pub(crate) encoded: Option<(Encoding, Vec<u8>)>,
}

pub(crate) enum Prepared {
    Zero,
    Data(Data),
}

/// What comes out, in the order of the disk.
pub(crate) enum Done {
    Empty { chunks: Range<u64>, what: Ref },
    Chunks { first: u64, chunks: Vec<Prepared> },
}

enum Work {
    Empty { chunks: Range<u64>, what: Ref },
    Read { first: u64, bytes: Vec<u8> },
}

/// Works through the plan. `take` is called in ascending order, in this thread.
pub(crate) fn run(
    vault: &Inner,
    source: &Arc<dyn BlockSource>,
    shape: Shape,
    plan: &[Range<u64>],
    take: &mut dyn FnMut(Done) -> Result<()>,
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let workers = cores.min(MAX_WORKERS);
    let index: Arc<Index> = vault.index.load().clone();
    thread::scope(|scope| {
        let (work_in, work_out) = sync_channel::<Result<(u64, Work)>>(QUEUE);
        let (done_in, done_out) = sync_channel(QUEUE + workers);
        let work_out = Arc::new(Mutex::new(work_out));
        let named = |name: &str| thread::Builder::new().name(format!("vault-{name}"));
        named("read")
            .spawn_scoped(scope, move || read(&**source, shape, plan, &work_in))
            .map_err(Error::Threads)?;
        for _ in 0..workers {
            let (work_out, done_in, index) = (work_out.clone(), done_in.clone(), index.clone());
            named("pack")
                .spawn_scoped(scope, move || work(vault, &index, &work_out, &done_in))
                .map_err(Error::Threads)?;
        }
        // only the threads hold the other ends, so that either side's end ends the other
        drop((work_out, done_in));
        in_order(done_out, take)
    })
}

/// Calls `take` in the order of the numbers; ends at the first error, which ends the other stages.
fn in_order(done_out: Receiver<Result<(u64, Done)>>, take: &mut dyn FnMut(Done) -> Result<()>) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for done in done_out {
        let (number, done) = done?;
        early.insert(number, done);
        while let Some(done) = early.remove(&next) {
            take(done)?;
            next += 1;
        }
    }
    Ok(())
}

fn read(source: &dyn BlockSource, shape: Shape, plan: &[Range<u64>], out: &SyncSender<Result<(u64, Work)>>) {
    let mut number = 0;
    // a send fails only when the job has ended already, for a reason of its own
    let mut send = |work: Work| {
        let sent = out.send(Ok((number, work)));
        number += 1;
        sent.map_err(|_| Error::Cancelled)
    };
    let mut give = |stretch: Stretch| match stretch.empty {
        Some(what) => send(Work::Empty { chunks: stretch.chunks, what }),
        None => read_stretch(source, shape, &stretch.chunks, &mut send),
    };
    let end = plan.iter().try_for_each(|chunks| stretches(source, shape, chunks, &mut give));
    if let Err(error) = end {
        out.send(Err(error)).ok();
    }
}

fn read_stretch(
    source: &dyn BlockSource,
    shape: Shape,
    chunks: &Range<u64>,
    send: &mut dyn FnMut(Work) -> Result<()>,
) -> Result<()> {
    let mut first = chunks.start;
    while first < chunks.end {
        let end = chunks.end.min(first + READ_CHUNKS);
        let mut bytes = vec![0; shape.bytes(&(first..end)) as usize];
        source.read_at(ByteOffset::new(first * CHUNK_SIZE), &mut bytes).map_err(Error::Source)?;
        send(Work::Read { first, bytes })?;
        first = end;
    }
    Ok(())
}

type WorkQueue = Mutex<Receiver<Result<(u64, Work)>>>;

fn work(vault: &Inner, index: &Index, work_out: &WorkQueue, done_in: &SyncSender<Result<(u64, Done)>>) {
    let mut encoder = match Encoder::new(vault.options.compression) {
        Ok(encoder) => encoder,
        Err(error) => {
            done_in.send(Err(Error::Threads(error))).ok();
            return;
        }
    };
    loop {
        let received = lock(work_out).recv();
        let Ok(work) = received else { return };
        let done = work.map(|(number, work)| (number, prepare(vault, index, &mut encoder, work)));
        if done_in.send(done).is_err() {
            return;
        }
    }
}

fn prepare(vault: &Inner, index: &Index, encoder: &mut Encoder, work: Work) -> Done {
    match work {
        Work::Empty { chunks, what } => Done::Empty { chunks, what },
        Work::Read { first, bytes } => {
            let chunks =
                bytes.chunks(CHUNK_SIZE as usize).map(|raw| prepare_chunk(vault, index, encoder, raw));
            Done::Chunks { first, chunks: chunks.collect() }
        }
    }
}

fn prepare_chunk(vault: &Inner, index: &Index, encoder: &mut Encoder, raw: &[u8]) -> Prepared {
    if is_zero(raw) {
        return Prepared::Zero;
    }
    let id = Kind::Chunk.id_of(&vault.keys, raw);
    let known = index.find(&id).next().is_some();
    let encoded = (!known).then(|| encoder.encode(raw));
    Prepared::Data(Data { id, raw: raw.to_vec(), encoded })
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}
