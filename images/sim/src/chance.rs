//! A clock that a test sets and entropy that a seed decides.

use crate::Rng;
use block::sync::{Mutex, lock};
use block::{Clock, Entropy, Result, Time};

/// A clock that stands still until told otherwise. The wall-clock time may be stepped both ways; the monotonic time
/// only moves on.
pub struct SimClock {
    now: Mutex<Now>,
}

struct Now {
    unix_ms: u64,
    monotonic_ns: u64,
}

impl Default for SimClock {
    /// A clock at 2026-01-01T00:00:00Z.
    fn default() -> Self {
        Self::new(Time { unix_ms: 1_767_225_600_000 })
    }
}

impl SimClock {
    /// A clock at this time.
    pub fn new(now: Time) -> Self {
        Self { now: Mutex::new(Now { unix_ms: now.unix_ms, monotonic_ns: 0 }) }
    }

    /// Time passes, on both clocks.
    pub fn advance_ms(&self, ms: u64) {
        let mut now = lock(&self.now);
        now.unix_ms = now.unix_ms.saturating_add(ms);
        now.monotonic_ns = now.monotonic_ns.saturating_add(ms.saturating_mul(1_000_000));
    }

    /// Somebody sets the wall clock, forwards or backwards; no time passes.
    pub fn set(&self, to: Time) {
        lock(&self.now).unix_ms = to.unix_ms;
    }

    /// Somebody sets the wall clock back; no time passes.
    pub fn step_back_ms(&self, ms: u64) {
        let mut now = lock(&self.now);
        now.unix_ms = now.unix_ms.saturating_sub(ms);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        Time { unix_ms: lock(&self.now).unix_ms }
    }

    fn monotonic_ns(&self) -> u64 {
        lock(&self.now).monotonic_ns
    }
}

/// Entropy of a seed: different at every call, the same in every run.
pub struct SeededEntropy {
    rng: Mutex<Rng>,
}

impl SeededEntropy {
    /// The entropy of this seed.
    pub fn new(seed: u64) -> Self {
        Self { rng: Mutex::new(Rng::new(seed)) }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buf: &mut [u8]) -> Result<()> {
        lock(&self.rng).fill(buf);
        Ok(())
    }
}

#[cfg(all(test, not(blockd_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_steps_back_and_the_monotonic_one_does_not() {
        let clock = SimClock::new(Time { unix_ms: 1000 });
        clock.advance_ms(5);
        clock.step_back_ms(500);
        assert_eq!((clock.now().unix_ms, clock.monotonic_ns()), (505, 5_000_000));
        clock.set(Time { unix_ms: 7 });
        assert_eq!((clock.now().unix_ms, clock.monotonic_ns()), (7, 5_000_000));
    }

    #[test]
    fn entropy_repeats_between_runs_and_not_between_calls() {
        let draw = |entropy: &SeededEntropy| {
            let mut bytes = [0; 16];
            entropy.fill(&mut bytes).map(|()| bytes)
        };
        let (one, other) = (SeededEntropy::new(3), SeededEntropy::new(3));
        let first = draw(&one).unwrap();
        assert_eq!(first, draw(&other).unwrap());
        assert_ne!(first, draw(&one).unwrap());
    }
}
