//! An authority of our own, made anew for every test, in the layout that libnbd and qemu look for.

use crate::stage::run;
use nbd::TlsConfig;
use std::path::{Path, PathBuf};

pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// Certificates of an authority, a server called `localhost`, and a client called `client.test`; and a stranger's.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Self { folder };
        for whose in ["ours", "strangers"] {
            std::fs::create_dir(made.folder.path().join(whose)).unwrap();
            made.authority(whose);
            made.leaf(whose, "server", "DNS:localhost,IP:127.0.0.1");
            made.leaf(whose, "client", "DNS:client.test");
        }
        made
    }

    /// The folder of a client's files: `ours` or `strangers`.
    pub fn of(&self, whose: &str) -> PathBuf {
        self.folder.path().join(whose)
    }

    pub fn server(&self) -> TlsConfig {
        let read = |name: &str| std::fs::read(self.of("ours").join(name)).unwrap();
        TlsConfig::new(&read("server-cert.pem"), &read("server-key.pem"), &read("ca-cert.pem")).unwrap()
    }

    fn authority(&self, whose: &str) {
        let (key, cert) = (self.file(whose, "ca-key.pem"), self.file(whose, "ca-cert.pem"));
        certificate(&["-subj", "/CN=authority", "-keyout", &key, "-out", &cert]);
    }

    fn leaf(&self, whose: &str, role: &str, names: &str) {
        let (key, cert) =
            (self.file(whose, &format!("{role}-key.pem")), self.file(whose, &format!("{role}-cert.pem")));
        let (ca, ca_key) = (self.file(whose, "ca-cert.pem"), self.file(whose, "ca-key.pem"));
        let extension = format!("subjectAltName={names}");
        certificate(&[
            "-subj",
            &format!("/CN={role}"),
            "-addext",
            &extension,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-keyout",
            &key,
            "-out",
            &cert,
        ]);
    }

    fn file(&self, whose: &str, name: &str) -> String {
        show(&self.of(whose).join(name))
    }
}

pub fn show(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A key and a certificate for it, for two days.
fn certificate(more: &[&str]) {
    let common = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' ');
    run("openssl", &common.chain(more.iter().copied()).collect::<Vec<_>>());
}
