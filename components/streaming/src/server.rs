//! The HTTP server: from a URL to a session.

use crate::{
    connection::{End, connect},
    link::Link,
    negotiate::{
        ACCEPTED_VERSIONS, COMMAND_CHANNELS, COMMAND_VERSIONS, CommandVersion, PORT_FORWARD_CHANNELS,
        PORT_FORWARD_VERSIONS, PROTOCOL_VERSION, Refusal, SPDY, Upgrade, WEBSOCKET, upgrade, version,
    },
    port_forward,
    remote_command::{self, CHANNELS, Command, STATUS_CHANNEL},
    request::{PortForward, Request, Runtime},
    spdy::{Role, Session},
    tokens::{Tokens, UrlError},
    websocket::{Channels, Codec, Socket, accept_key},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

#[cfg(test)]
mod tests;

/// After how long a session on which nothing moves is closed, unless told otherwise.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a client may take to open its streams, unless told otherwise.
pub const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read the rest and close the connection.
const LINGER: Duration = Duration::from_secs(15 * 60);
/// Connections at the same time.
const CONNECTIONS: usize = 1024;
/// When a silent client is asked whether it is there, and how often before it is given up.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 6);

/// The server of streaming URLs. Clones are the same server.
#[derive(Debug, Clone)]
pub struct Server(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listener: TcpListener,
    address: SocketAddr,
    idle: Duration,
    creation: Duration,
    tokens: Mutex<Tokens>,
}

impl Server {
    /// Listens. `address` with port 0 lets the kernel choose one; it should be a loopback address, since tokens
    /// travel in the clear. `idle` and `creation` are [`IDLE_TIMEOUT`] and [`CREATION_TIMEOUT`], if there is no reason for others.
    /// To be called within a tokio runtime.
    pub fn bind(address: SocketAddr, idle: Duration, creation: Duration) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let address = listener.local_addr()?;
        Ok(Self(Arc::new(Inner { listener, address, idle, creation, tokens: Mutex::default() })))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// A URL at which a client gets what is requested, once and within a minute.
    pub fn url(&self, request: Request) -> Result<String, UrlError> {
        let kind = request.kind();
        let token = self.0.tokens().insert(request, Instant::now())?;
        Ok(format!("http://{}/{kind}/{token}", self.0.address))
    }

    /// Serves clients until `shutdown` is ready; then ends their sessions and returns.
    pub async fn serve<R: Runtime>(&self, runtime: Arc<R>, shutdown: impl Future<Output = ()>) {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        tokio::select! {
            () = self.accept(&runtime, &slots, &tasks, &stop) => {}
            () = shutdown => {}
        }
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }

    async fn accept<R: Runtime>(
        &self,
        runtime: &Arc<R>,
        slots: &Arc<Semaphore>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        loop {
            let Ok(slot) = Arc::clone(slots).acquire_owned().await else { return };
            let stream = match self.0.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("streaming: {error}");
                    sleep(Duration::from_secs(1)).await; // out of descriptors, most likely
                    continue;
                }
            };
            let guest = Guest {
                server: Arc::clone(&self.0),
                runtime: Arc::clone(runtime),
                socket: prepare(&stream).map(Arc::new),
                tasks: tasks.clone(),
                stop: stop.clone(),
                slot: Arc::new(slot),
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                let service =
                    service_fn(|request| std::future::ready(Ok::<_, Infallible>(guest.answer(request))));
                // Not `keep_alive(false)`: it puts a `close` beside `Upgrade`, and then Go's HTTP client hides both.
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(REQUEST_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::select! {
                    result = serving => if let Err(error) = result {
                        tracing::debug!("streaming: {error}");
                    },
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

/// Sets what a long-lived interactive connection wants. Returns another descriptor of the socket, to ask it by.
fn prepare(stream: &TcpStream) -> Option<OwnedFd> {
    let (idle, interval, count) = KEEPALIVE;
    let set = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, idle)?;
        sockopt::set_tcp_keepintvl(stream, interval)?;
        sockopt::set_tcp_keepcnt(stream, count)
    };
    if let Err(error) = set() {
        tracing::debug!("streaming: the connection's keepalive cannot be set: {error}");
    }
    stream.as_fd().try_clone_to_owned().ok()
}

impl Inner {
    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, before its upgrade.
struct Guest<R> {
    server: Arc<Inner>,
    runtime: Arc<R>,
    socket: Option<Arc<OwnedFd>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    slot: Arc<tokio::sync::OwnedSemaphorePermit>,
}

/// What was negotiated: what is spoken, and what is done.
struct Agreed {
    link: Link,
    job: Job,
}

enum Job {
    /// `channels`: its streams are there from the beginning.
    Command {
        version: CommandVersion,
        command: Command,
        channels: bool,
    },
    PortForward {
        forward: PortForward,
        channels: bool,
    },
}

impl<R: Runtime> Guest<R> {
    fn answer(&self, mut request: hyper::Request<Incoming>) -> Response<String> {
        let granted = request
            .uri()
            .path()
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .and_then(|(kind, token)| self.server.tokens().take(kind, token, Instant::now()));
        let Some(granted) = granted else {
            return plain(
                StatusCode::NOT_FOUND,
                "no such streaming request: a URL works once, for a minute\n",
            );
        };
        match negotiate(granted, request.method(), request.headers()) {
            Err(refusal) => refuse(&refusal),
            Ok((agreed, response)) => {
                self.begin(agreed, hyper::upgrade::on(&mut request));
                response
            }
        }
    }

    /// Starts the session, which waits for the upgrade.
    fn begin(&self, agreed: Agreed, upgrade: OnUpgrade) {
        let session = session(
            Arc::clone(&self.server),
            Arc::clone(&self.runtime),
            self.socket.clone(),
            agreed,
            upgrade,
        );
        let stop = self.stop.clone();
        let slot = Arc::clone(&self.slot);
        self.tasks.spawn(async move {
            tokio::select! {
                () = session => {}
                () = stop.cancelled() => {}
            }
            drop(slot);
        });
    }
}

/// Agrees on a protocol, and says so.
fn negotiate(
    granted: Request,
    method: &http::Method,
    headers: &HeaderMap,
) -> Result<(Agreed, Response<String>), Refusal> {
    let upgrade = upgrade(method, headers)?;
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, "");
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let agreed = match upgrade {
        Upgrade::Spdy => {
            let (name, job) = agree_on_spdy(granted, headers)?;
            answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
            answer.insert(PROTOCOL_VERSION, HeaderValue::from_static(name));
            Agreed { link: Link::Spdy(Session::new(Role::Server)), job }
        }
        Upgrade::WebSocket => {
            let key = websocket_key(headers).ok_or(Refusal::Handshake)?;
            let (name, agreed) = agree_on_websocket(granted, headers)?;
            answer.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
            if let Ok(proof) = HeaderValue::try_from(accept_key(key)) {
                answer.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
            }
            if let Some(name) = name {
                answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
            }
            agreed
        }
    };
    Ok((agreed, response))
}

fn agree_on_spdy(granted: Request, headers: &HeaderMap) -> Result<(&'static str, Job), Refusal> {
    let command = match granted {
        Request::Exec(exec) => Command::Exec(exec),
        Request::Attach(attach) => Command::Attach(attach),
        Request::PortForward(forward) => {
            let (name, ()) = version(headers, &PROTOCOL_VERSION, &PORT_FORWARD_VERSIONS)?;
            return Ok((name, Job::PortForward { forward, channels: false }));
        }
    };
    let (name, version) = version(headers, &PROTOCOL_VERSION, &COMMAND_VERSIONS)?;
    Ok((name, Job::Command { version, command, channels: false }))
}

fn agree_on_websocket(
    granted: Request,
    headers: &HeaderMap,
) -> Result<(Option<&'static str>, Agreed), Refusal> {
    let command = match granted {
        Request::Exec(exec) => Command::Exec(exec),
        Request::Attach(attach) => Command::Attach(attach),
        Request::PortForward(forward) => return agree_on_ports(forward, headers),
    };
    let first = (CommandVersion::V1, Codec::Binary);
    let (name, (version, codec)) = subprotocol(headers, &COMMAND_CHANNELS, first)?;
    let count = CHANNELS.len() as u8;
    let mut channels = Channels::new(Role::Server, codec, count, Some(STATUS_CHANNEL));
    // An empty message on the first channel that we write to says that all is ready.
    channels.greet(command.wanted(version).first_output());
    let job = Job::Command { version, command, channels: true };
    Ok((name, Agreed { link: Link::Channels(channels), job }))
}

fn agree_on_ports(
    forward: PortForward,
    headers: &HeaderMap,
) -> Result<(Option<&'static str>, Agreed), Refusal> {
    let (name, codec) = subprotocol(headers, &PORT_FORWARD_CHANNELS, Some(Codec::Binary))?;
    let link = match codec {
        None => Link::Tunnel(Socket::new(Role::Server), Session::new(Role::Server)),
        Some(codec) => {
            let count = u8::try_from(forward.ports.len() * 2).ok().filter(|count| *count > 0);
            let count = count.ok_or(Refusal::NoPorts)?;
            Link::Channels(Channels::new(Role::Server, codec, count, None))
        }
    };
    Ok((name, Agreed { link, job: Job::PortForward { forward, channels: codec.is_some() } }))
}

/// The client's first subprotocol that is spoken here; `silent`, if it names none.
fn subprotocol<V: Copy>(
    headers: &HeaderMap,
    spoken: &[(&'static str, V)],
    silent: V,
) -> Result<(Option<&'static str>, V), Refusal> {
    match version(headers, &header::SEC_WEBSOCKET_PROTOCOL, spoken) {
        Ok((name, value)) => Ok((Some(name), value)),
        Err(Refusal::NoVersion) => Ok((None, silent)),
        Err(refusal) => Err(refusal),
    }
}

fn websocket_key(headers: &HeaderMap) -> Option<&str> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION)?;
    (version == "13").then(|| headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok())?
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    // One request a connection; an upgrade says so in its own way.
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn refuse(refusal: &Refusal) -> Response<String> {
    let mut response = plain(refusal.status(), &format!("unable to upgrade: {refusal}\n"));
    if let Refusal::Versions { spoken, .. } = refusal {
        for name in spoken {
            response.headers_mut().append(ACCEPTED_VERSIONS, HeaderValue::from_static(name));
        }
    }
    response
}

/// One session, from the upgrade to the end of the connection.
async fn session<R: Runtime>(
    server: Arc<Inner>,
    runtime: Arc<R>,
    socket: Option<Arc<OwnedFd>>,
    agreed: Agreed,
    upgrade: OnUpgrade,
) {
    let io = match upgrade.await {
        Ok(io) => TokioIo::new(io),
        Err(error) => return tracing::debug!("streaming: the upgrade failed: {error}"),
    };
    let Agreed { link, job } = agreed;
    let (streams, driver) = connect(link, io, socket, server.idle);
    let work = async {
        match job {
            Job::Command { version, command, channels } => {
                let wanted = command.wanted(version);
                let gathered = if channels {
                    Some(remote_command::channels(&streams, wanted))
                } else {
                    remote_command::gather(&streams, wanted, server.creation).await
                };
                match gathered {
                    Some(gathered) => {
                        remote_command::serve(&streams, gathered, version, command, &*runtime).await;
                    }
                    None => {
                        tracing::debug!("streaming: the client did not open its streams in time");
                        streams.close();
                    }
                }
            }
            Job::PortForward { forward, channels: true } => {
                port_forward::serve_channels(&streams, &forward, &*runtime).await;
            }
            Job::PortForward { forward, channels: false } => {
                port_forward::serve(&streams, &forward, &*runtime, server.creation).await;
            }
        }
    };
    tokio::pin!(driver);
    tokio::select! {
        end = &mut driver => return log_end(&end),
        () = work => {}
    }
    // All is said. The client closes the connection when it has read it.
    match timeout(LINGER, &mut driver).await {
        Ok(end) => log_end(&end),
        Err(_) => {
            streams.close();
            log_end(&driver.await);
        }
    }
}

fn log_end(end: &End) {
    match end {
        End::Closed | End::Ours => {}
        End::Broken(reason) => tracing::warn!("streaming: the client broke the protocol: {reason}"),
        End::Idle => tracing::info!("streaming: a session was closed after nothing moved for too long"),
    }
}
