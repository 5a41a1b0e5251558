//! How whole a recovery point is to its guest: guest agents that do as they should, that stall, lie and die, programs of the host,
//! and what happens to a guest that is held still when the daemon, the watchdog or both are killed.

use crate::fixture::{Daemon, State, failure};
use control::{BackupRequest, Consistency, DeletePointQuery, Kind, Point, SnapshotRequest};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// No guest is held still for longer.
const HELD_LIMIT: Duration = Duration::from_secs(10);

/// What an agent does wrong.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    None,
    /// It holds the guest still and does not say so.
    StallsFreezing,
    /// A hook in the guest fails.
    Refuses,
    /// It says that it holds filesystems still, and holds none.
    Lies,
    /// It lets go by itself.
    LetsGo,
    /// It goes away while it holds the guest still, and comes back.
    Dies,
    /// It finds nothing to hold.
    FindsNothing,
    /// What it says is no JSON.
    Babbles,
    /// It says nothing at all.
    Mute,
    /// It takes its time to say how it stands.
    IsSlow,
}

struct Guest {
    fault: Fault,
    report: Option<&'static str>,
    frozen: Option<Instant>,
    freezes: usize,
    held: Vec<Duration>,
}

/// An agent at a socket.
struct Agent {
    socket: PathBuf,
    guest: Arc<Mutex<Guest>>,
}

