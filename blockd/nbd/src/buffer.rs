//! The two buffers of a connection. Both keep their bytes initialised, so that using them again costs nothing, and
//! both give memory back.

use crate::limits::{IDLE_BUFFER, INPUT_BUFFER};
use std::io;

/// What has arrived and is not consumed yet.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; INPUT_BUFFER], start: 0, end: 0 }
    }

    /// What is there.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Makes room, so that at least `need` bytes fit from the first one that is there, and returns where the next
    /// ones go.
    pub(crate) fn space(&mut self, need: usize) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if need > self.bytes.len() {
            let mut larger = vec![0; need.next_multiple_of(INPUT_BUFFER)];
            larger[..self.end - self.start].copy_from_slice(self.filled());
            (self.bytes, self.end, self.start) = (larger, self.end - self.start, 0);
        } else if self.start + need > self.bytes.len()
            || (self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 4)
        {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.end, self.start) = (self.end - self.start, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Takes note of `count` bytes put where [`space`](Self::space) said.
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Whether the buffer is larger than an idle connection may keep.
    pub(crate) fn is_large(&self) -> bool {
        self.bytes.len() > IDLE_BUFFER
    }

    /// Gives memory back, if nothing is in the buffer.
    pub(crate) fn shrink(&mut self) {
        if self.start == self.end && self.is_large() {
            *self = Self::new();
        }
    }
}

/// Replies to be sent.
#[derive(Default)]
pub struct Outbox {
    // initialised up to its length; the first `used` bytes are replies
    bytes: Vec<u8>,
    used: usize,
    replies: usize,
}

impl Outbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The replies.
    pub fn filled(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// How many whole replies there are.
    pub fn replies(&self) -> usize {
        self.replies
    }

    /// Forgets the replies, which were sent.
    pub fn clear(&mut self) {
        (self.used, self.replies) = (0, 0);
    }

    /// Gives memory back, if nothing is to be sent.
    pub(crate) fn shrink(&mut self) {
        if self.is_empty() && self.bytes.len() > IDLE_BUFFER {
            *self = Self::default();
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Takes back everything after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.used = self.used.min(len);
    }

    pub(crate) fn count_reply(&mut self) {
        self.replies += 1;
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.space(bytes.len()).copy_from_slice(bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_in_pieces_stays_in_order() {
        let mut inbox = Inbox::new();
        let mut expected = 0u8;
        let mut sent = 0u8;
        for step in 1..4000usize {
            let space = inbox.space(1000 + step * 37 % 600_000);
            assert!(!space.is_empty());
            let count = space.len().min(step * 7919 % 4000 + 1);
            space[..count].iter_mut().for_each(|byte| {
                *byte = sent;
                sent = sent.wrapping_add(1);
            });
            inbox.received(count);
            let take = inbox.filled().len().min(step * 104_729 % 5000);
            for &byte in &inbox.filled()[..take] {
                assert_eq!(byte, expected);
                expected = expected.wrapping_add(1);
            }
            inbox.consume(take);
            inbox.shrink();
        }
    }

    #[test]
    fn a_large_buffer_is_given_back_only_when_empty() {
        let mut inbox = Inbox::new();
        inbox.space(64 << 20);
        inbox.received(1);
        inbox.shrink();
        assert!(inbox.is_large());
        inbox.consume(1);
        inbox.shrink();
        assert!(!inbox.is_large());
    }
}
