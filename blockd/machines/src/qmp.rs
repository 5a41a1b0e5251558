//! qemu's own protocol, QMP: commands, answers and events over a unix socket.

use crate::error::{Error, Result};
use crate::lines::{Deadline, Lines, refused};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// Events that nobody has asked for yet. A machine that sends more during one command is not a sound one.
const EVENT_LIMIT: usize = 4096;

/// A connection, ready for commands.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines,
    events: VecDeque<Value>,
    next_id: u64,
}

/// What a line from qemu is.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Answer(u64, Value),
    Refusal(Option<u64>, String),
    Event(Value),
    Other,
}

impl Qmp {
    /// Connects and says that no extensions are wanted.
    ///
    /// # Errors
    /// `Unreachable`, `TimedOut`; `Garbage` if it is no qemu that answers.
    pub fn connect(path: &Path, within: Duration) -> Result<Self> {
        let deadline = Deadline::after(within);
        let what = format!("qemu at {}", path.display());
        let mut lines = Lines::connect(path, what, deadline)?;
        let greeting = lines.receive(deadline)?;
        if greeting.pointer("/QMP/version").is_none() {
            let why = "greets unlike qemu".to_owned();
            return Err(Error::Garbage { what: lines.what().to_owned(), why });
        }
        let mut qmp = Self { lines, events: VecDeque::new(), next_id: 0 };
        qmp.execute("qmp_capabilities", json!({}), within)?;
        Ok(qmp)
    }

    /// A command's answer.
    ///
    /// # Errors
    /// `Said` with qemu's words; `TimedOut`, after which the connection is of no more use; `Unreachable`, `Garbage`.
    pub fn execute(&mut self, command: &str, arguments: Value, within: Duration) -> Result<Value> {
        let deadline = Deadline::after(within);
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({ "execute": command, "arguments": arguments, "id": id });
        self.lines.send(&request, deadline)?;
        loop {
            match said(self.lines.receive(deadline)?) {
                Said::Answer(its, answer) if its == id => return Ok(answer),
                // one without an id is about a request qemu could not read
                Said::Refusal(its, why) if its.is_none_or(|its| its == id) => {
                    return Err(refused(format!("{command} of {}", self.lines.what()), why));
                }
                Said::Event(event) => self.keep(event)?,
                _ => {}
            }
        }
    }

    /// The next event of one of these names, of those that came meanwhile or come now.
    ///
    /// # Errors
    /// `TimedOut` if there is none in this time; `Unreachable` if qemu has ended; `Garbage`.
    pub fn event(&mut self, names: &[&str], within: Duration) -> Result<Value> {
        let deadline = Deadline::after(within);
        let is_one = |event: &Value| names.iter().any(|name| event["event"] == *name);
        if let Some(at) = self.events.iter().position(is_one) {
            return Ok(self.events.remove(at).unwrap_or_default());
        }
        loop {
            match said(self.lines.receive(deadline)?) {
                Said::Event(event) if is_one(&event) => return Ok(event),
                Said::Event(event) => self.keep(event)?,
                _ => {}
            }
        }
    }

    fn keep(&mut self, event: Value) -> Result<()> {
        if self.events.len() == EVENT_LIMIT {
            let why = format!("sent more than {EVENT_LIMIT} events that nobody asked for");
            return Err(Error::Garbage { what: self.lines.what().to_owned(), why });
        }
        self.events.push_back(event);
        Ok(())
    }
}

fn said(line: Value) -> Said {
    let id = line["id"].as_u64();
    if line["event"].is_string() {
        return Said::Event(line);
    }
    if let Some(error) = line.get("error") {
        let why = error["desc"].as_str().unwrap_or("no reason given").chars().take(1000).collect();
        return Said::Refusal(id, why);
    }
    match (line.get("return"), id) {
        (Some(answer), Some(id)) => Said::Answer(id, answer.clone()),
        _ => Said::Other,
    }
}

/// For fuzzing: what a stream of bytes from qemu says, to its end.
pub fn understand(mut bytes: Vec<u8>) -> usize {
    let mut count = 0;
    while let Ok(Some(line)) = crate::lines::take_line(&mut bytes, "qemu") {
        count += usize::from(said(line) != Said::Other);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_refusals_and_events_are_told_apart() {
        assert_eq!(said(json!({"return": {"a": 1}, "id": 3})), Said::Answer(3, json!({"a": 1})));
        let refusal = json!({"error": {"class": "GenericError", "desc": "no"}, "id": 3});
        assert_eq!(said(refusal), Said::Refusal(Some(3), "no".to_owned()));
        assert!(matches!(said(json!({"event": "STOP", "data": {}})), Said::Event(_)));
        for other in [json!(null), json!([1]), json!({"return": 1}), json!({"id": -1}), json!("x")] {
            assert_eq!(said(other), Said::Other);
        }
        assert_eq!(understand(b"{\"event\":\"STOP\"}\n{\"return\":{},\"id\":1}\n[]\n{\n".to_vec()), 2);
    }
}
