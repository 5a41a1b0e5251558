//! The HTTP client under the library: keeps the bandwidth limit, ends what stalls, remembers the last answer's status.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use block::sync::atomic::{AtomicU64, Ordering};
use block::sync::{Arc, Mutex, lock};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use tokio::time::{Instant, Sleep, sleep_until};

/// A server that cannot be reached is known to be away after this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A request in which no piece moves in either direction for this long has stalled.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(60);

tokio::task_local! {
    /// The status of the last answer in this task; 0 if there was none.
    pub(super) static STATUS: Cell<u16>;
}

/// Makes every client of a store the same one.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: reqwest::Client,
    pace: Option<Arc<Pace>>,
    /// Whether to speak without TLS: where the person said so, and to the metadata service of a cloud's machine.
    plain: bool,
}

impl Connector {
    pub(super) fn new(limit: Option<u64>, ca: Option<&[u8]>) -> reqwest::Result<Self> {
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("blockd/", env!("CARGO_PKG_VERSION")))
            .http1_only();
        if let Some(pem) = ca {
            builder = builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        let pace = limit.map(|limit| Arc::new(Pace::new(limit)));
        Ok(Self { client: builder.build()?, pace, plain: false })
    }

    fn watched<B>(&self, body: B, moved: &Arc<AtomicU64>) -> Watched<B> {
        Watched { body, pace: self.pace.clone(), wait: None, moved: moved.clone() }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // the library allows it for the one that fetches credentials inside a cloud
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let plain = allowed.is_some_and(|value| value == "true");
        Ok(HttpClient::new(Self { plain, ..self.clone() }))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let moved = Arc::new(AtomicU64::new(0));
        let (parts, body) = request.into_parts();
        if !self.plain && parts.uri.scheme_str() != Some("https") {
            return Err(HttpError::new(HttpErrorKind::Unknown, Plain));
        }
        let url =
            parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        *outgoing.body_mut() = Some(reqwest::Body::wrap(self.watched(body, &moved)));
        // outside of the store's own tasks nobody asks
        STATUS.try_with(|status| status.set(0)).ok();
        let response = unless_stalled(&moved, self.client.execute(outgoing)).await?.map_err(of_client)?;
        STATUS.try_with(|status| status.set(response.status().as_u16())).ok();
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        let body = Impatient { body: self.watched(body.map_err(of_client), &moved), idle: None };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

fn of_client(error: reqwest::Error) -> HttpError {
    // the address may hold a signature; who shows the error names the blob instead
    HttpError::new(HttpErrorKind::Unknown, error.without_url())
}

#[derive(Debug, thiserror::Error)]
#[error("its endpoint has no TLS: the option allow-http = true lets it")]
struct Plain;

#[derive(Debug, thiserror::Error)]
#[error("nothing moved for {} seconds", STALL_LIMIT.as_secs())]
struct Stalled;

fn stalled() -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, Stalled)
}

async fn unless_stalled<T>(moved: &AtomicU64, request: impl Future<Output = T>) -> Result<T, HttpError> {
    tokio::pin!(request);
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(STALL_LIMIT, &mut request).await {
            Ok(done) => return Ok(done),
            Err(_) if moved.load(Ordering::Relaxed) == before => return Err(stalled()),
            Err(_) => {}
        }
    }
}

/// When the next bytes may go, for all requests of a store together.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Mutex::new(None) }
    }

    /// Takes note of bytes that go now, and says when others may follow.
    #[allow(clippy::disallowed_methods, reason = "the runtime's own clock, which only paces")]
    fn book(&self, bytes: usize) -> Instant {
        let now = Instant::now();
        let mut next = lock(&self.next);
        let start = next.map_or(now, |next| next.max(now));
        let after = start + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        *next = Some(after);
        after
    }
}

/// A body that waits its turn and counts its pieces.
struct Watched<B> {
    body: B,
    pace: Option<Arc<Pace>>,
    wait: Option<Pin<Box<Sleep>>>,
    moved: Arc<AtomicU64>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Watched<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.moved.fetch_add(1, Ordering::Relaxed);
        if let (Some(Ok(frame)), Some(pace)) = (&frame, &self.pace)
            && let Some(data) = frame.data_ref()
        {
            self.wait = Some(Box::pin(sleep_until(pace.book(data.len()))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, which fails when it stalls.
struct Impatient<B> {
    body: Watched<B>,
    idle: Option<Pin<Box<Sleep>>>,
}

impl<B: Body<Data = Bytes, Error = HttpError> + Unpin> Body for Impatient<B> {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.idle = None;
            return Poll::Ready(frame);
        }
        // waiting for one's turn is no stall
        if this.body.wait.is_some() {
            return Poll::Pending;
        }
        let idle = this.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_LIMIT)));
        ready!(idle.as_mut().poll(cx));
        Poll::Ready(Some(Err(stalled())))
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
