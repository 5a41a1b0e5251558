//! A recovery point that only a vault holds, as something to stand on.
//!
//! While the vault's store does not answer, whoever reads what is not here yet waits, and goes on once it is back; never
//! longer than a guest's driver does. How many may wait is bounded, as each holds up a connection.

use super::Spare;
use block::sync::{Condvar, Mutex, lock};
use block::{BlockSource, ByteCount, ByteOffset, ByteRange, Error, Kind, Result, VaultId, Visit};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vault::{ManifestId, Vault};

/// The longest a request waits: the kernel's drivers give a device 20 or 30 seconds.
const LONGEST: Duration = Duration::from_secs(15);
/// Between two looks whether the store is back.
const RETRY: Duration = Duration::from_millis(200);
/// Requests that may wait at a time; further ones fail at once.
const WAITING_LIMIT: u64 = 128;

/// A store that has not answered a request for so long is said not to answer, whatever becomes of the request.
const SILENCE: Duration = Duration::from_secs(2);

/// Those who wait for stores, of all disks.
#[derive(Default)]
pub struct Patience {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    count: u64,
    is_stopping: bool,
}

/// A request that waits.
struct Waiter<'a>(&'a Patience);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).count -= 1;
    }
}

impl Patience {
    /// Nobody waits from now on: the daemon stops.
    pub fn stop(&self) {
        lock(&self.state).is_stopping = true;
        self.changed.notify_all();
    }

    fn begin(&self) -> Option<Waiter<'_>> {
        let mut state = lock(&self.state);
        if state.is_stopping || state.count >= WAITING_LIMIT {
            return None;
        }
        state.count += 1;
        Some(Waiter(self))
    }

    /// Sleeps a little; whether to go on waiting.
    fn pause(&self) -> bool {
        let waited = self.changed.wait_timeout_while(lock(&self.state), RETRY, |state| !state.is_stopping);
        !waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0.is_stopping
    }

    /// How many wait.
    pub fn waiting(&self) -> u64 {
        lock(&self.state).count
    }
}

/// The requests that were made of a store and that nothing was said to yet.
#[derive(Default)]
struct Asked {
    made: u64,
    /// When each began: the first is the oldest.
    open: BTreeMap<u64, Instant>,
}

/// One of them.
struct Question<'a> {
    asked: &'a Mutex<Asked>,
    number: u64,
}

impl<'a> Question<'a> {
    fn to(asked: &'a Mutex<Asked>) -> Self {
        let mut state = lock(asked);
        state.made += 1;
        let number = state.made;
        state.open.insert(number, now());
        Self { asked, number }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        lock(self.asked).open.remove(&self.number);
    }
}

/// A recovery point of a vault, open.
pub struct StoredPoint {
    /// The vault and the point in it.
    pub key: (VaultId, ManifestId),
    /// What the vault is called.
    pub vault_name: String,
    vault: Arc<Vault>,
    image: Arc<dyn BlockSource>,
    spare: Spare,
    patience: Arc<Patience>,
    asked: Mutex<Asked>,
    is_away: AtomicBool,
    why: Mutex<Option<String>>,
}

impl StoredPoint {
    /// Opens a point. What is damaged of it is read from the spare.
    ///
    /// # Errors
    /// What the vault says.
    pub fn open(
        vault_name: &str,
        vault: &Arc<Vault>,
        manifest: ManifestId,
        spare: Spare,
        patience: &Arc<Patience>,
    ) -> vault::Result<Self> {
        Ok(Self {
            key: (vault.id(), manifest),
            vault_name: vault_name.to_owned(),
            vault: vault.clone(),
            image: vault.image(&manifest)?,
            spare,
            patience: patience.clone(),
            asked: Mutex::default(),
            is_away: AtomicBool::new(false),
            why: Mutex::default(),
        })
    }

    /// Why its store does not answer now, if so.
    pub fn away(&self) -> Option<String> {
        lock(&self.why).clone().or_else(|| self.silent().map(|(_, why)| why))
    }

    /// How many requests a store that neither answers nor fails has left without an answer, and for how long.
    pub fn silent(&self) -> Option<(u64, String)> {
        let asked = lock(&self.asked);
        let oldest = asked.open.values().next()?.elapsed();
        let count = asked.open.values().take_while(|since| since.elapsed() >= SILENCE).count();
        (count > 0).then(|| (count as u64, format!("it has said nothing for {} s", oldest.as_secs())))
    }

    /// How many requests wait for it.
    pub fn waiting(&self) -> u64 {
        self.patience.waiting().max(self.silent().map_or(0, |(count, _)| count))
    }

    fn says(&self, why: Option<String>) {
        let is_away = why.is_some();
        if self.is_away.swap(is_away, Ordering::SeqCst) != is_away {
            let vault = &self.vault_name;
            match &why {
                Some(why) => tracing::warn!(vault, "its store does not answer: {why}"),
                None => tracing::info!(vault, "its store answers again"),
            }
        }
        *lock(&self.why) = why;
    }

    /// Asks again and again while the store does not answer.
    fn patiently(&self, mut ask: impl FnMut() -> Result<()>) -> Result<()> {
        let _question = Question::to(&self.asked);
        let Err(mut last) = ask() else {
            if self.is_away.load(Ordering::Relaxed) {
                self.says(None);
            }
            return Ok(());
        };
        let began = now();
        let mut waiter = None;
        loop {
            // what fails although the store answers is damage, or was the moment in which it came back
            let answers = self.vault.probe();
            if answers.is_ok() {
                let again = ask();
                self.says(None);
                return again;
            }
            self.says(answers.err().map(|error| error.to_string()));
            if waiter.is_none() {
                waiter = self.patience.begin();
            }
            if waiter.is_none() || began.elapsed() >= LONGEST || !self.patience.pause() {
                let what = format!("vault {}", self.vault_name);
                last = Error::refused(Kind::Io, what, format!("its store does not answer: {last}"));
                return Err(last);
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a guest's patience is measured by its host's clock")]
fn now() -> Instant {
    Instant::now()
}

impl BlockSource for StoredPoint {
    fn size(&self) -> ByteCount {
        self.image.size()
    }

    fn read_at(&self, offset: ByteOffset, buf: &mut [u8]) -> Result<()> {
        let read = self.patiently(|| self.image.read_at(offset, buf));
        self.spare.save(read, offset, buf).map(drop)
    }

    fn extents(&self, range: ByteRange, visit: &mut Visit<'_>) -> Result<()> {
        // what was visited is not visited again
        let (mut from, mut stopped) = (range.start(), false);
        let visited = self.patiently(|| {
            let rest = ByteRange::between(from, range.end());
            if stopped || rest.is_empty() && from > range.start() {
                return Ok(());
            }
            self.image.extents(rest, &mut |extent| {
                from = extent.range.end();
                let flow = visit(extent);
                stopped = flow.is_break();
                flow
            })
        });
        self.spare.save_extents(visited, ByteRange::between(from, range.end()), stopped, visit)
    }

    fn is_near(&self, range: ByteRange) -> bool {
        self.image.is_near(range)
    }
}
