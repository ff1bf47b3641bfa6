//! HTTP servers with and without ranges, and bad ones.

use super::{LOG, ledger, read, records, refused};
use crate::experiment::Ledger;
use crate::experiment::SinkFormat::JsonLines;
use crate::experiment::{Location, Storage};
use crate::ledger::lines::{Cursor, Line};
use crate::ledger::places::Place;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Ranges,
    NoRanges,
    WrongRange,
    /// Says its length, sends 300 bytes of it, and hangs up.
    Truncates,
    Fails(u32),
    Refuses,
    /// Answers, and then says nothing more.
    Hangs,
}

#[derive(Clone)]
struct Server {
    address: String,
    held: Arc<Mutex<(Manner, String, u64)>>,
}

impl Server {
    async fn start(manner: Manner, text: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            held: Arc::new(Mutex::new((manner, text.to_owned(), 0))),
        };
        let router = axum::Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn set(&self, text: String) {
        self.held.lock().unwrap().1 = text;
    }

    /// Bytes that were sent.
    fn sent(&self) -> u64 {
        self.held.lock().unwrap().2
    }

    fn sink(&self) -> Ledger {
        ledger(
            &format!("{}/log", self.address),
            &format!("{}/sink", self.address),
            JsonLines,
        )
    }

    fn place(&self) -> Place {
        drop(rustls::crypto::ring::default_provider().install_default());
        let location = Location::parse(&format!("{}/sink", self.address)).unwrap();
        Place::open(&location, &Storage::default())
            .unwrap()
            .with_patience(Duration::from_secs(2))
    }
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let mut held = server.held.lock().unwrap();
    if request.uri().path() == "/log" {
        return LOG.to_owned().into_response();
    }
    let (manner, text, sent) = &mut *held;
    let start = request.headers().get(header::RANGE).map(|range| {
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        range.trim_end_matches('-').parse::<usize>().unwrap()
    });
    let mut part = text.as_bytes().to_vec();
    let mut builder = Response::builder();
    if let (Some(start), true) = (start, *manner != Manner::NoRanges) {
        if start >= text.len() {
            return StatusCode::RANGE_NOT_SATISFIABLE.into_response();
        }
        part = part.split_off(start);
        let from = if *manner == Manner::WrongRange {
            start + 1
        } else {
            start
        };
        let range = format!("bytes {from}-{}/{}", text.len() - 1, text.len());
        builder = builder.status(206).header(header::CONTENT_RANGE, range);
    }
    match manner {
        Manner::Refuses => return StatusCode::FORBIDDEN.into_response(),
        Manner::Fails(0) => {}
        Manner::Fails(left) => {
            *left -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        Manner::Truncates if part.len() > 300 => {
            *sent += 300;
            builder = builder.header(header::CONTENT_LENGTH, part.len());
            part.truncate(300);
            let chunks = futures::stream::iter([Some(part), None]).then(async |chunk| {
                // The first part leaves before the rest fails.
                tokio::time::sleep(std::time::Duration::from_millis(30)).await;
                chunk.ok_or_else(|| std::io::Error::other("cut"))
            });
            return builder.body(Body::from_stream(chunks)).unwrap();
        }
        Manner::Hangs => {
            let chunks = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
            return builder.body(Body::from_stream(chunks)).unwrap();
        }
        Manner::Ranges | Manner::NoRanges | Manner::WrongRange | Manner::Truncates => {}
    }
    *sent += part.len() as u64;
    builder.body(Body::from(part)).unwrap()
}

async fn lines(place: &Place, cursor: &mut Cursor) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let mut take = |line: Line<'_>| {
        lines.push(line.text.to_owned());
        Ok(())
    };
    let read = place.lines("", cursor, false, &mut take).await;
    read.map(|()| lines).map_err(|error| error.to_string())
}

#[tokio::test]
async fn the_log_and_the_sink_of_an_http_server_are_counted() {
    for manner in [Manner::Ranges, Manner::NoRanges, Manner::Truncates, Manner::Fails(2)] {
        let server = Server::start(manner, &records((0..30).chain([4]))).await;
        let found = read(&server.sink()).await;
        assert_eq!(found.acked(), [(0, 9), (10, 19), (20, 29)], "{manner:?}");
        assert_eq!(found.runs(), [(0, 3, 1), (4, 4, 2), (5, 29, 1)], "{manner:?}");
        assert!(found.drained, "{manner:?}");
    }
}

#[tokio::test]
async fn a_growing_document_is_not_read_again_from_the_start() {
    for manner in [Manner::Ranges, Manner::NoRanges] {
        let server = Server::start(manner, "one\ntwo\nthr").await;
        let (place, mut cursor) = (server.place(), Cursor::default());
        assert_eq!(lines(&place, &mut cursor).await.unwrap(), ["one", "two"]);
        assert_eq!(lines(&place, &mut cursor).await.unwrap(), [""; 0]);
        server.set("one\ntwo\nthree\nfour\n".to_owned());
        assert_eq!(lines(&place, &mut cursor).await.unwrap(), ["three", "four"]);
        assert_eq!(lines(&place, &mut cursor).await.unwrap(), [""; 0]);
        let known = server.sent();
        lines(&place, &mut cursor).await.unwrap();
        let again = server.sent() - known;
        assert_eq!(again, if manner == Manner::Ranges { 1 } else { 19 });
    }
}

#[tokio::test]
async fn a_document_that_is_not_what_it_was_is_noticed() {
    for (manner, now) in [
        (Manner::Ranges, "other text\n\n\n\n"),
        (Manner::Ranges, "one\n"),
        (Manner::NoRanges, "one\n"),
        (Manner::NoRanges, "other text\n\n\n\n"),
    ] {
        let server = Server::start(manner, "one\ntwo\n").await;
        let (place, mut cursor) = (server.place(), Cursor::default());
        lines(&place, &mut cursor).await.unwrap();
        server.set(now.to_owned());
        let why = lines(&place, &mut cursor).await.unwrap_err();
        assert!(why.contains("was replaced while"), "{manner:?} {now:?}: {why}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_serve_makes_the_ledger_unreadable() {
    for (manner, part) in [(Manner::Refuses, "403"), (Manner::Fails(100), "500")] {
        let server = Server::start(manner, &records(0..30)).await;
        let why = refused(&server.sink()).await;
        assert!(why.contains("/sink") && why.contains(part), "{why}");
    }
    let server = Server::start(Manner::Hangs, "one\n").await;
    let why = lines(&server.place(), &mut Cursor::default()).await.unwrap_err();
    assert!(why.contains("nothing came for 2 s"), "{why}");
    let server = Server::start(Manner::WrongRange, "one\ntwo\n").await;
    let mut cursor = Cursor { offset: 4, lines: 1 };
    let why = lines(&server.place(), &mut cursor).await.unwrap_err();
    assert!(why.contains("another range"), "{why}");
    let nobody = ledger("http://127.0.0.1:9/log", "http://127.0.0.1:9/sink", JsonLines);
    let why = refused(&nobody).await;
    assert!(why.contains("cannot read http://127.0.0.1:9/log"), "{why}");
}
