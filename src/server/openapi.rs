//! The OpenAPI document, made from the routes that it describes.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use super::{App, funasr_http, jobs, openai};

/// The documented routes, and `/openapi.json` that documents them.
pub fn routes() -> Router<Arc<App>> {
    let (router, document) = OpenApiRouter::with_openapi(head())
        .merge(funasr_http::routes())
        .merge(openai::routes())
        .merge(jobs::routes())
        .split_for_parts();
    // Forms have limits of their own.
    let router = router.layer(DefaultBodyLimit::disable());
    router.route("/openapi.json", get(move || std::future::ready(Json(document.clone()))))
}

fn head() -> OpenApi {
    let info = InfoBuilder::new()
        .title("funasr-candle")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Speech recognition over HTTP: FunASR's services, OpenAI's, and jobs for long recordings."));
    let mut document = OpenApiBuilder::new().info(info).build();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("key", bearer);
    // A server without keys asks for none.
    let none = SecurityRequirement::default();
    document.security = Some(vec![none, SecurityRequirement::new("key", Vec::<String>::new())]);
    document
}
