//! A verb of the API: its path, who may use it, what it changes, and the function of the daemon behind it. The routes, the
//! checks, the audit log and the OpenAPI document are all made of the same table of verbs, so that none can be forgotten.

use super::asked::{Asked, names_of};
use super::once;
use crate::approvals::Wanted;
use crate::audit_log::{About, Said};
use crate::daemon::Daemon;
use crate::error::{Error, Result};
use crate::identity::{Caller, Origin};
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use control::{AuditOutcome, EventKind, Kind, Role};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a verb does, as far as the audit log is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it tells.
    Looks,
    /// It changes something.
    Changes,
    /// It gives stored data out.
    Restores,
}

/// Who may use a verb.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The roles.
    pub roles: &'static [Role],
    /// What it does.
    pub effect: Effect,
    /// Only identities without a scope: what it is about lies in no vault and no item.
    pub whole: bool,
    /// Its answer holds a secret that is kept nowhere.
    pub secret: bool,
}

impl Rights {
    const fn of(roles: &'static [Role], effect: Effect) -> Self {
        Self { roles, effect, whole: false, secret: false }
    }

    /// The same with an answer that must not be kept.
    pub const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The same for identities without a scope alone.
    pub const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }
}

/// Every role looks.
pub const LOOK: Rights = Rights::of(&Role::ALL, Effect::Looks);
/// Those who answer for what was done look at the audit log.
pub const AUDIT: Rights = Rights::of(&[Role::Admin, Role::Guard], Effect::Looks).whole();
/// What adds or verifies.
pub const OPERATE: Rights = Rights::of(&[Role::Operator, Role::Admin], Effect::Changes);
/// What gives data out.
pub const RESTORE: Rights = Rights::of(&[Role::Restorer, Role::Admin], Effect::Restores);
/// What a guard decides.
pub const fn guarded() -> Rights {
    Rights::of(&[Role::Guard], Effect::Changes).whole()
}
/// What takes away, or decides who may.
pub const ADMINISTER: Rights = Rights::of(&[Role::Admin], Effect::Changes);

/// A request that passed: who asks, and for what.
pub struct Call<Q = (), B = ()> {
    /// Who asks.
    pub caller: Caller,
    /// The query.
    pub query: Q,
    /// The body.
    pub body: B,
    names: BTreeMap<String, String>,
}

impl<Q, B> Call<Q, B> {
    /// A name in the path; empty if the path has none of that kind.
    pub fn name(&self, kind: &str) -> &str {
        self.names.get(kind).map_or("", String::as_str)
    }
}

/// The function behind a verb.
pub type Function<Q, B, A> = fn(&Arc<Daemon>, &Call<Q, B>) -> Result<A>;

/// What says whether a request needs a guard, if any can, and the function behind the verb.
type Functions<Q, B, A> = (Option<Function<Q, B, bool>>, Function<Q, B, A>);

/// What describes a type.
pub type Describe = fn(&mut SchemaGenerator) -> Schema;

/// What is known of a verb beside its function.
#[derive(Clone)]
pub struct Facts {
    /// The method.
    pub method: Method,
    /// The path; each name in it says of which kind it is.
    pub path: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Who may use it.
    pub rights: Rights,
    /// Its query.
    pub query: Describe,
    /// Its body; none has none.
    pub body: Option<Describe>,
    /// What it answers; none is no JSON.
    pub answer: Option<Describe>,
    /// Whether some of its requests need a guard, where there is one.
    pub approval: bool,
}

impl Facts {
    /// As the audit log calls it.
    pub fn action(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// A verb.
pub struct Verb {
    /// What is known of it.
    pub facts: Facts,
    /// What answers.
    pub route: MethodRouter<Arc<Daemon>>,
}

/// A verb that answers with JSON.
pub fn verb<Q: Asked, B: Asked, A: Serialize + JsonSchema + Send + 'static>(
    method: Method,
    path: &'static str,
    rights: Rights,
    about: &'static str,
    function: Function<Q, B, A>,
) -> Verb {
    build(method, path, rights, about, None, function)
}

/// The same for one whose requests need the approval of a guard where there is one, if `needs` says so.
pub fn critical<Q: Asked, B: Asked, A: Serialize + JsonSchema + Send + 'static>(
    method: Method,
    path: &'static str,
    rights: Rights,
    about: &'static str,
    needs: Function<Q, B, bool>,
    function: Function<Q, B, A>,
) -> Verb {
    build(method, path, rights, about, Some(needs), function)
}

