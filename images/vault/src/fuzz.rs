//! One plain function for each decoder of stored or typed bytes, for fuzzers and for replaying what they found.
//!
//! None of them returns anything: a decoder passes if it neither panics nor allocates more than its input allows, and
//! if what it accepts encodes to the same bytes again. Sealed parts are fed to their decoders as if opened.

pub use crate::backup::fuzz_arrived as arrived;
pub use crate::chunk::fuzz_encoded as encoded;
pub use crate::index::{fuzz_hooks as hooks, fuzz_index as index, fuzz_run as run};
pub use crate::info::fuzz_info as info;
pub use crate::manifest::{fuzz_node as node, fuzz_point as point};
pub use crate::moved::fuzz_moved as moved;
pub use crate::slots::fuzz_slot as slot;
pub use crate::stores::{fuzz_card as card, fuzz_parity as parity, fuzz_sums as sums};
pub use crate::sweep::fuzz_quarantine as quarantine;
pub use crate::writers::fuzz_writer as writer;

use crate::VaultKey;
use crate::front::{FRONT_LEN, Front, PACK};
use crate::pack::{Footer, Table};

/// The table of a pack, behind the three fields of the footer that it has to agree with.
pub fn table(bytes: &[u8]) {
    let Some((head, rest)) = bytes.split_first_chunk::<16>() else { return };
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *head;
    let footer = Footer {
        table_at: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        entries: u32::from_le_bytes([i, j, k, l]),
        chunks: u32::from_le_bytes([m, n, o, p]),
        body_crc: 0,
    };
    let Ok(table) = Table::decode(rest, &footer) else { return };
    let back: Vec<u8> = table.entries().flat_map(|entry| entry.record.encode()).collect();
    assert_eq!(back, rest);
    for number in 0..footer.chunks.min(1000) {
        let (entry, within) = table.of_chunk(number).expect("every chunk is in an entry");
        assert_eq!(table.get(entry).map(|entry| entry.first + u32::from(within)), Some(number));
    }
}

/// The front and the footer of a blob.
pub fn frame(bytes: &[u8]) {
    if let Ok(front) = Front::decode(bytes, PACK, "fuzz") {
        // feature bits a reader may ignore are the only bytes not kept
        assert_eq!(front.encode()[32..104], bytes[32..104]);
        assert!(bytes.len() >= FRONT_LEN);
    }
    if let Ok(footer) = Footer::decode(bytes, bytes.len() as u64) {
        assert_eq!(footer.encode(), bytes);
    }
}

/// The text of a key file.
pub fn key_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = VaultKey::from_file_text(text) {
        assert!(VaultKey::from_file_text(&key.to_file_text()).is_ok());
    }
}

/// The text of a recovery sheet.
pub fn sheet(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok((key, _)) = VaultKey::from_text(text) {
        assert!(VaultKey::from_text(&key.to_file_text()).is_ok());
    }
    if let Ok((key, vault)) = VaultKey::from_sheet(text) {
        assert!(VaultKey::from_sheet(&key.recovery_sheet(vault, "", "")).is_ok());
    }
}

/// Every decoder of this crate.
pub const ALL: [fn(&[u8]); 19] = [
    frame, encoded, table, quarantine, moved, arrived, hooks, run, index, info, node, point, key_file, sheet,
    slot, card, sums, parity, writer,
];

#[cfg(test)]
mod tests {
    use super::ALL;
    use crate::documented::seeds;
    use proptest::prelude::*;

    /// A valid object with some bytes changed, cut or repeated.
    fn mutated() -> impl Strategy<Value = Vec<u8>> {
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        (prop::sample::select(seeds()), edits, any::<prop::sample::Index>(), 0..4u8).prop_map(
            |(mut bytes, edits, at, how)| {
                for (place, value) in edits {
                    let place = place.index(bytes.len());
                    bytes[place] = value;
                }
                let at = at.index(bytes.len());
                match how {
                    0 => bytes.truncate(at),
                    1 => bytes.extend_from_within(at..),
                    _ => {}
                }
                bytes
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn no_decoder_stumbles_over_damaged_objects(bytes in mutated()) {
            ALL.iter().for_each(|decoder| decoder(&bytes));
        }

        #[test]
        fn no_decoder_stumbles_over_anything(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            ALL.iter().for_each(|decoder| decoder(&bytes));
        }
    }

    #[test]
    fn no_decoder_stumbles_over_cut_objects() {
        for (name, bytes) in seeds().iter().enumerate() {
            for len in 0..=bytes.len() {
                ALL.iter().for_each(|decoder| decoder(&bytes[..len]));
            }
            assert!(!bytes.is_empty(), "seed {name}");
        }
    }
}
