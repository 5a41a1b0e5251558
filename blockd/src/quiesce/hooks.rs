//! What `blockd.toml` says of a machine: where its guest agent is, and programs of the host that run before it is held still and after
//! it goes on again. They are named there and not over the API, since they run as the daemon does.

use crate::error::{Doing, Error, Result};
use control::{Consistency, Kind};
use serde::Deserialize;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long a program may take unless configured, and at most.
const DEFAULT_SECONDS: u64 = 30;
const MOST_SECONDS: u64 = 3600;
/// How much of what a program complains of is passed on.
const COMPLAINT_LIMIT: usize = 500;

/// The keys of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MachineKeys {
    /// The socket of its guest agent, where no libvirt has it.
    pub agent: Option<PathBuf>,
    /// What is tried.
    pub consistency: Option<Consistency>,
    /// Before the filesystems are held still.
    pre: Option<Vec<String>>,
    /// After they go on.
    post: Option<Vec<String>>,
    /// How long each may take.
    timeout_seconds: Option<u64>,
    /// A `pre` that ended well has the machine's applications quiet until `post`.
    #[serde(default)]
    pub quiesces: bool,
}

impl MachineKeys {
    /// What is wrong with them, if something is.
    ///
    /// # Errors
    /// What is wrong with which key.
    pub fn check(&self) -> Result<(), String> {
        let names_none = |words: &Option<Vec<String>>| words.as_ref().is_some_and(Vec::is_empty);
        if names_none(&self.pre) || names_none(&self.post) {
            return Err("pre or post names no program".to_owned());
        }
        if self.quiesces && self.pre.is_none() {
            return Err("quiesces is the word of a pre, and there is none".to_owned());
        }
        if self.agent.as_ref().is_some_and(|agent| !agent.is_absolute()) {
            return Err("agent is no absolute path".to_owned());
        }
        match self.timeout_seconds {
            Some(seconds) if !(1..=MOST_SECONDS).contains(&seconds) => {
                Err(format!("timeout-seconds is {seconds}, must be 1 to {MOST_SECONDS}"))
            }
            _ => Ok(()),
        }
    }

    /// Runs the program before.
    ///
    /// # Errors
    /// It failed, or took too long.
    pub fn before(&self, machine: &str) -> Result<()> {
        self.run("pre", self.pre.as_deref(), machine)
    }

    /// Runs the program after.
    ///
    /// # Errors
    /// It failed, or took too long.
    pub fn after(&self, machine: &str) -> Result<()> {
        self.run("post", self.post.as_deref(), machine)
    }

    fn run(&self, phase: &str, words: Option<&[String]>, machine: &str) -> Result<()> {
        let Some((program, args)) = words.and_then(|words| words.split_first()) else { return Ok(()) };
        let mut command = Command::new(program);
        command.args(args).env("BLOCKD_MACHINE", machine).env("BLOCKD_PHASE", phase);
        let limit = Duration::from_secs(self.timeout_seconds.unwrap_or(DEFAULT_SECONDS));
        let what = || format!("the {phase} hook of {machine}");
        let ended = machines::command::run(command, b"", limit).doing(what)?;
        if ended.success {
            return Ok(());
        }
        let said: String = ended.complaint.chars().take(COMPLAINT_LIMIT).collect();
        let why = if said.is_empty() { format!("{program} failed") } else { format!("{program}: {said}") };
        Err(Error::said(Kind::Unavailable, what(), why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hooks(text: &str) -> MachineKeys {
        toml::from_str(text).expect("hooks")
    }

    #[test]
    fn a_hook_that_fails_or_hangs_says_so_and_knows_its_machine() {
        let good = hooks("pre = [\"sh\", \"-c\", \"test $BLOCKD_MACHINE-$BLOCKD_PHASE = vm/web-pre\"]");
        good.before("vm/web").expect("it ends well");
        good.after("vm/web").expect("there is none");
        let bad = hooks("post = [\"sh\", \"-c\", \"echo full >&2; exit 3\"]").after("vm/web");
        assert!(bad.expect_err("it fails").body().message.contains("full"));
        let slow = hooks("pre = [\"sleep\", \"60\"]\ntimeout-seconds = 1").before("vm/web");
        assert_eq!(slow.expect_err("it hangs").kind(), Kind::Unavailable);
        assert!(hooks("pre = [\"/no/such/program\"]").before("vm/web").is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            "pre = []",
            "agent = \"a.sock\"",
            "quiesces = true",
            "timeout-seconds = 0",
            "timeout-seconds = 3601",
        ] {
            assert!(hooks(bad).check().is_err(), "{bad}");
        }
        assert!(hooks("pre = [\"true\"]\nquiesces = true\ntimeout-seconds = 5").check().is_ok());
    }
}
