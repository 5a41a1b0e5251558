//! `blockd.toml` in the state directory: few keys, each documented in `docs/config.md`, unknown ones refused by name.

use crate::error::{Error, Result};
use block::Media;
use control::Kind;
use serde::Deserialize;
use std::net::SocketAddr;

/// The file's name in the state directory.
pub const FILE: &str = "blockd.toml";

/// A configuration larger than this is not one.
const LIMIT_BYTES: u64 = 64 << 10;

/// Jobs at a time unless configured: one reads while the other compresses.
const DEFAULT_PARALLEL_JOBS: usize = 2;

/// More would only make each other slower; each takes a thread and the buffers of a transfer.
const MAX_PARALLEL_JOBS: usize = 64;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

/// What can be set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// A TCP address to serve exports on, beside the unix socket. Loopback only.
    pub nbd_listen: Option<SocketAddr>,
    /// How log lines look.
    pub log_format: Option<LogFormat>,
    /// Jobs that run at a time.
    parallel_jobs: Option<usize>,
}

impl Config {
    /// Reads the file; a missing one sets nothing.
    ///
    /// # Errors
    /// `Invalid` naming the key and line that are not understood.
    pub fn load(media: &dyn Media) -> Result<Self> {
        match media.read_whole(FILE, LIMIT_BYTES) {
            Ok(bytes) => Self::parse(&bytes),
            Err(error) if error.kind() == block::Kind::NotFound => Ok(Self::default()),
            Err(error) => Err(Error::below("read the configuration", error)),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let wrong = |why: String| Error::said(Kind::Invalid, FILE, why);
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not UTF-8".to_owned()))?;
        let config: Self =
            toml::from_str(text).map_err(|error| wrong(error.to_string().trim().to_owned()))?;
        match config.parallel_jobs {
            Some(count) if !(1..=MAX_PARALLEL_JOBS).contains(&count) => {
                Err(wrong(format!("parallel-jobs is {count}, must be 1 to {MAX_PARALLEL_JOBS}")))
            }
            _ => Ok(config),
        }
    }

    /// Jobs that run at a time.
    pub fn parallel_jobs(&self) -> usize {
        self.parallel_jobs.unwrap_or(DEFAULT_PARALLEL_JOBS)
    }
}

/// Checks an address to serve exports on.
///
/// # Errors
/// `Refused` unless it is a loopback address: beyond this host the protocol would be readable and writable by anyone.
pub fn check_listen(address: SocketAddr) -> Result<SocketAddr> {
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err(Error::said(
        Kind::Refused,
        format!("--nbd-listen {address}"),
        "reaches beyond this host, which needs TLS, and this version has none",
    )
    .with_help("listen on 127.0.0.1 and reach it through an SSH tunnel"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = Config::parse(b"nbd-lisen = \"127.0.0.1:10809\"").expect_err("a misspelt key");
        assert!(error.to_string().contains("nbd-lisen"), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(Config::parse(b"parallel-jobs = 0").is_err());
        assert!(Config::parse(b"\xff").is_err());
    }

    #[test]
    fn known_keys_are_taken() {
        let text = b"nbd-listen = \"[::1]:10809\"\nlog-format = \"json\"\nparallel-jobs = 3\n";
        let config = Config::parse(text).expect("three known keys");
        assert_eq!(config.parallel_jobs(), 3);
        assert_eq!(config.log_format, Some(LogFormat::Json));
        assert_eq!(config.nbd_listen.map(|address| address.port()), Some(10809));
    }

    #[test]
    fn only_loopback_is_listened_on() {
        for good in ["127.0.0.1:1", "[::1]:1", "127.3.2.1:1"] {
            assert!(check_listen(good.parse().expect("an address")).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1"] {
            let error = check_listen(bad.parse().expect("an address")).expect_err(bad);
            assert!(error.to_string().contains("TLS"), "{error}");
        }
    }
}
