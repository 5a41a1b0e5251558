//! One node of the tree. Specified in `docs/manifest.md`.

use block::{Cursor, Malformed};

use crate::chunk::MAX_FRAME_CHUNKS;
use crate::manifest::{FANOUT, LEAF_CHUNKS, MAX_LEVEL};
use crate::name::{ADDRESS_LEN, Address, Spot};

const HEAD_LEN: usize = 8;
const RUN_LEN: usize = 12;
/// Codes of a run below this are empty, others are rows of the pack list.
const FIRST_ROW: u16 = 2;

/// What a node says of one part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ref {
    /// Never written.
    Hole,
    /// Reads as zeros, and was written or trimmed.
    Zero,
    /// A chunk or node in this place.
    Stored(Spot),
}

impl Ref {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Hole => 0,
            Self::Zero => 1,
            Self::Stored(_) => 2,
        }
    }

    /// What stands `steps` references further in a run that begins with this: the same, or a later chunk of the frame.
    pub(crate) fn further(self, steps: u64) -> Self {
        match self {
            Self::Stored(spot) => {
                Self::Stored(Spot { chunk: spot.chunk.saturating_add(steps as u8), ..spot })
            }
            empty => empty,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    // the first reference of it, and one past its last
    start: u16,
    end: u16,
    what: u16,
    entry: u32,
    chunk: u8,
}

/// A node: its level and its references, as runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) level: u8,
    packs: Vec<Address>,
    parts: Vec<Part>,
}

impl Node {
    /// The node with these references.
    pub(crate) fn new(level: u8, refs: &[Ref]) -> Self {
        let mut node = Self { level, packs: Vec::new(), parts: Vec::new() };
        let mut last: Option<Ref> = None;
        for (at, one) in (0..).zip(refs) {
            if let (Some(before), Some(part)) = (last, node.parts.last_mut())
                && (before.further(u64::from(at - part.start)) == *one)
                && (level == 0 || before.code() != 2)
            {
                part.end += 1;
                continue;
            }
            let part = node.part(at, *one);
            node.parts.push(part);
            last = Some(*one);
        }
        node
    }

    fn part(&mut self, at: u16, one: Ref) -> Part {
        let empty = Part { start: at, end: at + 1, what: u16::from(one.code()), entry: 0, chunk: 0 };
        let Ref::Stored(spot) = one else { return empty };
        // the last ones are the likeliest
        let row = self.packs.iter().rposition(|pack| *pack == spot.pack).unwrap_or_else(|| {
            self.packs.push(spot.pack);
            self.packs.len() - 1
        });
        Part { what: FIRST_ROW + row as u16, entry: spot.entry, chunk: spot.chunk, ..empty }
    }

    fn value(&self, part: &Part) -> Ref {
        match part.what.checked_sub(FIRST_ROW).and_then(|row| self.packs.get(usize::from(row))) {
            Some(&pack) => Ref::Stored(Spot { pack, entry: part.entry, chunk: part.chunk }),
            None if part.what == 1 => Ref::Zero,
            None => Ref::Hole,
        }
    }

    /// The number of references.
    pub(crate) fn len(&self) -> usize {
        self.parts.last().map_or(0, |part| usize::from(part.end))
    }

    /// Runs of references: the first one's number, how many, and what the first one is.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (u64, u64, Ref)> + '_ {
        self.parts
            .iter()
            .map(|part| (u64::from(part.start), u64::from(part.end - part.start), self.value(part)))
    }

    /// All references.
    pub(crate) fn refs(&self) -> Vec<Ref> {
        self.runs().flat_map(|(_, count, what)| (0..count).map(move |step| what.further(step))).collect()
    }

    /// What the parent says instead of storing this node, if all references are of one empty kind.
    pub(crate) fn uniform(&self) -> Option<Ref> {
        match &self.parts[..] {
            [only] if only.what < FIRST_ROW => Some(self.value(only)),
            _ => None,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(HEAD_LEN + self.packs.len() * ADDRESS_LEN + self.parts.len() * RUN_LEN);
        bytes.extend_from_slice(&[self.level, 0]);
        bytes.extend_from_slice(&(self.packs.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(self.parts.len() as u32).to_le_bytes());
        self.packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.encode()));
        for part in &self.parts {
            bytes.extend_from_slice(&(part.end - part.start).to_le_bytes());
            bytes.extend_from_slice(&part.what.to_le_bytes());
            bytes.extend_from_slice(&part.entry.to_le_bytes());
            bytes.extend_from_slice(&[part.chunk, 0, 0, 0]);
        }
        bytes
    }

    /// Reads a node of any level and count.
    ///
    /// # Errors
    /// [`Malformed`] if a field is not as the format says.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let (level, zero) = (cursor.u8()?, cursor.u8()?);
        let packs = usize::from(cursor.u16()?);
        if level > MAX_LEVEL || zero != 0 {
            return Err(cursor.malformed(format!("no node has level {level}")));
        }
        let limit = most(level);
        if packs > limit || packs * ADDRESS_LEN > bytes.len() {
            return Err(cursor.malformed(format!("{packs} packs do not fit here")));
        }
        let count = cursor.count_u32(limit, RUN_LEN)?;
        let packs: Result<Vec<_>, _> = (0..packs).map(|_| Address::decode(&mut cursor)).collect();
        let mut node = Self { level, packs: packs?, parts: Vec::with_capacity(count) };
        for _ in 0..count {
            let part = node.decode_part(&mut cursor)?;
            node.parts.push(part);
        }
        cursor.end()?;
        match node.len() {
            0 => Err(cursor.malformed("it has no references")),
            _ => Ok(node),
        }
    }

    fn decode_part(&self, cursor: &mut Cursor<'_>) -> Result<Part, Malformed> {
        let (count, what, entry, chunk) = (cursor.u16()?, cursor.u16()?, cursor.u32()?, cursor.u8()?);
        if cursor.array::<3>()? != [0; 3] {
            return Err(cursor.malformed("a run's spare bytes are not zero"));
        }
        let start = self.len() as u16;
        let end = start.saturating_add(count);
        if count == 0 || usize::from(end) > most(self.level) {
            return Err(cursor.malformed(format!("a run of {count} references from {start}")));
        }
        let fits = match what.checked_sub(FIRST_ROW) {
            None => entry == 0 && chunk == 0,
            Some(row) if usize::from(row) >= self.packs.len() => false,
            Some(_) if self.level > 0 => count == 1 && chunk == 0,
            Some(_) => usize::from(chunk) + usize::from(count) <= MAX_FRAME_CHUNKS,
        };
        match fits {
            true => Ok(Part { start, end, what, entry, chunk }),
            false => Err(cursor.malformed(format!("a run of kind {what} that cannot be"))),
        }
    }
}

