//! The server itself: what holds it together, TLS and connections, and the in-process client.
//!
//! The central type is [`ApiServer`]. It lives as long as the store; [`ApiServer::serve`] can be stopped and started
//! again any number of times, which is how an API server outage is made.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::backend::PodBackend;

use super::auth::{Tokens, User, random_token};
use super::authorizer::Attributes;
use super::metrics::{Metrics, RequestCount};
use super::registry::{Registry, ResourceType};
use super::status::{ApiError, json_response};
use super::store::{Store, Stored};

/// How the API server behaves.
#[derive(Debug, Clone)]
pub struct ApiServerConfig {
    /// Events kept per resource for watches that resume.
    pub history: usize,
    /// How often an idle watch gets a bookmark.
    pub bookmark_interval: Duration,
    /// Names and addresses, beyond loopback, that the certificate is valid for.
    pub alternative_names: Vec<String>,
    /// First address of the range that Services get their cluster IPs from, and its prefix length.
    pub service_cidr: (Ipv4Addr, u8),
    /// Name of the cluster, context and user in the kubeconfig.
    pub cluster_name: String,
    /// The administrator's token; a random one when absent.
    pub admin_token: Option<String>,
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            history: 10_000,
            bookmark_interval: Duration::from_secs(10),
            alternative_names: Vec::new(),
            service_cidr: (Ipv4Addr::new(10, 96, 0, 0), 16),
            cluster_name: "chaosrun-lab".to_owned(),
            admin_token: None,
        }
    }
}

/// Why the API server could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// No certificate could be made.
    #[error("cannot make the certificate of the API server: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS could not be set up.
    #[error("cannot set up TLS for the API server: {0}")]
    Tls(#[from] rustls::Error),
    /// The address could not be bound.
    #[error("cannot listen on {address} for the API server: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A built-in object could not be created.
    #[error("cannot create the built-in objects of the API server: {0}")]
    Bootstrap(#[from] ApiError),
}

/// What a write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A new state of an object.
    Update,
}

/// Changes or refuses objects before they are stored, as mutating webhooks do. Must not write to the store.
pub type AdmissionHook = Arc<dyn Fn(&ResourceType, Operation, &mut Value) -> Result<(), ApiError> + Send + Sync>;

