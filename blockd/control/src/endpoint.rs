//! Where a daemon answers: at a unix socket of this host, or over TLS 1.3 at an address.

use crate::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto, version};

/// One of them.
pub(crate) enum Endpoint {
    /// A socket of this host.
    Unix(PathBuf),
    /// An address somewhere, and how to know that it is the right one.
    Tls { address: String, name: ServerName<'static>, connector: TlsConnector },
}

impl Endpoint {
    /// The daemon at `https://HOST:PORT`, whose certificate one of the authorities in `authorities` (PEM) signed.
    ///
    /// # Errors
    /// [`Error::Broken`] saying what is no address and what no certificate.
    pub(crate) fn tls(url: &str, authorities: &[u8]) -> Result<Self, Error> {
        let broken = |why: String| Error::Broken { request: format!("connect to {url}"), why };
        let address = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
        let (host, port) = address.rsplit_once(':').ok_or_else(|| broken("give HOST:PORT".to_owned()))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        if port.parse::<u16>().is_err() {
            return Err(broken(format!("{port:?} is no port")));
        }
        let name = ServerName::try_from(host).map_err(|error| broken(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(authorities) {
            let root = root.map_err(|error| broken(format!("the authority's certificate: {error}")))?;
            roots.add(root).map_err(|error| broken(format!("the authority's certificate: {error}")))?;
        }
        if roots.is_empty() {
            return Err(broken("no certificate of an authority was given".to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| broken(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self::Tls { address: address.to_owned(), name, connector })
    }

    pub(crate) async fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(path) => UnixStream::connect(path).await.map(Connection::Unix),
            Self::Tls { address, name, connector } => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tls(Box::new(connector.connect(name.clone(), stream).await?)))
            }
        }
    }

    /// The socket; an empty path of one that is none.
    pub(crate) fn socket(&self) -> &Path {
        match self {
            Self::Unix(path) => path,
            Self::Tls { .. } => Path::new(""),
        }
    }

    /// For messages.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Unix(path) => path.display().to_string(),
            Self::Tls { address, .. } => address.clone(),
        }
    }
}

/// A connection to one.
pub(crate) enum Connection {
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