fn build<Q: Asked, B: Asked, A: Serialize + JsonSchema + Send + 'static>(
    method: Method,
    path: &'static str,
    rights: Rights,
    about: &'static str,
    needs: Option<Function<Q, B, bool>>,
    function: Function<Q, B, A>,
) -> Verb {
    let body = (!is_nothing::<B>()).then_some(B::json_schema as Describe);
    let query: Describe = Q::json_schema;
    // by reference in the document, where every type stands once
    let answer: Option<Describe> = Some(SchemaGenerator::subschema_for::<A>);
    let facts = Facts { method, path, about, rights, query, body, answer, approval: needs.is_some() };
    let known = facts.clone();
    let handler = move |State(daemon): State<Arc<Daemon>>, request: Request| {
        let facts = known.clone();
        async move { serve(daemon, facts, (needs, function), request).await }
    };
    Verb { route: on(filter(&facts.method), handler), facts }
}

/// A verb that looks and answers in its own way, once the caller was let in.
pub fn raw<F, R>(path: &'static str, rights: Rights, about: &'static str, function: F) -> Verb
where
    F: Fn(Arc<Daemon>, Call, Request) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Response>> + Send,
{
    let facts = Facts {
        method: Method::GET,
        path,
        about,
        rights,
        query: <()>::json_schema,
        body: None,
        answer: None,
        approval: false,
    };
    let known = facts.clone();
    let handler = move |State(daemon): State<Arc<Daemon>>, request: Request| {
        let (facts, function) = (known.clone(), function.clone());
        async move {
            let (mut parts, body) = request.into_parts();
            let caller = admit(&daemon, &facts, &parts)?;
            let names = path_names(&mut parts).await?;
            let call = Call { caller, query: (), body: (), names };
            let call = in_scope(&daemon, call).await?;
            function(daemon, call, Request::from_parts(parts, body)).await
        }
    };
    Verb { route: on(MethodFilter::GET, handler), facts }
}

fn is_nothing<T: 'static>() -> bool {
    std::any::TypeId::of::<T>() == std::any::TypeId::of::<()>()
}

fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

async fn serve<Q: Asked, B: Asked, A: Serialize + Send + 'static>(
    daemon: Arc<Daemon>,
    facts: Facts,
    functions: Functions<Q, B, A>,
    request: Request,
) -> Result<Response> {
    let (mut parts, body) = request.into_parts();
    let caller = match admit(&daemon, &facts, &parts) {
        Err(error) => return Err(note_refusal(daemon, facts, parts, error).await),
        caller => caller?,
    };
    let names = path_names(&mut parts).await?;
    let key = once::key(&parts.headers, &facts)?;
    let query = match is_nothing::<Q>() {
        true => nothing()?,
        false => Query::<Q>::try_from_uri(&parts.uri).map_err(Error::from)?.0,
    };
    let body = match is_nothing::<B>() {
        true => nothing()?,
        false => Json::<B>::from_request(Request::from_parts(parts, body), &()).await.map_err(Error::from)?.0,
    };
    let call = Call { caller, query, body, names };
    let done = blocking(move || {
        check_scope(&daemon, &call)?;
        let work = || carry_out(&daemon, &facts, &call, functions);
        match key.filter(|_| facts.rights.effect != Effect::Looks) {
            None => work().map(Answer::Fresh),
            Some(key) => {
                let request = [facts.action().as_bytes(), &whole(&call)?].concat();
                once::once(&daemon, (&call.caller.who, &key), &request, work).map(Answer::Kept)
            }
        }
    });
    Ok(match done.await? {
        Answer::Fresh(answer) => Json(answer).into_response(),
        Answer::Kept(answer) => Json(answer).into_response(),
    })
}

/// An answer of this moment, or one that may be of an earlier one.
enum Answer<A> {
    Fresh(A),
    Kept(Value),
}

/// All of a request, secrets too.
fn whole<Q: Asked, B: Asked>(call: &Call<Q, B>) -> Result<Vec<u8>> {
    serde_json::to_vec(&(&call.names, &call.query, &call.body))
        .map_err(|error| Error::said(Kind::Io, "request", error.to_string()))
}

/// Runs what may block where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::said(Kind::Io, "request", format!("ended by a defect: {error}"))),
    }
}

/// Does it. A change is written down before it begins, and how it ended before anybody is told.
fn carry_out<Q: Asked, B: Asked, A>(
    daemon: &Arc<Daemon>,
    facts: &Facts,
    call: &Call<Q, B>,
    (needs, function): Functions<Q, B, A>,
) -> Result<A> {
    if facts.rights.effect == Effect::Looks {
        return function(daemon, call);
    }
    let mut said = Said { who: call.caller.who.clone(), action: facts.action(), about: about(call)? };
    let permit = match needs {
        Some(needs) if daemon.tokens().has_guard() && needs(daemon, call)? => {
            Some(permit(daemon, call, &said)?)
        }
        _ => None,
    };
    if let Some(id) = &permit {
        said.about.insert("approval".to_owned(), Value::from(id.as_str()));
    }
    daemon.audited(&said, || {
        // first: it is good once, whatever becomes of the request
        permit.as_ref().map_or(Ok(()), |id| daemon.approvals().use_up(id))?;
        function(daemon, call)
    })
}

