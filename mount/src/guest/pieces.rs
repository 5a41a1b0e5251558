//! Putting the pieces of a file together.

use super::{Piece, Place};

/// Adds a piece, melting it into the one before where both go on alike.
pub(super) fn push(pieces: &mut Vec<Piece>, at: u64, len: u64, place: Place) {
    if let Some(last) = pieces.last_mut() {
        let follows = match (&last.place, &place) {
            (Place::Volume(before), Place::Volume(now)) => before.checked_add(last.len) == Some(*now),
            (Place::Zero, Place::Zero) | (Place::Coded, Place::Coded) => true,
            _ => false,
        };
        if follows && last.at.checked_add(last.len) == Some(at) {
            last.len = last.len.saturating_add(len);
            return;
        }
    }
    pieces.push(Piece { at, len, place });
}

/// Cuts what passes the end of the file.
pub(super) fn clip(pieces: &mut Vec<Piece>, size: u64) {
    pieces.retain(|piece| piece.at < size);
    if let Some(last) = pieces.last_mut() {
        last.len = last.len.min(size - last.at);
        if let Place::Bytes(bytes) = &last.place {
            last.place = Place::Bytes(bytes.get(..last.len as usize).unwrap_or_default().into());
        }
    }
}
