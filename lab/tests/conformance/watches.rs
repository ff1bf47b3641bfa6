//! Watches: resume, bookmarks, expiry, selectors, WebSocket.

use futures::StreamExt;
use http::{Method, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::harness::{MERGE, PATIENCE, config_map, conformance, conformance_with, text};

/// Leaves out what the cluster itself puts into every namespace.
const OURS: &str = "labelSelector=ours";

fn ours(name: &str) -> Value {
    let mut one = config_map(name);
    one["metadata"]["labels"] = json!({"ours": "yes"});
    one
}

fn named(change: &(String, Value)) -> (&str, &str) {
    (&change.0, text(&change.1, "/metadata/name"))
}

#[test]
fn a_watch_from_a_list_tells_everything_that_came_after_it() {
    conformance(async |target| {
        let all = target.path("configmaps");
        target.create(&all, &ours("before")).await;
        let list = target.read(&format!("{all}?{OURS}")).await;
        let version = text(&list, "/metadata/resourceVersion");
        target.create(&all, &ours("a")).await;
        let mut watch = target
            .watch(&format!("{all}?{OURS}&watch=1&resourceVersion={version}"))
            .await;
        assert_eq!(named(&watch.next_change().await), ("ADDED", "a"));
        target
            .patch(MERGE, &target.path("configmaps/a"), &json!({"data": {"a": "2"}}))
            .await;
        let modified = watch.next_change().await;
        assert_eq!(
            (named(&modified), &modified.1["data"]["a"]),
            (("MODIFIED", "a"), &json!("2"))
        );
        target.delete(&target.path("configmaps/a")).await;
        let deleted = watch.next_change().await;
        assert_eq!(named(&deleted), ("DELETED", "a"));
        assert_eq!(deleted.1["data"]["a"], "2", "the last state comes with the deletion");
        assert_ne!(
            deleted.1["metadata"]["resourceVersion"],
            modified.1["metadata"]["resourceVersion"]
        );
    });
}

#[test]
fn a_watch_resumes_after_the_last_event_that_was_seen() {
    conformance(async |target| {
        let all = target.path("configmaps");
        let version = text(&target.read(&all).await, "/metadata/resourceVersion").to_owned();
        let mut watch = target
            .watch(&format!("{all}?{OURS}&watch=1&resourceVersion={version}"))
            .await;
        target.create(&all, &ours("a")).await;
        let seen = watch.next_change().await;
        drop(watch);
        target.create(&all, &ours("b")).await;
        target.create(&all, &ours("c")).await;
        let version = text(&seen.1, "/metadata/resourceVersion");
        let mut watch = target
            .watch(&format!("{all}?{OURS}&watch=1&resourceVersion={version}"))
            .await;
        assert_eq!(named(&watch.next_change().await), ("ADDED", "b"));
        assert_eq!(named(&watch.next_change().await), ("ADDED", "c"));
    });
}

#[test]
fn a_watch_without_a_resource_version_begins_with_what_is_there() {
    conformance(async |target| {
        let all = target.path("configmaps");
        target.create(&all, &ours("a")).await;
        let mut watch = target.watch(&format!("{all}?{OURS}&watch=1")).await;
        assert_eq!(named(&watch.next_change().await), ("ADDED", "a"));
        target.create(&all, &ours("b")).await;
        assert_eq!(named(&watch.next_change().await), ("ADDED", "b"));
    });
}

#[test]
fn a_watch_ends_at_its_timeout() {
    conformance(async |target| {
        let begun = std::time::Instant::now();
        let mut watch = target
            .watch(&target.path(&format!("configmaps?{OURS}&watch=1&timeoutSeconds=2")))
            .await;
        assert_eq!(watch.next().await, None);
        assert!(begun.elapsed().as_secs_f64() > 1.0, "{:?}", begun.elapsed());
    });
}

#[test]
fn bookmarks_carry_a_resource_version_to_resume_from() {
    conformance(async |target| {
        let all = target.path("configmaps");
        target.create(&all, &ours("a")).await;
        // A streaming list ends with a bookmark on any server; others come about once a minute.
        let query = "watch=1&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
        let mut watch = target.watch(&format!("{all}?{OURS}&{query}")).await;
        let mut added = Vec::new();
        let bookmark = loop {
            let event = watch.next().await.unwrap();
            if event["type"] == "BOOKMARK" {
                break event;
            }
            added.push(text(&event, "/object/metadata/name").to_owned());
        };
        assert_eq!(added, ["a"]);
        assert_eq!(bookmark["object"]["kind"], "ConfigMap");
        assert_eq!(
            bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
            "true"
        );
        let version = text(&bookmark, "/object/metadata/resourceVersion");
        target.create(&all, &ours("b")).await;
        let mut resumed = target
            .watch(&format!("{all}?{OURS}&watch=1&resourceVersion={version}"))
            .await;
        assert_eq!(named(&resumed.next_change().await), ("ADDED", "b"));
    });
}

#[test]
fn a_resource_version_that_is_too_old_is_gone() {
    // Any real cluster has long forgotten its first revisions; the lab gets a short memory here.
    conformance_with(
        |config| config.history = 10,
        async |target| {
            let all = target.path("configmaps");
            for index in 0..20 {
                target.create(&all, &ours(&format!("filler-{index}"))).await;
            }
            let mut watch = target.watch(&format!("{all}?watch=1&resourceVersion=1")).await;
            let status = if watch.code == 200 {
                let event = watch.next().await.unwrap();
                assert_eq!(event["type"], "ERROR", "{event}");
                event["object"].clone()
            } else {
                watch.rest().await
            };
            assert_eq!(status["code"], 410, "{status}");
            assert!(matches!(text(&status, "/reason"), "Expired" | "Gone"), "{status}");
        },
    );
}

#[test]
fn an_object_enters_and_leaves_a_selector() {
    conformance(async |target| {
        let (all, one) = (target.path("configmaps"), target.path("configmaps/a"));
        target.create(&all, &config_map("a")).await;
        let version = text(&target.read(&all).await, "/metadata/resourceVersion").to_owned();
        let mut watch = target
            .watch(&format!("{all}?{OURS}&watch=1&resourceVersion={version}"))
            .await;
        target
            .patch(MERGE, &one, &json!({"metadata": {"labels": {"ours": "yes"}}}))
            .await;
        assert_eq!(named(&watch.next_change().await), ("ADDED", "a"));
        target.patch(MERGE, &one, &json!({"data": {"a": "2"}})).await;
        assert_eq!(named(&watch.next_change().await), ("MODIFIED", "a"));
        target
            .patch(MERGE, &one, &json!({"metadata": {"labels": {"ours": null}}}))
            .await;
        assert_eq!(named(&watch.next_change().await), ("DELETED", "a"));
    });
}

#[test]
fn a_single_object_is_watched_by_field_selector() {
    conformance(async |target| {
        let all = target.path("configmaps");
        let version = text(&target.read(&all).await, "/metadata/resourceVersion").to_owned();
        let query = format!("watch=1&fieldSelector=metadata.name%3Db&resourceVersion={version}");
        let mut watch = target.watch(&format!("{all}?{query}")).await;
        target.create(&all, &ours("a")).await;
        target.create(&all, &ours("b")).await;
        assert_eq!(named(&watch.next_change().await), ("ADDED", "b"));
    });
}

#[test]
fn watches_also_come_over_a_web_socket_without_a_subprotocol() {
    conformance(async |target| {
        let all = target.path("configmaps");
        target.create(&all, &ours("a")).await;
        let key = generate_key();
        let headers = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, key.as_str()),
            (header::ORIGIN, "https://localhost"),
        ];
        let path = format!("{all}?{OURS}&watch=true&allowWatchBookmarks=true");
        let response = target.open(Method::GET, &path, &headers, None).await;
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers().get(header::SEC_WEBSOCKET_PROTOCOL), None);
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await;
        target.create(&all, &ours("b")).await;
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let message = tokio::time::timeout(PATIENCE, socket.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
            if event["type"] != "BOOKMARK" {
                seen.push(format!(
                    "{} {}",
                    text(&event, "/type"),
                    text(&event, "/object/metadata/name")
                ));
            }
        }
        assert_eq!(seen, ["ADDED a", "ADDED b"]);
    });
}
