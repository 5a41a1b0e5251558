//! Alerts: events given to a program, posted to an address, or mailed through a local program. Each has a thread of its own,
//! so that one that hangs holds up no other; what cannot be delivered is tried again, and then said in the log.

use super::Events;
use crate::error::{Error, Result};
use control::{Event, EventKind, Kind};
use serde::Deserialize;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;

/// How long one delivery may take, and how often a program is looked at meanwhile.
const LIMIT: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);

/// Pauses between the tries of one delivery.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// An entry `[[alert]]` of `blockd.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Alert {
    /// What it is for; everything if empty.
    #[serde(default)]
    events: Vec<EventKind>,
    /// A program with its arguments, given the event as JSON on its standard input.
    command: Option<Vec<String>>,
    /// An address the event is posted to, as JSON.
    webhook: Option<String>,
    /// A mail address.
    mail: Option<String>,
}

impl Alert {
    /// Refuses one that goes nowhere or to two places.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> std::result::Result<(), String> {
        let ways = [self.command.is_some(), self.webhook.is_some(), self.mail.is_some()];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err("an alert has one of command, webhook and mail".to_owned());
        }
        if self.command.as_ref().is_some_and(Vec::is_empty) {
            return Err("the command of an alert names no program".to_owned());
        }
        let is_http = |url: &String| url.starts_with("http://") || url.starts_with("https://");
        if self.webhook.as_ref().is_some_and(|url| !is_http(url)) {
            return Err("the webhook of an alert is no http:// or https:// address".to_owned());
        }
        if self.mail.as_ref().is_some_and(|mail| !mail.contains('@') || mail.contains(char::is_control)) {
            return Err("the mail address of an alert is none".to_owned());
        }
        Ok(())
    }

    fn is_for(&self, event: &Event) -> bool {
        self.events.is_empty() || self.events.contains(&event.kind)
    }
}

/// Those that deliver.
pub struct Alerts;

impl Alerts {
    /// Begins to deliver. The threads end with the daemon. Must be called where the event loop is known.
    ///
    /// # Errors
    /// The host has no thread for it.
    pub fn start(events: &Events, alerts: &[Alert], mail_command: &[String]) -> Result<()> {
        for alert in alerts {
            let (_, mut receiver) = events.listen(None);
            let (alert, mail_command, event_loop) = (alert.clone(), mail_command.to_vec(), Handle::current());
            let thread = std::thread::Builder::new().name("alert".to_owned());
            let spawned = thread.spawn(move || {
                loop {
                    match receiver.blocking_recv() {
                        Ok(event) if alert.is_for(&event) => {
                            alert.deliver(&event, &mail_command, &event_loop)
                        }
                        Ok(_) => {}
                        Err(RecvError::Lagged(count)) => {
                            tracing::error!("{count} alerts were not delivered: there were too many at once");
                        }
                        Err(RecvError::Closed) => return,
                    }
                }
            });
            spawned.map_err(|source| Error::host("start an alert", source))?;
        }
        Ok(())
    }
}

impl Alert {
    fn deliver(&self, event: &Event, mail_command: &[String], event_loop: &Handle) {
        for pause in PAUSES.iter().map(Some).chain([None]) {
            let Err(error) = self.try_once(event, mail_command, event_loop) else { return };
            let message = error.body().message;
            match pause {
                Some(pause) => {
                    tracing::warn!("an alert is tried again in {} s: {message}", pause.as_secs());
                    std::thread::sleep(*pause);
                }
                None => tracing::error!(kind = event.kind.name(), "an alert was not delivered: {message}"),
            }
        }
    }

    fn try_once(&self, event: &Event, mail_command: &[String], event_loop: &Handle) -> Result<()> {
        let json = serde_json::to_vec(event).map_err(|error| failed("alert", error.to_string()))?;
        match (&self.command, &self.webhook, &self.mail) {
            (Some(words), ..) => run(words, &json),
            (_, Some(url), _) => event_loop.block_on(post(url, json)),
            (_, _, Some(address)) => run(mail_command, letter(address, event).as_bytes()),
            _ => Ok(()),
        }
    }
}

