//! Who may write, what clients see while the daemon is replaced, and what is counted of them.

use crate::fixture::{Daemon, State, noise};
use block::{BlockDevice, BlockSource, ByteOffset};
use nbd::Uri;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn uri(daemon: &Daemon, export: &str) -> String {
    Uri::unix(daemon.client().socket().with_file_name("nbd.sock"), export).to_string()
}

/// Another process that opens an export.
fn nbdinfo(daemon: &Daemon, export: &str) -> Output {
    Command::new("nbdinfo").arg(uri(daemon, export)).output().expect("nbdinfo")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_disk_belongs_to_one_client_unless_it_is_shared() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let first = daemon.export("web");
    // a second connection of the same client
    drop(daemon.export("web"));
    let disk = daemon.client().disk("web").expect("a disk");
    assert_eq!(disk.clients.len(), 1);
    assert!(disk.clients[0].client.starts_with(&format!("process {}", std::process::id())), "{disk:?}");
    assert!(!nbdinfo(&daemon, "web").status.success());
    // qemu shows the server's own words
    let refused = Command::new("qemu-img").args(["info", &uri(&daemon, "web")]).output().expect("qemu-img");
    assert!(said(&refused).contains("blockctl disk share web"), "{}", said(&refused));
    // looking at the list and reading points is no writing
    let point = daemon.snapshot("web");
    assert!(nbdinfo(&daemon, &point).status.success());
    assert!(daemon.client().share_disk("web", true).expect("shared").shared);
    let shared = nbdinfo(&daemon, "web");
    assert!(shared.status.success(), "{}", said(&shared));
    assert!(daemon.stop().success());
    // also after a restart
    drop(first);
    let daemon = state.start();
    let _first = daemon.export("web");
    assert!(nbdinfo(&daemon, "web").status.success());
    daemon.client().share_disk("web", false).expect("one client again");
    assert!(!nbdinfo(&daemon, "web").status.success());
}

#[test]
fn clients_that_come_one_after_the_other_never_meet() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    for round in 0..10 {
        let done = nbdinfo(&daemon, "web");
        assert!(done.status.success(), "round {round}: {}", said(&done));
    }
}

#[test]
fn after_an_unclean_end_of_the_host_remote_clients_wait_for_a_release() {
    let state = State::new();
    let listen = ["--nbd-listen", "127.0.0.1:0"];
    let daemon = Daemon::start_with(&state.path(), &listen).expect("ready");
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 4096));
    daemon.kill();
    // a power cut takes the live maps with it
    for entry in std::fs::read_dir("/dev/shm").expect("shared memory").flatten() {
        let id = std::fs::read_to_string(state.file("state")).expect("an id");
        let id = id.split('"').find(|part| part.len() == 32).expect("an id").to_owned();
        if entry.file_name().to_string_lossy().starts_with(&format!("blockd-{id}")) {
            std::fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
    let remote = |daemon: &Daemon| {
        let at = daemon.client().status().expect("status").daemon.nbd_listen.expect("an address");
        nbd::Client::connect(&format!("nbd://{at}/web").parse().expect("a URI"), 1)
    };
    let daemon = Daemon::start_with(&state.path(), &listen).expect("ready");
    let disk = daemon.client().disk("web").expect("a disk");
    assert_eq!((disk.opened.as_deref(), disk.awaits_release), (Some("committed"), true));
    let error = remote(&daemon).err().expect("a client that came back");
    assert!(error.to_string().contains("blockctl disk release web"), "{error}");
    // a local one was started since
    drop(daemon.export("web"));
    assert!(daemon.stop().success());
    let daemon = Daemon::start_with(&state.path(), &listen).expect("ready");
    assert!(remote(&daemon).is_err(), "a restart of the daemon releases nothing");
    assert!(!daemon.client().release_disk("web").expect("released").awaits_release);
    drop(remote(&daemon).expect("let in"));
}

#[test]
fn nobody_is_refused_while_the_daemon_makes_room_for_its_successor() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let content = noise(3, 1 << 20);
    let held = daemon.export("web");
    held.write_at(ByteOffset::ZERO, &content).expect("a write");
    let (socket, done) = (state.file("nbd.sock"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let knocking = scope.spawn(|| {
            let mut knocks = 0;
            while !done.load(Ordering::SeqCst) {
                UnixStream::connect(&socket).expect("never refused");
                std::thread::sleep(Duration::from_millis(2));
                knocks += 1;
            }
            knocks
        });
        let pid = daemon.client().status().expect("status").daemon.pid;
        let started = daemon.client().status().expect("status").daemon.started;
        for _ in 0..3 {
            daemon.signal(rustix::process::Signal::HUP);
            // the API's socket stays too: the answer only takes a moment
            let newer = (0..500).find_map(|_| {
                std::thread::sleep(Duration::from_millis(20));
                daemon.client().status().ok().filter(|status| status.daemon.started != started)
            });
            let status = newer.unwrap_or_else(|| panic!("no successor\n{}", daemon.log()));
            assert_eq!(status.daemon.pid, pid);
        }
        done.store(true, Ordering::SeqCst);
        assert!(knocking.join().expect("never refused") > 10);
    });
    assert!(daemon.read("web") == content);
    assert_eq!(daemon.client().disk("web").expect("a disk").opened.as_deref(), Some("clean"));
    drop(held);
    assert!(daemon.stop().success());
}

