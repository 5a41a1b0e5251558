//! One plain function for each decoder of stored or typed bytes, for fuzzers and for replaying what they found.
//!
//! None of them returns anything: a decoder passes if it neither panics nor allocates more than its input allows, and
//! if what it accepts encodes to the same bytes again. Sealed parts are fed to their decoders as if opened.

pub use crate::index::fuzz_index as index;
pub use crate::info::fuzz_info as info;
pub use crate::manifest::{fuzz_node as node, fuzz_point as point};

use crate::VaultKey;
use crate::front::{FRONT_LEN, Front, PACK};
use crate::pack::{Footer, Record, Trailer};

/// The trailer of a pack.
pub fn trailer(bytes: &[u8]) {
    let Some((at, rest)) = bytes.split_first_chunk::<8>() else { return };
    if let Ok(trailer) = Trailer::decode(rest, u64::from_le_bytes(*at)) {
        let back: Vec<u8> = trailer.entries().flat_map(|(_, _, record)| Record::encode(record)).collect();
        assert_eq!(back, rest);
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
    if let Ok((key, vault)) = VaultKey::from_sheet(text) {
        assert!(VaultKey::from_sheet(&key.recovery_sheet(vault, "", "")).is_ok());
    }
}
