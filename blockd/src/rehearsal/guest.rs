//! The machine of a rehearsal: a qemu that reaches nothing but its disks, with bounds on what it may say.

use crate::error::{Doing, Error, Result};
use block::sync::{Mutex, lock};
use control::Kind;
use machines::agent::{Agent, Channel};
use machines::qmp::Qmp;
use serde_json::json;
use std::fs::DirBuilder;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// How much of a console is kept, and looked at: a system that boots shows some dozens of kilobytes.
const CONSOLE_LIMIT: usize = 16 << 20;
/// How much of qemu's own complaints is.
const COMPLAINT_LIMIT: usize = 4096;
/// qemu answers at once.
const QMP_LIMIT: Duration = Duration::from_secs(10);
/// One that does not end when it is told to is ended.
const END_LIMIT: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);
const AGENT_TRY: Duration = Duration::from_secs(2);

/// How a machine is made.
pub struct Making<'a> {
    /// The program.
    pub qemu: &'a str,
    /// What runs its processor: the first that can.
    pub accelerators: &'a [&'a str],
    /// Its memory.
    pub memory_bytes: u64,
    /// Where exports are served.
    pub nbd_socket: &'a Path,
    /// The exports that are its disks, in their order, each with the name it had.
    pub disks: &'a [(String, String)],
}

/// What a machine has said.
#[derive(Default)]
struct Said {
    console: Vec<u8>,
    left_out: u64,
    complaint: Vec<u8>,
}

/// One that runs. Dropping it ends it.
pub struct Guest {
    child: Child,
    dir: PathBuf,
    said: Arc<Mutex<Said>>,
    // how much of the console was looked at
    looked: usize,
    qmp: Option<Qmp>,
}

impl Guest {
    /// Starts it; `id` is of this rehearsal alone.
    ///
    /// # Errors
    /// qemu is not there, or does not take what it is told.
    pub fn start(id: &str, making: &Making<'_>) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("blockd-{id}"));
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .create(&dir)
            .map_err(|error| Error::host(format!("make {}", dir.display()), error))?;
        let mut command = Command::new("setpriv");
        // it ends with the daemon, however that ends
        command.args(["--pdeathsig", "KILL", "--", making.qemu]).args(arguments(&dir, making));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                std::fs::remove_dir_all(&dir).ok();
                return Err(Error::host(format!("start {}", making.qemu), error)
                    .with_help("install qemu-system-x86, or name it in blockd.toml: [rehearsal] qemu"));
            }
        };
        let said = Arc::new(Mutex::new(Said::default()));
        if let Some(pipe) = child.stdout.take() {
            keep(pipe, said.clone(), |said, bytes| {
                let room = CONSOLE_LIMIT.saturating_sub(said.console.len()).min(bytes.len());
                said.console.extend_from_slice(&bytes[..room]);
                said.left_out += (bytes.len() - room) as u64;
            });
        }
        if let Some(pipe) = child.stderr.take() {
            keep(pipe, said.clone(), |said, bytes| {
                let room = COMPLAINT_LIMIT.saturating_sub(said.complaint.len()).min(bytes.len());
                said.complaint.extend_from_slice(&bytes[..room]);
            });
        }
        let mut guest = Self { child, dir, said, looked: 0, qmp: None };
        guest.qmp = Some(guest.connect(making.qemu)?);
        Ok(guest)
    }

    fn connect(&mut self, program: &str) -> Result<Qmp> {
        let path = self.dir.join("qmp");
        let mut waited = Duration::ZERO;
        while !path.exists() && waited < QMP_LIMIT {
            self.runs(program)?;
            std::thread::sleep(STEP);
            waited += STEP;
        }
        let connected = Qmp::connect(&path, QMP_LIMIT);
        self.runs(program)?;
        connected.doing(|| "start the machine".to_owned())
    }

    /// Fails with qemu's own words once it has ended.
    fn runs(&mut self, program: &str) -> Result<()> {
        let ended = self.child.try_wait().map_err(|error| Error::host(format!("watch {program}"), error))?;
        match ended {
            None => Ok(()),
            Some(status) => {
                let said = String::from_utf8_lossy(&lock(&self.said).complaint).trim().to_owned();
                let why = if said.is_empty() { format!("ended: {status}") } else { said };
                Err(Error::said(Kind::Unavailable, program, why))
            }
        }
    }

    /// Waits for a step of a wait; fails once the machine has ended.
    ///
    /// # Errors
    /// Why it ended.
    pub fn step(&mut self) -> Result<()> {
        self.runs("the machine")?;
        std::thread::sleep(STEP);
        Ok(())
    }

    /// Whether its serial console has shown this.
    pub fn has_shown(&mut self, text: &[u8]) -> bool {
        let said = lock(&self.said);
        let from = self.looked.saturating_sub(text.len());
        self.looked = said.console.len();
        !text.is_empty() && said.console[from..].windows(text.len()).any(|window| window == text)
    }

    /// Its agent, if that answers by now.
    pub fn agent(&self) -> Option<Agent> {
        Agent::connect(&Channel::Socket(self.dir.join("agent")), AGENT_TRY).ok()
    }

    /// What its console showed.
    pub fn console(&self) -> Vec<u8> {
        let said = lock(&self.said);
        let mut shown = said.console.clone();
        if said.left_out > 0 {
            shown.extend(format!("\n[{} more bytes are left out]\n", said.left_out).bytes());
        }
        shown
    }

    /// Writes what its screen shows to a file, as PNG.
    ///
    /// # Errors
    /// What qemu says.
    pub fn screenshot(&mut self, to: &Path) -> Result<()> {
        let Some(qmp) = &mut self.qmp else { return Ok(()) };
        let arguments = json!({ "filename": to, "format": "png" });
        qmp.execute("screendump", arguments, QMP_LIMIT)
            .doing(|| "take a picture of the screen".to_owned())
            .map(drop)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(qmp) = &mut self.qmp {
            // its disks are thrown away: how it ends is no matter
            qmp.execute("quit", json!({}), QMP_LIMIT).ok();
        }
        let mut waited = Duration::ZERO;
        while matches!(self.child.try_wait(), Ok(None)) && waited < END_LIMIT {
            std::thread::sleep(STEP);
            waited += STEP;
        }
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_dir_all(&self.dir).ok();
    }
}

