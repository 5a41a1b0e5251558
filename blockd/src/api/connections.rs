//! Connections of the API: how many there may be, how long one may say nothing, and which goes when another comes.
//!
//! A client that opens connections and leaves them idle, or sends half a request, keeps nobody out: one that had its moment
//! and has no request under way makes room, the oldest first.

use super::door::{Door, Stream};
use crate::error::{Error, Result};
use crate::identity::Origin;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use block::sync::{Mutex, lock};
use control::Kind;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The longest body of a request. Real ones have some hundred bytes; a snapshot of many disks a few thousand.
const BODY_LIMIT_BYTES: usize = 1 << 20;

/// How long nobody is accepted after the host refused a descriptor.
const PAUSE: Duration = Duration::from_millis(50);

/// What the API allows its clients.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Connections at a time. `blockctl` uses one at a time; each costs a descriptor and a few kilobytes.
    pub connections: usize,
    /// How long a connection may wait for the next request, and a request for the rest of its bytes.
    pub silence: Duration,
    /// How long one is left alone that has said nothing yet, or nothing since its last answer.
    pub moment: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, silence: Duration::from_secs(30), moment: Duration::from_secs(1) }
    }
}

/// Answers requests until it is dropped.
pub async fn answer(door: Door, routes: Router, limits: Limits) {
    let whole = move |request, next| whole(request, next, limits.silence);
    let routes = routes.layer(from_fn(whole));
    let places = Arc::new(Places::default());
    loop {
        let knocked = match door.accept().await {
            Ok(knocked) => knocked,
            Err(error) => {
                tracing::warn!("the API cannot accept a client: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        places.make_room(limits).await;
        let place = Places::enter(&places);
        let number = place.number;
        let routes = routes.clone();
        let task = tokio::spawn(async move {
            // a stranger that shakes no hands goes as one that says nothing
            match tokio::time::timeout(limits.silence, knocked.enter()).await {
                Ok(Ok((stream, origin))) => converse(stream, origin, routes, place, limits.silence).await,
                Ok(Err(error)) => tracing::debug!("an API connection did not begin: {error}"),
                Err(_) => tracing::debug!("an API connection did not begin in time"),
            }
        });
        places.know(number, task.abort_handle());
    }
}

/// One connection, until the client or its silence ends it.
async fn converse(stream: Stream, origin: Origin, routes: Router, place: Place, silence: Duration) {
    let routes = TowerToHyperService::new(routes);
    let serve = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(place.idle.clone());
        request.extensions_mut().insert(origin);
        let (answer, idle) = (routes.call(request), place.idle.clone());
        let places = place.places.clone();
        async move {
            let answered = answer.await;
            idle.begin();
            places.changed.notify_one();
            answered
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(silence)
        .serve_connection(TokioIo::new(stream), serve)
        .await;
    if let Err(error) = served {
        tracing::debug!("an API connection ended: {error}");
    }
}

/// Takes the whole request in before anything is done for it; from then on it is under way.
async fn whole(request: Request, next: Next, silence: Duration) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let failed = |kind, why: String| Error::said(kind, "request body", why);
    let bytes = tokio::time::timeout(silence, to_bytes(body, BODY_LIMIT_BYTES))
        .await
        .map_err(|_| failed(Kind::Unavailable, "did not arrive in time".to_owned()))?
        .map_err(|error| failed(Kind::Invalid, control::with_causes(&error)))?;
    if let Some(idle) = parts.extensions.get::<Idle>() {
        idle.end();
    }
    Ok(next.run(Request::from_parts(parts, Body::from(bytes))).await)
}

/// Since when a connection has no request under way; none while it has one.
#[derive(Clone)]
struct Idle(Arc<Mutex<Option<Instant>>>);

impl Idle {
    fn begin(&self) {
        *lock(&self.0) = Some(Instant::now());
    }

    fn end(&self) {
        *lock(&self.0) = None;
    }

    /// How long it still is to be left alone; none if a request is under way.
    fn left(&self, moment: Duration) -> Option<Duration> {
        lock(&self.0).map(|since| moment.saturating_sub(since.elapsed()))
    }
}

/// Who is connected.
#[derive(Default)]
struct Places {
    state: Mutex<State>,
    // one waits: the task that accepts
    changed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    // by number, so that the oldest comes first
    live: BTreeMap<u64, (Idle, Option<AbortHandle>)>,
}

/// The place of one connection; leaving it is dropping it.
struct Place {
    places: Arc<Places>,
    number: u64,
    idle: Idle,
}

impl Places {
    fn enter(places: &Arc<Self>) -> Place {
        let mut state = lock(&places.state);
        state.next += 1;
        let (number, idle) = (state.next, Idle(Arc::new(Mutex::new(Some(Instant::now())))));
        state.live.insert(number, (idle.clone(), None));
        Place { places: places.clone(), number, idle }
    }

    /// Takes note of how a connection is ended.
    fn know(&self, number: u64, handle: AbortHandle) {
        if let Some((_, known)) = lock(&self.state).live.get_mut(&number) {
            *known = Some(handle);
        }
    }

    /// Waits until there is a place: ends the oldest connection that had its moment, if all are taken.
    async fn make_room(&self, limits: Limits) {
        while let Some(pause) = self.taken_for(limits) {
            // woken early when somebody leaves or was answered
            let _either = tokio::time::timeout(pause, self.changed.notified()).await;
        }
    }

    /// How long to wait before looking again; none if there is a place now.
    fn taken_for(&self, limits: Limits) -> Option<Duration> {
        let mut state = lock(&self.state);
        if state.live.len() < limits.connections {
            return None;
        }
        let left = |(number, (idle, _)): (&u64, &(Idle, _))| Some((idle.left(limits.moment)?, *number));
        let Some((left, number)) = state.live.iter().filter_map(left).min() else {
            return Some(limits.silence);
        };
        if !left.is_zero() {
            return Some(left);
        }
        if let Some((_, Some(handle))) = state.live.remove(&number) {
            tracing::debug!("an idle API connection makes room for another");
            handle.abort();
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.places.state).live.remove(&self.number);
        self.places.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    const LIMITS: Limits =
        Limits { connections: 3, silence: Duration::from_millis(300), moment: Duration::from_millis(100) };

    /// Serves `/`, `/slow`, which takes a second, and `/echo` on a socket of its own.
    fn serve(limits: Limits) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("api.sock");
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            "slow"
        };
        let echo = |body: String| async move { body };
        let routes = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/slow", get(slow))
            .route("/echo", post(echo));
        let door = Door::Local(UnixListener::bind(&path).expect("a socket"));
        tokio::spawn(answer(door, routes, limits));
        (dir, path)
    }

    async fn ask(path: &std::path::Path, request: &str) -> String {
        let mut stream = UnixStream::connect(path).await.expect("a connection");
        // who is refused may not be heard to the end
        let _heard = stream.write_all(request.as_bytes()).await;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    fn get_request(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    }

    #[tokio::test]
    async fn silence_ends_a_connection() {
        let (_dir, path) = serve(LIMITS);
        for said in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n\r\n"] {
            // also one that was answered and says no more
            let answer = tokio::time::timeout(Duration::from_secs(20), ask(&path, said)).await;
            assert_eq!(answer.expect("an end").contains("here"), said.ends_with("\r\n\r\n"), "{said:?}");
        }
        let half = "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 9\r\n\r\nhal";
        let answer = tokio::time::timeout(Duration::from_secs(20), ask(&path, half)).await.expect("an end");
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("in time"), "{answer}");
        let long = format!(
            "POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            2 << 20
        );
        let answer = ask(&path, &(long + &"x".repeat(2 << 20))).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }

    #[tokio::test]
    async fn idle_connections_make_room_and_busy_ones_stay() {
        let (_dir, path) = serve(Limits { silence: Duration::from_secs(60), ..LIMITS });
        let slow = tokio::spawn({
            let path = path.clone();
            async move { ask(&path, &get_request("/slow")).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut idle = Vec::new();
        for _ in 0..20 {
            idle.push(UnixStream::connect(&path).await.expect("a connection"));
        }
        let answer = tokio::time::timeout(Duration::from_secs(20), ask(&path, &get_request("/"))).await;
        assert!(answer.expect("in time").ends_with("here"));
        assert!(slow.await.expect("its end").ends_with("slow"), "the oldest, but under way");
        let mut byte = [0];
        let first = idle[0].read(&mut byte).await;
        assert!(matches!(first, Ok(0) | Err(_)), "the oldest idle one is gone");
    }

    #[tokio::test]
    async fn where_all_are_busy_one_waits_its_turn() {
        let (_dir, path) = serve(LIMITS);
        let asked = (0..5).map(|_| {
            let path = path.clone();
            tokio::spawn(async move { ask(&path, &get_request("/slow")).await })
        });
        for answer in asked.collect::<Vec<_>>() {
            assert!(answer.await.expect("its end").ends_with("slow"));
        }
    }
}
