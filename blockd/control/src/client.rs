//! A blocking client: one request at a time, over the daemon's unix socket or TLS.

mod access;
mod approvals;
mod archive;
mod machines;
mod policies;
mod vaults;

use crate::endpoint::{Connection, Endpoint};
use crate::requests::*;
use crate::{
    Changes, Disk, Error, ErrorBody, Export, Job, Kind, Point, PointDeleted, Points, Preflight,
    RestoreRequest, Run, RunRequest, Status, SweepRun, Vault, VaultUsage,
};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The longest answer taken. A change list of a badly fragmented 64 TiB disk is the largest object there is.
const ANSWER_LIMIT_BYTES: usize = 1 << 30;

/// How long one request waits for the end of a job before it asks again, so that progress can be shown meanwhile.
const FOLLOW_STEP_MS: u64 = 250;

/// The longest time without an answer. The slowest verb is a snapshot of many disks under load.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3600);

const START_POLL: Duration = Duration::from_millis(25);

/// Speaks to one daemon. Every call opens its own connection, so nothing breaks when the daemon is restarted.
pub struct Client {
    endpoint: Endpoint,
    // shown with every request, if there is one
    token: Option<String>,
    patience: Duration,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// A client of the daemon that listens at this socket. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Broken`] if the host has no resources for an event loop.
    pub fn new(socket: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::of(Endpoint::Unix(socket.into()))
    }

    /// A client of the daemon that answers at `https://HOST:PORT`, with a certificate that one of these authorities (PEM)
    /// signed. It has to show a [token](Self::with_token). Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Broken`] if that is no address or no certificate; as [`new`](Self::new).
    pub fn remote(url: &str, authorities: &[u8]) -> Result<Self, Error> {
        Self::of(Endpoint::tls(url, authorities)?)
    }

