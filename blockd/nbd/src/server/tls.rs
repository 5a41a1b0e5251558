//! TLS under a connection, by rustls. Both sides show X.509 certificates; keys shared beforehand (PSK) are not spoken,
//! because rustls takes none from outside.

use crate::error::Error;
use crate::export::Certificate;
use crate::limits::MAX_TLS_HANDSHAKE;
use crate::socket::Socket;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::sync::Arc;

/// Plain bytes that TLS encrypts at a time: one batch of replies goes out in a few large writes.
const RECORDS: usize = 128 << 10;

/// Who this server is and whose clients it believes.
#[derive(Clone)]
pub struct TlsConfig(Arc<ServerConfig>);

impl TlsConfig {
    /// A server with this certificate (leaf first) and key, for clients whose certificates `clients` signed; all in PEM.
    /// A client without one is refused.
    ///
    /// # Errors
    /// `Tls` naming what does not fit.
    pub fn new(certificate: &[u8], key: &[u8], clients: &[u8]) -> Result<Self, Error> {
        let bad = |what: &'static str| move |why: String| Error::Tls { what, why };
        let chain = certificates(certificate).map_err(bad("the certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|why| bad("the key")(why.to_string()))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(clients).map_err(bad("the authority of clients"))? {
            roots.add(root).map_err(|why| bad("the authority of clients")(why.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|why| bad("the authority of clients")(why.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| bad("the versions of TLS")(why.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|why| bad("the certificate")(why.to_string()))?;
        // a client that comes back shows its certificate again
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in it".into()),
        found => found.map_err(|why| why.to_string()),
    }
}

/// TLS on a connection after its handshake.
pub(super) struct Secured {
    connection: ServerConnection,
}

impl Secured {
    /// Shakes hands. Every wait is bounded by the socket's timeout, which `tick` renews or ends.
    pub(super) fn accept(
        config: &TlsConfig,
        socket: &Socket,
        mut tick: impl FnMut() -> io::Result<()>,
    ) -> io::Result<(Self, Certificate)> {
        let mut connection = ServerConnection::new(config.0.clone()).map_err(io::Error::other)?;
        connection.set_buffer_limit(Some(RECORDS));
        let mut carrier = Stranger { carrier: Carrier(socket), left: MAX_TLS_HANDSHAKE };
        while connection.is_handshaking() {
            tick()?;
            let done = connection.complete_io(&mut carrier);
            if let Err(error) = done {
                // the alert that says why is on its way; it no longer matters whether it arrives
                tracing::debug!(%error, "no TLS");
                return Err(error);
            }
        }
        let shown = connection.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.ok_or_else(|| io::Error::other("no certificate of the client"))?;
        let certificate = identity(shown)?;
        Ok((Self { connection }, certificate))
    }

    pub(super) fn has_received(&self) -> bool {
        // plain bytes are taken out as soon as they are there, see `receive`
        !self.connection.wants_read()
    }

    /// As [`Socket::receive`].
    pub(super) fn receive(&mut self, socket: &Socket, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // a client that just goes is as good as gone: it has no reply to wait for
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.connection.read_tls(&mut Carrier(socket))? == 0 {
                return Ok(0);
            }
            let processed = self.connection.process_new_packets();
            self.flush(socket)?;
            processed.map_err(io::Error::other)?;
        }
    }

    /// As [`Socket::send`].
    pub(super) fn send(&mut self, socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = self.connection.writer().write(bytes)?;
            bytes = &bytes[taken..];
            self.flush(socket)?;
        }
        Ok(())
    }

    fn flush(&mut self, socket: &Socket) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Carrier(socket))?;
        }
        Ok(())
    }

    pub(super) fn close(&mut self, socket: &Socket) {
        self.connection.send_close_notify();
        if let Err(error) = self.flush(socket) {
            tracing::trace!(%error, "the client did not wait for the good-bye");
        }
    }
}

/// What a certificate says of its holder.
fn identity(shown: &CertificateDer<'_>) -> io::Result<Certificate> {
    let digest = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let Some(suite) = digest.tls13() else { return Err(io::Error::other("no SHA-256")) };
    let hash = suite.common.hash_provider.hash(shown);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(hash.as_ref());
    let parsed = webpki::EndEntityCert::try_from(shown).map_err(io::Error::other)?;
    let names = parsed.valid_dns_names().map(str::to_owned).collect();
    Ok(Certificate { fingerprint, names })
}

/// The socket as rustls reads and writes it.
struct Carrier<'a>(&'a Socket);

impl Read for Carrier<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.receive(buf)
    }
}

/// The socket of a client whose certificate was not seen yet: only so much of what it says is kept.
struct Stranger<'a> {
    carrier: Carrier<'a>,
    left: usize,
}

impl Read for Stranger<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let why = format!("more than {MAX_TLS_HANDSHAKE} bytes of TLS and still no certificate");
            return Err(io::Error::other(why));
        }
        let count = buf.len().min(self.left);
        let count = self.carrier.read(&mut buf[..count])?;
        self.left -= count;
        Ok(count)
    }
}

impl Write for Stranger<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.carrier.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.carrier.flush()
    }
}

impl Write for Carrier<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.send(buf).map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
