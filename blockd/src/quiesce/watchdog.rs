//! `blockd watchdog`: a process of its own that holds a guest's filesystems still and lets them go. The daemon tells it by a pipe;
//! when that closes, because the daemon said so or because it is no more, or when the time is over, the guest goes on.

use crate::error::{Error, Result};
use block::Clock;
use block::linux::SystemClock;
use machines::agent::{Agent, Channel};
use machines::report::{self, Report};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::time::Timespec;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A guest is held still for no longer, whatever happens: the databases and clusters in it have limits of their own.
pub const HELD_LIMIT: Duration = Duration::from_secs(10);
/// Of that, what the seal has; the rest is for letting go.
const SEAL_LIMIT: Duration = Duration::from_secs(8);
/// And what the agent has for holding them.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// An agent that runs answers at once.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
const STEP_LIMIT: Duration = Duration::from_secs(1);
/// The pause between two attempts to let go, and how long they go on: nothing else can help the guest.
const PAUSE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(3600);
/// How long another point of the same machine may take.
const TURN_LIMIT: Duration = Duration::from_secs(12);

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The guest's agent.
    pub channel: Channel,
    /// A file that says, as long as it has something in it, that the guest is owed a thaw.
    pub owed: PathBuf,
    /// Only let go: somebody who held it is no more.
    #[serde(default)]
    pub thaw_only: bool,
}

/// What is told, a line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It is held still.
    Frozen,
    /// It is not, and goes on.
    Failed(String),
    /// It goes on.
    Thawed(Thawed),
    /// It may still be held: the agent does not let go. It is tried again and again.
    Stuck(String),
}

/// How the guest was held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thawed {
    /// Why it does not count: it was not held until the thaw.
    pub broken: Option<String>,
    /// From before it was held until after.
    pub held_ms: u64,
    /// Applications that were quiet all the time, by the word of the guest's hook.
    pub applications: Vec<String>,
    /// Those that were not, and why.
    pub failed: Vec<String>,
}

/// The process.
///
/// # Errors
/// The order cannot be read.
pub fn run() -> Result<()> {
    // whoever ends the daemon's processes means the daemon, and a guest may be held
    let told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, told_to_end.clone())
            .map_err(|error| Error::host("outlive signals", error))?;
    }
    let wrong = |why: String| Error::said(control::Kind::Invalid, "watchdog's order", why);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|error| Error::host("read the order", error))?;
    let order: Order = serde_json::from_str(&line).map_err(|error| {
        wrong(error.to_string()).with_help("the daemon starts it; there is nothing to call by hand")
    })?;
    match Debt::take(&order) {
        Ok(debt) => Watchdog { order, debt, told_to_end }.work(),
        Err(why) => tell(&Told::Failed(why)),
    }
    Ok(())
}

/// Tells the daemon, if it is still there.
fn tell(told: &Told) {
    let line = serde_json::to_string(told).unwrap_or_default();
    let mut out = std::io::stdout().lock();
    // a daemon that is no more learns of it from the file
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// The file that says that a guest is owed a thaw, and the right to hold that guest.
struct Debt(File);

impl Debt {
    fn take(order: &Order) -> Result<Self, String> {
        let path = order.owed.display();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&order.owed).map_err(|error| format!("open {path}: {error}"))?;
        let began = now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(Errno::WOULDBLOCK) if since(began) < TURN_LIMIT => std::thread::sleep(PAUSE / 10),
                Err(Errno::WOULDBLOCK) => return Err("another process holds this machine still".to_owned()),
                Err(error) => return Err(format!("lock {path}: {error}")),
            }
        }
    }

    fn write(&mut self, order: &Order) -> std::io::Result<()> {
        let text = serde_json::to_string(&Order { thaw_only: true, ..order.clone() })?;
        self.0.set_len(0)?;
        self.0.write_all(text.as_bytes())
    }

    fn paid(&self) {
        // what stays is thawed once more than needed
        self.0.set_len(0).ok();
    }
}

struct Watchdog {
    order: Order,
    debt: Debt,
    told_to_end: Arc<AtomicBool>,
}

