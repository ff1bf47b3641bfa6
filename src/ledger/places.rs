//! Places outside the cluster: object stores (files, S3, GCS, Azure) and HTTP servers, read line by line.
//!
//! Contract: a text is never held, only its current line; a text that grows is read on from where reading ended; a text that
//! is cut short is asked for again, from the first line that did not come. What was read is checked to be still there: the
//! byte before the cursor is read again, and must end a line.

use super::error::ReadError;
use super::lines::{Cursor, OnLine, Splitter};
use crate::experiment::{Location, Storage};
use futures::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, RetryConfig};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How long a place may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often in a row the same line may fail to come.
const MOST_FAILURES: u32 = 3;
const NOTHING: &str = "there is no such object, bucket or container";

/// An object, a folder of objects, or a document.
#[derive(Debug)]
pub(crate) struct Place {
    url: Url,
    backend: Backend,
    patience: Duration,
}

#[derive(Debug)]
enum Backend {
    Objects { store: Arc<dyn ObjectStore>, path: Path },
    Http(reqwest::Client),
}

/// One text at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Path below the place; empty for the place itself.
    pub(crate) name: String,
    /// Bytes, when the place tells them before it is read.
    pub(crate) size: Option<u64>,
}

/// One try to read on.
enum Failed {
    /// May work the next time.
    Transient(ReadError),
    Final(ReadError),
}

impl<E: Into<ReadError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Final(error.into())
    }
}

impl Place {
    /// Connects to nothing yet. Credentials are taken from the environment.
    ///
    /// # Errors
    /// When there is no client for such a place, or it cannot be set up like this.
    pub(crate) fn open(location: &Location, storage: &Storage) -> Result<Self, ReadError> {
        let (url, backend) = match location {
            Location::Objects(url) => (url, objects(url, storage).map_err(|error| fail(url, &error))?),
            Location::Http(url) => {
                let client = reqwest::Client::builder()
                    .redirect(reqwest::redirect::Policy::limited(5))
                    .connect_timeout(PATIENCE)
                    .build()
                    .map_err(|error| fail(url, &error))?;
                (url, Backend::Http(client))
            }
            Location::Pod(path) => return Err(ReadError::Other(format!("{path} lies in a pod"))),
            Location::Kafka { topic, .. } => return Err(ReadError::Other(format!("{topic} is a topic"))),
        };
        Ok(Self {
            url: url.clone(),
            backend,
            patience: PATIENCE,
        })
    }

    /// For tests that do not want to wait.
    #[cfg(test)]
    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Its address, for messages. It holds no secret.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Address of a text below it, for messages.
    pub(crate) fn title(&self, name: &str) -> String {
        if name.is_empty() {
            self.url.to_string()
        } else {
            format!("{}/{name}", self.url.as_str().trim_end_matches('/'))
        }
    }

