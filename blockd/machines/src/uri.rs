//! Which libvirt: the forms of its URI that are taken.

use crate::error::{Error, Result};
use std::fmt;

/// Where a libvirt is.
///
/// libvirt's own URIs may name a command that is run to reach it, so only these forms are taken: `qemu:///system`,
/// `qemu:///session`, `qemu+unix:///system?socket=PATH`, `qemu+tls://HOST/system`, `qemu+ssh://[USER@]HOST/system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri(String);

/// The libvirt of this host.
const SYSTEM: &str = "qemu:///system";
const LIMIT_BYTES: usize = 1024;

impl Uri {
    /// Takes it apart.
    ///
    /// # Errors
    /// `Invalid` for any other form.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::Invalid(format!(
                "libvirt URI: {why}; such as qemu:///system, qemu+unix:///system?socket=/run/x or qemu+ssh://root@HOST/system"
            ))
        };
        if text.len() > LIMIT_BYTES || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(wrong("is too long, or has other than printable characters"));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("has no scheme"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| wrong("has no path"))?;
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let host_is_one = !host.is_empty()
            && !host.starts_with('-')
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_@:[]".contains(&byte));
        match scheme {
            "qemu" | "qemu+unix" if host.is_empty() => {}
            "qemu+tls" | "qemu+ssh" if host_is_one => {}
            "qemu+tls" | "qemu+ssh" => return Err(wrong("names no host")),
            "qemu" | "qemu+unix" => return Err(wrong("names a host and not how to reach it")),
            _ => return Err(wrong("has an unknown scheme")),
        }
        if path != "system" && path != "session" {
            return Err(wrong("its path is neither system nor session"));
        }
        match query {
            None => {}
            Some(query)
                if scheme == "qemu+unix"
                    && query
                        .strip_prefix("socket=/")
                        .is_some_and(|path| !path.contains(['&', ';', '#', '?'])) => {}
            Some(_) => return Err(wrong("has parameters other than the socket of qemu+unix")),
        }
        Ok(Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is another host's, whose files are not here.
    pub fn is_elsewhere(&self) -> bool {
        !self.0.split_once("://").is_some_and(|(_, rest)| rest.starts_with('/'))
    }

    /// Whether it is a user's own.
    pub fn is_session(&self) -> bool {
        self.0.contains("/session")
    }
}

impl Default for Uri {
    fn default() -> Self {
        Self(SYSTEM.to_owned())
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_uri_names_a_command() {
        for good in [
            "qemu:///system",
            "qemu:///session",
            "qemu+unix:///system?socket=/tmp/a/libvirt-sock",
            "qemu+ssh://root@far.example:22/system",
            "qemu+tls://[::1]/system",
        ] {
            assert_eq!(Uri::parse(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "system",
            "qemu://far/system",
            "qemu+ext:///system?command=/bin/sh",
            "qemu+ssh://far/system?command=/bin/sh",
            "qemu+ssh://far/system?netcat=x",
            "qemu+ssh://-oProxyCommand=x/system",
            "qemu+unix:///system?socket=/a&command=/b",
            "qemu+unix:///system?socket=a",
            "qemu+ssh:///system",
            "xen:///system",
            "qemu:///embed",
            "qemu:///sys tem",
        ] {
            assert!(Uri::parse(bad).is_err(), "{bad}");
        }
        assert!(
            Uri::parse("qemu+ssh://far/system").expect("one").is_elsewhere()
                && !Uri::default().is_elsewhere()
        );
    }
}