/// The most references a node of a level has.
fn most(level: u8) -> usize {
    if level == 0 { LEAF_CHUNKS as usize } else { FANOUT as usize }
}

/// For fuzzing: whatever decodes must encode to the same bytes, and say the same by every way of asking.
pub fn fuzz_decode(bytes: &[u8]) {
    if let Ok(node) = Node::decode(bytes) {
        assert_eq!(node.encode(), bytes);
        let refs = node.refs();
        assert_eq!(refs.len(), node.len());
        assert_eq!(Node::new(node.level, &refs).refs(), refs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{ApplianceId, BlobId};

    fn at(pack: u8, entry: u32, chunk: u8) -> Ref {
        let (appliance, id) = (ApplianceId::from_bytes([7; 8]), BlobId::from_bytes([pack; 16]));
        Ref::Stored(Spot { pack: Address { appliance, id }, entry, chunk })
    }

    #[test]
    fn nodes_round_trip_and_cut_ones_are_refused() {
        let refs = [
            Ref::Hole,
            at(1, 4, 62),
            at(1, 4, 63),
            at(1, 5, 0),
            at(2, 5, 1),
            Ref::Zero,
            Ref::Zero,
            at(1, 0, 9),
        ];
        let node = Node::new(0, &refs);
        assert_eq!((node.refs(), node.len(), node.runs().count()), (refs.to_vec(), 8, 6));
        let bytes = node.encode();
        assert_eq!(Node::decode(&bytes), Ok(node));
        for len in 0..bytes.len() {
            assert!(Node::decode(&bytes[..len]).is_err(), "{len}");
        }
        let worst: Vec<Ref> = (0..4096).map(|i| at(i as u8, i, 0)).collect();
        let worst = Node::new(0, &worst).encode();
        assert!(
            worst.len() <= HEAD_LEN + 4096 * (ADDRESS_LEN + RUN_LEN) && worst.len() <= crate::chunk::MAX_RAW
        );
        assert_eq!(Node::new(1, &[at(1, 1, 0), at(1, 1, 0)]).runs().count(), 2);
        assert_eq!(Node::new(0, &[Ref::Zero; 3]).uniform(), Some(Ref::Zero));
        assert_eq!(Node::new(0, &[Ref::Zero, Ref::Hole]).uniform(), None);
        assert_eq!(Node::new(0, &[at(1, 1, 1)]).uniform(), None);
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        let edit = |level: u8, refs: &[Ref], place: usize, value: u8| {
            let mut bytes = Node::new(level, refs).encode();
            bytes[place] = value;
            Node::decode(&bytes)
        };
        let run = HEAD_LEN + ADDRESS_LEN;
        let leaf = [at(1, 4, 60), at(1, 4, 61)];
        assert!(edit(0, &leaf, run + 8, 62).is_ok());
        assert!(edit(0, &leaf, run + 8, 63).is_err(), "past the end of its frame");
        assert!(edit(0, &leaf, run, 0).is_err(), "no references");
        assert!(edit(0, &leaf, run + 2, 3).is_err(), "no such pack");
        assert!(edit(0, &leaf, run + 2, 1).is_err(), "an empty run in a place");
        assert!(edit(1, &leaf[..1], 0, 1).is_err(), "a node in the middle of a frame");
        assert!(edit(1, &[at(1, 4, 0)], run, 2).is_err(), "one node twice");
    }
}