    /// The texts that make up this place: itself when it is an object or a document, else what lies below it, by name. Names that
    /// begin with a dot or an underscore are none.
    ///
    /// # Errors
    /// When it cannot be listed, or there is nothing.
    pub(crate) async fn texts(&self) -> Result<Vec<Text>, ReadError> {
        let Backend::Objects { store, path } = &self.backend else {
            return Ok(vec![Text {
                name: String::new(),
                size: None,
            }]);
        };
        if !self.url.path().ends_with('/') {
            match self.within(store.head(path)).await? {
                Ok(meta) => {
                    return Ok(vec![Text {
                        name: String::new(),
                        size: Some(meta.size),
                    }]);
                }
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.failed("", &error)),
            }
        }
        let hidden = |name: &str| name.split('/').any(|part| part.starts_with(['.', '_']));
        let mut texts = self.below("").await?;
        texts.retain(|text| !hidden(&text.name));
        if texts.is_empty() {
            return Err(ReadError::Place {
                what: self.url.to_string(),
                why: "there is nothing: neither an object of that name nor one below it".to_owned(),
            });
        }
        Ok(texts)
    }

    /// Everything below a folder of this place, by name.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(crate) async fn below(&self, folder: &str) -> Result<Vec<Text>, ReadError> {
        let Backend::Objects { store, path } = &self.backend else {
            return Err(ReadError::Other(format!("{} cannot be listed", self.url)));
        };
        let prefix = join(path, folder);
        let mut list = store.list(Some(&prefix));
        let mut texts = Vec::new();
        while let Some(meta) = self.within(list.next()).await? {
            let meta = meta.map_err(|error| self.failed(folder, &error))?;
            let Some(parts) = meta.location.prefix_match(path) else {
                continue;
            };
            let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
            texts.push(Text {
                name: parts.join("/"),
                size: Some(meta.size),
            });
        }
        texts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(texts)
    }

    /// Reads on from the cursor. Of a text that is `complete` the last line needs no end.
    ///
    /// # Errors
    /// When it cannot be read, is no text of lines, or is not any more what it was up to the cursor.
    pub(crate) async fn lines(
        &self,
        name: &str,
        cursor: &mut Cursor,
        complete: bool,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), ReadError> {
        let title = self.title(name);
        let mut failures = 0;
        loop {
            let before = *cursor;
            let mut splitter = Splitter::new(&title);
            let tried = match &self.backend {
                Backend::Objects { store, path } => {
                    let path = join(path, name);
                    self.object(store, &path, name, cursor, &mut splitter, on_line).await
                }
                Backend::Http(client) => self.document(client, cursor, &mut splitter, on_line).await,
            };
            match tried {
                Ok(()) if complete => return Ok(splitter.finish(cursor, on_line)?),
                Ok(()) => return Ok(()),
                Err(Failed::Final(error)) => return Err(error),
                Err(Failed::Transient(error)) => {
                    failures = if *cursor == before { failures + 1 } else { 1 };
                    if failures >= MOST_FAILURES {
                        return Err(error);
                    }
                    tokio::time::sleep(Duration::from_millis(200) * failures).await;
                }
            }
        }
    }

    async fn object(
        &self,
        store: &Arc<dyn ObjectStore>,
        path: &Path,
        name: &str,
        cursor: &mut Cursor,
        splitter: &mut Splitter<'_>,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), Failed> {
        let start = cursor.offset.saturating_sub(1);
        let options = GetOptions {
            range: (start > 0).then_some(GetRange::Offset(start)),
            ..GetOptions::default()
        };
        let result = match self.within(store.get_opts(path, options)).await? {
            Ok(result) => result,
            Err(error) => {
                // A range beyond the end is answered in as many ways as there are stores.
                if cursor.offset > 0
                    && let Ok(meta) = self.within(store.head(path)).await?
                    && meta.size < cursor.offset
                {
                    return Err(self.replaced(name));
                }
                let failed = self.failed(name, &error);
                return Err(match error {
                    object_store::Error::Generic { .. } => Failed::Transient(failed),
                    _ => Failed::Final(failed),
                });
            }
        };
        let wanted = result.range.end.saturating_sub(result.range.start);
        let skipped = result.range.start;
        if skipped != start {
            return Err(Failed::Final(self.why(name, "the store ignores ranges")));
        }
        let mut chunks = result.into_stream();
        let mut check = Check::at(cursor);
        let mut received: u64 = 0;
        while let Some(chunk) = self.within(chunks.next()).await? {
            let chunk = chunk.map_err(|error| Failed::Transient(self.failed(name, &error)))?;
            received += chunk.len() as u64;
            let chunk = check.rest(&chunk).ok_or_else(|| self.replaced(name))?;
            splitter.push(chunk, cursor, on_line)?;
        }
        if received < wanted {
            let why = format!("it broke off after {received} of {wanted} bytes");
            return Err(Failed::Transient(self.why(name, &why)));
        }
        Ok(())
    }

    async fn document(
        &self,
        client: &reqwest::Client,
        cursor: &mut Cursor,
        splitter: &mut Splitter<'_>,
        on_line: &mut OnLine<'_>,
    ) -> Result<(), Failed> {
        let start = cursor.offset.saturating_sub(1);
        let mut request = client.get(self.url.clone());
        if start > 0 {
            request = request.header(http::header::RANGE, format!("bytes={start}-"));
        }
        let broken = |error: reqwest::Error| Failed::Transient(self.why("", &chain(&error.without_url())));
        let mut answer = self.within(request.send()).await?.map_err(broken)?;
        let status = answer.status();
        let mut skip = match status.as_u16() {
            200 => start,
            206 if range_start(&answer) == Some(start) => 0,
            206 => {
                return Err(Failed::Final(
                    self.why("", "the server answered with another range than asked for"),
                ));
            }
            416 => return Err(self.replaced("")),
            code if code >= 500 || code == 429 => {
                return Err(Failed::Transient(
                    self.why("", &format!("the server answered {status}")),
                ));
            }
            401 | 403 => {
                let why = format!("the server answered {status}; credentials are not sent over plain URLs");
                return Err(Failed::Final(self.why("", &why)));
            }
            _ => return Err(Failed::Final(self.why("", &format!("the server answered {status}")))),
        };
        let mut check = Check::at(cursor);
        while let Some(chunk) = self.within(answer.chunk()).await?.map_err(broken)? {
            // A server without ranges sends what is known already.
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
            skip -= known as u64;
            let chunk = chunk.get(known..).unwrap_or_default();
            let chunk = check.rest(chunk).ok_or_else(|| self.replaced(""))?;
            splitter.push(chunk, cursor, on_line)?;
        }
        if skip > 0 || check.is_open() {
            return Err(self.replaced(""));
        }
        Ok(())
    }

    /// Waits, but not for ever.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, ReadError> {
        tokio::time::timeout(self.patience, work)
            .await
            .map_err(|_elapsed| self.why("", &format!("nothing came for {} s", self.patience.as_secs_f64())))
    }

    fn why(&self, name: &str, why: &str) -> ReadError {
        ReadError::Place {
            what: self.title(name),
            why: why.to_owned(),
        }
    }

    fn failed(&self, name: &str, error: &object_store::Error) -> ReadError {
        use object_store::Error;
        let why = match error {
            Error::NotFound { .. } => NOTHING.to_owned(),
            Error::PermissionDenied { .. } => format!("access is denied; {}", self.credentials()),
            Error::Unauthenticated { .. } => format!("the credentials are not valid; {}", self.credentials()),
            other => {
                let text = chain(other);
                if text.contains("404 Not Found") || text.contains("NoSuchBucket") {
                    return self.why(name, NOTHING);
                }
                if text.contains("credential") || text.contains("metadata") || text.contains("token") {
                    format!("{text}; {}", self.credentials())
                } else {
                    text
                }
            }
        };
        self.why(name, &why)
    }

    fn credentials(&self) -> &'static str {
        match self.url.scheme() {
            "s3" | "s3a" => {
                "they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), or from the machine's role"
            }
            "gs" => {
                "they come from GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT, or from the machine's account"
            }
            "file" => "it is this machine's user who reads",
            _ => {
                "they come from AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY, or from the machine's identity"
            }
        }
    }

    fn replaced(&self, name: &str) -> Failed {
        Failed::Final(ReadError::Replaced { what: self.title(name) })
    }
}

