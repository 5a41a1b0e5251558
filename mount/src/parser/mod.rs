//! Interpreting a guest's bytes without trusting them: the supervisor's side. [`Parser`] starts, asks and replaces the
//! sandboxed child process; `docs/child-protocol.md` is what the two say to each other.

mod child;
mod pipe;
mod probe;
mod running;
pub mod sandbox;
pub mod wire;

pub(crate) use sandbox::close_descriptors;

use crate::{Error, Result};
use block::BlockSource;
use block::sync::{Mutex, lock};
use running::{ANSWER_NS, Ended, Running};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wire::{Answer, Request};

/// The argument that makes an executable the parser.
const ARGUMENT: &str = "--blockd-guest-parser";
/// Parsers side by side, so that one slow question does not hold up all others.
const PARSERS: usize = 2;
/// Questions remembered for having ended parsers. A guest with more of them is answered by trying again.
const MAX_FATAL: usize = 4096;

/// Becomes the parser if this process was started as one, and then does not return. To be called first in `main`,
/// before threads start or descriptors open.
pub(crate) fn child_entry() {
    let mut arguments = std::env::args_os();
    if arguments.nth(1).as_deref() == Some(OsStr::new(ARGUMENT)) {
        child::live();
        std::process::exit(0);
    }
}

/// The parsers of one disk.
pub struct Parser {
    source: Arc<dyn BlockSource>,
    executable: PathBuf,
    slots: [Mutex<Option<Running>>; PARSERS],
    fatal: Mutex<HashSet<Request>>,
}

impl Parser {
    /// Starts the first parser, so that a host that cannot sandbox it says so at once. `executable` must call
    /// [`child_entry`](crate::child_entry) first in its `main`.
    ///
    /// # Errors
    /// [`Error::Sandbox`] if the sandbox cannot be applied, [`Error::Host`] if the process cannot be started.
    pub fn start(source: Arc<dyn BlockSource>, executable: &Path) -> Result<Self> {
        let first = Running::start(executable)?;
        let slots = [Mutex::new(Some(first)), Mutex::new(None)];
        Ok(Self { source, executable: executable.to_owned(), slots, fatal: Mutex::default() })
    }

    /// Asks a question. A parser that is found dead or hangs is replaced, and asked again; a question that ends two in a
    /// row and one that is answered against the protocol fail, now and whenever they are asked again.
    ///
    /// # Errors
    /// What the parser reports, or [`Error::ParserLost`].
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        if lock(&self.fatal).contains(request) {
            return Err(Error::ParserLost {
                what: describe(request),
                how: "was lost before and is not tried again".to_owned(),
            });
        }
        let idle = self.slots.iter().find_map(|slot| slot.try_lock().ok());
        let mut slot = idle.unwrap_or_else(|| lock(&self.slots[0]));
        let mut ended = None;
        for patience_ns in ANSWER_NS {
            if !slot.as_mut().is_some_and(Running::is_alive) {
                *slot = None;
            }
            let running = match slot.take() {
                Some(running) => running,
                None => Running::start(&self.executable)?,
            };
            let running = slot.insert(running);
            match running.ask(&*self.source, request, patience_ns) {
                Ok(answer) => return answer,
                Err(end) => {
                    *slot = None;
                    let again = matches!(end, Ended::Died(_) | Ended::TooSlow);
                    ended = Some(end);
                    if !again {
                        break;
                    }
                }
            }
        }
        self.remember(request);
        let how = ended.map(|end| end.to_string()).unwrap_or_default();
        let error = Error::ParserLost { what: describe(request), how };
        tracing::warn!("{error}");
        Err(error)
    }

    /// The processes alive now.
    pub fn processes(&self) -> Vec<u32> {
        self.slots.iter().filter_map(|slot| lock(slot).as_ref().map(Running::process)).collect()
    }

    fn remember(&self, request: &Request) {
        let mut fatal = lock(&self.fatal);
        if fatal.len() >= MAX_FATAL {
            fatal.clear();
        }
        fatal.insert(request.clone());
    }
}

fn describe(request: &Request) -> String {
    format!("{:?} of the volume at {}", request.question, request.volume.start())
}
