//! The guest agent, qemu-ga: it holds a guest's filesystems still, and reads a file of the guest. It is reached through libvirt, or at
//! the socket of its channel where there is no libvirt. What it says is a guest's word.

use crate::error::{Error, Result};
use crate::lines::{Deadline, Lines};
use crate::uri::Uri;
use crate::virsh::Virsh;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More filesystems than this no guest has.
const MOST_FILESYSTEMS: u64 = 100_000;

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// At a unix socket, the chardev of its channel.
    Socket(PathBuf),
    /// Behind a libvirt.
    Libvirt {
        /// Which.
        uri: String,
        /// Its name of the machine.
        domain: String,
    },
}

/// How an agent is spoken to.
enum Way {
    Socket(Lines),
    Libvirt(Virsh, String),
}

/// What libvirt takes beside the agent.
const VIRSH_LIMIT: Duration = Duration::from_secs(1);
/// How often it is asked whether a program in the guest has ended.
const EXEC_STEP: Duration = Duration::from_millis(100);

/// How a program in a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub exit_code: Option<i64>,
    /// What it printed and complained of, as much of it as the agent keeps.
    pub output: String,
}

/// A connection with an agent that has answered.
pub struct Agent {
    way: Way,
    what: String,
}

impl Agent {
    /// Connects, and makes sure that what is answered from now on are answers to us.
    ///
    /// # Errors
    /// `Unreachable`; `TimedOut` if no agent runs in the guest, or another client has it.
    pub fn connect(channel: &Channel, within: Duration) -> Result<Self> {
        match channel {
            Channel::Socket(path) => {
                let what = format!("the guest agent at {}", path.display());
                let lines = synced(path, &what, Deadline::after(within))?;
                Ok(Self { way: Way::Socket(lines), what })
            }
            Channel::Libvirt { uri, domain } => {
                let what = format!("the guest agent of {domain}");
                let way = Way::Libvirt(Virsh::new(Uri::parse(uri)?), domain.clone());
                let mut agent = Self { way, what };
                // libvirt itself makes sure that answers are to us
                agent.call("guest-ping", Value::Null, within)?;
                Ok(agent)
            }
        }
    }

    fn call(&mut self, command: &str, arguments: Value, within: Duration) -> Result<Value> {
        let request = match arguments.is_null() {
            true => json!({ "execute": command }),
            false => json!({ "execute": command, "arguments": arguments }),
        };
        let line = match &mut self.way {
            Way::Socket(lines) => {
                let deadline = Deadline::after(within);
                lines.send(&request, deadline)?;
                lines.receive(deadline)?
            }
            Way::Libvirt(virsh, domain) => {
                let seconds = within.as_secs().max(1).to_string();
                let words =
                    ["qemu-agent-command", "--timeout", &seconds, "--domain", domain, &request.to_string()];
                let said = virsh.clone().patient(within + VIRSH_LIMIT).ask(&words, b"")?;
                serde_json::from_str(&said).map_err(|_| self.wrong(command, &Value::Null))?
            }
        };
        answer(line, command, &self.what)
    }

    /// Holds all filesystems still; how many.
    ///
    /// # Errors
    /// `Said` with the agent's words, as when a hook in the guest failed; `TimedOut`: then some may be held.
    pub fn freeze(&mut self, within: Duration) -> Result<u64> {
        self.count("guest-fsfreeze-freeze", within)
    }

    /// Lets them go on; how many were held.
    ///
    /// # Errors
    /// `Said`, `TimedOut`, `Unreachable`.
    pub fn thaw(&mut self, within: Duration) -> Result<u64> {
        self.count("guest-fsfreeze-thaw", within)
    }

    fn count(&mut self, command: &str, within: Duration) -> Result<u64> {
        let said = self.call(command, Value::Null, within)?;
        said.as_u64().filter(|count| *count <= MOST_FILESYSTEMS).ok_or_else(|| self.wrong(command, &said))
    }

    /// Whether they are held.
    ///
    /// # Errors
    /// `Said`, `TimedOut`, `Unreachable`.
    pub fn is_frozen(&mut self, within: Duration) -> Result<bool> {
        let said = self.call("guest-fsfreeze-status", Value::Null, within)?;
        match said.as_str() {
            Some("frozen") => Ok(true),
            Some("thawed") => Ok(false),
            _ => Err(self.wrong("guest-fsfreeze-status", &said)),
        }
    }

