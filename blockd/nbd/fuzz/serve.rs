//! The server's half of a fuzzed connection: what a thread does with the state machine, without a socket.

use super::shelf::{Luck, Shelf};
use block::{BlockDevice, BlockSource, Error, MemoryDisk};
use nbd::handshake::{Context, Negotiated};
use nbd::transmission::{Cells, Far, Fetch, Outbox, Shortcuts, Splice, Step, Transmission};
use nbd::wire::{ExportFacts, ReplyStyle};
use nbd::{Access, Export};
use std::collections::HashMap;
use std::sync::Arc;

/// Everything that was answered.
#[derive(Default)]
pub struct Served {
    /// The replies.
    pub bytes: Vec<u8>,
    /// What reads found that took another way than through the device, by cookie and offset on the disk. It may be newer
    /// than the request: a write behind it may have come first.
    pub taken: HashMap<(u64, u64), Vec<u8>>,
    /// The requests that waited for something, whose replies come when they can.
    pub waited: Vec<u64>,
}

/// A request that waits for something.
enum Waiting {
    Fetch(Fetch),
    Far(Far),
}

/// A connection in its data phase.
struct Server {
    machine: Transmission,
    style: ReplyStyle,
    luck: Luck,
    out: Outbox,
    under_way: Vec<Waiting>,
    served: Served,
}

/// Serves a stream of bytes that arrives in pieces.
pub fn serve(
    disk: Arc<MemoryDisk>,
    style: ReplyStyle,
    stream: &[u8],
    piece: usize,
    seed: Option<u64>,
) -> Served {
    let size = disk.size().get();
    let device: Arc<dyn BlockDevice> = match seed {
        Some(seed) => Arc::new(Shelf::new(disk.clone(), seed)),
        None => disk,
    };
    let negotiated = Negotiated {
        name: "x".into(),
        facts: ExportFacts { size, flags: 0 },
        export: Export::new(Access::ReadWrite(device), ""),
        style,
        contexts: if style > ReplyStyle::Simple { vec![Context::Allocation] } else { Vec::new() },
        entered: None,
    };
    let mut machine = Transmission::new(negotiated, Arc::new(Cells::new()));
    machine.allow(Shortcuts { splice: seed.is_some(), fetch: seed.is_some(), far: seed.is_some() });
    let server = Server {
        machine,
        style,
        luck: Luck(seed.unwrap_or_default()),
        out: Outbox::new(),
        under_way: Vec::new(),
        served: Served::default(),
    };
    server.run(stream, piece)
}

impl Server {
    fn run(mut self, stream: &[u8], piece: usize) -> Served {
        // long streams arrive in few pieces: each is a look at all that is there
        let piece = piece.max(stream.len() / 512 + 1);
        let mut pending = Vec::new();
        for bytes in stream.chunks(piece) {
            pending.extend_from_slice(bytes);
            loop {
                let (used, step) = self.machine.advance(&pending, &mut self.out);
                pending.drain(..used);
                self.under_way.extend(self.out.take_fetches().map(Waiting::Fetch));
                self.under_way.extend(self.out.take_far().map(Waiting::Far));
                self.send();
                match step {
                    Step::Send => self.complete_some(3),
                    Step::Fetched => {
                        assert!(!self.under_way.is_empty(), "waits for nothing");
                        self.complete_some(1);
                    }
                    Step::Close(_) => return self.finish(),
                    Step::Input(need) => {
                        assert!(need > pending.len() && need <= 260 << 10, "wants {need}");
                        self.complete_some(2);
                        break;
                    }
                }
            }
        }
        self.finish()
    }

    fn finish(mut self) -> Served {
        while !self.under_way.is_empty() {
            self.complete_some(1);
        }
        self.served
    }

    /// Completes a request under way, and more with a chance of one to `odds`.
    fn complete_some(&mut self, odds: u64) {
        while !self.under_way.is_empty() && self.luck.draw(odds) == 0 {
            let index = self.luck.draw(self.under_way.len() as u64) as usize;
            match self.under_way.swap_remove(index) {
                Waiting::Fetch(fetch) => self.complete_fetch(fetch),
                Waiting::Far(far) => self.complete_far(&far),
            }
            self.send();
        }
        if self.under_way.is_empty() && self.luck.draw(4) == 0 {
            self.machine.found_cached();
        }
    }

    fn complete_fetch(&mut self, Fetch { request, stored }: Fetch) {
        self.served.waited.push(request.cookie);
        let at = Shelf::disk_offset(stored.offset);
        let mut bytes = vec![0; stored.count as usize];
        let read = stored.file.read_at(stored.offset, &mut bytes);
        let read = read.and_then(|()| if self.luck.draw(16) == 0 { Err(lost(at)) } else { Ok(()) });
        self.served.taken.insert((request.cookie, at), bytes.clone());
        if !stored.is_verified {
            // what is not verified must not be believed: the device is asked again, and finds the same
            bytes.fill(0xbd);
        }
        let read = read.map(|()| &bytes[..]);
        self.machine.complete(&request, stored.is_verified, read, &mut self.out);
    }

    fn complete_far(&mut self, far: &Far) {
        self.served.waited.push(far.request().cookie);
        let fails = self.luck.draw(16) == 0;
        let brought = if fails { Err(lost(far.request().offset)) } else { far.bring() };
        self.machine.brought(far, brought, &mut self.out);
    }

    fn send(&mut self) {
        let splices = self.out.take_splices();
        let mut from = 0;
        for Splice { at, request, pieces } in splices {
            self.served.bytes.extend_from_slice(&self.out.filled()[from..at]);
            from = at;
            let start = Shelf::disk_offset(pieces[0].offset);
            assert!(start >= request.offset, "bytes before those asked for");
            let mut bytes = Vec::new();
            for piece in &pieces {
                assert_eq!(Shelf::disk_offset(piece.offset), start + bytes.len() as u64, "pieces in order");
                assert!(piece.is_verified, "unverified bytes are sent");
                let begin = bytes.len();
                bytes.resize(begin + piece.count as usize, 0);
                piece.file.read_at(piece.offset, &mut bytes[begin..]).expect("a read of memory");
            }
            let fails = self.style > ReplyStyle::Simple && self.luck.draw(8) == 0;
            if fails {
                bytes.fill(0);
            }
            self.served.bytes.extend_from_slice(&bytes);
            self.served.taken.insert((request.cookie, start), bytes);
            if fails {
                let excuse = self.machine.spliced_badly(&request, lost(start)).expect("room for an excuse");
                self.served.bytes.extend_from_slice(excuse.filled());
            }
        }
        self.served.bytes.extend_from_slice(&self.out.filled()[from..]);
        self.out.clear();
    }
}

fn lost(at: u64) -> Error {
    Error::corrupt("a file of the fuzzer", Some(at), "lost")
}
