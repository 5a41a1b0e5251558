//! Exports for remote clients: TLS, certificates that are good for some exports, and one writer among certificates.

use crate::fixture::{Daemon, State, noise};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// Makes an authority, the daemon's certificate and those of two clients, in the layout libnbd looks for.
fn make(dir: &Path) {
    let request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let leaf =
        format!("{request} -CA ca-cert.pem -CAkey ca-key.pem -addext basicConstraints=critical,CA:FALSE");
    let script = format!(
        "set -e\n\
         {request} -subj /CN=authority -keyout ca-key.pem -out ca-cert.pem\n\
         {leaf} -subj /CN=server -addext subjectAltName=DNS:localhost -keyout server-key.pem -out server-cert.pem\n\
         for client in one two; do\n\
         mkdir $client\n\
         cp ca-cert.pem $client\n\
         {leaf} -subj /CN=$client -addext subjectAltName=DNS:$client.test \
         -keyout $client/client-key.pem -out $client/client-cert.pem\n\
         done\n"
    );
    let done = Command::new("sh").args(["-c", &script]).current_dir(dir).output().expect("a shell");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

const CONFIG: &str = r#"
nbd-listen = "127.0.0.1:0"
[nbd-tls]
certificate = "server-cert.pem"
key = "server-key.pem"
clients = "ca-cert.pem"
[[nbd-client]]
certificate = "one.test"
exports = ["web", "web@*", "both"]
[[nbd-client]]
certificate = "TWO.test"
exports = ["both"]
"#;

/// How a client of a certificate reaches an export.
fn uri(daemon: &Daemon, state: &State, client: &str, export: &str) -> String {
    let at = daemon.client().status().expect("status").daemon.nbd_listen.expect("an address");
    let port = at.rsplit(':').next().expect("a port").to_owned();
    format!("nbds://localhost:{port}/{export}?tls-certificates={}", state.file(client).display())
}

fn nbdinfo(uri: &str) -> Output {
    Command::new("nbdinfo").arg(uri).output().expect("nbdinfo")
}

/// A client that stays until it is dropped.
struct Staying(Child);

impl Staying {
    fn on(uri: &str) -> Self {
        let path = format!("/usr/bin:{}", std::env::var("PATH").expect("a path"));
        let script = format!(
            "import sys\nh.set_uri_allow_local_file(True)\nh.connect_uri('{uri}')\nprint('here', flush=True)\n\
             sys.stdin.read()\n"
        );
        let mut child = Command::new("nbdsh")
            .args(["-c", &script])
            .env("PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nbdsh");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("output")).read_line(&mut line).expect("a line");
        assert_eq!(line, "here\n");
        Self(child)
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        self.0.kill().expect("a running client");
        self.0.wait().expect("its end");
    }
}

#[test]
fn certificates_are_bound_to_exports_and_a_disk_is_written_by_one_of_them() {
    let state = State::new();
    let daemon = state.start();
    for disk in ["web", "both"] {
        daemon.create(disk, 1 << 20);
    }
    let content = noise(5, 1 << 20);
    daemon.write("web", 0, &content);
    let point = daemon.snapshot("web");
    assert!(daemon.stop().success());
    make(&state.path());
    std::fs::write(state.file("blockd.toml"), CONFIG).expect("a configuration");
    let daemon = state.start();
    let says = |client: &str, export: &str| nbdinfo(&uri(&daemon, &state, client, export));
    for export in ["web", "both", &point] {
        let output = says("one", export);
        assert!(output.status.success(), "{export}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(says("two", "both").status.success());
    for export in ["web", &point] {
        assert!(!says("two", export).status.success(), "{export} is not for this certificate");
    }
    // in the clear nothing is told
    let plain = uri(&daemon, &state, "one", "web").replace("nbds://", "nbd://");
    assert!(!nbdinfo(&plain).status.success());
    let copied = state.file("copied");
    let done = Command::new("nbdcopy").arg(uri(&daemon, &state, "one", "web")).arg(&copied).output();
    assert!(done.expect("nbdcopy").status.success());
    assert!(std::fs::read(&copied).expect("a copy") == content);
    // one writer: a certificate, whatever its connections
    let first = Staying::on(&uri(&daemon, &state, "one", "both"));
    let clients = daemon.client().disk("both").expect("a disk").clients;
    assert!(clients.len() == 1 && clients[0].client.contains("one.test"), "{clients:?}");
    assert!(says("one", "both").status.success(), "another connection of the same client");
    assert!(!says("two", "both").status.success(), "a second writer");
    drop(first);
    assert!(says("two", "both").status.success(), "the first is gone");
    assert!(daemon.stop().success());
}