/// Looks at the byte before the cursor, which must end a line still.
struct Check {
    open: bool,
}

impl Check {
    fn at(cursor: &Cursor) -> Self {
        Self {
            open: cursor.offset > 0,
        }
    }

    fn rest<'a>(&mut self, chunk: &'a [u8]) -> Option<&'a [u8]> {
        if !self.open || chunk.is_empty() {
            return Some(chunk);
        }
        self.open = false;
        chunk.strip_prefix(b"\n")
    }

    fn is_open(&self) -> bool {
        self.open
    }
}

fn objects(url: &Url, storage: &Storage) -> Result<Backend, object_store::Error> {
    // The request as a whole may take long: it is the silence that is limited.
    const LIMITS: [(&str, &str); 2] = [("timeout", "6 hours"), ("connect_timeout", "10 seconds")];
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 3,
        retry_timeout: Duration::from_secs(20),
    };
    let path = Path::from_url_path(url.path())?;
    let store: Arc<dyn ObjectStore> = match url.scheme() {
        "file" => Arc::new(LocalFileSystem::new()),
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str()).with_retry(retry);
            for (key, value) in LIMITS {
                builder = builder.with_config(key.parse()?, value);
            }
            if let Some(region) = &storage.region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = &storage.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            if storage.allow_http {
                builder = builder.with_allow_http(true);
            }
            if storage.anonymous {
                builder = builder.with_skip_signature(true);
            }
            Arc::new(builder.build()?)
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env()
                .with_url(url.as_str())
                .with_retry(retry);
            for (key, value) in LIMITS {
                builder = builder.with_config(key.parse()?, value);
            }
            if let Some(endpoint) = &storage.endpoint {
                builder = builder.with_base_url(endpoint);
            }
            if storage.allow_http {
                builder = builder.with_config("allow_http".parse()?, "true");
            }
            if storage.anonymous {
                builder = builder.with_skip_signature(true);
            }
            Arc::new(builder.build()?)
        }
        _ => {
            let mut builder = MicrosoftAzureBuilder::from_env()
                .with_url(url.as_str())
                .with_retry(retry);
            for (key, value) in LIMITS {
                builder = builder.with_config(key.parse()?, value);
            }
            if let Some(account) = &storage.account {
                builder = builder.with_account(account);
            }
            if let Some(endpoint) = &storage.endpoint {
                builder = builder.with_endpoint(endpoint.clone());
            }
            if storage.allow_http {
                builder = builder.with_allow_http(true);
            }
            if storage.anonymous {
                builder = builder.with_skip_signature(true);
            }
            Arc::new(builder.build()?)
        }
    };
    Ok(Backend::Objects { store, path })
}

fn join(path: &Path, name: &str) -> Path {
    name.split('/')
        .filter(|part| !part.is_empty())
        .fold(path.clone(), Path::join)
}

/// First byte of a partial answer.
fn range_start(answer: &reqwest::Response) -> Option<u64> {
    let header = answer.headers().get(http::header::CONTENT_RANGE)?.to_str().ok()?;
    header.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

fn fail(url: &Url, error: &(dyn std::error::Error + 'static)) -> ReadError {
    ReadError::Place {
        what: url.to_string(),
        why: chain(error),
    }
}

/// An error and what caused it, each said once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}