    fn of(endpoint: Endpoint) -> Result<Self, Error> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
                Error::Broken { request: "start the client".to_owned(), why: error.to_string() }
            })?;
        Ok(Self { endpoint, token: None, patience: Duration::ZERO, runtime })
    }

    /// The socket; an empty path if the daemon is elsewhere.
    pub fn socket(&self) -> &Path {
        self.endpoint.socket()
    }

    /// The same client, as the identity of this token.
    #[must_use]
    pub fn with_token(self, secret: impl Into<String>) -> Self {
        Self { token: Some(secret.into()), ..self }
    }

    /// The same client, which waits so long for a daemon to listen before it says that none does.
    #[must_use]
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    async fn connect(&self) -> std::io::Result<Connection> {
        let mut waited = Duration::ZERO;
        loop {
            match self.endpoint.connect().await {
                Err(_) if waited < self.patience => tokio::time::sleep(START_POLL).await,
                connected => return connected,
            }
            waited += START_POLL;
        }
    }

    /// Daemon, disks, vaults and warnings.
    ///
    /// # Errors
    /// As every call here: [`Error::Unreachable`], what the daemon answers, or a broken connection.
    pub fn status(&self) -> Result<Status, Error> {
        self.get("/v1/status")
    }

    /// Every disk, by name.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn disks(&self) -> Result<Vec<Disk>, Error> {
        self.get("/v1/disks")
    }

    /// One disk.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found` if there is none of this name.
    pub fn disk(&self, name: &str) -> Result<Disk, Error> {
        self.get(&format!("/v1/disks/{}", encode(name)))
    }

    /// Makes an empty disk.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name is taken.
    pub fn create_disk(&self, request: &CreateDisk) -> Result<Disk, Error> {
        self.send(Method::POST, "/v1/disks", Some(request))
    }

    /// Ends the filling of a disk that was made for it.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` while a client is connected to it.
    pub fn disk_ready(&self, name: &str) -> Result<Disk, Error> {
        self.send(Method::POST, &format!("/v1/disks/{}/ready", encode(name)), NOTHING)
    }

    /// Deletes a disk and its instant recovery points.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` while a client is connected to it.
    pub fn delete_disk(&self, name: &str) -> Result<Disk, Error> {
        self.delete_disk_if(name, &DeleteDiskQuery::default())
    }

    /// Deletes a disk if it did not change, or together with the file it adopted.
    ///
    /// # Errors
    /// As [`delete_disk`](Self::delete_disk); `conflict` also if it changed.
    pub fn delete_disk_if(&self, name: &str, query: &DeleteDiskQuery) -> Result<Disk, Error> {
        let unchanged_since = query.unchanged_since.as_deref();
        let adopted_file = query.adopted_file.then_some("true");
        let query = query_text(&[("unchanged_since", unchanged_since), ("adopted_file", adopted_file)]);
        self.send(Method::DELETE, &format!("/v1/disks/{}{query}", encode(name)), NOTHING)
    }

    /// Makes a disk larger or smaller.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` for a smaller size while a client is connected, unless asked for.
    pub fn resize_disk(&self, name: &str, request: &ResizeDisk) -> Result<Disk, Error> {
        self.send(Method::POST, &format!("/v1/disks/{}/resize", encode(name)), Some(request))
    }

    /// Reads and verifies everything sealed of a disk, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn scrub_disk(&self, name: &str) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/disks/{}/scrub", encode(name)), NOTHING)
    }

    /// Opens a disk again at its last committed state, if it does not serve.
    ///
    /// # Errors
    /// As [`status`](Self::status); why it cannot be opened.
    pub fn recover_disk(&self, name: &str, query: RecoverQuery) -> Result<Disk, Error> {
        let accept_base = query.accept_base.then_some("true");
        let query = query_text(&[("accept_base", accept_base)]);
        self.send(Method::POST, &format!("/v1/disks/{}/recover{query}", encode(name)), NOTHING)
    }

    /// Calls a disk something else.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name is taken or a client is connected.
    pub fn rename_disk(&self, name: &str, to: &str) -> Result<Disk, Error> {
        let body = RenameDisk { to: to.to_owned() };
        self.send(Method::POST, &format!("/v1/disks/{}/rename", encode(name)), Some(&body))
    }

    /// Lets several clients write to a disk, or only one again.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found`.
    pub fn share_disk(&self, name: &str, shared: bool) -> Result<Disk, Error> {
        self.send(Method::POST, &format!("/v1/disks/{}/share", encode(name)), Some(&ShareDisk { shared }))
    }

    /// Lets remote clients write to a disk again after an unclean end of the host.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found`.
    pub fn release_disk(&self, name: &str) -> Result<Disk, Error> {
        self.send(Method::POST, &format!("/v1/disks/{}/release", encode(name)), NOTHING)
    }

    /// Every export that was used since the daemon started.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn exports(&self) -> Result<Vec<Export>, Error> {
        self.get("/v1/exports")
    }

    /// The ranges of a disk that changed.
    ///
    /// # Errors
    /// As [`status`](Self::status); `not-found` if disk or point do not exist.
    pub fn changes(&self, disk: &str, query: &ChangesQuery) -> Result<Changes, Error> {
        let pairs = [("since", query.since.as_deref()), ("until", query.until.as_deref())];
        self.get(&format!("/v1/disks/{}/changes{}", encode(disk), query_text(&pairs)))
    }

    /// Recovery point now, of all named disks at one instant.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn snapshot(&self, disks: &[String]) -> Result<Vec<Point>, Error> {
        self.snapshot_with(&SnapshotRequest { disks: disks.to_vec(), require: None })
    }

    /// The same, and how consistent it has to be.
    ///
    /// # Errors
    /// As [`status`](Self::status); `refused` if it cannot be.
    pub fn snapshot_with(&self, request: &SnapshotRequest) -> Result<Vec<Point>, Error> {
        self.send(Method::POST, "/v1/snapshots", Some(request))
    }

    /// Recovery points, of one item or of all.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn points(&self, item: Option<&str>) -> Result<Points, Error> {
        self.get(&format!("/v1/points{}", query_text(&[("item", item)])))
    }

    /// A page of recovery points, behind the one called `after`; the answer's `next` is the next one's `after`.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn points_page(
        &self,
        item: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Points, Error> {
        let limit = limit.to_string();
        let query = query_text(&[("item", item), ("after", after), ("limit", Some(&limit))]);
        self.get(&format!("/v1/points{query}"))
    }

    /// One recovery point, by any form of its name.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn point(&self, name: &str) -> Result<Point, Error> {
        self.get(&format!("/v1/points/{}", encode(name)))
    }

    /// Deletes a recovery point.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` while it is read, `refused` if only damaged copies would be left. The
    /// message says what is gone if only a part is.
    pub fn delete_point(&self, name: &str, query: &DeletePointQuery) -> Result<PointDeleted, Error> {
        let tier = query.tier.map(crate::Tier::name);
        let last_copy = query.last_copy.then_some("true");
        let query = query_text(&[("tier", tier), ("last_copy", last_copy)]);
        self.send(Method::DELETE, &format!("/v1/points/{}{query}", encode(name)), NOTHING)
    }

    /// Recovery point now, then its transfer as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `unavailable` if the vault is locked.
    pub fn backup(&self, request: &BackupRequest) -> Result<Job, Error> {
        self.send(Method::POST, "/v1/backups", Some(request))
    }

    /// Starts a recovery point as a machine of its own, as a job, to see whether it would.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn rehearse(&self, request: &crate::RehearseRequest) -> Result<Job, Error> {
        self.send(Method::POST, "/v1/rehearsals", Some(request))
    }

    /// A disk that runs from a recovery point, at once.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name is taken.
    pub fn run(&self, request: &RunRequest) -> Result<Run, Error> {
        self.send(Method::POST, "/v1/runs", Some(request))
    }

    /// Every disk that runs from a recovery point, by name.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn runs(&self) -> Result<Vec<Run>, Error> {
        self.get("/v1/runs")
    }

    /// How far a disk that runs from a recovery point is; one that stands on nothing is independent.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn run_status(&self, name: &str) -> Result<Run, Error> {
        self.get(&format!("/v1/runs/{}", encode(name)))
    }

    /// Asks a run to become independent as soon as it can.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn promote(&self, name: &str) -> Result<Run, Error> {
        self.send(Method::POST, &format!("/v1/runs/{}/promote", encode(name)), NOTHING)
    }

    /// Deletes a disk that still runs from a recovery point, with all that was written to it.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` while a client is connected, or if it is independent.
    pub fn discard(&self, name: &str) -> Result<Disk, Error> {
        self.send(Method::DELETE, &format!("/v1/runs/{}", encode(name)), NOTHING)
    }

    /// What a restore would take and cost.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn preflight(&self, request: &RestoreRequest) -> Result<Preflight, Error> {
        self.send(Method::POST, "/v1/restores/preflight", Some(request))
    }

    /// A recovery point as a new disk or in the place of one, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name is taken.
    pub fn restore(&self, request: &RestoreRequest) -> Result<Job, Error> {
        self.send(Method::POST, "/v1/restores", Some(request))
    }

    /// Every vault, by name.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn vaults(&self) -> Result<Vec<Vault>, Error> {
        self.get("/v1/vaults")
    }

    /// One vault.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn vault(&self, name: &str) -> Result<Vault, Error> {
        self.get(&format!("/v1/vaults/{}", encode(name)))
    }

    /// What a vault takes, and how much of it nothing needs.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn vault_usage(&self, name: &str) -> Result<VaultUsage, Error> {
        self.get(&format!("/v1/vaults/{}/usage", encode(name)))
    }

    /// Makes a vault with a fresh key.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if the name or the directory is taken.
    pub fn create_vault(&self, request: &CreateVault) -> Result<Vault, Error> {
        self.send(Method::POST, "/v1/vaults", Some(request))
    }

    /// Brings in a vault that exists, or unlocks one that is known, with its key.
    ///
    /// # Errors
    /// As [`status`](Self::status); `invalid` for a key that is not this vault's.
    pub fn open_vault(&self, name: &str, request: &OpenVault) -> Result<Vault, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/open", encode(name)), Some(request))
    }

    /// Scrubs a vault.
    ///
    /// # Errors
    /// See [`Client`].
    pub fn scrub_vault(&self, name: &str, request: &ScrubVault) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/scrub", encode(name)), Some(request))
    }

    /// Sweeps a vault.
    ///
    /// # Errors
    /// See [`Client`].
    pub fn sweep_vault(&self, name: &str) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/sweep", encode(name)), NOTHING)
    }

    /// The sweeps of a vault whose packs are in quarantine.
    ///
    /// # Errors
    /// See [`Client`].
    pub fn sweeps(&self, name: &str) -> Result<Vec<SweepRun>, Error> {
        self.send(Method::GET, &format!("/v1/vaults/{}/sweeps", encode(name)), NOTHING)
    }

    /// Takes a sweep back.
    ///
    /// # Errors
    /// See [`Client`].
    pub fn undo_sweep(&self, name: &str, run: &str) -> Result<SweepRun, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/sweeps/{}/undo", encode(name), encode(run)), NOTHING)
    }

    /// Reads and verifies everything in a vault, as a job.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn check_vault(&self, name: &str) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/vaults/{}/check", encode(name)), NOTHING)
    }

    /// Jobs, newest first.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn jobs(&self) -> Result<Vec<Job>, Error> {
        self.get("/v1/jobs")
    }

    /// One job, by its id or the beginning of it.
    ///
    /// # Errors
    /// As [`status`](Self::status).
    pub fn job(&self, id: &str) -> Result<Job, Error> {
        self.get(&format!("/v1/jobs/{}", encode(id)))
    }

    /// Asks a job to stop; it ends soon afterwards.
    ///
    /// # Errors
    /// As [`status`](Self::status); `conflict` if it has ended.
    pub fn cancel_job(&self, id: &str) -> Result<Job, Error> {
        self.send(Method::POST, &format!("/v1/jobs/{}/cancel", encode(id)), NOTHING)
    }

    /// Follows a job to its end and shows `progress` every state seen on the way.
    ///
    /// # Errors
    /// As [`status`](Self::status). A job that failed is not an error here: its state says so.
    pub fn follow(&self, id: &str, progress: &mut dyn FnMut(&Job)) -> Result<Job, Error> {
        loop {
            let job: Job = self.get(&format!("/v1/jobs/{}?wait_ms={FOLLOW_STEP_MS}", encode(id)))?;
            progress(&job);
            if job.state.is_final() {
                return Ok(job);
            }
        }
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.send(Method::GET, path, NOTHING)
    }

    fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T, Error> {
        let request = format!("{method} {path}");
        let broken = |why: String| Error::Broken { request: request.clone(), why };
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| broken(error.to_string()))?,
            None => Vec::new(),
        };
        let mut message = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "blockd")
            .header("content-type", "application/json");
        if let Some(token) = &self.token {
            message = message.header("authorization", format!("Bearer {token}"));
        }
        let message =
            message.body(Full::new(Bytes::from(bytes))).map_err(|error| broken(error.to_string()))?;
        let (status, answer) = self.runtime.block_on(async {
            tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(message, &request)).await.unwrap_or_else(
                |_| {
                    let why = format!("no answer in {} s", ANSWER_TIMEOUT.as_secs());
                    Err(Error::Lost { request: request.clone(), why })
                },
            )
        })?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&answer)
                .map_err(|error| broken(format!("the answer is not understood: {error}")));
        }
        Err(match serde_json::from_slice::<ErrorBody>(&answer) {
            Ok(body) => Error::Answered(body),
            Err(_) => Error::Answered(ErrorBody {
                kind: Kind::Io,
                message: format!("{request}: answered {status} {}", first_line(&answer)),
                help: None,
            }),
        })
    }

    async fn exchange(&self, message: Request<Full<Bytes>>, request: &str) -> Result<(u16, Bytes), Error> {
        let stream = self
            .connect()
            .await
            .map_err(|source| Error::Unreachable { socket: self.endpoint.shown(), source })?;
        let failed = |error: hyper::Error| {
            let (request, why) = (request.to_owned(), error.to_string());
            match error.is_parse() {
                true => Error::Broken { request, why },
                false => Error::Lost { request, why },
            }
        };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        let exchange = async { collect(sender.send_request(message).await.map_err(failed)?, request).await };
        tokio::pin!(exchange);
        tokio::select! {
            done = &mut exchange => done,
            ended = connection => match ended {
                // the daemon closed its side; what it sent before is still to be read
                Ok(()) => exchange.await,
                Err(error) => Err(failed(error)),
            },
        }
    }
}

