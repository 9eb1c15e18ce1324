//! Errors as the protocols write them: `{"detail"}` where FunASR's servers do, `{"error": {..}}` where OpenAI does.

use std::borrow::Cow;
use std::time::Duration;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::Error;

/// Why a request is not served.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The status code that says so in HTTP.
    pub status: StatusCode,
    /// For people.
    pub message: Cow<'static, str>,
    /// The field that is wrong.
    pub param: Option<&'static str>,
    /// When to come again.
    pub retry_after: Option<Duration>,
}

/// An error on FunASR's routes.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detail {
    /// A sentence, or for a missing field FastAPI's list.
    #[schema(value_type = Object)]
    detail: Value,
}

/// An error on OpenAI's routes.
#[derive(Debug, Serialize, ToSchema)]
pub struct OpenAiError {
    error: OpenAiErrorBody,
}

/// What is wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct OpenAiErrorBody {
    message: String,
    /// Such as `invalid_request_error`.
    r#type: &'static str,
    /// The field.
    param: Option<&'static str>,
    /// Such as `model_not_found`.
    code: Option<&'static str>,
}

impl Refusal {
    /// With `status`.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), param: None, retry_after: None }
    }

    /// What the client sent is wrong.
    pub fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// There is no room now.
    pub fn busy(message: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = Some(Duration::from_secs(1));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// The server failed.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// `param` is missing.
    pub fn missing(param: &'static str) -> Self {
        let message = "Field required";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, message).about(param)
    }

    /// The same about `param`.
    pub fn about(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// As FastAPI writes it.
    pub fn detail(&self) -> Response {
        let detail = match self.param {
            Some(param) if self.status == StatusCode::UNPROCESSABLE_ENTITY => {
                json!([{ "type": "missing", "loc": ["body", param], "msg": self.message, "input": null }])
            }
            _ => self.message.clone().into(),
        };
        self.respond(Detail { detail })
    }

    /// As OpenAI writes it, which has no 422.
    pub fn openai(&self) -> Response {
        let status = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self { status, ..self.clone() }.respond(OpenAiError { error: self.openai_body() })
    }

    /// The `error` of OpenAI's replies and events.
    pub fn openai_body(&self) -> OpenAiErrorBody {
        let (kind, code) = match self.status {
            StatusCode::UNAUTHORIZED => ("invalid_request_error", Some("invalid_api_key")),
            StatusCode::NOT_FOUND if self.param == Some("model") => ("invalid_request_error", Some("model_not_found")),
            StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", Some("rate_limit_exceeded")),
            status if status.is_server_error() => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let message = match self.param {
            Some(param) if self.status == StatusCode::UNPROCESSABLE_ENTITY => format!("{param}: {}", self.message),
            _ => self.message.to_string(),
        };
        OpenAiErrorBody { message, r#type: kind, param: self.param, code }
    }

    fn respond(&self, body: impl Serialize) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if let Some(after) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Audio { .. } => Self::new(StatusCode::UNPROCESSABLE_ENTITY, message),
            Error::Unsupported(_) => Self::bad_request(message),
            Error::Overloaded(_) => Self::busy(message),
            _ => Self::internal(message),
        }
    }
}
