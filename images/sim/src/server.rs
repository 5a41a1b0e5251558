//! Real servers of object stores, each a process of the test that starts it. `cargo xtask servers` installs them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The account of every Azurite, published with it.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key.
pub const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// The bucket of every server.
pub const BUCKET: &str = "vaults";

/// Makes a container: the one request the library does not have, signed with the account's key.
const MAKE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
port, account, key, name = sys.argv[1:]
date = email.utils.formatdate(usegmt=True)
text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/{account}/{account}/{name}\nrestype:container"
sign = base64.b64encode(hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()).decode()
headers = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Content-Length": "0", "Authorization": f"SharedKey {account}:{sign}"}
urllib.request.urlopen(urllib.request.Request(
    f"http://127.0.0.1:{port}/{account}/{name}?restype=container", method="PUT", headers=headers))
"#;

/// A server that ends with the test.
pub struct Server {
    child: Child,
    command: Vec<String>,
    port: u16,
    dir: tempfile::TempDir,
}

fn installed(name: &str) -> String {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let path = cache.or(home).expect("a home directory").join("blockd-servers").join(name);
    assert!(path.exists(), "{} is missing: cargo xtask servers installs it", path.display());
    path.display().to_string()
}

/// A port nobody listens on.
///
/// # Panics
/// If the host has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its number").port()
}

impl Server {
    /// moto: S3, in memory.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub fn moto() -> Self {
        let port = free_port();
        let program = installed("moto-5.2.5/bin/moto_server");
        let server =
            Self::start(vec![program, "-H".into(), "127.0.0.1".into(), "-p".into(), port.to_string()], port);
        server.request(&format!("PUT /{BUCKET} HTTP/1.1\r\nHost: s3\r\nContent-Length: 0\r\n\r\n"));
        server
    }

    /// Azurite: Azure Blob Storage, on disk.
    ///
    /// # Panics
    /// If it is not installed or does not start.
    pub fn azurite() -> Self {
        let port = free_port();
        let program = installed("azurite-3.35.0/node_modules/.bin/azurite-blob");
        let mut command = vec![program, "--blobHost".into(), "127.0.0.1".into(), "--blobPort".into()];
        command.push(port.to_string());
        command.extend(["--silent", "--skipApiVersionCheck", "--disableTelemetry"].map(str::to_owned));
        let server = Self::start(command, port);
        let made = Command::new("python3")
            .args(["-c", MAKE_CONTAINER, &port.to_string(), ACCOUNT, ACCOUNT_KEY, BUCKET])
            .status()
            .expect("python3");
        assert!(made.success(), "no container");
        server
    }

    fn start(command: Vec<String>, port: u16) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let child = spawn(&command, dir.path());
        let server = Self { child, command, port, dir };
        server.wait();
        server
    }

    fn wait(&self) {
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} does not listen", self.command[0]);
    }

    /// Sends a request and gives what the server answers.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn request(&self, text: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        let text = text.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        stream.write_all(text.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server answers nothing until [`resume`](Self::resume); nothing is lost.
    ///
    /// # Panics
    /// If it cannot be stopped.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// It goes on.
    ///
    /// # Panics
    /// If it is gone.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    /// The server ends as by a restart of its host's service.
    ///
    /// # Panics
    /// If it does not.
    pub fn stop(&mut self) {
        self.signal("-TERM");
        self.child.wait().expect("its end");
    }

    /// It comes back on the same port, with what it had on disk.
    ///
    /// # Panics
    /// If it does not.
    pub fn restart(&mut self) {
        self.child = spawn(&self.command, self.dir.path());
        self.wait();
    }
}

fn spawn(command: &[String], dir: &std::path::Path) -> Child {
    let (program, args) = command.split_first().expect("a program");
    Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

impl Drop for Server {
    fn drop(&mut self) {
        // one that ended by itself is what is wanted
        let _ended = self.child.kill();
        self.child.wait().expect("its end");
    }
}
