//! Events and the progress of jobs as server-sent events: a connection that stays, and says what happens.

use super::verb::{Call, LOOK, Verb, raw, verb};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use axum::extract::Request;
use axum::http::Method;
use axum::response::sse::{Event as Sent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use control::{Event, Job};
use futures_util::stream::{Stream, unfold};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

/// Between two looks at the progress of a job.
const STEP: Duration = Duration::from_millis(250);

/// Every verb.
pub fn verbs() -> Vec<Verb> {
    vec![
        verb(
            Method::GET,
            "/v1/events/recent",
            LOOK.whole(),
            "The last events, oldest first",
            |daemon, _: &Call| Ok(daemon.events().last()),
        ),
        raw(
            "/v1/events",
            LOOK.whole(),
            "Events as they happen, as server-sent events; those after `Last-Event-ID` first",
            |daemon, _, request| async move { Ok(events(&daemon, &request)) },
        ),
        raw(
            "/v1/jobs/{job}/events",
            LOOK,
            "A job as it goes on, as server-sent events, until it has ended",
            |daemon, call, _| async move { follow(daemon, call.name("job").to_owned()).await },
        ),
    ]
}

fn events(daemon: &Daemon, request: &Request) -> Response {
    let after = request.headers().get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let (past, receiver) = daemon.events().listen(after);
    stream(unfold((VecDeque::from(past), receiver), next))
}

/// Where a listener stands: events of the past first, then those that come.
type Listening = (VecDeque<Event>, Receiver<Event>);

async fn next((mut past, mut receiver): Listening) -> Option<(Sent, Listening)> {
    let sent = match past.pop_front() {
        Some(event) => told(&event),
        None => match receiver.recv().await {
            Ok(event) => told(&event),
            Err(RecvError::Lagged(count)) => Sent::default().event("missed").data(count.to_string()),
            Err(RecvError::Closed) => return None,
        },
    };
    Some((sent, (past, receiver)))
}

fn told(event: &Event) -> Sent {
    json(Sent::default().id(event.number.to_string()).event(event.kind.name()), event)
}

fn json<T: serde::Serialize>(sent: Sent, value: &T) -> Sent {
    // what we answer with is JSON everywhere else too
    sent.data(serde_json::to_string(value).unwrap_or_default())
}

/// Where the following of a job stands.
struct Following {
    daemon: Arc<Daemon>,
    id: String,
    shown: Option<Job>,
}

async fn follow(daemon: Arc<Daemon>, id: String) -> Result<Response> {
    // one that does not exist is said to be so at once
    let job = look(daemon.clone(), id, Duration::ZERO).await?;
    let following = Following { daemon, id: job.id, shown: None };
    Ok(stream(unfold(Some(following), |following| async move {
        let mut following = following?;
        loop {
            let job = look(following.daemon.clone(), following.id.clone(), STEP).await.ok()?;
            // time goes by in every answer; what counts is the rest
            let is_same = following.shown.as_ref().is_some_and(|shown| {
                Job { duration_ms: 0, ..shown.clone() } == Job { duration_ms: 0, ..job.clone() }
            });
            if is_same && !job.state.is_final() {
                continue;
            }
            let sent = json(Sent::default().event(job.state.name()), &job);
            let has_ended = job.state.is_final();
            following.shown = Some(job);
            return Some((sent, (!has_ended).then_some(following)));
        }
    })))
}

async fn look(daemon: Arc<Daemon>, id: String, wait: Duration) -> Result<Job> {
    let looked = tokio::task::spawn_blocking(move || daemon.jobs().wait_for(&id, wait)).await;
    looked.map_err(|error| Error::said(control::Kind::Io, "follow a job", error.to_string()))?
}

fn stream(events: impl Stream<Item = Sent> + Send + 'static) -> Response {
    use futures_util::StreamExt;
    Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(KeepAlive::default()).into_response()
}