/// The approval of a guard for exactly this request.
fn permit<Q: Asked, B: Asked>(daemon: &Daemon, call: &Call<Q, B>, said: &Said) -> Result<String> {
    let whole = whole(call)?;
    let wanted = Wanted { who: &said.who, action: &said.action, about: &said.about, whole: &whole };
    let permitted = daemon.approvals().permit(&wanted);
    if let Err(error) = &permitted {
        daemon.audit().write(said, AuditOutcome::Refused, None, Some(&error.body().message))?;
        daemon.events().tell(EventKind::ApprovalWanted, &said.who, error.body().message);
    }
    permitted
}

/// What a request is about, without its secrets.
fn about<Q: Asked, B: Asked>(call: &Call<Q, B>) -> Result<About> {
    let mut about: About =
        call.names.iter().map(|(kind, name)| (kind.clone(), Value::from(name.as_str()))).collect();
    for (part, value) in [("query", call.query.told()), ("body", call.body.told())] {
        let value =
            value.map_err(|error| Error::said(Kind::Io, "write down a request", error.to_string()))?;
        if !value.is_null() {
            about.insert(part.to_owned(), value);
        }
    }
    Ok(about)
}

/// Who asks, if it may use this verb.
fn admit(daemon: &Daemon, facts: &Facts, parts: &Parts) -> Result<Caller> {
    let caller = who(daemon, parts)?;
    caller.check_role(facts.rights.roles, &facts.action())?;
    if facts.rights.whole && !caller.is_whole() {
        let why = format!("{} is made for some vaults and items, and this is about all", caller.who);
        return Err(Error::said(Kind::Refused, facts.action(), why));
    }
    Ok(caller)
}

fn who(daemon: &Daemon, parts: &Parts) -> Result<Caller> {
    let shown = parts.headers.get(header::AUTHORIZATION);
    if let Some(shown) = shown {
        let secret = shown.to_str().ok().and_then(|text| text.strip_prefix("Bearer "));
        return daemon.tokens().caller(secret.unwrap_or_default().trim());
    }
    match parts.extensions.get::<Origin>() {
        Some(Origin::User(uid)) => Ok(Caller::user(*uid, daemon.local_users())),
        Some(Origin::Remote) | None => {
            Err(Error::said(Kind::Refused, "request", "shows no token, which one from elsewhere has to")
                .with_help(
                    "`blockctl --token-file FILE` shows one; an admin makes it with `blockctl token create`",
                ))
        }
    }
}

/// A change that somebody who is known was refused leaves a trace; a stranger leaves none but in the daemon's log.
async fn note_refusal(daemon: Arc<Daemon>, facts: Facts, parts: Parts, error: Error) -> Error {
    let Ok(caller) = who(&daemon, &parts) else {
        tracing::warn!(action = facts.action(), "refused: {}", error.body().message);
        return error;
    };
    if facts.rights.effect == Effect::Looks {
        return error;
    }
    let about = About::from([("path".to_owned(), Value::from(parts.uri.path()))]);
    let said = Said { who: caller.who, action: facts.action(), about };
    let message = error.body().message;
    let written = blocking(move || daemon.audit().write(&said, AuditOutcome::Refused, None, Some(&message)));
    written.await.err().unwrap_or(error)
}

async fn path_names(parts: &mut Parts) -> Result<BTreeMap<String, String>> {
    let Path(names) = Path::<BTreeMap<String, String>>::from_request_parts(parts, &())
        .await
        .map_err(|rejection: PathRejection| Error::from(rejection))?;
    Ok(names)
}

async fn in_scope(daemon: &Arc<Daemon>, call: Call) -> Result<Call> {
    let daemon = daemon.clone();
    blocking(move || check_scope(&daemon, &call).map(|()| call)).await
}

/// Refuses what the caller must not name.
fn check_scope<Q: Asked, B: Asked>(daemon: &Daemon, call: &Call<Q, B>) -> Result<()> {
    if call.caller.is_whole() {
        return Ok(());
    }
    let (mut items, mut vaults) = names_of(daemon, &call.names)?;
    for part in [call.query.names(), call.body.names()] {
        items.extend(part.items);
        vaults.extend(part.vaults);
    }
    call.caller.check_scope(&items, &vaults)
}

fn nothing<T: Asked>() -> Result<T> {
    serde_json::from_value(Value::Null).map_err(|error| Error::said(Kind::Io, "request", error.to_string()))
}

macro_rules! refuses {
    ($rejection:ty, $what:literal) => {
        impl From<$rejection> for Error {
            fn from(rejection: $rejection) -> Self {
                Self::said(Kind::Invalid, $what, rejection.body_text())
            }
        }
    };
}

refuses!(JsonRejection, "request body");
refuses!(QueryRejection, "request query");
refuses!(PathRejection, "request path");
