//! What went wrong, as each protocol says it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::App;
use crate::error::Error;

/// Seconds after which a busy server may be asked again.
const RETRY_AFTER: &str = "5";

/// A request that is not served. It becomes the error of the protocol that the path belongs to.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The cause, for the client.
    pub message: String,
    /// The field or parameter at fault.
    pub param: Option<&'static str>,
}

impl Refusal {
    /// A refusal with this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None }
    }

    /// Too much to do right now.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// A request that makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// The same about a field.
    pub fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// The error as OpenAI writes it.
    pub fn openai(&self) -> Value {
        let Self { message, param, .. } = self;
        let code = self.status.canonical_reason().unwrap_or("error").to_lowercase().replace(' ', "_");
        json!({"message": message, "type": self.kind(), "param": param, "code": code})
    }

    /// OpenAI's name for the kind of error.
    fn kind(&self) -> &'static str {
        match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

/// The status that says what kind of error it is.
pub fn status(error: &Error) -> StatusCode {
    match error {
        Error::Audio { .. } | Error::Unsupported(_) => StatusCode::BAD_REQUEST,
        Error::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Overloaded(_) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::new(status(&error), error.to_string())
    }
}

impl IntoResponse for Refusal {
    /// In FunASR's form; the router gives it the form of the path.
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"detail": self.message}))).into_response();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a refusal the form that clients of the path know: OpenAI's below `/v1/`, FunASR's elsewhere.
pub(super) async fn shape(State(_): State<Arc<App>>, request: Request, next: Next) -> Response {
    let openai = request.uri().path().starts_with("/v1/");
    let mut response = next.run(request).await;
    let Some(refusal) = response.extensions_mut().remove::<Refusal>().filter(|_| openai) else {
        return response;
    };
    let (mut parts, _) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    (parts.status, parts.headers, Json(json!({"error": refusal.openai()}))).into_response()
}
