//! The daemon's side of a watchdog.

use super::watchdog::{CONNECT_LIMIT, HELD_LIMIT, Order, Thawed, Told};
use crate::error::{Error, Result};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

/// A line of a watchdog has a reason or a list of applications.
const LINE_LIMIT: u64 = 256 << 10;

/// One that is at work.
pub struct Guard {
    order: Order,
    // closing it is a word too
    word: Option<ChildStdin>,
    told: Receiver<Told>,
}

impl Guard {
    /// Starts one, which begins at once.
    ///
    /// # Errors
    /// The process cannot be started.
    pub fn start(order: &Order) -> Result<Self> {
        let failed = |error| Error::host("start a watchdog", error);
        // this very program, also where another has taken its place meanwhile
        let mut child = Command::new("/proc/self/exe")
            .arg0("blockd")
            .arg("watchdog")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (mut word, out) = (child.stdin.take(), child.stdout.take());
        let text = serde_json::to_string(order).map_err(|error| failed(error.into()))?;
        if let Some(word) = &mut word {
            writeln!(word, "{text}").map_err(failed)?;
        }
        let (sender, told) = channel();
        std::thread::spawn(move || {
            let lines = out.map(|out| BufReader::new(out.take(LINE_LIMIT)).lines());
            for line in lines.into_iter().flatten().map_while(std::result::Result::ok) {
                let Ok(told) = serde_json::from_str(&line) else { break };
                if sender.send(told).is_err() {
                    break;
                }
            }
            // as long as the guest is owed a thaw, it is there
            child.wait().ok();
        });
        Ok(Self { order: order.clone(), word, told })
    }

    /// Waits until the guest is held still; why it is not.
    pub fn frozen(&self) -> Result<(), String> {
        // for its turn, its connection, and all the time a guest may be held
        match self.told.recv_timeout(2 * HELD_LIMIT + 2 * CONNECT_LIMIT) {
            Ok(Told::Frozen) => Ok(()),
            Ok(Told::Failed(why)) => Err(why),
            Ok(Told::Stuck(why)) => {
                Err(format!("{why}; the guest may be held still until its agent answers"))
            }
            Ok(Told::Thawed(_)) => Err("the watchdog let go at once".to_owned()),
            Err(RecvTimeoutError::Timeout) => Err("the watchdog said nothing".to_owned()),
            Err(RecvTimeoutError::Disconnected) => {
                self.succeed();
                Err("the watchdog ended".to_owned())
            }
        }
    }

    /// Lets the guest go on; how it was held, or why that is not known.
    pub fn thaw(mut self) -> Result<Thawed, String> {
        let said = self.word.take().map(|mut word| word.write_all(b"\n"));
        let told = self.told.recv_timeout(HELD_LIMIT + CONNECT_LIMIT);
        match (said, told) {
            (Some(Ok(())), Ok(Told::Thawed(thawed))) => Ok(thawed),
            (_, Ok(Told::Stuck(why))) => {
                Err(format!("{why}; the guest may be held still until its agent answers"))
            }
            (_, Ok(Told::Failed(why))) => Err(why),
            (_, Err(RecvTimeoutError::Timeout)) => {
                Err("the guest may still be held: no word of it".to_owned())
            }
            (_, Err(RecvTimeoutError::Disconnected)) => {
                self.succeed();
                Err("the watchdog ended before it let go; another one does".to_owned())
            }
            _ => Err("the watchdog did not hear that the seal is made".to_owned()),
        }
    }

    /// After a watchdog that was ended by somebody: another one lets the guest go on.
    fn succeed(&self) {
        if let Err(error) = thaw_owed(&self.order) {
            tracing::error!("a guest may be held still: {}", error.body().message);
        }
    }
}

/// Has a guest let go that may be held by nobody any more; does not wait for it.
///
/// # Errors
/// As [`Guard::start`].
pub fn thaw_owed(order: &Order) -> Result<()> {
    Guard::start(&Order { thaw_only: true, ..order.clone() }).map(drop)
}