/// The API server.
pub struct ApiServer {
    config: ApiServerConfig,
    store: Store,
    registry: Registry,
    metrics: Metrics,
    tokens: Tokens,
    admin_token: String,
    ca_pem: String,
    tls: Arc<rustls::ServerConfig>,
    hooks: RwLock<Vec<AdmissionHook>>,
    backend: RwLock<Option<Arc<dyn PodBackend>>>,
    address: RwLock<Option<SocketAddr>>,
    services: AtomicU32,
    stop: CancellationToken,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ApiServer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ApiServer {
    /// Makes an API server with an empty store and starts its garbage collection. Needs a tokio runtime.
    pub fn new(config: ApiServerConfig) -> Result<Arc<Self>, ApiServerError> {
        let (ca_pem, tls) = certificates(&config)?;
        let admin_token = config.admin_token.clone().unwrap_or_else(random_token);
        let server = Arc::new(Self {
            store: Store::new(config.history),
            registry: Registry::new(),
            metrics: Metrics::default(),
            tokens: Tokens::new(&admin_token),
            admin_token,
            ca_pem,
            tls: Arc::new(tls),
            hooks: RwLock::new(Vec::new()),
            backend: RwLock::new(None),
            address: RwLock::new(None),
            services: AtomicU32::new(0),
            stop: CancellationToken::new(),
            config,
        });
        server.bootstrap()?;
        // Nobody can have seen these revisions: whoever names one is answered like by a cluster that has long forgotten them.
        server.store.compact();
        let weak: Weak<Self> = Arc::downgrade(&server);
        tokio::spawn(super::gc::run(weak, server.stop.clone()));
        Ok(server)
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ApiServerConfig {
        &self.config
    }

    /// The objects.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The resource types.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Numbers that no two callers share, to allocate addresses from.
    pub(crate) fn next_service(&self) -> u32 {
        self.services.fetch_add(1, Ordering::Relaxed)
    }

    /// How often each kind of request came from which client.
    #[must_use]
    pub fn requests(&self) -> Vec<RequestCount> {
        self.metrics.snapshot()
    }

    /// The administrator's bearer token.
    #[must_use]
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }

    /// The certificate authority of the server's certificate.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Connects what runs the pods, for logs, exec, attach and port-forward.
    pub fn set_backend(&self, backend: Arc<dyn PodBackend>) {
        *self.backend.write().unwrap_or_else(PoisonError::into_inner) = Some(backend);
    }

    /// What runs the pods.
    #[must_use]
    pub fn backend(&self) -> Option<Arc<dyn PodBackend>> {
        self.backend.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds an admission hook; hooks run in the order they were added.
    pub fn add_admission_hook(&self, hook: AdmissionHook) {
        self.hooks.write().unwrap_or_else(PoisonError::into_inner).push(hook);
    }

    pub(crate) fn admit(
        &self,
        resource: &ResourceType,
        operation: Operation,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        let hooks = self.hooks.read().unwrap_or_else(PoisonError::into_inner).clone();
        hooks.iter().try_for_each(|hook| hook(resource, operation, object))
    }

    /// Address that clients are told; loopback before anything is served.
    #[must_use]
    pub fn advertised(&self) -> String {
        let address = *self.address.read().unwrap_or_else(PoisonError::into_inner);
        address
            .unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 443)))
            .to_string()
    }

    /// A kubeconfig for the address served first.
    #[must_use]
    pub fn kubeconfig_yaml(&self) -> String {
        self.kubeconfig_for(&format!("https://{}", self.advertised()))
    }

    /// A kubeconfig for a server URL.
    #[must_use]
    pub fn kubeconfig_for(&self, url: &str) -> String {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        let name = &self.config.cluster_name;
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {name}\n  cluster:\n    server: {url}\n    \
             certificate-authority-data: {authority}\ncontexts:\n- name: {name}\n  context:\n    cluster: {name}\n    \
             user: {name}\n    namespace: default\ncurrent-context: {name}\nusers:\n- name: {name}\n  user:\n    \
             token: {}\n",
            self.admin_token
        )
    }

    /// The router that serves every request, in-process and over TCP alike.
    pub(crate) fn router(self: &Arc<Self>) -> axum::Router {
        use axum::routing::get;
        let open = axum::Router::new()
            .route("/healthz", get(health))
            .route("/livez", get(health))
            .route("/readyz", get(health));
        let guarded = axum::Router::new()
            .merge(super::discovery::router())
            .merge(super::openapi::router())
            .route("/lab/requests", get(request_counts))
            .route("/metrics", get(metrics_text))
            .fallback(super::handlers::resources)
            .layer(axum::middleware::from_fn_with_state(self.clone(), authenticate));
        open.merge(guarded).with_state(self.clone())
    }

    /// An in-process client with all rights: its service is the router itself.
    #[must_use]
    pub fn client(self: &Arc<Self>, user_agent: &str) -> kube::Client {
        let router = self.router();
        let agent =
            http::HeaderValue::from_str(user_agent).unwrap_or_else(|_| http::HeaderValue::from_static("chaosrun-lab"));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let router = router.clone();
            let mut request = request.map(axum::body::Body::new);
            request.headers_mut().insert(header::USER_AGENT, agent.clone());
            request.extensions_mut().insert(User::admin());
            async move {
                if request.headers().contains_key(header::UPGRADE) {
                    return upgraded(router, request).await;
                }
                match router.oneshot(request).await {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                }
            }
        });
        kube::Client::new(service, "default")
    }

    /// Serves HTTPS on these addresses until the handle is stopped or dropped.
    pub async fn serve(self: &Arc<Self>, addresses: &[SocketAddr]) -> Result<ServeHandle, ApiServerError> {
        let mut listeners = Vec::new();
        for &address in addresses {
            let listen = |source| ApiServerError::Listen { address, source };
            let listener = TcpListener::bind(address).await.map_err(listen)?;
            let bound = listener.local_addr().map_err(listen)?;
            listeners.push((bound, listener));
        }
        let bound: Vec<SocketAddr> = listeners.iter().map(|(address, _)| *address).collect();
        *self.address.write().unwrap_or_else(PoisonError::into_inner) = bound.first().copied();
        let stop = self.stop.child_token();
        let tasks = TaskTracker::new();
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls.clone());
        for (_, listener) in listeners {
            tasks.spawn(accept(
                listener,
                acceptor.clone(),
                self.router(),
                stop.clone(),
                tasks.clone(),
            ));
        }
        tasks.close();
        Ok(ServeHandle {
            addresses: bound,
            stop,
            tasks,
        })
    }

    pub(crate) fn after_write(&self, resource: &ResourceType, stored: &Arc<Stored>) -> Result<(), ApiError> {
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.registry.register_definition(&stored.value);
        }
        if resource.is("", "namespaces") {
            self.fill_namespace(&stored.value)?;
        }
        Ok(())
    }

    pub(crate) fn after_removal(&self, resource: &ResourceType, stored: &Arc<Stored>) {
        if resource.is("apiextensions.k8s.io", "customresourcedefinitions") {
            self.registry.unregister_definition(super::object::name(&stored.value));
        }
    }
}

