//! What the protocol text says a server that requires TLS MUST do, and that the tools of others speak it with us.

use crate::certificates::{Certificates, show};
use crate::raw::Raw;
use crate::stage::{Disks, SparseDisk, Stage, noise, run};
use block::{BlockDevice, ByteOffset};
use nbd::wire::{self, OptionHeader, OptionReplyHeader, Refusal};
use nbd::{Export, ExportInfo, Exports, Limits, Listener, Peer, Server};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

const SIZE: u64 = 16 << 20;

fn stage(certificates: &Certificates) -> Stage {
    let tls = certificates.server();
    Stage::listening(SIZE, Limits::default(), |listener| listener.with_tls(tls))
}

/// A connection inside TLS.
struct Secret(StreamOwned<ClientConnection, UnixStream>);

impl Secret {
    fn start(raw: Raw, folder: &Path, shows: bool) -> Result<Self, std::io::Error> {
        Self::of_versions(rustls::DEFAULT_VERSIONS, raw, folder, shows)
    }

    fn of_versions(
        versions: &[&'static SupportedProtocolVersion],
        mut raw: Raw,
        folder: &Path,
        shows: bool,
    ) -> Result<Self, std::io::Error> {
        raw.option(wire::OPT_STARTTLS, b"");
        assert_eq!(raw.reply(), (wire::REP_ACK, Vec::new()));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(folder.join("ca-cert.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = if shows {
            let leaf = CertificateDer::from_pem_file(folder.join("client-cert.pem")).unwrap();
            let key = PrivateKeyDer::from_pem_file(folder.join("client-key.pem")).unwrap();
            config.with_client_auth_cert(vec![leaf], key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        let name = ServerName::try_from("localhost").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
        let mut secret = Self(StreamOwned::new(connection, raw.0));
        secret.0.flush()?;
        Ok(secret)
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> std::io::Result<u32> {
        self.0.write_all(&OptionHeader { option, length: data.len() as u32 }.encode())?;
        self.0.write_all(data)?;
        let mut header = [0; OptionReplyHeader::LEN];
        self.0.read_exact(&mut header)?;
        let header = OptionReplyHeader::decode(&header).unwrap();
        let mut data = vec![0; header.length as usize];
        self.0.read_exact(&mut data)?;
        Ok(header.reply)
    }
}

#[test]
fn every_option_but_starttls_and_abort_must_be_answered_err_tls_reqd() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    let mut raw = Raw::haggling(&stage);
    for option in [wire::OPT_LIST, wire::OPT_INFO, wire::OPT_GO, wire::OPT_STRUCTURED_REPLY, 11, 9, 10, 4711]
    {
        raw.option(option, &[0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 0]);
        assert_eq!(raw.reply().0, Refusal::TlsRequired.reply(), "{option}");
    }
    raw.option(wire::OPT_ABORT, b"");
    assert_eq!(raw.reply().0, wire::REP_ACK);
    raw.expect_end();
}

#[test]
fn export_name_without_tls_must_terminate_the_session() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_EXPORT_NAME, b"disk");
    raw.expect_end();
}

#[test]
fn starttls_must_be_acked_and_a_second_one_must_be_err_invalid() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    let mut secret = Secret::start(Raw::haggling(&stage), &certificates.of("ours"), true).unwrap();
    assert_eq!(secret.ask(wire::OPT_STARTTLS, b"").unwrap(), Refusal::Invalid.reply());
    // and nothing is refused for want of TLS any more
    assert_eq!(secret.ask(4711, b"").unwrap(), Refusal::Unsupported.reply());
    assert_eq!(secret.ask(wire::OPT_STRUCTURED_REPLY, b"").unwrap(), wire::REP_ACK);
}

#[test]
fn tls_1_2_must_be_supported() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (raw, folder) = (Raw::haggling(&stage), certificates.of("ours"));
        let mut secret = Secret::of_versions(&[version], raw, &folder, true).unwrap();
        assert_eq!(secret.ask(wire::OPT_STRUCTURED_REPLY, b"").unwrap(), wire::REP_ACK);
        assert_eq!(secret.0.conn.protocol_version(), Some(version.version));
    }
}

#[test]
fn what_was_negotiated_before_tls_must_be_negotiated_again() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_STRUCTURED_REPLY, b"");
    assert_eq!(raw.reply().0, Refusal::TlsRequired.reply());
    let mut secret = Secret::start(raw, &certificates.of("ours"), true).unwrap();
    let set = [0, 0, 0, 4, b'd', b'i', b's', b'k', 0, 0, 0, 0];
    assert_eq!(secret.ask(wire::OPT_SET_META_CONTEXT, &set).unwrap(), Refusal::Invalid.reply());
}