/// A client of another make that writes on and on while daemon follows daemon: none of its requests fails.
#[test]
fn qemu_writes_through_one_daemon_after_the_other() {
    const SIZE: u64 = 4 << 20;
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", SIZE);
    let image = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.export=web,file.reconnect-delay=30",
        state.file("nbd.sock").display()
    );
    let mut writer = Command::new("qemu-img")
        .args(["bench", "-w", "--pattern=90", "-d", "8", "-s", "4096", "-c", "60000", "--image-opts", &image])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("qemu-img");
    // qemu asks again for a connection it had, not for its first one
    daemon.eventually("its connection", |client| client.disk("web").is_ok_and(|disk| disk.writers > 0));
    let (mut taken_over, pid) = (0, daemon.pid());
    while writer.try_wait().expect("its state").is_none() {
        let started = daemon.client().status().expect("status").daemon.started;
        daemon.signal(rustix::process::Signal::HUP);
        daemon.eventually("a successor", |client| {
            client.status().is_ok_and(|status| status.daemon.started != started && status.daemon.pid == pid)
        });
        taken_over += 1;
    }
    let done = writer.wait_with_output().expect("its end");
    assert!(done.status.success(), "{}\n{}", said(&done), daemon.log());
    assert!(taken_over > 1, "it was over before a second daemon came");
    assert!(daemon.read("web") == vec![90; SIZE as usize]);
    assert!(daemon.stop().success());
}

/// Signals come at every moment of a restart, also before the new program can take them.
#[test]
fn a_burst_of_hangups_ends_no_daemon() {
    let state = State::new();
    let mut daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, b"still there");
    let pid = daemon.client().status().expect("status").daemon.pid;
    for pause_us in [100, 500, 1000, 3000] {
        for _ in 0..200 {
            daemon.signal(rustix::process::Signal::HUP);
            std::thread::sleep(Duration::from_micros(pause_us));
        }
        assert!(!daemon.has_ended(), "{}", daemon.log());
    }
    let status = (0..1500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        daemon.client().status().ok()
    });
    let status = status.unwrap_or_else(|| panic!("it does not serve\n{}", daemon.log()));
    assert_eq!(status.daemon.pid, pid);
    // the last signal of a burst may still be on its way: a client that is sent away comes again
    let read = (0..1500).find_map(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let mut bytes = [0; 11];
        let export = daemon.try_export("web").ok()?;
        export.read_at(ByteOffset::ZERO, &mut bytes).ok().map(|()| bytes)
    });
    assert_eq!(read.as_ref().map(|bytes| &bytes[..]), Some(&b"still there"[..]), "{}", daemon.log());
    assert!(!daemon.has_ended(), "{}", daemon.log());
}

