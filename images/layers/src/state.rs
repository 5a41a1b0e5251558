//! The four states of a block in a layer, and maps of them: two bits a block, 32 blocks a word, 512 words a page.

/// What a layer knows of a block. The high bit means: changed in this layer's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockState {
    /// Nothing; ask the layer below.
    Absent = 0b00,
    /// The bytes are here, brought from below unchanged.
    Hydrated = 0b01,
    /// Reads as zeros.
    Zero = 0b10,
    /// The bytes are here, written in this epoch.
    Data = 0b11,
}

/// Blocks in one word of a map.
pub(crate) const WORD_BLOCKS: u64 = 32;
/// Words in one page of a map.
pub(crate) const PAGE_WORDS: usize = 512;
/// Blocks in one page of a map: 64 MiB of disk.
pub(crate) const PAGE_BLOCKS: u64 = WORD_BLOCKS * PAGE_WORDS as u64;

/// The words of one page.
pub(crate) type PageWords = [u64; PAGE_WORDS];

impl BlockState {
    /// The state with these two bits.
    pub(crate) const fn from_bits(bits: u64) -> Self {
        match bits & 0b11 {
            0b00 => Self::Absent,
            0b01 => Self::Hydrated,
            0b10 => Self::Zero,
            _ => Self::Data,
        }
    }

    /// Whether the bytes are in this layer's file.
    pub(crate) const fn has_bytes(self) -> bool {
        self as u8 & 0b01 != 0
    }

    /// A word in which all 32 blocks have this state.
    pub(crate) const fn filled_word(self) -> u64 {
        self as u64 * 0x5555_5555_5555_5555
    }
}

/// The page a block's state lies in.
pub(crate) const fn page_of(block: u64) -> usize {
    (block / PAGE_BLOCKS) as usize
}

/// The word within its page.
pub(crate) const fn word_of(block: u64) -> usize {
    (block / WORD_BLOCKS) as usize % PAGE_WORDS
}

/// How far the block's two bits are shifted within its word.
pub(crate) const fn shift_of(block: u64) -> u32 {
    (block % WORD_BLOCKS) as u32 * 2
}

/// Pages a map of this many blocks has.
pub(crate) const fn page_count(blocks: u64) -> usize {
    blocks.div_ceil(PAGE_BLOCKS) as usize
}

/// The state of the block whose bits begin at `shift`, and how many blocks from there to the end of the word share
/// it.
pub(crate) fn run_in_word(word: u64, shift: u32) -> (BlockState, u64) {
    let state = BlockState::from_bits(word >> shift);
    let differs = (word ^ state.filled_word()) >> shift;
    let blocks = if differs == 0 { (64 - shift) / 2 } else { differs.trailing_zeros() / 2 };
    (state, u64::from(blocks))
}

/// The bits of `count` blocks from the one at `shift`, all within one word.
pub(crate) const fn mask(shift: u32, count: u64) -> u64 {
    let bits = count * 2;
    let ones = if bits >= 64 { u64::MAX } else { (1 << bits) - 1 };
    ones << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_in_words() {
        assert_eq!(run_in_word(0, 0), (BlockState::Absent, 32));
        assert_eq!(run_in_word(u64::MAX, 62), (BlockState::Data, 1));
        assert_eq!(run_in_word(0b10_11_11_00, 2), (BlockState::Data, 2));
        assert_eq!(run_in_word(0b10_11_11_00, 6), (BlockState::Zero, 1));
    }

    #[test]
    fn masks_reach_both_ends_of_a_word() {
        assert_eq!(mask(0, 32), u64::MAX);
        assert_eq!(mask(62, 1), 0b11 << 62);
        assert_eq!(mask(2, 2), 0b1111 << 2);
    }
}
