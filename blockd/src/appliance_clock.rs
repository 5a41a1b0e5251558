//! The appliance's time: that of the host, but never back, and with a look at jumps. `docs/time.md`.
//!
//! The latest time that was believed is kept in the file `clock` of the state directory. A host whose time is earlier is not
//! believed, and time stands until it is reached; one whose time is more than a day later than it can be is used, but nothing
//! is deleted before somebody says that it is right.

use crate::error::{Doing, Error, Result};
use crate::gate::stamp;
use block::linux::SystemClock;
use block::sync::{Mutex, lock};
use block::{Clock, Media, Time};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const FILE: &str = "clock";
const LIMIT_BYTES: u64 = 4096;

/// A jump is longer than this: clocks that drift or lose a second do not, daemons that were off for long do.
const JUMP_MS: u64 = 24 * 3600 * 1000;

/// How long a time that was believed may not be written down yet.
const PERSIST_MS: u64 = 60 * 1000;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    seen_unix_ms: u64,
}

/// The clock.
pub struct ApplianceClock {
    host: Arc<dyn Clock>,
    media: Arc<dyn Media>,
    believed: Mutex<Believed>,
}

struct Believed {
    // the latest believed time, and when it was so by the clock that only runs on
    seen_ms: u64,
    at_ns: u64,
    written_ms: u64,
    // a jump that nobody has answered for: the time it leads to
    jump_to_ms: Option<u64>,
}

/// A jump of the host's clock that nobody has answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jump {
    /// The latest time before it.
    pub from: Time,
    /// The time the host says it is.
    pub to: Time,
}

impl ApplianceClock {
    /// The clock of a state directory.
    ///
    /// # Errors
    /// What the host reports.
    pub fn open(media: Arc<dyn Media>) -> Result<Self> {
        Self::over(Arc::new(SystemClock), media)
    }

    fn over(host: Arc<dyn Clock>, media: Arc<dyn Media>) -> Result<Self> {
        let now_ms = host.now().unix_ms;
        let (seen_ms, is_new) = match media.read_whole(FILE, LIMIT_BYTES) {
            Ok(bytes) => {
                match std::str::from_utf8(&bytes).ok().and_then(|text| toml::from_str::<File>(text).ok()) {
                    Some(file) => (file.seen_unix_ms, false),
                    None => {
                        tracing::error!(
                            "the file {FILE} is damaged: nothing is deleted before somebody says that the time is right"
                        );
                        (0, false)
                    }
                }
            }
            Err(error) if error.kind() == block::Kind::NotFound => (now_ms, true),
            Err(error) => return Err(Error::below(format!("read {FILE}"), error)),
        };
        let at_ns = host.monotonic_ns();
        let believed = Believed { seen_ms, at_ns, written_ms: seen_ms, jump_to_ms: None };
        let clock = Self { host, media, believed: Mutex::new(believed) };
        if is_new {
            clock.write(now_ms)?;
        }
        clock.look(&mut lock(&clock.believed));
        Ok(clock)
    }

    /// Takes note of the time, and now and then writes it down.
    pub fn tick(&self) {
        let mut believed = lock(&self.believed);
        self.look(&mut believed);
        if believed.seen_ms.saturating_sub(believed.written_ms) < PERSIST_MS {
            return;
        }
        match self.write(believed.seen_ms) {
            Ok(()) => believed.written_ms = believed.seen_ms,
            Err(error) => tracing::warn!("{}", error.body().message),
        }
    }

    /// The jump that nobody has answered for, if there is one.
    pub fn jump(&self) -> Option<Jump> {
        let mut believed = lock(&self.believed);
        self.look(&mut believed);
        let to = believed.jump_to_ms?;
        Some(Jump { from: Time { unix_ms: believed.seen_ms }, to: Time { unix_ms: to } })
    }

    /// Why nothing may be deleted now, if so.
    pub fn freezes(&self) -> Option<String> {
        let jump = self.jump()?;
        let (from, to) = (stamp(jump.from), stamp(jump.to));
        Some(format!("the clock jumped from {from} to {to}, and nobody has said that this is right"))
    }

    /// Takes the host's time for right. The jump that was answered for, if there was one.
    ///
    /// # Errors
    /// What the host reports; then it is not believed.
    pub fn accept(&self) -> Result<Option<Jump>> {
        let jump = self.jump();
        let mut believed = lock(&self.believed);
        let now_ms = self.host.now().unix_ms.max(believed.seen_ms);
        self.write(now_ms)?;
        let at_ns = self.host.monotonic_ns();
        *believed = Believed { seen_ms: now_ms, at_ns, written_ms: now_ms, jump_to_ms: None };
        Ok(jump)
    }

