//! A double of S3 (`ListObjectsV2`, `GetObject` with ranges, `HeadObject`), which GCS's XML interface is alike enough to, with a
//! double of Azure's `List Blobs` beside it. It checks no signature.

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// 403.
    Denied,
    /// 404 with `NoSuchBucket`.
    NoBucket,
    /// Every request fails the first time it is made.
    FailsOnce,
    /// 500.
    Fails,
    /// Every first answer of more than 30 bytes breaks off after 30.
    Truncates,
}

#[derive(Debug)]
struct Inner {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    mood: Mutex<Mood>,
    seen: Mutex<HashMap<String, u64>>,
    bytes: Mutex<HashMap<String, u64>>,
    pages: AtomicU64,
    sent: AtomicU64,
}

#[derive(Debug, Clone)]
pub(super) struct Double {
    pub(super) endpoint: String,
    inner: Arc<Inner>,
}

const PAGE: usize = 2;
const STAMP: &str = "Sat, 01 Jan 2022 00:00:00 GMT";

impl Double {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Arc::new(Inner {
            objects: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            seen: Mutex::default(),
            bytes: Mutex::default(),
            pages: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let double = Self {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            inner,
        };
        let router = axum::Router::new().fallback(answer).with_state(double.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        double
    }

    pub(super) fn put(&self, name: &str, text: String) {
        self.inner
            .objects
            .lock()
            .unwrap()
            .insert(name.to_owned(), text.into_bytes());
    }

    pub(super) fn mood(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
        self.inner.seen.lock().unwrap().clear();
    }

    /// Pages of listings so far.
    pub(super) fn pages(&self) -> u64 {
        self.inner.pages.load(Ordering::Relaxed)
    }

    /// Bytes of all answers.
    pub(super) fn sent(&self) -> u64 {
        self.inner.sent.load(Ordering::Relaxed)
    }

    /// Bytes of one object that were sent.
    pub(super) fn bytes_of(&self, name: &str) -> u64 {
        self.inner.bytes.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    fn list(&self, query: &HashMap<String, String>, azure: bool) -> String {
        self.inner.pages.fetch_add(1, Ordering::Relaxed);
        let prefix = query.get("prefix").cloned().unwrap_or_default();
        let after = query.get("continuation-token").or(query.get("marker")).cloned();
        let objects = self.inner.objects.lock().unwrap();
        let mut wanted = objects
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix) && after.as_ref().is_none_or(|after| *name > after));
        let page: Vec<_> = wanted.by_ref().take(PAGE).collect();
        let more = wanted.next().is_some();
        let next = page.last().filter(|_| more).map(|(name, _)| (*name).clone());
        let mut items = String::new();
        for (name, bytes) in page {
            let size = bytes.len();
            if azure {
                write!(items, "<Blob><Name>{name}</Name><Properties><Last-Modified>{STAMP}</Last-Modified><Etag>e</Etag><Content-Length>{size}</Content-Length><Content-Type>x</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>").unwrap();
            } else {
                write!(items, "<Contents><Key>{name}</Key><LastModified>2022-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>{size}</Size></Contents>").unwrap();
            }
        }
        if azure {
            let next = next.unwrap_or_default();
            return format!(
                "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>{items}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
            );
        }
        let token = next.map(|next| format!("<NextContinuationToken>{next}</NextContinuationToken>"));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListBucketResult><Name>bucket</Name><IsTruncated>{more}</IsTruncated>{items}{}</ListBucketResult>",
            token.unwrap_or_default()
        )
    }

    fn get(&self, name: &str, headers: &HeaderMap, head: bool, cut: bool) -> Response {
        let objects = self.inner.objects.lock().unwrap();
        let Some(bytes) = objects.get(name) else {
            return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let range = headers.get(header::RANGE).map(|range| {
            let text = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
            let (start, end) = text.split_once('-').unwrap();
            let end = end.parse().map_or(bytes.len(), |end: usize| (end + 1).min(bytes.len()));
            start.parse::<usize>().unwrap()..end
        });
        let whole = bytes.len();
        if range.as_ref().is_some_and(|range| range.start >= whole) {
            return refusal(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let mut builder = Response::builder()
            .header(header::LAST_MODIFIED, STAMP)
            .header(header::ETAG, format!("\"{whole}\""))
            .header("x-ms-blob-type", "BlockBlob");
        let part = match range {
            Some(range) => {
                builder = builder.status(206).header(
                    header::CONTENT_RANGE,
                    format!("bytes {}-{}/{whole}", range.start, range.end - 1),
                );
                bytes[range].to_vec()
            }
            None => bytes.clone(),
        };
        builder = builder.header(header::CONTENT_LENGTH, part.len());
        if head {
            return builder.body(Body::empty()).unwrap();
        }
        let sent = if cut && part.len() > 30 { 30 } else { part.len() };
        *self.inner.bytes.lock().unwrap().entry(name.to_owned()).or_default() += sent as u64;
        self.inner.sent.fetch_add(sent as u64, Ordering::Relaxed);
        if sent < part.len() {
            let chunks = futures::stream::iter([Some(part[..sent].to_vec()), None]).then(async |chunk| {
                // The first part leaves before the rest fails.
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                chunk.ok_or_else(|| std::io::Error::other("cut"))
            });
            return builder.body(Body::from_stream(chunks)).unwrap();
        }
        builder.body(Body::from(part)).unwrap()
    }
}

/// Every `%XX` as its byte.
fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        text.push(char::from(u8::from_str_radix(&part[..2], 16).unwrap()));
        text.push_str(&part[2..]);
    }
    text
}

fn refusal(status: StatusCode, code: &str) -> Response {
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>by the double</Message></Error>");
    (status, text).into_response()
}

async fn answer(
    State(double): State<Double>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let mood = *double.inner.mood.lock().unwrap();
    let first = {
        let mut seen = double.inner.seen.lock().unwrap();
        let times = seen
            .entry(format!("{} {:?}", request.method(), request.uri()))
            .or_default();
        *times += 1;
        *times == 1
    };
    match mood {
        Mood::Denied => return refusal(StatusCode::FORBIDDEN, "AccessDenied"),
        Mood::NoBucket => return refusal(StatusCode::NOT_FOUND, "NoSuchBucket"),
        Mood::Fails => return refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
        Mood::FailsOnce if first => return refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
        Mood::FailsOnce | Mood::Well | Mood::Truncates => {}
    }
    let path = decoded(request.uri().path());
    let name = path.trim_start_matches('/').strip_prefix("bucket").unwrap_or_default();
    let name = name.trim_start_matches('/');
    if name.is_empty() {
        let text = double.list(&query, query.get("comp").is_some_and(|comp| comp == "list"));
        double.inner.sent.fetch_add(text.len() as u64, Ordering::Relaxed);
        return text.into_response();
    }
    let head = request.method() == Method::HEAD;
    double.get(name, request.headers(), head, mood == Mood::Truncates && first)
}
