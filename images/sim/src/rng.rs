//! Seeded pseudo-randomness, so that a failing test can be run again.
//!
//! Not for keys: anyone can predict it.

use std::ops::Range;

/// A small deterministic generator (splitmix64). Equal seeds give equal sequences, on every machine and for ever.
#[derive(Debug, Clone)]
pub struct Rng {
    seed: u64,
    state: u64,
}

impl Rng {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, state: seed }
    }

    /// The seed it began with, for messages.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number below `bound`.
    ///
    /// # Panics
    /// If `bound` is zero: there is no such number.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below zero");
        // the bias of the high product is below 2⁻³² for every bound a test uses
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number within the range, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// True in `times` of `out_of` cases.
    pub fn chance(&mut self, times: u64, out_of: u64) -> bool {
        self.below(out_of) < times
    }

    /// One of the items.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// Fills the buffer.
    pub fn fill(&mut self, buf: &mut [u8]) {
        for piece in buf.chunks_mut(8) {
            piece.copy_from_slice(&self.next_u64().to_le_bytes()[..piece.len()]);
        }
    }

    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }

    /// A generator of its own, so that one part of a test drawing more does not change another part.
    pub fn fork(&mut self) -> Self {
        Self { seed: self.seed, state: self.next_u64() }
    }
}

/// Scrambles 64 bits, one to one.
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The environment variable that makes [`for_seeds`] run a single seed.
pub const SEED_VARIABLE: &str = "BLOCKD_SEED";

/// Runs `test` once for every seed and prints the seed of the run that panics. With the environment variable
/// [`SEED_VARIABLE`] set, only that seed runs.
///
/// # Panics
/// If the variable holds no number, and when the test does.
pub fn for_seeds(seeds: impl IntoIterator<Item = u64>, mut test: impl FnMut(&mut Rng)) {
    let mut run = |seed| {
        let _shown = Shown(seed);
        test(&mut Rng::new(seed));
    };
    match std::env::var(SEED_VARIABLE) {
        Ok(text) => run(text.parse().expect("the seed is a decimal number")),
        Err(_) => seeds.into_iter().for_each(run),
    }
}

struct Shown(u64);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {0}; run it alone with {SEED_VARIABLE}={0}", self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_one_sequence() {
        let mut rng = Rng::new(1);
        assert_eq!([rng.next_u64(), rng.next_u64()], [0x910a_2dec_8902_5cc1, 0xbeeb_8da1_658e_ec67]);
        assert_eq!(Rng::new(7).bytes(13), Rng::new(7).bytes(13));
        assert_ne!(Rng::new(7).bytes(13), Rng::new(8).bytes(13));
    }

    #[test]
    fn numbers_below_a_bound_take_every_value() {
        let mut rng = Rng::new(2);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[rng.below(5) as usize] += 1);
        assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
        assert!((0..100).all(|_| (3..9).contains(&rng.within(3..9))));
    }
}