    /// Compares the host's time with what it can be.
    fn look(&self, believed: &mut Believed) {
        let (now_ms, at_ns) = (self.host.now().unix_ms, self.host.monotonic_ns());
        let elapsed_ms = at_ns.saturating_sub(believed.at_ns) / 1_000_000;
        if now_ms > believed.seen_ms.saturating_add(elapsed_ms).saturating_add(JUMP_MS) {
            // the time before stays what is believed: once the host is set right, there was no jump
            believed.jump_to_ms = Some(now_ms);
            return;
        }
        believed.jump_to_ms = None;
        if now_ms > believed.seen_ms {
            (believed.seen_ms, believed.at_ns) = (now_ms, at_ns);
        }
    }

    fn write(&self, seen_unix_ms: u64) -> Result<()> {
        let doing = || "write down what time it is".to_owned();
        let text = toml::to_string(&File { seen_unix_ms })
            .map_err(|error| Error::said(control::Kind::Io, doing(), error.to_string()))?;
        self.media.replace(FILE, text.as_bytes()).doing(doing)
    }
}

impl Clock for ApplianceClock {
    fn now(&self) -> Time {
        let mut believed = lock(&self.believed);
        self.look(&mut believed);
        Time { unix_ms: self.host.now().unix_ms.max(believed.seen_ms) }
    }

    fn monotonic_ns(&self) -> u64 {
        self.host.monotonic_ns()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block::linux::LinuxMedia;
    use std::sync::atomic::{AtomicU64, Ordering};

    const DAY: u64 = JUMP_MS;
    const NOW: u64 = 1_800_000_000_000;

    /// A host whose clocks are set by hand.
    #[derive(Default)]
    struct Host {
        wall_ms: AtomicU64,
        run_ms: AtomicU64,
    }

    impl Clock for Host {
        fn now(&self) -> Time {
            Time { unix_ms: self.wall_ms.load(Ordering::SeqCst) }
        }

        fn monotonic_ns(&self) -> u64 {
            self.run_ms.load(Ordering::SeqCst) * 1_000_000
        }
    }

    struct Bench {
        host: Arc<Host>,
        dir: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let bench = Self { host: Arc::default(), dir: tempfile::tempdir().expect("a directory") };
            bench.set(NOW);
            bench
        }

        fn set(&self, wall_ms: u64) {
            self.host.wall_ms.store(wall_ms, Ordering::SeqCst);
        }

        fn pass(&self, ms: u64) {
            self.host.wall_ms.fetch_add(ms, Ordering::SeqCst);
            self.host.run_ms.fetch_add(ms, Ordering::SeqCst);
        }

        fn open(&self) -> ApplianceClock {
            let media = Arc::new(LinuxMedia::new(self.dir.path(), self.dir.path()).expect("media"));
            ApplianceClock::over(self.host.clone(), media).expect("a clock")
        }
    }

    #[test]
    fn time_never_goes_back_also_over_a_restart() {
        let bench = Bench::new();
        let clock = bench.open();
        bench.pass(DAY / 2);
        clock.tick();
        bench.set(NOW - DAY);
        assert_eq!(clock.now().unix_ms, NOW + DAY / 2);
        drop(clock);
        let clock = bench.open();
        assert_eq!(clock.now().unix_ms, NOW + DAY / 2);
        assert_eq!(clock.jump(), None);
        bench.set(NOW + DAY);
        assert_eq!(clock.now().unix_ms, NOW + DAY);
    }

    #[test]
    fn a_jump_freezes_until_it_is_accepted_or_taken_back() {
        let bench = Bench::new();
        let clock = bench.open();
        bench.pass(40 * DAY);
        assert_eq!(clock.freezes(), None, "time that passed is no jump");
        let before = NOW + 40 * DAY;
        bench.set(before + DAY);
        assert_eq!(clock.freezes(), None, "a day is none");
        bench.set(before + 3 * DAY);
        assert!(clock.freezes().is_some());
        clock.tick();
        drop(clock);
        // not forgotten by a restart, and not outwaited
        let clock = bench.open();
        bench.pass(5 * DAY);
        assert!(clock.freezes().is_some());
        // the host is set right: there was no jump
        bench.set(before + DAY + 1000);
        assert_eq!(clock.freezes(), None);
        bench.set(before + 30 * DAY);
        let jump = clock.jump().expect("a jump");
        assert_eq!(jump.to.unix_ms, before + 30 * DAY);
        assert_eq!(clock.accept().expect("accepted"), Some(jump));
        assert_eq!(clock.freezes(), None);
        drop(clock);
        let clock = bench.open();
        assert_eq!((clock.freezes(), clock.now().unix_ms), (None, before + 30 * DAY));
    }

    #[test]
    fn a_daemon_that_was_off_for_long_and_a_damaged_file_freeze() {
        let bench = Bench::new();
        drop(bench.open());
        bench.set(NOW + 2 * DAY);
        assert!(bench.open().freezes().is_some());
        std::fs::write(bench.dir.path().join(FILE), "seen = ").expect("damaged");
        let clock = bench.open();
        assert!(clock.freezes().is_some());
        clock.accept().expect("accepted");
        assert_eq!(bench.open().freezes(), None);
    }
}