/// Others' servers took options for secret that somebody on the way had put before the handshake of TLS.
#[test]
fn bytes_sent_before_tls_are_never_used() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    let mut raw = Raw::haggling(&stage);
    let starttls = OptionHeader { option: wire::OPT_STARTTLS, length: 0 }.encode();
    let injected = OptionHeader { option: wire::OPT_STRUCTURED_REPLY, length: 0 }.encode();
    raw.send(&[starttls, injected].concat());
    assert_eq!(raw.reply().0, wire::REP_ACK);
    raw.expect_end();
}

#[test]
fn a_failed_tls_handshake_must_terminate_the_session() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    // no TLS at all
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_STARTTLS, b"");
    assert_eq!(raw.reply().0, wire::REP_ACK);
    raw.option(wire::OPT_LIST, b"");
    let mut rest = Vec::new();
    let ended = raw.0.read_to_end(&mut rest);
    // an alert at most, and no reply
    assert!(ended.is_err() || rest.len() < 20, "{rest:?}");
    // a certificate of nobody we know, and none
    for (whose, shows) in [("strangers", true), ("ours", false)] {
        let secret = Secret::start(Raw::haggling(&stage), &certificates.of(whose), shows);
        let refused = secret.and_then(|mut secret| secret.ask(wire::OPT_LIST, b""));
        assert!(refused.is_err(), "{whose}");
    }
    assert!(stage.server.stats().is_empty());
}

#[test]
fn starttls_with_data_is_refused() {
    let certificates = Certificates::new();
    let stage = stage(&certificates);
    let mut raw = Raw::haggling(&stage);
    raw.option(wire::OPT_STARTTLS, b"x");
    assert_eq!(raw.reply().0, Refusal::Invalid.reply());
}

/// Remembers who opened.
struct Guests(Arc<SparseDisk>, Mutex<Vec<Peer>>);

impl Exports for Guests {
    fn list(&self, _peer: &Peer) -> Vec<ExportInfo> {
        Vec::new()
    }

    fn open(&self, name: &str, peer: &Peer) -> block::Result<Export> {
        self.1.lock().unwrap().push(peer.clone());
        Disks(self.0.clone()).open(name, peer)
    }
}

#[test]
fn tools_of_others_speak_tls_over_tcp_and_are_known_by_their_certificate() {
    let certificates = Certificates::new();
    let disk = SparseDisk::new(SIZE);
    disk.write_at(ByteOffset::ZERO, &noise(SIZE as usize, 5)).unwrap();
    let exports = Arc::new(Guests(disk.clone(), Mutex::default()));
    let listener = Listener::tcp("127.0.0.1:0".parse().unwrap()).unwrap().with_tls(certificates.server());
    let port = listener.address().rsplit(':').next().unwrap().to_owned();
    let server = Server::start(vec![listener], exports.clone(), Limits::default()).unwrap();
    let folder = show(&certificates.of("ours"));
    let uri = format!("nbds://localhost:{port}/disk?tls-certificates={folder}");
    let info = run("nbdinfo", &[&uri]);
    assert!(info.contains("with TLS") && info.contains("export-size: 16777216"), "{info}");
    let copied = tempfile::NamedTempFile::new().unwrap();
    run("nbdcopy", &["--connections=2", &uri, copied.path().to_str().unwrap()]);
    assert!(std::fs::read(copied.path()).unwrap() == disk.contents());
    let object = format!("tls-creds-x509,id=t,dir={folder},endpoint=client,verify-peer=yes");
    let image = format!("driver=nbd,host=localhost,port={port},export=disk,tls-creds=t");
    let file = show(copied.path());
    run("qemu-img", &["convert", "--object", &object, "-O", "raw", "--image-opts", &image, &file]);
    assert!(std::fs::read(copied.path()).unwrap() == disk.contents());
    let peers = exports.1.lock().unwrap();
    let known =
        |peer: &Peer| matches!(peer, Peer::Tls { certificate, .. } if certificate.names == ["client.test"]);
    assert!(peers.len() >= 4 && peers.iter().all(known), "{peers:?}");
    let plain = format!("nbd://localhost:{port}/disk");
    let refused = std::process::Command::new("nbdinfo").arg(&plain).output().unwrap();
    assert!(!refused.status.success());
    drop(peers);
    server.stop();
}
