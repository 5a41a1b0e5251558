//! `blockd.toml` in the state directory: few keys, each documented in `docs/config.md`, unknown ones refused by name.

use crate::error::{Doing, Error, Result};
use crate::events::Alert;
use crate::identity::LocalUser;
use crate::jobs::{HoursKeys, Limits};
use crate::names::{is_word, machine};
use crate::quiesce::MachineKeys;
use crate::rehearsal::RehearsalKeys;
use crate::space::{self, LEAST_RESERVE};
use block::linux::SystemClock;
use block::{Clock, Media};
use control::Kind;
use nbd::{Certificate, TlsConfig};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file's name in the state directory.
pub const FILE: &str = "blockd.toml";

/// A configuration larger than this is not one.
const LIMIT_BYTES: u64 = 64 << 10;

/// Jobs at a time unless configured: one reads while the other compresses.
const DEFAULT_PARALLEL_JOBS: usize = 2;

/// More would only make each other slower; each takes a thread and the buffers of a transfer.
const MAX_PARALLEL_JOBS: usize = 64;

/// Memory for decoded chunks unless configured: a guest's boot and the files it keeps going back to.
const DEFAULT_CACHE_BYTES: u64 = 128 << 20;

/// With less, a reader of large pieces finds nothing again of what it read just before.
const LEAST_CACHE_BYTES: u64 = 1 << 20;

/// A piece of a hydration is 1 MiB; slower than one a second is no hydration.
const LEAST_HYDRATION: u64 = 1 << 20;

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
    /// A TCP address to serve exports on, beside the unix socket. Loopback only unless `nbd-tls` is set.
    pub nbd_listen: Option<SocketAddr>,
    /// A TCP address to answer the API on, over TLS and to those who show a token.
    pub api_listen: Option<SocketAddr>,
    /// This server's certificate there.
    api_tls: Option<ApiTlsFiles>,
    /// What other users of this host than the owner may do.
    #[serde(default)]
    local_user: Vec<LocalUser>,
    /// Who is told of events, and how.
    #[serde(default)]
    alert: Vec<Alert>,
    /// The program that takes letters.
    mail_command: Option<Vec<String>>,
    /// How log lines look.
    pub log_format: Option<LogFormat>,
    /// TLS on that address.
    nbd_tls: Option<TlsFiles>,
    /// What the certificates of its clients are good for.
    #[serde(default)]
    nbd_client: Vec<ClientAccess>,
    /// Jobs that run at a time.
    parallel_jobs: Option<usize>,
    /// How fast backups and what moves points between vaults and archives go together, at most.
    transfer_bytes_per_second: Option<u64>,
    /// Parts of the day in which that is another, or in which what policies ask for waits.
    #[serde(default)]
    transfer_hours: Vec<HoursKeys>,
    /// What all disks may take together.
    instant_budget_bytes: Option<u64>,
    /// What is to be left of that, and of the filesystem.
    instant_reserve_bytes: Option<u64>,
    /// Memory for decoded chunks of vaults.
    cache_bytes: Option<u64>,
    /// How fast runs are hydrated together, at most.
    hydration_bytes_per_second: Option<u64>,
    /// What prints a secret that opens a vault, by the vault's name.
    #[serde(default)]
    key_commands: BTreeMap<String, Vec<String>>,
    /// Guest agents of machines and programs that run around their points, by the machine's name.
    #[serde(default)]
    machine: BTreeMap<String, MachineKeys>,
    /// How rehearsals run their machines.
    #[serde(default)]
    pub rehearsal: RehearsalKeys,
}

/// The files of TLS, in PEM; relative names lie in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TlsFiles {
    /// This server's certificate and those between it and its authority.
    certificate: PathBuf,
    /// Its key.
    key: PathBuf,
    /// The authority that signs the certificates of clients.
    clients: PathBuf,
}

/// The files of the API's TLS, in PEM; relative names lie in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ApiTlsFiles {
    /// This server's certificate and those between it and its authority.
    certificate: PathBuf,
    /// Its key.
    key: PathBuf,
}

/// A client by its certificate, and the exports it may use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClientAccess {
    /// A DNS name in the certificate, or `sha256:` and the fingerprint of all of it.
    certificate: String,
    /// Names of exports; one that ends with `*` stands for all that begin so.
    exports: Vec<String>,
}

impl ClientAccess {
    /// Whether this is about that certificate.
    pub fn is_of(&self, certificate: &Certificate) -> bool {
        match self.certificate.strip_prefix("sha256:") {
            Some(digits) => {
                let ours =
                    certificate.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                digits.replace(':', "").eq_ignore_ascii_case(&ours)
            }
            None => certificate.names.iter().any(|name| name.eq_ignore_ascii_case(&self.certificate)),
        }
    }