fn keep(mut pipe: impl Read + Send + 'static, said: Arc<Mutex<Said>>, put: fn(&mut Said, &[u8])) {
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut bytes) {
            put(&mut lock(&said), &bytes[..count]);
        }
    });
}

/// What qemu is told. The machine has no network, no folder of the host, and no screen but the one that is photographed; qemu may
/// start no program.
fn arguments(dir: &Path, making: &Making<'_>) -> Vec<String> {
    let at = |name: &str| comma(&dir.join(name).display().to_string());
    let mib = (making.memory_bytes >> 20).max(1);
    let mut all: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-nic",
        "none",
        "-display",
        "none",
        "-vga",
        "std",
        "-no-reboot",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-serial",
        "stdio",
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut add = |option: &str, value: String| all.extend([option.to_owned(), value]);
    add("-machine", "pc".to_owned());
    making.accelerators.iter().for_each(|one| add("-accel", (*one).to_owned()));
    add("-m", format!("{mib}M"));
    add("-qmp", format!("unix:{},server=on,wait=off", at("qmp")));
    add("-chardev", format!("socket,id=agent,path={},server=on,wait=off", at("agent")));
    let has = |front: &str| making.disks.iter().any(|(_, target)| target.starts_with(front));
    if has("sd") {
        add("-device", "virtio-scsi-pci".to_owned());
    }
    let socket = comma(&making.nbd_socket.display().to_string());
    for (number, (export, target)) in making.disks.iter().enumerate() {
        let node = format!("disk{number}");
        let server = format!("server.type=unix,server.path={socket},export={}", comma(export));
        add("-blockdev", format!("driver=nbd,node-name={node},discard=unmap,{server}"));
        let kind = match target.get(..2) {
            Some("sd") => "scsi-hd",
            Some("hd") => "ide-hd",
            _ => "virtio-blk-pci",
        };
        add("-device", format!("{kind},drive={node},bootindex={}", number + 1));
    }
    all
}

/// A value in which a comma ends nothing.
fn comma(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reaches_nothing_but_its_disks() {
        let disks = [("vm/r/vda".to_owned(), "vda".to_owned()), ("vm/r/sda".to_owned(), "sda".to_owned())];
        let making = Making {
            qemu: "qemu",
            accelerators: &["kvm", "tcg"],
            memory_bytes: 512 << 20,
            nbd_socket: Path::new("/srv/a,b/nbd.sock"),
            disks: &disks,
        };
        let text = arguments(Path::new("/tmp/x"), &making).join(" ");
        assert!(
            text.contains("-nic none") && text.contains("spawn=deny") && text.contains("-m 512M"),
            "{text}"
        );
        assert!(text.contains("server.path=/srv/a,,b/nbd.sock,export=vm/r/vda"), "{text}");
        assert!(
            text.contains("-accel kvm -accel tcg") && text.contains("scsi-hd,drive=disk1,bootindex=2"),
            "{text}"
        );
    }
}
