//! Where clients of the API come in: the unix socket, where the kernel says who they are, and TCP, where TLS 1.3 says who we
//! are and they show a token.

use crate::error::{Error, Result};
use crate::identity::Origin;
use control::Kind;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto, version};
use tokio_rustls::server::TlsStream;

pub use tokio_rustls::TlsAcceptor;

/// A way in.
pub enum Door {
    /// The unix socket.
    Local(UnixListener),
    /// A TCP address.
    Remote(TcpListener, TlsAcceptor),
}

/// A client that came, and is not in yet.
pub enum Knocked {
    /// By the unix socket.
    Local(UnixStream),
    /// By TCP.
    Remote(TcpStream, TlsAcceptor),
}

impl Door {
    /// The next client.
    ///
    /// # Errors
    /// What the host reports.
    pub async fn accept(&self) -> io::Result<Knocked> {
        match self {
            Self::Local(listener) => Ok(Knocked::Local(listener.accept().await?.0)),
            Self::Remote(listener, tls) => Ok(Knocked::Remote(listener.accept().await?.0, tls.clone())),
        }
    }
}

impl Knocked {
    /// Lets it in; where it comes from.
    ///
    /// # Errors
    /// Why not.
    pub async fn enter(self) -> io::Result<(Stream, Origin)> {
        match self {
            Self::Local(stream) => {
                let origin = Origin::User(stream.peer_cred()?.uid());
                Ok((Stream::Local(stream), origin))
            }
            Self::Remote(stream, tls) => {
                stream.set_nodelay(true)?;
                Ok((Stream::Remote(Box::new(tls.accept(stream).await?)), Origin::Remote))
            }
        }
    }
}

/// What is needed to accept TLS 1.3 with this certificate (leaf first) and key, both in PEM.
///
/// # Errors
/// `Invalid` naming what does not fit.
pub fn acceptor(certificate: &[u8], key: &[u8]) -> Result<TlsAcceptor> {
    let wrong = |what: &str, why: String| Error::said(Kind::Invalid, format!("api-tls: {what}"), why);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|error| wrong("certificate", error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong("certificate", "no certificate is in it".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("key", error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| wrong("version", error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| wrong("certificate and key", error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A client that is in.
pub enum Stream {
    /// By the unix socket.
    Local(UnixStream),
    /// By TCP.
    Remote(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Remote(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Remote(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_flush(cx),
            Self::Remote(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Local(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Remote(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
