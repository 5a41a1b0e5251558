//! NBD URIs, as `doc/uri.md` of the NBD project defines them: `nbd://HOST[:PORT]/NAME` and
//! `nbd+unix:///NAME?socket=PATH`. URIs that ask for TLS are refused by name, never downgraded.

use crate::error::Error;
use crate::wire::PORT;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where an export is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Uri {
    /// The server.
    pub address: Address,
    /// The name of the export; empty is the server's default.
    pub export: String,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// On the network.
    Tcp {
        /// A name or address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A socket on this host.
    Unix(PathBuf),
}

impl Uri {
    /// An export of the server on this socket.
    pub fn unix(path: impl Into<PathBuf>, export: impl Into<String>) -> Self {
        Self { address: Address::Unix(path.into()), export: export.into() }
    }

    /// An export of the server at this host and port.
    pub fn tcp(host: impl Into<String>, port: u16, export: impl Into<String>) -> Self {
        Self { address: Address::Tcp { host: host.into(), port }, export: export.into() }
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::Uri { text: text.to_owned(), why })
    }
}

fn parse(text: &str) -> Result<Uri, String> {
    let (scheme, rest) = text.split_once("://").ok_or("it has no ://")?;
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    if text.contains('#') {
        return Err("it has a fragment".into());
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let export = String::from_utf8(unescape(path)?).map_err(|_| "the name is not UTF-8")?;
    let socket = query.map(socket_of).transpose()?.flatten();
    let address = match (scheme, socket) {
        ("nbd", None) => tcp(authority)?,
        ("nbd", Some(_)) => return Err("a socket needs the scheme nbd+unix".into()),
        ("nbd+unix", Some(path)) if authority.is_empty() => Address::Unix(path),
        ("nbd+unix", Some(_)) => return Err("a unix socket has no host".into()),
        ("nbd+unix", None) => return Err("?socket=PATH is missing".into()),
        ("nbds" | "nbds+unix", _) => return Err("TLS is not supported".into()),
        _ => return Err(format!("the scheme {scheme:?} is unknown")),
    };
    Ok(Uri { address, export })
}

/// The path in a query. Anything else in it would change what is meant, so it is refused.
fn socket_of(query: &str) -> Result<Option<PathBuf>, String> {
    let mut socket = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("socket", path)) if socket.is_none() && !path.is_empty() => {
                socket = Some(PathBuf::from(OsString::from_vec(unescape(path)?)));
            }
            _ => return Err(format!("{pair:?} is not understood")),
        }
    }
    Ok(socket)
}

fn tcp(authority: &str) -> Result<Address, String> {
    if authority.contains('@') {
        return Err("user names belong to TLS, which is not supported".into());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("the bracket is not closed")?;
            let port = match port.strip_prefix(':') {
                None if !port.is_empty() => return Err(format!("{port:?} is not a port")),
                port => port,
            };
            (host, port)
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None | Some("") => PORT,
        Some(port) => port.parse().map_err(|_| format!("{port:?} is not a port"))?,
    };
    let host = String::from_utf8(unescape(host)?).map_err(|_| "the host is not UTF-8")?;
    if host.is_empty() { Err("the host is missing".into()) } else { Ok(Address::Tcp { host, port }) }
}

/// Bytes with every `%XX` replaced by what it stands for.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => return Err("a % is not followed by two hex digits".into()),
            },
            (b'%', _) => return Err("a % is not followed by two hex digits".into()),
            _ => (byte, after),
        };
        if byte == 0 {
            return Err("it has a NUL byte".into());
        }
        bytes.push(byte);
        rest = after;
    }
    Ok(bytes)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Writes bytes, those outside `[A-Za-z0-9._~/@:-]` as `%XX`.
fn escape(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|&byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'/' | b'@' | b':' | b'-' => {
            write!(f, "{}", char::from(byte))
        }
        _ => write!(f, "%{byte:02X}"),
    })
}

fn socket_query(path: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("?socket=")?;
    escape(path.as_os_str().as_bytes(), f)
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(_) => f.write_str("nbd+unix:///")?,
            Address::Tcp { .. } => write!(f, "nbd://{}/", self.address)?,
        }
        escape(self.export.as_bytes(), f)?;
        match &self.address {
            Address::Unix(path) => socket_query(path, f),
            Address::Tcp { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read_and_written() {
        for (text, uri) in [
            ("nbd://host:7/web-root@3", Uri::tcp("host", 7, "web-root@3")),
            ("nbd://[::1]:10809/vm/web/vda@7", Uri::tcp("::1", 10809, "vm/web/vda@7")),
            ("nbd+unix:///a%20b?socket=/run/x%26y.sock", Uri::unix("/run/x&y.sock", "a b")),
        ] {
            assert_eq!(text.parse::<Uri>().expect(text), uri);
            assert_eq!(uri.to_string(), text);
        }
        assert_eq!("nbd://h".parse::<Uri>().expect("short"), Uri::tcp("h", 10809, ""));
        assert_eq!("nbd://[::1]/".parse::<Uri>().expect("short"), Uri::tcp("::1", 10809, ""));
        assert_eq!("nbd+unix://?socket=s".parse::<Uri>().expect("short"), Uri::unix("s", ""));
    }

    #[test]
    fn what_would_be_misunderstood_is_refused() {
        for text in [
            "",
            "nbd",
            "http://h/",
            "nbds://h/",
            "nbds+unix:///?socket=s",
            "nbd:///x",
            "nbd://h:99999/",
            "nbd://[::1/",
            "nbd://[::1]x/",
            "nbd://u@h/",
            "nbd://h/?socket=s",
            "nbd+unix:///x",
            "nbd+unix://h/x?socket=s",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?socket=a&socket=b",
            "nbd+unix:///x?sock=a",
            "nbd://h/%",
            "nbd://h/%4",
            "nbd://h/%zz",
            "nbd://h/%00",
            "nbd://h/%ff",
            "nbd://h/#f",
        ] {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }
}
