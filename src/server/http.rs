//! Everything that is asked over HTTP: the documented routes, the OpenAPI document made from them, gRPC, the page.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use axum::{Json, Router};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use super::{App, funasr_http, grpc, jobs, openai, realtime, web};

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    let (documented, document) = OpenApiRouter::with_openapi(head())
        .merge(funasr_http::routes())
        .merge(openai::routes())
        .merge(jobs::routes())
        .split_for_parts();
    documented
        // FunASR's C++ server takes recordings on any path, and its clients use this one.
        .route("/", get(web::page).merge(post(funasr_http::recognition)))
        // Forms have limits of their own.
        .layer(DefaultBodyLimit::disable())
        .route("/openapi.json", get(move || std::future::ready(Json(document.clone()))))
        .route("/v1/realtime", get(realtime::upgrade))
        .merge(web::files())
        .merge(grpc::routes())
}

fn head() -> OpenApi {
    let info = InfoBuilder::new().title("funasr-candle").version(env!("CARGO_PKG_VERSION")).description(
        Some("Speech recognition: FunASR's HTTP services, OpenAI's, and jobs for long recordings."),
    );
    let mut document = OpenApiBuilder::new().info(info).build();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    document.components.get_or_insert_default().add_security_scheme("key", bearer);
    // A server without keys asks for none.
    let none = SecurityRequirement::default();
    document.security = Some(vec![none, SecurityRequirement::new("key", Vec::<String>::new())]);
    document
}
