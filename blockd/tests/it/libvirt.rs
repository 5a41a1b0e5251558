//! A real libvirtd of a test's own: its directories are its own by a mount namespace, its sockets are in the test's directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The first answer comes when qemu's abilities are known, on a machine busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);

pub struct Libvirt {
    dir: TempDir,
    child: Option<Child>,
}

impl Libvirt {
    /// Starts one, and waits until it answers.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for below in ["etc", "run", "lib", "log", "cache"] {
            fs::create_dir(dir.path().join(below)).expect("a directory");
        }
        let at = dir.path().display();
        fs::write(
            dir.path().join("libvirtd.conf"),
            format!(
                "unix_sock_dir = \"{at}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\nlog_outputs = \"3:stderr\"\n"
            ),
        )
        .expect("written");
        fs::write(
            dir.path().join("etc/qemu.conf"),
            "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\ncgroup_controllers = [ ]\nnamespaces = [ ]\n\
             stdio_handler = \"file\"\nremember_owner = 0\n",
        )
        .expect("written");
        let script = format!(
            "set -e\nmkdir -p /run/libvirt /var/lib/libvirt /etc/libvirt /var/log/libvirt /var/cache/libvirt\n\
             mount --bind {at}/run /run/libvirt\nmount --bind {at}/lib /var/lib/libvirt\nmount --bind {at}/etc /etc/libvirt\n\
             mount --bind {at}/log /var/log/libvirt\nmount --bind {at}/cache /var/cache/libvirt\n\
             exec libvirtd -f {at}/libvirtd.conf --pid-file {at}/pid\n"
        );
        fs::write(dir.path().join("start.sh"), script).expect("written");
        let mut libvirt = Self { dir, child: None };
        libvirt.start();
        libvirt
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.path().join("libvirt-sock").display())
    }

    fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log()).expect("a log");
        let child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh"])
            .arg(self.path().join("start.sh"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("unshare");
        self.child = Some(child);
        let step = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        while !self.try_virsh(&["version"], "").0 {
            assert!(waited < PATIENCE, "{}", fs::read_to_string(self.log()).unwrap_or_default());
            std::thread::sleep(step);
            waited += step;
        }
    }

    fn log(&self) -> PathBuf {
        self.path().join("libvirtd.log")
    }

    /// Ends it as a crash would; its machines go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("a signal");
            child.wait().expect("its end");
        }
    }

    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Whether it worked, and what was said.
    pub fn try_virsh(&self, words: &[&str], input: &str) -> (bool, String) {
        use std::io::Write;
        let mut child = Command::new("virsh")
            .args(["--quiet", "--connect", &self.uri()])
            .args(words)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("virsh");
        child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("its end");
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).trim().to_owned())
    }

    pub fn virsh(&self, words: &[&str]) -> String {
        let (success, said) = self.try_virsh(words, "");
        assert!(success, "virsh {words:?}: {said}");
        said
    }

    pub fn define(&self, xml: &str) {
        let (success, said) = self.try_virsh(&["define", "/dev/stdin"], xml);
        assert!(success, "{said}\n{xml}");
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // its machines are not its children
        let (_, running) = self.try_virsh(&["list", "--name"], "");
        if self.child.is_some() {
            running.lines().for_each(|name| drop(self.try_virsh(&["destroy", name], "")));
        }
        self.kill();
    }
}
