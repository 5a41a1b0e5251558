//! The kernel's clock and randomness.

use crate::{Clock, Entropy, Error, Result, Time};
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

/// The host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        let time = clock_gettime(ClockId::Realtime);
        let unix_ms = time.tv_sec * 1000 + time.tv_nsec / 1_000_000;
        // a clock before 1970 is a clock never set
        Time { unix_ms: u64::try_from(unix_ms).unwrap_or(0) }
    }

    fn monotonic_ns(&self) -> u64 {
        let time = clock_gettime(ClockId::Monotonic);
        // since boot, so never negative
        u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
    }
}

/// `getrandom(2)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelEntropy;

impl Entropy for KernelEntropy {
    fn fill(&self, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            let read = getrandom(&mut buf[done..], GetRandomFlags::empty())
                .map_err(|errno| Error::host("draw randomness from", "the kernel", None, errno.into()))?;
            done += read;
        }
        Ok(())
    }
}