impl Watchdog {
    fn work(mut self) {
        if self.order.thaw_only {
            return self.let_go(None, |_| Told::Thawed(Thawed::none()));
        }
        let mut agent = match Agent::connect(&self.order.channel, CONNECT_LIMIT) {
            Ok(agent) => agent,
            Err(error) => return tell(&Told::Failed(with_causes(&error))),
        };
        let earlier = read_report(&mut agent).map(|report| report.id);
        if let Err(error) = self.debt.write(&self.order) {
            let path = self.order.owed.display();
            return tell(&Told::Failed(format!("write {path}: {error}")));
        }
        let began = now();
        if let Err(why) = freeze(&mut agent) {
            return self.let_go(Some(agent), |_| Told::Failed(why));
        }
        tell(&Told::Frozen);
        let broken = wait_for_word(SEAL_LIMIT.saturating_sub(since(began))).or_else(|| still(&mut agent));
        self.let_go(Some(agent), |agent| {
            let held_ms = u64::try_from(since(began).as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
            let report = read_report(agent).filter(|report| Some(&report.id) != earlier.as_ref());
            let report = report.unwrap_or_default();
            let applications = report.kept.into_iter().collect();
            Told::Thawed(Thawed { broken, held_ms, applications, failed: report.failed })
        });
    }

    /// Lets the guest go on, whatever it takes; then tells what there is to tell.
    fn let_go(self, mut agent: Option<Agent>, outcome: impl FnOnce(&mut Agent) -> Told) {
        let (began, mut is_told) = (now(), false);
        loop {
            let thawed = match agent.take() {
                Some(agent) => Ok(agent),
                None => Agent::connect(&self.order.channel, CONNECT_LIMIT),
            }
            .and_then(|mut agent| agent.thaw(CONNECT_LIMIT).map(|_| agent));
            let error = match thawed {
                Ok(mut agent) => {
                    self.debt.paid();
                    return tell(&outcome(&mut agent));
                }
                Err(error) => error,
            };
            if let machines::Error::Unreachable { .. } = error
                && since(began) > HELD_LIMIT
            {
                // there is no channel any more, and so no machine that could be held
                self.debt.paid();
                return tell(&Told::Failed(with_causes(&error)));
            }
            if !is_told && since(began) > STEP_LIMIT {
                is_told = true;
                tell(&Told::Stuck(with_causes(&error)));
            }
            // a service manager waits for it before it starts the next daemon, which goes on here
            if since(began) > PATIENCE || self.told_to_end.load(Ordering::SeqCst) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

impl Thawed {
    fn none() -> Self {
        Self { broken: None, held_ms: 0, applications: Vec::new(), failed: Vec::new() }
    }
}

/// Holds the filesystems; why they are not held. An agent's word alone is not taken: it is asked once more.
fn freeze(agent: &mut Agent) -> Result<(), String> {
    match agent.freeze(FREEZE_LIMIT) {
        Ok(0) => return Err("the guest agent found no filesystem to hold still".to_owned()),
        Ok(_) => {}
        Err(error) => return Err(with_causes(&error)),
    }
    match agent.is_frozen(STEP_LIMIT) {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err("the guest agent says that it holds filesystems still and that it does not".to_owned())
        }
        Err(error) => Err(with_causes(&error)),
    }
}

/// Why the filesystems were not held until now, if they were not.
fn still(agent: &mut Agent) -> Option<String> {
    match agent.is_frozen(STEP_LIMIT) {
        Ok(true) => None,
        Ok(false) => Some("the guest went on before the seal was durable".to_owned()),
        Err(error) => Some(with_causes(&error)),
    }
}

fn read_report(agent: &mut Agent) -> Option<Report> {
    let bytes = agent.read_file(report::PATH, report::LIMIT_BYTES, STEP_LIMIT).ok()?;
    Report::parse(&bytes)
}

/// Waits for the daemon's word or its end; why the wait was too long.
fn wait_for_word(limit: Duration) -> Option<String> {
    let (stdin, began) = (std::io::stdin(), now());
    loop {
        let Some(left) = limit.checked_sub(since(began)) else {
            return Some(format!("the seal took longer than {} s", SEAL_LIMIT.as_secs()));
        };
        let span = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&span)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => {
                let mut byte = [0];
                return match stdin.lock().read(&mut byte) {
                    Ok(1) => None,
                    _ => Some("the daemon ended meanwhile".to_owned()),
                };
            }
            Err(error) => return Some(format!("wait for the daemon: {error}")),
        }
    }
}

fn now() -> u64 {
    SystemClock.monotonic_ns()
}

fn since(began: u64) -> Duration {
    Duration::from_nanos(now().saturating_sub(began))
}

fn with_causes(error: &machines::Error) -> String {
    control::with_causes(error)
}
