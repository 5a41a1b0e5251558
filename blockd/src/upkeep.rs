//! What is done for the disks in the background, at a pace that no guest notices: the checksums of sealed layers are made,
//! disks that could not be opened for lack of room are opened when there is some, and what was found damaged in vaults is noted.

use crate::bell::Bell;
use crate::error::{Error, Result};
use crate::points::Tiers;
use block::sync::{Mutex, lock};
use block::{ByteCount, Clock};
use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks at whether there is something to do.
const ROUND: Duration = Duration::from_secs(1);

/// Rounds for which a disk is left alone after something failed for it.
const ROUNDS_AFTER_FAILURE: u32 = 60;

/// Rounds between two tries to reach the buckets of vaults that could not be reached.
const ROUNDS_BETWEEN_TRIES: u32 = 15;

/// Rounds after which what vaults in buckets take is counted even if nothing was stored.
const ROUNDS_BETWEEN_COUNTS: u32 = 3600;

/// Pieces of at most 4 MiB are read at a time. After each comes a pause of three times what it took, and of so much at
/// least: a quarter of one thread, and 80 MiB/s, at the most.
const LEAST_PAUSE: Duration = Duration::from_millis(50);

/// The thread that does it.
pub struct Upkeep {
    bell: Arc<Bell>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Upkeep {
    /// Begins.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(tiers: Arc<Tiers>, clock: Arc<dyn Clock>) -> Result<Self> {
        let bell = Arc::new(Bell::default());
        let rounds =
            Rounds { tiers, clock, bell: bell.clone(), left_alone: HashMap::new(), round: 0, counted_at: 0 };
        let run = move || rounds.run();
        let thread = std::thread::Builder::new().name("upkeep".to_owned()).spawn(run);
        let thread = thread.map_err(|error| Error::host("start the upkeep of disks", error))?;
        Ok(Self { bell, thread: Mutex::new(Some(thread)) })
    }

    /// Ends it, and waits until it has.
    pub fn stop(&self) {
        self.bell.stop();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the upkeep of disks ended by a defect");
        }
    }
}

struct Rounds {
    tiers: Arc<Tiers>,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    /// Disks by name, vaults as `vault NAME`, and for how many rounds.
    left_alone: HashMap<String, u32>,
    round: u32,
    /// Backups there had been when vaults in buckets were last counted.
    counted_at: u64,
}

impl Rounds {
    fn run(mut self) {
        while self.bell.pause(ROUND) {
            self.round = self.round.wrapping_add(1);
            self.look_after_buckets();
            self.left_alone.retain(|_, rounds| {
                *rounds -= 1;
                *rounds > 0
            });
            self.keep_damaged();
            self.tiers.disks.reopen_what_lacked_room();
            for named in self.tiers.disks.all() {
                if !self.left_alone.contains_key(&named.name) {
                    self.make_sums(&named);
                }
            }
        }
    }

    /// Vaults whose buckets were away are opened when they are back, and what they take is counted after backups.
    fn look_after_buckets(&mut self) {
        if self.round.is_multiple_of(ROUNDS_BETWEEN_TRIES) {
            for named in self.tiers.vaults.reopen_away() {
                if let Err(error) = self.tiers.remember_stored_in(&named) {
                    // the vault is open; the next start takes note of its points
                    tracing::warn!("{}", error.body().message);
                }
            }
        }
        let stored = self.tiers.stored_count();
        if stored != self.counted_at || self.round.is_multiple_of(ROUNDS_BETWEEN_COUNTS) {
            self.counted_at = stored;
            self.tiers.vaults.count_buckets();
        }
    }

    /// What reads found damaged in vaults is known after a restart too.
    fn keep_damaged(&mut self) {
        for named in self.tiers.vaults.all() {
            let key = format!("vault {}", named.name);
            if self.left_alone.contains_key(&key) {
                continue;
            }
            if let Err(error) = named.keep_damaged(&self.tiers.catalog) {
                tracing::warn!(vault = named.name, "{}; it is written later", error.body().message);
                self.left_alone.insert(key, ROUNDS_AFTER_FAILURE);
            }
        }
    }

    fn make_sums(&mut self, named: &crate::disks::Named) {
        // a disk that does not serve has said why
        let Ok(disk) = named.disk() else { return };
        let mut began = self.clock.monotonic_ns();
        let made = disk.make_sums(&mut |_: ByteCount| {
            let took = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(began));
            let goes_on = self.bell.pause((3 * took).max(LEAST_PAUSE));
            began = self.clock.monotonic_ns();
            goes_on
        });
        match made {
            Ok(_) => {}
            // deleted or recovered meanwhile
            Err(layers::Error::Closed { .. }) => {}
            Err(error) => {
                tracing::warn!(disk = named.name, %error, "checksums of sealed layers are made later");
                self.left_alone.insert(named.name.clone(), ROUNDS_AFTER_FAILURE);
            }
        }
    }
}