/// Runs one request with an upgrade over an in-memory connection, since only a connection can be upgraded.
async fn upgraded(router: axum::Router, request: http::Request<axum::body::Body>) -> Result<Response, tower::BoxError> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(User::admin());
        router.clone().oneshot(request)
    });
    tokio::spawn(async move {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(far), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an in-process connection ended with an error");
        }
    });
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "an in-process connection ended with an error");
        }
    });
    let mut request = request;
    request
        .headers_mut()
        .entry(header::HOST)
        .or_insert(http::HeaderValue::from_static("kubernetes.default.svc"));
    Ok(sender.send_request(request).await?.map(axum::body::Body::new))
}

async fn health() -> &'static str {
    "ok"
}

async fn request_counts(State(server): State<Arc<ApiServer>>) -> Response {
    json_response(StatusCode::OK, &json!({"requests": server.requests()}))
}

async fn metrics_text(State(server): State<Arc<ApiServer>>) -> String {
    server.metrics.prometheus()
}

async fn authenticate(State(server): State<Arc<ApiServer>>, mut request: Request, next: Next) -> Response {
    // Set by the in-process client only: nothing that comes over a connection carries extensions.
    if request.extensions().get::<User>().is_none() {
        let Some(user) = server.tokens.authenticate(request.headers()) else {
            return ApiError::unauthorized().into_response();
        };
        let user = match server.impersonated(user, request.headers()) {
            Ok(user) => user,
            Err(error) => return error.into_response(),
        };
        // Resources are looked at where they are known.
        let path = request.uri().path();
        let is_resource = path.starts_with("/api/") || path.starts_with("/apis/");
        let wanted = Attributes {
            verb: request.method().as_str().to_lowercase(),
            path: Some(path.to_owned()),
            ..Attributes::default()
        };
        if !is_resource && let Err(error) = server.authorize(&user, &wanted) {
            return error.into_response();
        }
        request.extensions_mut().insert(user);
    }
    next.run(request).await
}

/// A served API server. Dropping it stops serving; the objects live on.
#[derive(Debug)]
pub struct ServeHandle {
    addresses: Vec<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ServeHandle {
    /// The addresses really bound, in the order asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops listening, drops every open connection, and returns when the ports are free.
    pub async fn stop(self) {
        self.stop.cancel();
        if tokio::time::timeout(Duration::from_secs(5), self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("connections of the API server did not end within 5 s");
        }
    }
}

impl Drop for ServeHandle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: tokio_rustls::TlsAcceptor,
    router: axum::Router,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY");
                }
                let stream = Stoppable {
                    stream,
                    stop: Box::pin(stop.clone().cancelled_owned()),
                };
                tasks.spawn(connection(stream, acceptor.clone(), router.clone(), stop.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    stream: Stoppable<tokio::net::TcpStream>,
    acceptor: tokio_rustls::TlsAcceptor,
    router: axum::Router,
    stop: CancellationToken,
) {
    let serve = async {
        let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream)).await;
        let Ok(Ok(stream)) = handshake else { return };
        let service = hyper_util::service::TowerToHyperService::new(router);
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to the API server ended with an error");
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serve => {}
    }
}

/// A stream that breaks when the server stops, also after it was upgraded and left the hands of hyper.
struct Stoppable<S> {
    stream: S,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Stoppable<S> {
    fn stopped(&mut self, context: &mut Context<'_>) -> std::io::Result<()> {
        match self.stop.as_mut().poll(context) {
            Poll::Ready(()) => Err(std::io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stoppable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        self.stopped(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stoppable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<std::io::Result<usize>> {
        self.stopped(context)?;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A certificate authority of its own and a server certificate signed by it.
fn certificates(config: &ApiServerConfig) -> Result<(String, rustls::ServerConfig), ApiServerError> {
    let mut authority = rcgen::CertificateParams::default();
    authority
        .distinguished_name
        .push(rcgen::DnType::CommonName, format!("{} CA", config.cluster_name));
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let authority_key = rcgen::KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let mut names: Vec<String> = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(IpAddr::from(Ipv4Addr::LOCALHOST).to_string());
    names.push(super::defaults::kubernetes_service_ip(config).to_string());
    names.extend(config.alternative_names.iter().cloned());
    let mut server = rcgen::CertificateParams::new(names)?;
    server
        .distinguished_name
        .push(rcgen::DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let key = rcgen::KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| rustls::Error::General(error.to_owned()))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone(), authority_certificate.der().clone()],
            private,
        )?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((authority_certificate.pem(), tls))
}