    /// The beginning of a file of the guest, at most `limit` bytes.
    ///
    /// # Errors
    /// `Said` if there is none, or the agent does not give files out.
    pub fn read_file(&mut self, path: &str, limit: u32, within: Duration) -> Result<Vec<u8>> {
        let handle = self.call("guest-file-open", json!({ "path": path, "mode": "r" }), within)?;
        let read = self.call("guest-file-read", json!({ "handle": handle, "count": limit }), within);
        self.call("guest-file-close", json!({ "handle": handle }), within)?;
        let read = read?;
        let bytes = read["buf-b64"].as_str().and_then(|text| STANDARD.decode(text).ok());
        bytes
            .filter(|bytes| bytes.len() <= limit as usize)
            .ok_or_else(|| self.wrong("guest-file-read", &Value::Null))
    }

    /// Runs a command of a shell in the guest, to its end.
    ///
    /// # Errors
    /// `Said` if the agent runs no programs; `TimedOut` if it does not end: it goes on in the guest then.
    pub fn shell(&mut self, command: &str, within: Duration) -> Result<Ended> {
        let deadline = Deadline::after(within);
        let arguments = json!({ "path": "/bin/sh", "arg": ["-c", command], "capture-output": true });
        let started = self.call("guest-exec", arguments, within)?;
        let pid = started["pid"].as_i64().ok_or_else(|| self.wrong("guest-exec", &started))?;
        while let Some(left) = deadline.left() {
            let status = self.call("guest-exec-status", json!({ "pid": pid }), left)?;
            if status["exited"] == true {
                let text = |name: &str| {
                    let bytes = status[name].as_str().and_then(|text| STANDARD.decode(text).ok());
                    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
                };
                let output = text("out-data") + &text("err-data");
                return Ok(Ended { exit_code: status["exitcode"].as_i64(), output });
            }
            std::thread::sleep(EXEC_STEP);
        }
        Err(Error::TimedOut { program: format!("{command:?} in the guest"), seconds: within.as_secs() })
    }

    fn wrong(&self, command: &str, said: &Value) -> Error {
        let shown: String = said.to_string().chars().take(100).collect();
        Error::Garbage { what: self.what.clone(), why: format!("answers {command} with {shown}") }
    }
}

/// A conversation in which what is answered from now on are answers to us.
fn synced(path: &Path, what: &str, deadline: Deadline) -> Result<Lines> {
    let mut lines = Lines::connect(path, what, deadline)?;
    let id = u64::from(std::process::id()) << 20 | fresh();
    let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } });
    lines.send_delimited(&sync, deadline)?;
    loop {
        match lines.receive(deadline) {
            Ok(answer) if answer["return"] == id => return Ok(lines),
            // what was meant for an earlier client
            Ok(_) | Err(Error::Garbage { .. }) if deadline.left().is_some() => {}
            Ok(_) => {
                return Err(Error::Garbage {
                    what: what.to_owned(),
                    why: "answers somebody else".to_owned(),
                });
            }
            Err(error) => return Err(error),
        }
    }
}

/// A number that was not used before in this process.
fn fresh() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn answer(line: Value, command: &str, what: &str) -> Result<Value> {
    if let Some(error) = line.get("error") {
        let why = error["desc"].as_str().unwrap_or("no reason given").chars().take(1000).collect();
        return Err(crate::lines::refused(format!("{command} of {what}"), why));
    }
    line.get("return").cloned().ok_or_else(|| Error::Garbage {
        what: what.to_owned(),
        why: format!("answers {command} with neither a result nor an error"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_result_or_the_agents_reason() {
        assert_eq!(answer(json!({"return": 3}), "x", "it").expect("a result"), json!(3));
        let refused = answer(json!({"error": {"desc": "hook failed"}}), "x", "it").expect_err("refused");
        assert!(refused.to_string().contains("hook failed"), "{refused}");
        assert!(answer(json!([]), "x", "it").is_err());
    }
}
