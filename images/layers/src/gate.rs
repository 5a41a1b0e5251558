//! Who is writing into a layer right now. A seal redirects writers to the next layer and then waits until the ones
//! that entered before have left. Counting is spread over cache lines so that connections do not meet on one.

use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::thread;

const SHARDS: usize = 16;

#[repr(align(64))]
#[derive(Default)]
struct Shard(AtomicU64);

/// Counts the writers inside.
#[derive(Default)]
pub(crate) struct InFlight {
    shards: [Shard; SHARDS],
}

thread_local! {
    static SHARD: usize = {
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % SHARDS
    };
}

impl InFlight {
    /// Enters; the returned shard is for [`leave`](Self::leave). Sequentially consistent: a writer that then still
    /// sees this layer as the active one is seen by every later [`wait_until_empty`](Self::wait_until_empty).
    pub(crate) fn enter(&self) -> usize {
        let shard = SHARD.with(|shard| *shard);
        self.shards[shard].0.fetch_add(1, Ordering::SeqCst);
        shard
    }

    pub(crate) fn leave(&self, shard: usize) {
        self.shards[shard].0.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.0.load(Ordering::SeqCst) == 0)
    }

    /// Returns once nobody is inside. Nobody may enter any more who will stay.
    pub(crate) fn wait_until_empty(&self) {
        let mut turns = 0u32;
        while !self.is_empty() {
            turns += 1;
            pause(turns);
        }
    }
}

/// Gives way, a little longer each time: writers leave in microseconds unless the host's storage is slow.
pub(crate) fn pause(turns: u32) {
    #[cfg(not(blockd_shuttle))]
    if turns > 100 {
        thread::sleep(std::time::Duration::from_micros(u64::from(turns.min(1000))));
        return;
    }
    let _ = turns;
    thread::yield_now();
}
