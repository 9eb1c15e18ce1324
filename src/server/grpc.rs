//! gRPC: `paraformer.ASR/Recognize` in FunASR's wire layout (`proto/paraformer.proto`), health and reflection.
//!
//! The messages and the one method are written out here, so that building needs no protoc. What reflection serves
//! is `proto/paraformer.bin`; `tests/clients/check_grpc.py` compares both with the text.

use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request as HttpRequest, State};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::post;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{App, Refusal};
use crate::engine::{LiveInput, LiveOutput, LiveSession};
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

/// The routes of all services.
///
/// # Errors
/// Descriptors that are none: the file in `proto` is damaged.
pub async fn routes() -> Result<Router<Arc<App>>, tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status(SERVICE, tonic_health::ServingStatus::Serving).await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Router::new()
        .route("/paraformer.ASR/Recognize", post(recognize))
        .route_service("/grpc.health.v1.Health/{method}", health_service)
        .route_service("/grpc.reflection.v1.ServerReflection/{method}", reflection().build_v1()?)
        .route_service("/grpc.reflection.v1alpha.ServerReflection/{method}", reflection().build_v1alpha()?))
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
    hear(&mut input, &first).await?;
    let mut open = !first.is_final;
    while open {
        tokio::select! {
            request = requests.message() => match request? {
                Some(request) => {
                    hear(&mut input, &request).await?;
                    open = !request.is_final;
                }
                None => open = false,
            },
            said = output.next() => match said {
                Some(said) => tell(replies, mode, said.map_err(Refusal::from)?.message).await?,
                None => return Ok(()),
            },
        }
    }
    input.finish().await.map_err(Refusal::from)?;
    rest(&mut output, replies, mode).await
}

async fn hear(input: &mut LiveInput, request: &Request) -> Result<(), Status> {
    Ok(input.push_pcm16(&request.audio_data).await.map_err(Refusal::from)?)
}

async fn rest(
    output: &mut LiveOutput,
    replies: &mpsc::Sender<Result<Response, Status>>,
    mode: DecodeMode,
) -> Result<(), Status> {
    while let Some(said) = output.next().await {
        tell(replies, mode, said.map_err(Refusal::from)?.message).await?;
    }
    Ok(())
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

async fn tell(
    replies: &mpsc::Sender<Result<Response, Status>>,
    wanted: DecodeMode,
    message: Message,
) -> Result<(), Status> {
    let mode = match message.pass {
        Pass::Streaming { .. } => DecodeMode::Online,
        Pass::Corrected(_) => DecodeMode::TwoPass,
    };
    let asked = match wanted {
        DecodeMode::Offline => mode == DecodeMode::TwoPass,
        DecodeMode::Online => mode == DecodeMode::Online,
        DecodeMode::TwoPass => true,
    };
    if !asked || message.text.is_empty() {
        return Ok(());
    }
    let reply = Response { mode: mode.into(), text: message.text, is_final: message.is_final };
    replies.send(Ok(reply)).await.map_err(|_| Status::cancelled("the client has left"))
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
