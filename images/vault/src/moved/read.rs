//! Reading past places that are no more: the old pack is asked first, and its list when the pack is gone or damaged.

use block::sync::{Arc, lock};

use crate::inner::Inner;
use crate::moved::Moved;
use crate::moved::list::MAX_MOVED_LEN;
use crate::name::{Address, Shelf, Spot};
use crate::{Error, Result};

/// Lists kept: more than one read of [`FRAMES_AT_ONCE`](crate::frames::FRAMES_AT_ONCE) frames goes through.
pub(crate) const KEPT_MOVES: usize = 256;
/// Content that was moved more often than this is not looked for: no vault of ours has it. What is moved a second time lost a part since.
pub(crate) const MAX_MOVES: usize = 64;

impl Inner {
    /// Where the content of a pack is now, if it was written anew.
    pub(crate) fn moved(&self, pack: &Address) -> Result<Option<Arc<Moved>>> {
        if let Some(known) = lock(&self.moves).get(pack) {
            return Ok(Some(known));
        }
        let bytes = match self.fetch(&pack.name(Shelf::Moved), MAX_MOVED_LEN) {
            Ok(bytes) => bytes,
            Err(Error::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let moved = Arc::new(Moved::decode(&self.keys, self.id, *pack, &bytes)?);
        lock(&self.moves).put(*pack, moved.clone());
        Ok(Some(moved))
    }

    /// Learns where the content is of the pack that an error says is missing or damaged. False if there is nothing new to learn.
    pub(crate) fn learn_move(&self, error: &Error) -> Result<bool> {
        let (Error::Damaged { blob, .. } | Error::Missing { blob, .. }) = error else { return Ok(false) };
        let Some(pack) = Address::parse(Shelf::Packs, blob) else { return Ok(false) };
        if lock(&self.moves).get(&pack).is_some() {
            return Ok(false);
        }
        Ok(self.moved(&pack)?.is_some())
    }

    /// The places to read `count` neighbouring chunks from, or a node, as far as is known by now.
    pub(crate) fn places(&self, spot: &Spot, count: u64) -> Vec<(Spot, u64)> {
        let mut places = vec![(*spot, count)];
        for _ in 0..MAX_MOVES {
            let mut went = false;
            let follow = |&(spot, count): &(Spot, u64)| {
                let known = lock(&self.moves).get(&spot.pack);
                let next = known.and_then(|moved| moved.follow(&spot, count));
                went |= next.is_some();
                next.unwrap_or_else(|| vec![(spot, count)])
            };
            places = places.iter().flat_map(follow).collect();
            if !went {
                break;
            }
        }
        places
    }

    /// The place to read one chunk or node from, as far as is known by now.
    pub(crate) fn place(&self, spot: &Spot) -> Spot {
        self.places(spot, 1).first().map_or(*spot, |(place, _)| *place)
    }

    /// Reads something through places, again whenever it is learned that one of them is another.
    pub(crate) fn past_moves<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match read() {
                Err(error) if self.learn_move(&error)? => {}
                done => return done,
            }
        }
    }
}