/// No body.
const NOTHING: Option<&()> = None;

async fn collect(response: Response<hyper::body::Incoming>, request: &str) -> Result<(u16, Bytes), Error> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES).collect().await.map_err(|error| {
        let (request, why) = (request.to_owned(), error.to_string());
        match error.is::<LengthLimitError>() {
            true => Error::Broken { request, why },
            false => Error::Lost { request, why },
        }
    })?;
    Ok((status, body.to_bytes()))
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).lines().next().unwrap_or_default().chars().take(200).collect()
}

/// One path segment or query value: everything but unreserved characters is percent-encoded.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte as char),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn query_text(pairs: &[(&str, Option<&str>)]) -> String {
    let given: Vec<String> = pairs
        .iter()
        .filter_map(|(key, value)| value.map(|value| format!("{key}={}", encode(value))))
        .collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn names_survive_the_path() {
        assert_eq!(encode("vm/web@2026-11-20T12:00"), "vm%2Fweb%402026-11-20T12%3A00");
        assert_eq!(query_text(&[("a", None), ("b", Some("x y"))]), "?b=x%20y");
        assert_eq!(query_text(&[("a", None)]), "");
    }

    #[test]
    fn a_missing_daemon_is_unavailable_and_says_where() {
        let client = Client::new("/nonexistent/api.sock").expect("a client");
        let error = client.status().expect_err("nobody is there");
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.to_string().contains("/nonexistent/api.sock"), "{error}");
        assert!(error.help().is_some());
    }

    /// The error of a request to a server that reads it, says this and closes.
    fn met_by(said: &'static [u8]) -> Error {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("api.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut request = [0; 4096];
            let count = stream.read(&mut request).expect("a request");
            assert!(count > 0);
            stream.write_all(said).expect("said");
        });
        let error = Client::new(&path).expect("a client").status().expect_err("no whole answer");
        server.join().expect("its end");
        error
    }

    #[test]
    fn a_daemon_that_goes_away_is_unavailable_and_nonsense_is_not() {
        for said in
            [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"]
        {
            let error = met_by(said);
            assert_eq!(error.kind(), Kind::Unavailable, "{error}");
            assert!(error.help().is_some_and(|help| help.contains("job list")), "{error}");
        }
        for said in [&b"SMTP ready\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]"] {
            let error = met_by(said);
            assert!(matches!(error, Error::Broken { .. }), "{error}");
            assert!(error.help().is_some(), "{error}");
        }
    }
}