    /// Whether it may use an export of this name.
    pub fn covers(&self, export: &str) -> bool {
        self.exports.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(front) => export.starts_with(front),
            None => export == pattern,
        })
    }
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
        if let Some(count) = config.parallel_jobs.filter(|count| !(1..=MAX_PARALLEL_JOBS).contains(count)) {
            return Err(wrong(format!("parallel-jobs is {count}, must be 1 to {MAX_PARALLEL_JOBS}")));
        }
        if let Some(bytes) = config.instant_reserve_bytes.filter(|&bytes| bytes < LEAST_RESERVE) {
            return Err(wrong(format!("instant-reserve-bytes is {bytes}, must be at least {LEAST_RESERVE}")));
        }
        if let Some(bytes) = config.cache_bytes.filter(|&bytes| bytes < LEAST_CACHE_BYTES) {
            return Err(wrong(format!("cache-bytes is {bytes}, must be at least {LEAST_CACHE_BYTES}")));
        }
        if config.hydration_bytes_per_second.is_some_and(|bytes| bytes < LEAST_HYDRATION) {
            return Err(wrong(format!("hydration-bytes-per-second must be at least {LEAST_HYDRATION}")));
        }
        if let Some((name, _)) = config.key_commands.iter().find(|(_, words)| words.is_empty()) {
            return Err(wrong(format!("key-commands.{name} names no program")));
        }
        for (name, hooks) in &config.machine {
            let why = match is_word(name) {
                true => hooks.check().err(),
                false => Some("is no machine's name, such as web of vm/web".to_owned()),
            };
            if let Some(why) = why {
                return Err(wrong(format!("machine.{name}: {why}")));
            }
        }
        if let Some(why) = config.alert.iter().find_map(|alert| alert.check().err()) {
            return Err(wrong(why));
        }
        if config.mail_command.as_ref().is_some_and(Vec::is_empty) {
            return Err(wrong("mail-command names no program".to_owned()));
        }
        config.transfer_limits(Arc::new(SystemClock))?;
        let reserve = config.space().reserve_of(0);
        if let Some(bytes) = config.instant_budget_bytes.filter(|&bytes| bytes < 2 * reserve) {
            let least = 2 * reserve;
            return Err(wrong(format!(
                "instant-budget-bytes is {bytes}, must be at least {least}, twice the reserve"
            )));
        }
        Ok(config)
    }

    /// How fast transfers may go, and when they wait.
    ///
    /// # Errors
    /// `Invalid` naming the key.
    pub fn transfer_limits(&self, clock: Arc<dyn Clock>) -> Result<Limits> {
        Limits::new(clock, self.transfer_bytes_per_second, &self.transfer_hours)
            .map_err(|why| Error::said(Kind::Invalid, FILE, why))
    }

    /// Memory for decoded chunks of vaults, all together.
    pub fn cache_bytes(&self) -> u64 {
        self.cache_bytes.unwrap_or(DEFAULT_CACHE_BYTES)
    }

    /// How fast runs are hydrated together, at most.
    pub fn hydration_bytes_per_second(&self) -> Option<u64> {
        self.hydration_bytes_per_second
    }

    /// Programs with their arguments that print what opens a vault, by the vault's name.
    pub fn key_commands(&self) -> &BTreeMap<String, Vec<String>> {
        &self.key_commands
    }

    /// Guest agents of machines and programs that run around their points, by `vm/NAME`.
    pub fn machines(&self) -> BTreeMap<String, MachineKeys> {
        self.machine.iter().map(|(name, hooks)| (machine(name), hooks.clone())).collect()
    }

    /// How much the instant tier may take.
    pub fn space(&self) -> space::Limits {
        space::Limits { budget: self.instant_budget_bytes, reserve: self.instant_reserve_bytes }
    }

    /// What the certificates of remote clients are good for.
    pub fn clients(&self) -> &[ClientAccess] {
        &self.nbd_client
    }

    /// TLS as configured, with its files read.
    ///
    /// # Errors
    /// `Invalid` or what the host reports, naming the file.
    pub fn tls(&self, dir: &Path) -> Result<Option<TlsConfig>> {
        let Some(files) = &self.nbd_tls else { return Ok(None) };
        let read = |file: &Path| {
            let path = dir.join(file);
            std::fs::read(&path).map_err(|error| Error::host(format!("read {}", path.display()), error))
        };
        let (certificate, key, clients) =
            (read(&files.certificate)?, read(&files.key)?, read(&files.clients)?);
        TlsConfig::new(&certificate, &key, &clients).doing(|| "set up TLS".to_owned()).map(Some)
    }

    /// Checks an address to serve exports on.
    ///
    /// # Errors
    /// `Refused` without TLS unless it is a loopback address: beyond this host the protocol would be readable and
    /// writable by anyone.
    pub fn check_listen(&self, address: SocketAddr) -> Result<SocketAddr> {
        if address.ip().is_loopback() || self.nbd_tls.is_some() {
            return Ok(address);
        }
        let why = "reaches beyond this host, which needs TLS, and none is configured";
        Err(Error::said(Kind::Refused, format!("--nbd-listen {address}"), why)
            .with_help("set nbd-tls in blockd.toml, or listen on 127.0.0.1"))
    }

    /// Who is told of events, and how.
    pub fn alerts(&self) -> &[Alert] {
        &self.alert
    }

    /// The program that takes letters on its standard input, with its arguments.
    pub fn mail_command(&self) -> Vec<String> {
        let usual = || ["sendmail", "-t", "-i"].map(str::to_owned).to_vec();
        self.mail_command.clone().unwrap_or_else(usual)
    }

    /// What other users of this host than the owner may do.
    pub fn local_users(&self) -> &[LocalUser] {
        &self.local_user
    }

    /// The certificate chain and the key of the API's server, as they are in their files; none if TLS is not set up.
    ///
    /// # Errors
    /// What the host reports, naming the file.
    pub fn api_tls(&self, dir: &Path) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let Some(files) = &self.api_tls else { return Ok(None) };
        let read = |file: &Path| {
            let path = dir.join(file);
            std::fs::read(&path).map_err(|error| Error::host(format!("read {}", path.display()), error))
        };
        Ok(Some((read(&files.certificate)?, read(&files.key)?)))
    }

    /// Jobs that run at a time.
    pub fn parallel_jobs(&self) -> usize {
        self.parallel_jobs.unwrap_or(DEFAULT_PARALLEL_JOBS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = Config::parse(b"nbd-lisen = \"127.0.0.1:10809\"").expect_err("a misspelt key");
        assert!(error.to_string().contains("nbd-lisen"), "{error}");
        assert_eq!(error.kind(), Kind::Invalid);
        for bad in [
            "parallel-jobs = 0",
            "[key-commands]\nmain = []",
            "instant-reserve-bytes = 16777215",
            "instant-reserve-bytes = -1",
            "transfer-bytes-per-second = 65535",
            "[[transfer-hours]]\nfrom = \"08:00\"\nuntil = \"18:00\"",
            "instant-budget-bytes = 33554431",
            "instant-budget-bytes = 199999999\ninstant-reserve-bytes = 100000000",
            "instant-budget-bytes = \"20G\"",
        ] {
            assert!(Config::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Config::parse(b"\xff").is_err());
    }

    #[test]
    fn known_keys_are_taken() {
        let text = b"nbd-listen = \"[::1]:10809\"\nlog-format = \"json\"\nparallel-jobs = 3\n\
            instant-budget-bytes = 200_000_000\ninstant-reserve-bytes = 100_000_000\n";
        let config = Config::parse(text).expect("known keys");
        assert_eq!(config.space().budget, Some(200_000_000));
        assert_eq!(config.space().reserve_of(1 << 40), 100_000_000);
        assert_eq!(config.parallel_jobs(), 3);
        assert_eq!(config.log_format, Some(LogFormat::Json));
        assert_eq!(config.nbd_listen.map(|address| address.port()), Some(10809));
    }

    #[test]
    fn only_loopback_is_listened_on_without_tls() {
        let plain = Config::default();
        for good in ["127.0.0.1:1", "[::1]:1", "127.3.2.1:1"] {
            assert!(plain.check_listen(good.parse().expect("an address")).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1"] {
            let error = plain.check_listen(bad.parse().expect("an address")).expect_err(bad);
            assert!(error.to_string().contains("TLS"), "{error}");
        }
    }
    #[test]
    fn certificates_are_good_for_the_exports_they_are_bound_to() {
        let text = "[nbd-tls]\ncertificate = \"s.pem\"\nkey = \"k.pem\"\nclients = \"ca.pem\"\n\
                    [[nbd-client]]\ncertificate = \"host1.test\"\nexports = [\"web\", \"db-*\"]\n\
                    [[nbd-client]]\ncertificate = \"sha256:AB:00\"\nexports = [\"*\"]\n";
        let config = Config::parse(text.as_bytes()).expect("TLS and two clients");
        assert!(config.check_listen("0.0.0.0:1".parse().expect("an address")).is_ok());
        let of = |name: &str| Certificate { fingerprint: [0xab; 32], names: vec![name.to_owned()] };
        let [first, second] = config.clients() else { panic!("two clients") };
        assert!(first.is_of(&of("HOST1.test")) && !first.is_of(&of("host2.test")));
        assert!(first.covers("web") && first.covers("db-1@3"));
        assert!(!first.covers("web@1") && !first.covers("webmail"));
        assert!(!second.is_of(&of("host1.test")), "a fingerprint is compared whole");
        let whole = ClientAccess { certificate: format!("sha256:{}", "AB".repeat(32)), exports: Vec::new() };
        assert!(whole.is_of(&of("any")) && !whole.covers("web"));
    }
}
