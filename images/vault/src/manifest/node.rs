//! One node of the tree. Specified in `docs/manifest.md`.

use block::{Cursor, Malformed};

use crate::manifest::{FANOUT, MAX_LEVEL};
use crate::name::ContentId;

/// The longest encoded node.
pub(crate) const MAX_NODE_LEN: usize = 4 + (FANOUT / 4) as usize + 32 * FANOUT as usize;

/// What a node says of one part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ref {
    /// Never written.
    Hole,
    /// Reads as zeros, and was written or trimmed.
    Zero,
    /// A chunk or node of this id.
    Stored(ContentId),
}

impl Ref {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Hole => 0,
            Self::Zero => 1,
            Self::Stored(_) => 2,
        }
    }
}

/// A node: its level and its references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) level: u8,
    pub(crate) refs: Vec<Ref>,
}

impl Node {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MAX_NODE_LEN);
        bytes.extend_from_slice(&[self.level, 0]);
        bytes.extend_from_slice(&(self.refs.len() as u16).to_le_bytes());
        for four in self.refs.chunks(4) {
            bytes.push(four.iter().enumerate().fold(0, |byte, (at, one)| byte | one.code() << (2 * at)));
        }
        for one in &self.refs {
            if let Ref::Stored(id) = one {
                bytes.extend_from_slice(id.as_bytes());
            }
        }
        bytes
    }

    /// Reads a node of any level and count.
    ///
    /// # Errors
    /// [`Malformed`] if a field is not as the format says.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let (level, zero, count) = (cursor.u8()?, cursor.u8()?, usize::from(cursor.u16()?));
        if level > MAX_LEVEL || zero != 0 || !(1..=FANOUT as usize).contains(&count) {
            return Err(cursor.malformed(format!("no node has level {level} and {count} references")));
        }
        let kinds = cursor.bytes(count.div_ceil(4))?;
        let mut refs = Vec::with_capacity(count);
        for at in 0..kinds.len() * 4 {
            let kind = kinds[at / 4] >> (2 * (at % 4)) & 3;
            match kind {
                0 if at >= count => {}
                _ if at >= count => return Err(cursor.malformed("a reference past the last")),
                0 => refs.push(Ref::Hole),
                1 => refs.push(Ref::Zero),
                2 => refs.push(Ref::Stored(ContentId::from_bytes(cursor.array()?))),
                _ => return Err(cursor.malformed(format!("reference {at} is of no known kind"))),
            }
        }
        cursor.end()?;
        Ok(Self { level, refs })
    }

    /// What the parent says instead of storing this node, if all references are of one empty kind.
    pub(crate) fn uniform(&self) -> Option<Ref> {
        let first = *self.refs.first()?;
        let same = first.code() != 2 && self.refs.iter().all(|one| one.code() == first.code());
        same.then_some(first)
    }
}

/// For fuzzing: whatever decodes must encode to the same bytes.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        assert_eq!(node.encode(), bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_round_trip_and_cut_ones_are_refused() {
        let id = |i: u8| Ref::Stored(ContentId::from_bytes([i; 32]));
        let node = Node { level: 2, refs: vec![Ref::Hole, id(1), Ref::Zero, Ref::Zero, id(2)] };
        let bytes = node.encode();
        assert_eq!(Node::decode(&bytes), Ok(node));
        for len in 0..bytes.len() {
            assert!(Node::decode(&bytes[..len]).is_err(), "{len}");
        }
        let full = Node { level: 0, refs: vec![id(9); 256] };
        assert_eq!(full.encode().len(), MAX_NODE_LEN);
        assert_eq!(Node { level: 0, refs: vec![Ref::Zero; 3] }.uniform(), Some(Ref::Zero));
        assert_eq!(Node { level: 0, refs: vec![Ref::Zero, Ref::Hole] }.uniform(), None);
        assert_eq!(Node { level: 0, refs: vec![id(1)] }.uniform(), None);
    }
}