impl Agent {
    fn new(dir: &Path, fault: Fault) -> Self {
        let socket = dir.join("agent.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let guest = Guest { fault, report: None, frozen: None, freezes: 0, held: Vec::new() };
        let guest = Arc::new(Mutex::new(guest));
        let its = guest.clone();
        std::thread::spawn(move || {
            listener.incoming().map_while(Result::ok).for_each(|client| serve(&its, client))
        });
        Self { socket, guest }
    }

    fn be(&self, fault: Fault) {
        self.guest.lock().expect("the guest").fault = fault;
    }

    fn freezes(&self) -> usize {
        self.guest.lock().expect("the guest").freezes
    }

    /// Waits until it is held still, and then until it goes on again; how long it was held at most.
    fn goes_on(&self) -> Duration {
        let began = Instant::now();
        while self.guest.lock().expect("the guest").frozen.is_some() {
            assert!(began.elapsed() < 2 * HELD_LIMIT, "it is held still for ever");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.guest.lock().expect("the guest").held.iter().max().copied().unwrap_or_default()
    }

    fn until_frozen(&self, times: usize) {
        let began = Instant::now();
        while self.freezes() < times {
            assert!(began.elapsed() < HELD_LIMIT, "it is not held still");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn serve(guest: &Mutex<Guest>, client: UnixStream) {
    let mut out = client.try_clone().expect("a socket");
    for line in BufReader::new(client).split(b'\n').map_while(Result::ok) {
        let line = line.strip_prefix(b"\xff").unwrap_or(&line);
        let Ok(asked) = serde_json::from_slice::<Value>(line) else { continue };
        let command = asked["execute"].as_str().unwrap_or_default();
        let answer = {
            let mut guest = guest.lock().expect("the guest");
            match (command, guest.fault) {
                (_, Fault::Mute) => continue,
                (_, Fault::Babbles) => Some(json!("}{")),
                _ => guest.answer(command, &asked["arguments"]),
            }
        };
        let fault = guest.lock().expect("the guest").fault;
        if fault == Fault::IsSlow && command == "guest-fsfreeze-status" {
            std::thread::sleep(Duration::from_millis(800));
        }
        match answer {
            None if fault == Fault::Dies => return,
            None => {}
            Some(answer) if fault == Fault::Babbles => writeln!(out, "{answer}{{").unwrap_or_default(),
            Some(answer) => {
                if command == "guest-sync-delimited" {
                    out.write_all(b"rest of something\xff").unwrap_or_default();
                }
                writeln!(out, "{answer}").unwrap_or_default();
            }
        }
    }
}

impl Guest {
    fn answer(&mut self, command: &str, arguments: &Value) -> Option<Value> {
        let no = |why: &str| Some(json!({ "error": { "class": "GenericError", "desc": why } }));
        let yes = |value: Value| Some(json!({ "return": value }));
        match command {
            "guest-sync-delimited" => yes(arguments["id"].clone()),
            "guest-fsfreeze-freeze" => {
                if self.fault == Fault::Refuses {
                    return no("fsfreeze hook has failed with status 1");
                }
                if self.fault == Fault::FindsNothing {
                    return yes(json!(0));
                }
                if self.fault != Fault::Lies {
                    self.frozen = Some(Instant::now());
                }
                self.freezes += 1;
                match self.fault {
                    Fault::StallsFreezing | Fault::Dies => None,
                    _ => yes(json!(2)),
                }
            }
            "guest-fsfreeze-status" => {
                let said = if self.frozen.is_some() { "frozen" } else { "thawed" };
                if self.fault == Fault::LetsGo {
                    self.thaw();
                }
                yes(json!(said))
            }
            "guest-fsfreeze-thaw" => {
                let count = if self.thaw() { 2 } else { 0 };
                yes(json!(count))
            }
            // as qemu-ga has it
            _ if self.frozen.is_some() => no("Command guest-file-open has been disabled"),
            "guest-file-open" if self.report.is_some() => yes(json!(1000)),
            "guest-file-open" => no("failed to open file: No such file or directory"),
            "guest-file-read" => {
                let id = self.freezes;
                let text = format!("blockd 1\nid {id}\n{}thawed\n", self.report.unwrap_or_default());
                let text = base64(text.as_bytes());
                yes(json!({ "count": text.len(), "buf-b64": text, "eof": true }))
            }
            "guest-file-close" => yes(json!({})),
            _ => no("unknown command"),
        }
    }

    fn thaw(&mut self) -> bool {
        let Some(since) = self.frozen.take() else { return false };
        self.held.push(since.elapsed());
        true
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = bytes.chunks(3).flat_map(|chunk| {
        let three = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let number = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        (0..4).map(move |at| match at <= chunk.len() {
            true => char::from(DIGITS[(number >> (18 - 6 * at)) as usize & 63]),
            false => '=',
        })
    });
    digits.collect()
}

/// A daemon with the disks of `vm/web`, whose guest has this agent, and a disk of nobody.
fn machine(fault: Fault, more: &str) -> (State, Daemon, Agent) {
    let state = State::new();
    fs::create_dir(state.path()).expect("a directory");
    let agent = Agent::new(state.path().parent().expect("a parent"), fault);
    let config = format!("[machine.web]\nagent = {:?}\n{more}", agent.socket);
    fs::write(state.file("blockd.toml"), config).expect("a configuration");
    let daemon = state.start();
    ["vm/web/vda", "vm/web/vdb", "other"].iter().for_each(|name| daemon.create(name, 1 << 20));
    (state, daemon, agent)
}

fn ask(daemon: &Daemon, item: &str, require: Option<Consistency>) -> Result<Vec<Point>, control::Error> {
    daemon.client().snapshot_with(&SnapshotRequest { disks: vec![item.to_owned()], require })
}

fn levels(points: &[Point]) -> Vec<Consistency> {
    points.iter().map(|point| point.consistency).collect()
}

fn count(daemon: &Daemon) -> usize {
    daemon.client().points(None).expect("points").points.len()
}

#[test]
fn a_guest_is_held_still_for_its_points_alone_and_the_level_stays_with_them() {
    use Consistency::{Application, Crash, Filesystem};
    let (state, daemon, agent) = machine(Fault::None, "");
    let points = ask(&daemon, "vm/web", Some(Filesystem)).expect("points");
    assert_eq!(levels(&points), [Filesystem, Filesystem]);
    assert!(points.iter().all(|point| point.frozen_ms.is_some() && point.consistency_why.is_none()));
    println!("held still for {:?}, as the point says {:?} ms", agent.goes_on(), points[0].frozen_ms);
    assert_eq!(levels(&ask(&daemon, "vm/web/vdb", None).expect("a point")), [Filesystem]);
    assert_eq!(levels(&ask(&daemon, "other", None).expect("a point")), [Crash]);
    assert_eq!(agent.freezes(), 2);
    let refused = failure(ask(&daemon, "other", Some(Filesystem)));
    assert!(refused.0 == Kind::Refused && refused.1.contains("no guest agent"), "{refused:?}");
    // nothing in the guest says that applications were quiet
    let refused = failure(ask(&daemon, "vm/web", Some(Application)));
    assert!(refused.0 == Kind::Refused && refused.1.contains("no hook"), "{refused:?}");
    assert_eq!(count(&daemon), 4, "a point that was refused");
    for (report, level) in [
        ("held db\nkept db\n", Application),
        ("held db\n", Filesystem),
        ("failed db: it does not answer\n", Filesystem),
        ("", Filesystem),
    ] {
        agent.guest.lock().expect("the guest").report = Some(report);
        let points = ask(&daemon, "vm/web", None).expect("points");
        assert_eq!(levels(&points), [level, level], "{report:?}");
    }
    agent.guest.lock().expect("the guest").report = Some("held db\nkept db\n");
    let request =
        BackupRequest { item: "vm/web".into(), require: Some(Application), ..BackupRequest::default() };
    let job = daemon.finished(&daemon.client().backup(&request).expect("a job"));
    let name = job.point.expect("a point").replace("vm/web@", "vm/web/vda@");
    // of points that are gone nothing stays
    let marks = || state.files("marks").len();
    let before = marks();
    daemon.client().delete_point("vm/web/vdb@2", &DeletePointQuery::default()).expect("deleted");
    daemon.client().protect("other", None).expect("a policy, whose keeper looks around");
    daemon.eventually("its mark is gone", |_| marks() == before - 1);
    drop(daemon);
    let daemon = state.start();
    assert_eq!(daemon.client().point(&name).expect("a point").consistency, Application);
    assert_eq!(daemon.client().point("vm/web/vda@1").expect("a point").consistency, Filesystem);
    assert!(agent.goes_on() < HELD_LIMIT);
}

#[test]
fn an_agent_that_stalls_lies_or_dies_leaves_a_point_that_says_so_and_a_guest_that_goes_on() {
    let (_state, daemon, agent) = machine(Fault::None, "");
    for (fault, why) in [
        (Fault::StallsFreezing, "did not answer"),
        (Fault::Refuses, "hook has failed"),
        (Fault::Lies, "holds filesystems still and that it does not"),
        (Fault::LetsGo, "went on before"),
        (Fault::Dies, "cannot be reached"),
        (Fault::FindsNothing, "no filesystem"),
        (Fault::Babbles, "did not answer"),
        (Fault::Mute, "did not answer"),
    ] {
        agent.be(fault);
        let before = count(&daemon);
        let points = ask(&daemon, "vm/web", None).expect("points");
        assert_eq!(levels(&points), [Consistency::Crash; 2], "{fault:?}");
        let said = points[0].consistency_why.clone().unwrap_or_default();
        assert!(said.contains(why), "{fault:?}: {said}");
        let held = agent.goes_on();
        assert!(held < HELD_LIMIT, "{fault:?}: held still for {held:?}");
        let (kind, message) = failure(ask(&daemon, "vm/web", Some(Consistency::Filesystem)));
        assert!(kind == Kind::Refused && message.contains(why), "{fault:?}: {message}");
        assert_eq!(count(&daemon), before + 2, "{fault:?}: a point that was refused");
        agent.goes_on();
        agent.be(Fault::None);
        let points = ask(&daemon, "vm/web", None).expect("points");
        assert_eq!(levels(&points), [Consistency::Filesystem; 2], "after {fault:?}");
    }
    println!("held still for {:?} at most", agent.goes_on());
}

/// The watchdogs of a daemon.
fn watchdogs(daemon: u32) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let is_one = |process: &fs::DirEntry| {
        let read = |name: &str| fs::read_to_string(process.path().join(name)).unwrap_or_default();
        read("cmdline").contains("watchdog") && read("status").contains(&format!("PPid:\t{daemon}\n"))
    };
    let numbers = processes.filter(is_one).filter_map(|it| it.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).collect()
}

#[test]
fn a_guest_goes_on_whoever_is_killed_while_it_is_held_still() {
    let (state, daemon, agent) = machine(Fault::IsSlow, "");
    let snapshot = |daemon: &Daemon| {
        let client = control::Client::new(daemon.client().socket()).expect("a client");
        std::thread::spawn(move || client.snapshot(&["vm/web".to_owned()]))
    };
    // the watchdog: the daemon has another one let go
    let asked = snapshot(&daemon);
    agent.until_frozen(1);
    watchdogs(daemon.pid()).iter().for_each(|pid| kill_process(*pid, Signal::KILL).expect("killed"));
    let points = asked.join().expect("no panic").expect("points");
    assert_eq!(levels(&points), [Consistency::Crash; 2]);
    assert!(agent.goes_on() < HELD_LIMIT);
    // the daemon: the watchdog lets go, although it is told to end itself
    let asked = snapshot(&daemon);
    agent.until_frozen(2);
    let left = watchdogs(daemon.pid());
    daemon.kill();
    left.iter().for_each(|pid| kill_process(*pid, Signal::TERM).unwrap_or_default());
    assert!(asked.join().expect("no panic").is_err());
    assert!(agent.goes_on() < HELD_LIMIT);
    // both: the next daemon finds it written down
    let daemon = state.start();
    let asked = snapshot(&daemon);
    agent.until_frozen(3);
    let left = watchdogs(daemon.pid());
    assert_eq!(left.len(), 1);
    left.iter().for_each(|pid| kill_process(*pid, Signal::KILL).expect("killed"));
    daemon.kill();
    assert!(asked.join().expect("no panic").is_err());
    let began = Instant::now();
    let daemon = state.start();
    agent.goes_on();
    println!("let go {:?} after the daemon was started again", began.elapsed());
    agent.be(Fault::None);
    assert_eq!(levels(&ask(&daemon, "vm/web", None).expect("points")), [Consistency::Filesystem; 2]);
}

#[test]
fn programs_of_the_host_run_around_the_seal_and_their_word_counts() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let words = |text: &str| format!("[\"sh\", \"-c\", {:?}]", text);
    let hooks = format!(
        "pre = {}\npost = {}\nquiesces = true\ntimeout-seconds = 5\n",
        words(&format!(
            "test ! -e {0}/no && echo $BLOCKD_PHASE $BLOCKD_MACHINE >> {0}/log",
            dir.path().display()
        )),
        words(&format!("echo $BLOCKD_PHASE >> {}", log.display())),
    );
    let (_state, daemon, agent) = machine(Fault::None, &hooks);
    let points = ask(&daemon, "vm/web", Some(Consistency::Application)).expect("points");
    assert_eq!(levels(&points), [Consistency::Application; 2]);
    assert_eq!(fs::read_to_string(&log).expect("a log"), "pre vm/web\npost\n");
    // one that fails: nothing is held still, and what it began is undone
    fs::write(dir.path().join("no"), "").expect("written");
    let points = ask(&daemon, "vm/web", None).expect("points");
    assert_eq!((levels(&points), agent.freezes()), (vec![Consistency::Crash; 2], 1));
    assert!(points[0].consistency_why.as_ref().is_some_and(|why| why.contains("pre hook of vm/web")));
    assert_eq!(fs::read_to_string(&log).expect("a log"), "pre vm/web\npost\npost\n");
    assert_eq!(failure(ask(&daemon, "vm/web", Some(Consistency::Filesystem))).0, Kind::Refused);
}
