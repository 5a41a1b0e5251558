//! libvirt, by way of its own client program. `docs/libvirt.md` says why.

use crate::command;
use crate::domain::Domain;
use crate::error::{Error, Result};
use crate::uri::Uri;
use block::Kind;
use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

/// libvirt answers at once, unless it is starting or a hook holds a machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A libvirt.
#[derive(Debug, Clone)]
pub struct Virsh {
    uri: Uri,
    patience: Duration,
}

/// A machine that libvirt knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Whether it runs or is paused.
    pub active: bool,
}

impl Virsh {
    /// The libvirt at this URI. Nothing is asked yet.
    pub fn new(uri: Uri) -> Self {
        Self { uri, patience: PATIENCE }
    }

    /// The same, which waits so long for an answer.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Where it is.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Asks for something, with `input` on standard input.
    ///
    /// # Errors
    /// What libvirt says; that it does not answer, or is not installed.
    pub fn ask<S: AsRef<OsStr>>(&self, words: &[S], input: &[u8]) -> Result<String> {
        let words: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
        if let Some(number) = words.windows(2).find(|two| two[0] == "--domain" && is_number(two[1])) {
            let said = format!("it takes the name {:?} for the number of some machine that runs", number[1]);
            let program = format!("libvirt at {}", self.uri);
            return Err(Error::Said { program, said, kind: Kind::Invalid });
        }
        let mut command = Command::new("virsh");
        // its words are told apart below, so they must be the untranslated ones
        command.env("LC_ALL", "C").args(["--quiet", "--connect", self.uri.as_str()]).args(words);
        let ended = command::run(command, input, self.patience)?;
        if ended.success {
            return String::from_utf8(ended.output)
                .map(|text| text.trim_end().to_owned())
                .map_err(|_| Error::Definition("libvirt's answer is not UTF-8".to_owned()));
        }
        let said: Vec<&str> =
            ended.complaint.lines().map(|line| line.trim_start_matches("error: ")).collect();
        let said = said.join("; ");
        let kind = kind_of(&said);
        Err(Error::Said { program: format!("libvirt at {}", self.uri), said, kind })
    }

    /// Every machine by name.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn list(&self) -> Result<Vec<Listed>> {
        let names = |which: &str| -> Result<Vec<String>> {
            let text = self.ask(&["list", "--name", which], b"")?;
            Ok(text.lines().map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
        };
        let active = names("--state-running")?.into_iter().chain(names("--state-paused")?);
        let active: std::collections::BTreeSet<String> = active.collect();
        let all = names("--all")?.into_iter();
        Ok(all.map(|name| Listed { active: active.contains(&name), name }).collect())
    }

    /// A machine's definition with its secrets: as it will be at its next start, or as it runs.
    ///
    /// # Errors
    /// `NotFound`; as [`ask`](Self::ask).
    pub fn definition(&self, domain: &str, next: bool) -> Result<String> {
        let mut words = vec!["dumpxml", "--security-info"];
        if next {
            words.push("--inactive");
        }
        words.extend(["--domain", domain]);
        self.ask(&words, b"")
    }

    /// A machine's definition, read.
    ///
    /// # Errors
    /// As [`definition`](Self::definition); `Corrupt` if it is none.
    pub fn domain(&self, domain: &str) -> Result<Domain> {
        Domain::parse(&self.definition(domain, true)?)
    }

    /// What a machine is doing: `running`, `paused`, `shut off`.
    ///
    /// # Errors
    /// `NotFound`; as [`ask`](Self::ask).
    pub fn state(&self, domain: &str) -> Result<String> {
        self.ask(&["domstate", "--domain", domain], b"")
    }

    /// Whether a machine runs or is paused.
    ///
    /// # Errors
    /// As [`state`](Self::state).
    pub fn is_active(&self, domain: &str) -> Result<bool> {
        Ok(self.state(domain)? != "shut off")
    }

    /// Defines a machine, or anew.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn define(&self, xml: &str) -> Result<()> {
        self.ask(&["define", "/dev/stdin"], xml.as_bytes()).map(drop)
    }

    /// Forgets a machine's definition; its files stay.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn undefine(&self, domain: &str) -> Result<()> {
        self.ask(&["undefine", "--keep-nvram", "--keep-tpm", "--domain", domain], b"").map(drop)
    }

    /// Starts a machine.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn start(&self, domain: &str) -> Result<()> {
        self.ask(&["start", "--domain", domain], b"").map(drop)
    }

    /// Plugs a device into a running machine.
    ///
    /// # Errors
    /// What libvirt says.
    pub fn plug(&self, domain: &str, device: &str) -> Result<()> {
        self.ask(&["attach-device", "--live", "--domain", domain, "--file", "/dev/stdin"], device.as_bytes())
            .map(drop)
    }

    /// Speaks to a running machine's monitor, past libvirt.
    ///
    /// # Errors
    /// What libvirt or qemu say.
    pub fn monitor(&self, domain: &str, command: &serde_json::Value) -> Result<serde_json::Value> {
        let answer = self.ask(&["qemu-monitor-command", "--domain", domain, &command.to_string()], b"")?;
        let answer: serde_json::Value = serde_json::from_str(&answer)
            .map_err(|error| Error::Definition(format!("the monitor's answer is no JSON: {error}")))?;
        match answer.get("error") {
            None => Ok(answer["return"].clone()),
            Some(error) => {
                let said = error["desc"].as_str().unwrap_or("refuses").to_owned();
                Err(Error::Said { program: format!("qemu of machine {domain}"), said, kind: Kind::Io })
            }
        }
    }
}

/// Whether libvirt would take a name for a number of its own.
fn is_number(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What kind of no libvirt's words are.
fn kind_of(said: &str) -> Kind {
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["failed to get domain", "Domain not found", "no domain with matching"]) {
        Kind::NotFound
    } else if has(&[
        "failed to connect to the hypervisor",
        "Failed to connect socket",
        "cannot recv data",
        "End of file",
    ]) {
        Kind::Unavailable
    } else if has(&[
        "already exists",
        "already active",
        "already running",
        "is not running",
        "already in use",
    ]) {
        Kind::Conflict
    } else if has(&["unsupported", "not supported"]) {
        Kind::Unsupported
    } else {
        Kind::Io
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_a_number_names_no_machine() {
        let error = Virsh::new(Uri::default()).state("4").expect_err("another machine's number");
        assert_eq!(block::Failure::kind(&error), Kind::Invalid, "{error}");
    }

    #[test]
    fn a_libvirt_that_is_not_there_is_unavailable() {
        let dir = tempfile::tempdir().expect("a directory");
        let uri = format!("qemu+unix:///system?socket={}/none", dir.path().display());
        let error = Virsh::new(Uri::parse(&uri).expect("a URI")).list().expect_err("nobody listens");
        assert_eq!(block::Failure::kind(&error), Kind::Unavailable, "{error}");
    }
}