#[test]
fn sockets_of_systemd_are_served_and_the_only_disk_is_the_default_export() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("only", 1 << 20);
    daemon.write("only", 0, b"by activation");
    assert!(daemon.stop().success());
    // libnbd opens the socket and starts the daemon as systemd does
    let script = "import os\nh = nbd.NBD()\n\
                  h.connect_systemd_socket_activation([os.environ['BLOCKD'], 'serve', '--state', os.environ['STATE']])\n\
                  assert h.get_size() == 1 << 20\nassert h.pread(13, 0) == b'by activation'\nh.shutdown()\n";
    let path = format!("/usr/bin:{}", std::env::var("PATH").expect("a path"));
    let output = Command::new("nbdsh")
        .args(["-c", script])
        .env("PATH", path)
        .env("BLOCKD", env!("CARGO_BIN_EXE_blockd"))
        .env("STATE", state.path())
        .output()
        .expect("nbdsh");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn exports_are_counted_for_people_and_for_prometheus() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let export = daemon.export("web");
    for _ in 0..10 {
        export.write_at(ByteOffset::ZERO, &[1; 4096]).expect("a write");
    }
    export.flush().expect("a flush");
    let exports = daemon.client().exports().expect("exports");
    let web = exports.iter().find(|export| export.name == "web").expect("the export");
    let write = web.commands.iter().find(|command| command.command == "write").expect("writes");
    assert_eq!((write.requests, write.bytes, write.errors), (10, 40_960, 0));
    assert!(write.p50_ns.is_some_and(|ns| ns > 0 && ns < 1_000_000_000), "{write:?}");
    assert!(write.p50_ns <= write.p99_ns && write.p99_ns <= write.p999_ns);
    let curl = Command::new("curl")
        .args(["--silent", "--fail", "--unix-socket"])
        .arg(daemon.client().socket())
        .arg("http://localhost/metrics")
        .output()
        .expect("curl");
    let text = String::from_utf8(curl.stdout).expect("text");
    for line in [
        "blockd_export_connections{export=\"web\"} 1",
        "blockd_export_requests_total{export=\"web\",command=\"write\"} 10",
        "blockd_export_bytes_total{export=\"web\",command=\"write\"} 40960",
        "blockd_export_latency_seconds_count{export=\"web\",command=\"flush\"} 1",
        "blockd_export_latency_seconds_bucket{export=\"web\",command=\"write\",le=\"+Inf\"} 10",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn nbdinfo_draws_how_deep_in_the_chain_content_lies() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    daemon.write("web", 0, &noise(1, 12 << 10));
    daemon.snapshot("web");
    daemon.write("web", 4096, &noise(2, 4096));
    daemon.snapshot("web");
    daemon.write("web", 8192, &noise(3, 4096));
    let map = Command::new("nbdinfo")
        .args(["--map=qemu:allocation-depth", &uri(&daemon, "web")])
        .output()
        .expect("nbdinfo");
    let text = String::from_utf8_lossy(&map.stdout).into_owned();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().take(3).collect()).collect();
    let expected =
        [["0", "4096", "3"], ["4096", "4096", "2"], ["8192", "4096", "1"], ["12288", "1036288", "0"]];
    assert_eq!(rows, expected, "{}", said(&map));
}

#[test]
fn tools_list_a_disk_with_many_points() {
    let state = State::new();
    let daemon = state.start();
    daemon.create("web", 1 << 20);
    let points: Vec<String> = (0..40).map(|_| daemon.snapshot("web")).collect();
    let socket = state.file("nbd.sock").display().to_string();
    for command in [
        &mut Command::new("nbdinfo").args(["--list", &format!("nbd+unix:///?socket={socket}")]),
        &mut Command::new("qemu-nbd").args(["-L", "-k", &socket]),
    ] {
        let output = command.output().expect("a tool of the packages tests need");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(points.iter().all(|point| text.contains(point.as_str())), "{text}");
    }
}
