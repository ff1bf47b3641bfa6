//! The lab's name server on the bridge's gateway address, UDP and TCP. Depends on `directory` and hickory-proto.
//!
//! Contract: `cluster.local` is answered from the directory, with a truth value for every name (an address, an empty
//! answer, or "no such name"); all other names go to the host's own name servers, untouched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::directory::{Backend, Directory, cluster_address, publishes_unready};
use super::error::NodeError;
use super::name_trouble::{NameTroubles, Trouble};

const ZONE: &str = "cluster.local";
/// As cluster name servers do.
const SECONDS_TO_LIVE: u32 = 5;
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Questions answered at the same time.
const CONCURRENT: usize = 256;
/// Answers that are longer are asked for again over TCP.
const DATAGRAM_BYTES: usize = 1232;

/// Sockets of the name server.
pub(crate) struct NameServer {
    datagrams: Arc<UdpSocket>,
    streams: TcpListener,
}

impl NameServer {
    /// Binds both sockets.
    pub(crate) async fn bind(address: Ipv4Addr) -> Result<Self, NodeError> {
        let at = (address, 53);
        let name = "the name server's address";
        let datagrams = UdpSocket::bind(at).await.map_err(NodeError::io("listen on", name))?;
        let streams = TcpListener::bind(at).await.map_err(NodeError::io("listen on", name))?;
        Ok(Self {
            datagrams: Arc::new(datagrams),
            streams,
        })
    }

    /// Answers for ever.
    pub(crate) async fn serve(self, directory: Directory, troubles: NameTroubles) {
        let limit = Arc::new(Semaphore::new(CONCURRENT));
        tokio::join!(
            serve_datagrams(self.datagrams, directory.clone(), troubles.clone(), Arc::clone(&limit)),
            serve_streams(self.streams, directory, troubles, limit)
        );
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, directory: Directory, troubles: NameTroubles, limit: Arc<Semaphore>) {
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, directory, troubles) = (Arc::clone(&socket), directory.clone(), troubles.clone());
        tokio::spawn(async move {
            let asked = Asked {
                question: &question,
                from: from.ip(),
                troubles: &troubles,
            };
            if let Some(answer) = respond(asked, &directory, Some(DATAGRAM_BYTES)).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, "answer not sent");
            }
            drop(permit);
        });
    }
}

async fn serve_streams(listener: TcpListener, directory: Directory, troubles: NameTroubles, limit: Arc<Semaphore>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else {
            return;
        };
        let (directory, troubles) = (directory.clone(), troubles.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_stream(stream, from.ip(), &troubles, &directory).await {
                tracing::debug!(%error, "name server connection ended");
            }
            drop(permit);
        });
    }
}

async fn serve_stream(
    mut stream: TcpStream,
    from: IpAddr,
    troubles: &NameTroubles,
    directory: &Directory,
) -> std::io::Result<()> {
    loop {
        let Ok(Ok(length)) = tokio::time::timeout(IDLE_TIMEOUT, stream.read_u16()).await else {
            return Ok(());
        };
        let mut question = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE_TIMEOUT, stream.read_exact(&mut question)).await??;
        let asked = Asked {
            question: &question,
            from,
            troubles,
        };
        let Some(answer) = respond(asked, directory, None).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
        stream.write_u16(length).await?;
        stream.write_all(&answer).await?;
    }
}

/// A question and who asks.
#[derive(Clone, Copy)]
struct Asked<'a> {
    question: &'a [u8],
    from: IpAddr,
    troubles: &'a NameTroubles,
}

/// The answer to a question, as bytes; `None` when it is no question.
async fn respond(asked: Asked<'_>, directory: &Directory, limit: Option<usize>) -> Option<Vec<u8>> {
    let question = asked.question;
    let request = Message::from_vec(question)
        .ok()
        .filter(|request| request.metadata.message_type == MessageType::Query)?;
    let query = request.queries.first()?;
    let name = query.name().to_ascii().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&request.queries);
    let is_address = matches!(query.query_type(), RecordType::A | RecordType::AAAA);
    let trouble = asked.troubles.of(asked.from, name).filter(|_| is_address);
    if let Some(trouble) = trouble {
        match trouble {
            Trouble::Error => response.metadata.response_code = ResponseCode::ServFail,
            Trouble::At(address) => {
                response.answers = Found::Addresses(vec![address]).records(query.name(), query.query_type());
            }
        }
    } else if name == ZONE || name.ends_with(&format!(".{ZONE}")) {
        response.metadata.authoritative = true;
        let relative = name.strip_suffix(ZONE).unwrap_or_default().trim_end_matches('.');
        match look_up(relative, directory) {
            None => response.metadata.response_code = ResponseCode::NXDomain,
            Some(found) => response.answers = found.records(query.name(), query.query_type()),
        }
        if response.answers.is_empty() {
            response.authorities.extend(start_of_authority());
        }
    } else if let Some(answer) = forward(question).await {
        return Some(answer);
    } else {
        response.metadata.response_code = ResponseCode::ServFail;
    }
    let bytes = response.to_vec().ok()?;
    match limit {
        Some(limit) if bytes.len() > limit => response.truncate().to_vec().ok(),
        _ => Some(bytes),
    }
}

/// What stands behind a name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// The name exists without a record of its own.
    Node,
    Addresses(Vec<Ipv4Addr>),
    Alias(String),
    /// Port and target name of each member.
    Members(Vec<(u16, String)>),
}

