//! What a connection received and has not consumed yet. The bytes stay initialised, so that using them again costs
//! nothing.

use crate::limits::{HANDSHAKE_BUFFER, INPUT_BUFFER};

/// Bytes whose move costs less than receiving twice.
const CHEAP_MOVE: usize = 8 << 10;

/// What has arrived and is not consumed yet.
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// One for a client that nobody knows yet: it begins small, and the handshake asks for little more.
    pub(crate) fn for_handshake() -> Self {
        Self { bytes: vec![0; HANDSHAKE_BUFFER], start: 0, end: 0 }
    }

    /// Becomes one for the data phase. What is there stays.
    pub(crate) fn enlarge(&mut self) {
        self.space(INPUT_BUFFER);
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
            let mut larger = vec![0; need.next_multiple_of(HANDSHAKE_BUFFER)];
            larger[..self.end - self.start].copy_from_slice(self.filled());
            (self.bytes, self.end, self.start) = (larger, self.end - self.start, 0);
        } else if self.start + need > self.bytes.len() || self.is_worth_moving() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.end, self.start) = (self.end - self.start, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Whether what is there stands near the end, where little can be received at a time, and is small enough to be moved
    /// for that alone.
    fn is_worth_moving(&self) -> bool {
        let is_near_end = self.bytes.len() - self.end < self.bytes.len() / 4;
        self.start > 0 && is_near_end && self.end - self.start <= CHEAP_MOVE
    }

    /// Takes note of `count` bytes put where [`space`](Self::space) said.
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_in_pieces_stays_in_order() {
        let mut inbox = Inbox::for_handshake();
        let mut expected = 0u8;
        let mut sent = 0u8;
        for step in 1..4000usize {
            // whoever receives wants more than is there
            let space = inbox.space(inbox.filled().len() + 1 + step * 37 % 600_000);
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
        }
    }
}
