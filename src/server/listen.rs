//! The port: accepts connections, plain or TLS, and ends them gracefully.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::{App, Refusal, Settings, router};
use crate::error::{Error, Result};

/// Connections beyond the limit that are told so; further ones are closed at once.
const REFUSED_AT_ONCE: usize = 64;
/// Pause after the system refuses a connection, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client's connection, as long as anything of it goes on. Handlers of upgraded connections keep it to the end.
#[derive(Debug)]
pub struct Connection {
    /// Where it comes from.
    pub peer: SocketAddr,
    app: Arc<App>,
    _place: OwnedSemaphorePermit,
    /// Shutdown waits until all of these are gone.
    _alive: mpsc::Sender<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.app.metrics.connections.add(-1);
    }
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    grpc: Option<TcpListener>,
    tls: Option<watch::Sender<TlsAcceptor>>,
}

impl Server {
    /// Takes the port and reads the certificates.
    ///
    /// # Errors
    /// A port that is taken, or certificates that cannot be used.
    pub async fn bind(app: Arc<App>) -> Result<Self> {
        let tls = tls(&app)?.map(|tls| watch::channel(tls).0);
        let listener = open(&app.settings, app.settings.port).await?;
        let grpc = match app.settings.grpc_port {
            Some(port) => Some(open(&app.settings, port).await?),
            None => None,
        };
        Ok(Self { app, listener, grpc, tls })
    }

    /// The next connection on either port.
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let Some(grpc) = &self.grpc else { return self.listener.accept().await };
        tokio::select! {
            accepted = self.listener.accept() => accepted,
            accepted = grpc.accept() => accepted,
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|cause| Error::io("socket", cause))
    }

    /// Serves until `stop` is ready; then takes nothing new, and finishes what was begun or what the deadline allows.
    ///
    /// # Errors
    /// [`Error::Failed`] if something had to be broken off.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let app = self.app.clone();
        let (graceful, (alive, mut gone)) = (GracefulShutdown::new(), mpsc::channel(1));
        let mut stop = pin!(stop);
        let port = Port::new(&self, alive);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.accept() => match accepted {
                    Ok((stream, peer)) => port.take(stream, peer, graceful.watcher()),
                    Err(cause) => {
                        tracing::warn!(%cause, "accept");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop((self.listener, self.grpc, port));
        app.drain();
        let ended = async {
            graceful.shutdown().await;
            gone.recv().await;
        };
        let limit = Duration::from_secs(app.settings.drain_seconds);
        let broken_off = || format!("{} connections were broken off", app.metrics.connections.get());
        tokio::time::timeout(limit, ended).await.map_err(|_| Error::Failed(broken_off()))
    }

    /// Reads keys, hotwords and certificates again, also while it runs.
    pub fn reloader(&self) -> impl Fn() -> Result<()> + Send + Sync + 'static {
        let (app, acceptor) = (self.app.clone(), self.tls.clone());
        move || {
            let tls = tls(&app)?;
            app.reload()?;
            if let (Some(acceptor), Some(tls)) = (&acceptor, tls) {
                acceptor.send_replace(tls);
            }
            Ok(())
        }
    }
}

/// Takes a port.
async fn open(settings: &Settings, port: u16) -> Result<TcpListener> {
    let address = SocketAddr::new(settings.listen_ip, port);
    TcpListener::bind(address).await.map_err(|cause| Error::io(address.to_string(), cause))
}

/// What accepting a connection takes.
struct Port {
    app: Arc<App>,
    routes: axum::Router,
    http: Arc<Builder<TokioExecutor>>,
    /// How long a client may take over its TLS handshake, and over the head of a request.
    head_timeout: Duration,
    tls: Option<watch::Receiver<TlsAcceptor>>,
    places: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    alive: mpsc::Sender<()>,
}

