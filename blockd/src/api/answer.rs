//! From a function of the daemon to an HTTP response, and from an HTTP request to its arguments.

use crate::daemon::Daemon;
use crate::error::{Error, Result};
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use control::Kind;
use serde::Serialize;
use std::sync::Arc;

/// An answer with an object, or with an error body.
pub type Answer<T> = Result<Json<T>, Error>;

/// Runs a function of the daemon where it may block.
pub async fn call<T: Serialize + Send + 'static>(
    daemon: Arc<Daemon>,
    function: impl FnOnce(&Arc<Daemon>) -> Result<T> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(move || function(&daemon)).await {
        Ok(done) => done.map(Json),
        Err(error) => Err(Error::said(Kind::Io, "request", format!("ended by a defect: {error}"))),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let body = self.body();
        let status =
            StatusCode::from_u16(body.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        tracing::debug!(status = status.as_u16(), "{}", body.message);
        (status, Json(body)).into_response()
    }
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
