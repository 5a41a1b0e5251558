//! What a connection is about to send, and what must be fetched before it can be.

use crate::limits::IDLE_BUFFER;
use crate::transmission::Far;
use crate::wire::{COMMANDS, Request};
use block::Stored;
use std::io;

/// Replies to be sent: bytes, and between them bytes that are sent from where they lie in files.
#[derive(Default)]
pub struct Outbox {
    // initialised up to its length; the first `used` bytes are replies
    bytes: Vec<u8>,
    used: usize,
    splices: Vec<Splice>,
    // bytes of all splices
    spliced: u64,
    replies: usize,
    by_command: [u32; COMMANDS],
    fetches: Vec<Fetch>,
    far: Vec<Far>,
}

/// A part of a reply that is sent from files.
pub struct Splice {
    /// How many bytes of the replies in memory come before it.
    pub at: usize,
    /// The request it answers.
    pub request: Request,
    /// The bytes, one piece after the other.
    pub pieces: Vec<Stored>,
}

/// A read that waits for the host: the caller reads the bytes and says so to
/// [`Transmission::complete`](super::transmission::Transmission::complete).
pub struct Fetch {
    /// The request it answers.
    pub request: Request,
    /// Where the bytes are.
    pub stored: Stored,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The replies; without those parts that are sent from files.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Takes out the parts that are sent from files, in order; their bytes belong between those that
    /// [`filled`](Self::filled) has.
    pub fn take_splices(&mut self) -> Vec<Splice> {
        self.spliced = 0;
        std::mem::take(&mut self.splices)
    }

    /// The reads to be started.
    pub fn take_fetches(&mut self) -> impl Iterator<Item = Fetch> {
        self.fetches.drain(..)
    }

    /// The requests for which something has to be brought.
    pub fn take_far(&mut self) -> impl Iterator<Item = Far> {
        self.far.drain(..)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many whole replies there are.
    pub fn replies(&self) -> usize {
        self.replies
    }

    /// How many of them answer each command.
    pub(crate) fn replies_by_command(&self) -> &[u32; COMMANDS] {
        &self.by_command
    }

    /// Whether there are reads to be started.
    pub(crate) fn has_fetches(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Forgets the replies, which were sent.
    pub fn clear(&mut self) {
        (self.used, self.spliced, self.replies, self.by_command) = (0, 0, 0, [0; COMMANDS]);
        self.splices.clear();
    }

    /// Gives memory back, if nothing is to be sent.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.bytes.len() > IDLE_BUFFER {
            self.bytes = Vec::new();
        }
    }

    /// Bytes to be sent, those in files too.
    pub(crate) fn to_send(&self) -> u64 {
        self.used as u64 + self.spliced
    }

    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Takes back everything in memory after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len);
    }

    /// Takes note that the reply to a request of this command is complete.
    pub(crate) fn count_reply(&mut self, command: u16) {
        self.replies += 1;
        if let Some(count) = self.by_command.get_mut(usize::from(command)) {
            *count += 1;
        }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
    }

    /// Appends bytes of files.
    pub(crate) fn splice(&mut self, request: Request, pieces: Vec<Stored>) {
        self.spliced += pieces.iter().map(|piece| piece.count).sum::<u64>();
        self.splices.push(Splice { at: self.used, request, pieces });
    }

    /// Asks for bytes of a file.
    pub(crate) fn fetch(&mut self, request: Request, stored: Stored) {
        self.fetches.push(Fetch { request, stored });
    }

    /// Asks for what is far away.
    pub(crate) fn bring(&mut self, far: Far) {
        self.far.push(far);
    }

    /// Whether there are requests for which something has to be brought.
    pub(crate) fn has_far(&self) -> bool {
        !self.far.is_empty()
    }

    /// Appends `count` bytes, which the caller overwrites: they hold anything.
    pub(crate) fn space(&mut self, count: usize) -> &mut [u8] {
        let end = self.used + count;
        if end > self.bytes.len() {
            self.bytes.resize(end.next_power_of_two().max(64 << 10), 0);
        }
        let space = &mut self.bytes[self.used..end];
        self.used = end;
        space
    }

    /// Overwrites bytes put earlier.
    pub(crate) fn patch(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// Texts are formatted straight into the replies.
impl io::Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