impl Port {
    fn new(server: &Server, alive: mpsc::Sender<()>) -> Self {
        let head_timeout = Duration::from_secs(server.app.settings.head_seconds);
        let mut http = Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(head_timeout).max_buf_size(64 << 10);
        http.http2().timer(TokioTimer::new()).keep_alive_interval(Duration::from_secs(30));
        Self {
            app: server.app.clone(),
            routes: router(server.app.clone()),
            http: Arc::new(http),
            head_timeout,
            tls: server.tls.as_ref().map(watch::Sender::subscribe),
            places: Arc::new(Semaphore::new(server.app.settings.max_connections)),
            refused: Arc::new(Semaphore::new(REFUSED_AT_ONCE)),
            alive,
        }
    }

    /// Serves a connection in a task of its own.
    fn take(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let _ = stream.set_nodelay(true);
        let tls = self.tls.as_ref().map(|tls| tls.borrow().clone());
        let (http, head_timeout) = (self.http.clone(), self.head_timeout);
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            if let Ok(place) = self.refused.clone().try_acquire_owned() {
                tokio::spawn(tokio::time::timeout(head_timeout, refuse(stream, tls, http, place)));
            }
            return;
        };
        self.app.metrics.connections.add(1);
        let (app, alive) = (self.app.clone(), self.alive.clone());
        let connection = Arc::new(Connection { peer, app, _place: place, _alive: alive });
        let routes = self.routes.clone().layer(Extension(connection));
        tokio::spawn(async move {
            match tls {
                None => serve(TokioIo::new(stream), &http, routes, watcher).await,
                Some(tls) => match tokio::time::timeout(head_timeout, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve(TokioIo::new(stream), &http, routes, watcher).await,
                    Ok(Err(cause)) => tracing::debug!(%peer, %cause, "TLS"),
                    Err(_) => tracing::debug!(%peer, "TLS handshake takes too long"),
                },
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: TokioIo<S>,
    http: &Builder<TokioExecutor>,
    routes: axum::Router,
    watcher: Watcher,
) {
    let connection = http.serve_connection_with_upgrades(stream, TowerToHyperService::new(routes));
    if let Err(cause) = watcher.watch(connection.into_owned()).await {
        tracing::debug!(cause, "connection");
    }
}

/// Answers the first request with "busy", whatever it is.
async fn refuse(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    http: Arc<Builder<TokioExecutor>>,
    _place: OwnedSemaphorePermit,
) {
    let answer = service_fn(|_: hyper::Request<Incoming>| async {
        let mut response = Refusal::busy("too many connections").into_response();
        response
            .headers_mut()
            .insert(hyper::header::CONNECTION, hyper::header::HeaderValue::from_static("close"));
        Ok::<hyper::Response<Body>, Infallible>(response)
    });
    // A client that does not even take the refusal needs no other answer.
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), answer).await),
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http.serve_connection(TokioIo::new(stream), answer).await);
            }
        }
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let fault = |cause: pem::Error| Error::config(file, format!("certificates in PEM: {cause}"));
    let found = CertificateDer::pem_file_iter(file).map_err(fault)?;
    let found = found.collect::<std::result::Result<Vec<_>, _>>().map_err(fault)?;
    if found.is_empty() {
        return Err(Error::config(file, "holds no certificate in PEM"));
    }
    Ok(found)
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).map_err(|cause| Error::config(file, format!("a key in PEM: {cause}")))
}

/// TLS as the settings say; none if they name no certificate.
fn tls(app: &App) -> Result<Option<TlsAcceptor>> {
    let (certfile, keyfile) = match (&app.settings.certfile, &app.settings.keyfile) {
        (Some(certfile), Some(keyfile)) => (certfile, keyfile),
        (None, None) => return Ok(None),
        (Some(file), None) => return Err(Error::config(file, "a certificate needs --keyfile, too")),
        (None, Some(file)) => return Err(Error::config(file, "a key needs --certfile, too")),
    };
    let (certificates, key) = (certificates(certfile)?, private_key(keyfile)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fault = |cause: rustls::Error| {
        Error::config(certfile, format!("{cause}, with the key {}", keyfile.display()))
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(fault)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(fault)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