fn failed(what: &str, why: String) -> Error {
    Error::said(Kind::Unavailable, what, why)
}

async fn post(url: &str, json: Vec<u8>) -> Result<()> {
    let what = format!("post to {url}");
    let wrong = |error: reqwest::Error| failed(&what, control::with_causes(&error));
    let client = reqwest::Client::builder().timeout(LIMIT).build().map_err(wrong)?;
    let posted = client.post(url).header("content-type", "application/json").body(json).send().await;
    posted.and_then(reqwest::Response::error_for_status).map(drop).map_err(wrong)
}

/// A letter as programs called sendmail take it. No text in it can begin a line of its head.
fn letter(address: &str, event: &Event) -> String {
    let plain = |text: &str| text.replace(char::is_control, " ");
    let (kind, about) = (event.kind.name(), plain(&event.about));
    format!("To: {address}\nSubject: blockd: {kind}: {about}\n\n{}: {}\n", event.time, plain(&event.message))
}

/// Gives a program something to read, and waits until it has ended well.
fn run(words: &[String], input: &[u8]) -> Result<()> {
    let Some((program, args)) = words.split_first() else { return Ok(()) };
    let wrong = |why: String| failed(&format!("run {program}"), why);
    let host = |error: std::io::Error| wrong(error.to_string());
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().map_err(host)?;
    if let Some(mut stdin) = child.stdin.take() {
        // an event is shorter than what a pipe takes; who does not read it is judged by how it ends
        stdin.write_all(input).ok();
    }
    let mut waited = Duration::ZERO;
    loop {
        match child.try_wait().map_err(host)? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(wrong(status.to_string())),
            None if waited >= LIMIT => {
                // one that ended this very moment has ended as is wanted
                child.kill().ok();
                child.wait().map_err(host)?;
                return Err(wrong(format!("did not end in {} s", LIMIT.as_secs())));
            }
            None => std::thread::sleep(STEP),
        }
        waited += STEP;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let (number, time) = (1, "2026-11-28T13:00:00Z".to_owned());
        let (about, message) = ("web\nBcc: x@y".to_owned(), "a\r\n.\r\nb".to_owned());
        Event { number, time, kind: EventKind::JobFailed, about, message }
    }

    #[test]
    fn what_an_event_says_begins_no_line_of_a_letter() {
        let letter = letter("ops@example.org", &event());
        let lines: Vec<&str> = letter.lines().collect();
        assert_eq!(lines.len(), 4, "{letter}");
        assert_eq!(lines[1], "Subject: blockd: job-failed: web Bcc: x@y");
    }

    #[test]
    fn an_alert_goes_one_way_and_is_for_what_it_says() {
        let parse = |text: &str| {
            toml::from_str::<Alert>(text)
                .map_err(|error| error.to_string())
                .and_then(|it| it.check().map(|()| it))
        };
        let all = parse("command = [\"true\"]").expect("an alert");
        assert!(all.is_for(&event()));
        let one = parse("webhook = \"https://x/\"\nevents = [\"low-space\"]").expect("an alert");
        assert!(!one.is_for(&event()));
        for wrong in [
            "",
            "events = [\"low-space\"]",
            "command = []",
            "webhook = \"ftp://x\"",
            "mail = \"a\"",
            "mail = \"a@b\\nBcc: c@d\"",
            "mail = \"a@b\"\ncommand = [\"x\"]",
            "mail = \"a@b\"\nevents = [\"nothing\"]",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_is_a_failure() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(run(&words("cat"), b"x").is_ok() && run(&words("true"), b"x").is_ok());
        assert!(run(&words("false"), b"x").is_err() && run(&words("/no/such/program"), b"x").is_err());
    }
}