impl Found {
    fn records(&self, name: &Name, kind: RecordType) -> Vec<Record> {
        let record = |data: RData| Record::from_rdata(name.clone(), SECONDS_TO_LIVE, data);
        match (self, kind) {
            (Self::Addresses(addresses), RecordType::A | RecordType::ANY) => {
                addresses.iter().map(|address| record(RData::A(A(*address)))).collect()
            }
            (Self::Alias(target), _) => Name::from_ascii(format!("{target}."))
                .map(|target| record(RData::CNAME(CNAME(target))))
                .into_iter()
                .collect(),
            (Self::Members(members), RecordType::SRV | RecordType::ANY) => members
                .iter()
                .filter_map(|(port, target)| {
                    Some(record(RData::SRV(SRV::new(
                        0,
                        100,
                        *port,
                        Name::from_ascii(format!("{target}.{ZONE}.")).ok()?,
                    ))))
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// Looks a name below the zone up; `None`: there is no such name.
fn look_up(name: &str, directory: &Directory) -> Option<Found> {
    let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    match labels.as_slice() {
        [] | ["svc" | "pod"] => Some(Found::Node),
        [address, _, "pod"] => Some(Found::Addresses(vec![dashed(address)?])),
        [service, namespace, "svc"] => of_service(directory, namespace, service),
        [host, service, namespace, "svc"] => {
            let known = directory.service(namespace, service)?;
            let backends = visible(directory, namespace, service, publishes_unready(&known));
            let addresses: Vec<Ipv4Addr> = backends
                .iter()
                .filter(|backend| backend.hostname.as_deref() == Some(*host) || dashed(host) == Some(backend.address))
                .map(|backend| backend.address)
                .collect();
            (!addresses.is_empty()).then_some(Found::Addresses(addresses))
        }
        [port, protocol, service, namespace, "svc"] => {
            let port = port.strip_prefix('_')?;
            protocol.strip_prefix('_')?;
            members(directory, namespace, service, port)
        }
        _ => None,
    }
}

fn of_service(directory: &Directory, namespace: &str, name: &str) -> Option<Found> {
    let service = directory.service(namespace, name)?;
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return spec.external_name.clone().map(Found::Alias);
    }
    if let Some(address) = cluster_address(&service) {
        return Some(Found::Addresses(vec![address]));
    }
    let mut addresses: Vec<Ipv4Addr> = visible(directory, namespace, name, publishes_unready(&service))
        .iter()
        .map(|backend| backend.address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    // A headless service without pods has no name, as with a cluster's name server.
    (!addresses.is_empty()).then_some(Found::Addresses(addresses))
}

fn members(directory: &Directory, namespace: &str, name: &str, port: &str) -> Option<Found> {
    let service = directory.service(namespace, name)?;
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let wanted: Vec<_> = ports.filter(|entry| entry.name.as_deref() == Some(port)).collect();
    let own = format!("{name}.{namespace}.svc");
    if cluster_address(&service).is_some() {
        let all = wanted
            .iter()
            .filter_map(|entry| Some((u16::try_from(entry.port).ok()?, own.clone())))
            .collect::<Vec<_>>();
        return (!all.is_empty()).then_some(Found::Members(all));
    }
    let mut all = Vec::new();
    for backend in visible(directory, namespace, name, publishes_unready(&service)) {
        let host = backend
            .hostname
            .clone()
            .unwrap_or_else(|| backend.address.to_string().replace('.', "-"));
        all.extend(
            backend
                .ports
                .iter()
                .filter(|(name, _)| name == port)
                .map(|(_, number)| (*number, format!("{host}.{own}"))),
        );
    }
    (!all.is_empty()).then_some(Found::Members(all))
}

fn visible(directory: &Directory, namespace: &str, name: &str, unready: bool) -> Vec<Backend> {
    directory
        .backends(namespace, name)
        .into_iter()
        .filter(|backend| backend.ready || unready)
        .collect()
}

/// `10-1-2-3` as an address.
fn dashed(text: &str) -> Option<Ipv4Addr> {
    text.replace('-', ".").parse().ok()
}

fn start_of_authority() -> Option<Record> {
    let zone = Name::from_ascii(format!("{ZONE}.")).ok()?;
    let host = Name::from_ascii(format!("ns.dns.{ZONE}.")).ok()?;
    let person = Name::from_ascii(format!("hostmaster.{ZONE}.")).ok()?;
    let authority = SOA::new(host, person, 1, 7200, 1800, 86400, SECONDS_TO_LIVE);
    Some(Record::from_rdata(zone, SECONDS_TO_LIVE, RData::SOA(authority)))
}

/// Asks the host's name servers, one after the other.
async fn forward(question: &[u8]) -> Option<Vec<u8>> {
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await.ok()?;
    let servers = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok());
    for server in servers {
        let server = SocketAddr::new(server, 53);
        let local = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let asked = async {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            socket.send(question).await?;
            let mut answer = vec![0; 4096];
            let length = socket.recv(&mut answer).await?;
            answer.truncate(length);
            Ok::<_, std::io::Error>(answer)
        };
        if let Ok(Ok(answer)) = tokio::time::timeout(FORWARD_TIMEOUT, asked).await {
            return Some(answer);
        }
    }
    None
}
