//! gRPC: `paraformer.ASR/Recognize` in FunASR's wire layout (`proto/paraformer.proto`), health and reflection.
//!
//! The messages and the one method are written out here, so that building needs no protoc. What reflection serves
//! is `proto/paraformer.bin`; `tests/clients/check_grpc.py` compares both with the text.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request as HttpRequest, State};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::post;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_prost::ProstCodec;
use tonic_reflection::server::Builder;

use super::live::hearing;
use super::{App, Refusal};
use crate::engine::{LiveSession, Said};
use crate::pipeline::{ChunkSize, Message, Pass, SessionOptions, StreamOptions};

/// Name of the service.
const SERVICE: &str = "paraformer.ASR";
/// Replies that wait for a slow reader.
const WAITING_REPLIES: usize = 16;
/// The compiled text of the proto file.
const DESCRIPTORS: &[u8] = include_bytes!("../../proto/paraformer.bin");

/// What may come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum DecodeMode {
    Offline = 0,
    Online = 1,
    TwoPass = 2,
}

/// Audio, and with the first one its format.
#[derive(Clone, PartialEq, prost::Message)]
struct Request {
    #[prost(enumeration = "DecodeMode", tag = "1")]
    mode: i32,
    #[prost(int32, tag = "2")]
    wav_format: i32,
    #[prost(int32, tag = "3")]
    sampling_rate: i32,
    #[prost(int32, repeated, tag = "4")]
    chunk_size: Vec<i32>,
    #[prost(bool, tag = "5")]
    is_final: bool,
    #[prost(bytes = "bytes", tag = "6")]
    audio_data: bytes::Bytes,
}

/// Text.
#[derive(Clone, PartialEq, prost::Message)]
struct Response {
    #[prost(enumeration = "DecodeMode", tag = "1")]
    mode: i32,
    #[prost(string, tag = "2")]
    text: String,
    #[prost(bool, tag = "3")]
    is_final: bool,
}

/// The routes of all services. Descriptors that are damaged cost reflection alone.
pub fn routes() -> Router<Arc<App>> {
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move { reporter.set_service_status(SERVICE, ServingStatus::Serving).await });
    let router = Router::new()
        .route("/paraformer.ASR/Recognize", post(recognize))
        .route_service("/grpc.health.v1.Health/{method}", health);
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(now), Ok(before)) => router
            .route_service("/grpc.reflection.v1.ServerReflection/{method}", now)
            .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", before),
        (Err(cause), _) | (_, Err(cause)) => {
            tracing::error!(%cause, "no gRPC reflection");
            router
        }
    }
}

async fn recognize(State(app): State<Arc<App>>, request: HttpRequest) -> HttpResponse {
    Grpc::new(ProstCodec::default()).streaming(Recognize(app), request).await.into_response()
}

struct Recognize(Arc<App>);

type Replies = ReceiverStream<Result<Response, Status>>;

impl StreamingService<Request> for Recognize {
    type Response = Response;
    type ResponseStream = Replies;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Replies>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<Request>>) -> Self::Future {
        let app = self.0.clone();
        let (replies, told) = mpsc::channel(WAITING_REPLIES);
        tokio::spawn(async move {
            if let Err(status) = converse(&app, request.into_inner(), &replies).await {
                // Nobody listens any more if this fails.
                let _ = replies.send(Err(status)).await;
            }
        });
        Box::pin(async move { Ok(tonic::Response::new(ReceiverStream::new(told))) })
    }
}

/// One call: reads requests while it tells what was heard.
async fn converse(
    app: &Arc<App>,
    mut requests: Streaming<Request>,
    replies: &mpsc::Sender<Result<Response, Status>>,
) -> Result<(), Status> {
    let Some(first) = requests.message().await? else { return Ok(()) };
    let mode = DecodeMode::try_from(first.mode);
    let mode = mode.map_err(|_| Status::invalid_argument("mode: none of 0, 1, 2"))?;
    let (rate, mut options) = options(&first, mode)?;
    options.request = app.prepare(app.ask()).await.map_err(Refusal::from)?.request;
    let LiveSession { mut input, mut output } = app.engine().open(rate, &options).map_err(Refusal::from)?;
    let mut telling = Telling { replies, mode };
    let mut next = Some(first);
    let idle = Duration::from_secs(app.settings().idle_seconds);
    while let Some(request) = next.take() {
        let (pushed, heard) = hearing(&mut output, input.push_pcm16(&request.audio_data)).await;
        for said in heard {
            telling.tell(said).await?;
        }
        pushed.map_err(Refusal::from)?;
        while next.is_none() && !request.is_final {
            tokio::select! {
                received = timeout(idle, requests.message()) => match received.map_err(|_| too_slow())?? {
                    Some(request) => next = Some(request),
                    None => break,
                },
                said = output.next() => match said {
                    Some(said) => telling.tell(said).await?,
                    None => return Ok(()),
                },
            }
        }
    }
    let (finished, heard) = hearing(&mut output, input.finish()).await;
    for said in heard {
        telling.tell(said).await?;
    }
    finished.map_err(Refusal::from)?;
    while let Some(said) = output.next().await {
        telling.tell(said).await?;
    }
    Ok(())
}

fn too_slow() -> Status {
    Status::deadline_exceeded("nothing was sent for too long")
}

/// Sample rate and choices of the session that the first request asks for.
fn options(first: &Request, mode: DecodeMode) -> Result<(u32, SessionOptions), Status> {
    if first.wav_format != 0 {
        return Err(Status::invalid_argument("wav_format: only pcm (0)"));
    }
    let rate = if first.sampling_rate == 0 { 16_000 } else { first.sampling_rate };
    let rate = u32::try_from(rate).map_err(|_| Status::invalid_argument("sampling_rate: negative"))?;
    let chunk_size = match first.chunk_size[..] {
        [left, stride, right] => [left, stride, right].map(i64::from),
        _ => [5, 10, 5],
    };
    let chunk_size = ChunkSize::new(chunk_size).map_err(Refusal::from)?;
    let stream = StreamOptions { chunk_size, ..StreamOptions::default() };
    let first_pass_only = mode == DecodeMode::Online;
    Ok((rate, SessionOptions { stream, first_pass_only, ..SessionOptions::default() }))
}

/// Where a call's replies go.
struct Telling<'a> {
    replies: &'a mpsc::Sender<Result<Response, Status>>,
    mode: DecodeMode,
}

impl Telling<'_> {
    /// Tells what was said if it was asked for and is not empty.
    async fn tell(&mut self, said: crate::Result<Said>) -> Result<(), Status> {
        let Message { text, pass, is_final, .. } = said.map_err(Refusal::from)?.message;
        let mode = match pass {
            Pass::Streaming { .. } => DecodeMode::Online,
            Pass::Corrected(_) => DecodeMode::TwoPass,
        };
        let asked = match self.mode {
            DecodeMode::Offline => mode == DecodeMode::TwoPass,
            DecodeMode::Online => mode == DecodeMode::Online,
            DecodeMode::TwoPass => true,
        };
        if !asked || text.is_empty() {
            return Ok(());
        }
        let reply = Response { mode: mode.into(), text, is_final };
        self.replies.send(Ok(reply)).await.map_err(|_| Status::cancelled("the client has left"))
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.status.as_u16() {
            401 | 403 => Code::Unauthenticated,
            404 => Code::NotFound,
            429 | 413 => Code::ResourceExhausted,
            503 => Code::Unavailable,
            400..500 => Code::InvalidArgument,
            _ => Code::Internal,
        };
        Self::new(code, refusal.message)
    }
}
