//! Running pods: deletion with grace, restarts, logs, exec.

use std::time::{Duration, Instant};

use futures::AsyncBufReadExt;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, LogParams};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{PATIENCE, Target, conformance, text};

fn pods(target: &Target) -> Api<Pod> {
    Api::namespaced(target.client.clone(), &target.namespace)
}

/// Ends two seconds after it was asked to.
const SLOW: &str = "trap 'sleep 2; exit 0' TERM; echo up; while true; do sleep 0.1; done";

#[test]
fn a_deleted_pod_has_its_grace_period() {
    conformance(async |target| {
        let path = target.path("pods/slow");
        let mut pod = Target::shell("slow", SLOW);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
        let running = target.running(&pod).await;
        target
            .until("the trap is set", async || {
                pods(target).logs("slow", &LogParams::default()).await.unwrap() == "up\n"
            })
            .await;
        let version = text(&running, "/metadata/resourceVersion");
        let query = format!("pods?watch=1&fieldSelector=metadata.name%3Dslow&resourceVersion={version}");
        let mut watch = target.watch(&target.path(&query)).await;
        let begun = Instant::now();
        let (code, deleted) = target.delete(&path).await;
        assert_eq!((code, &deleted["kind"]), (200, &json!("Pod")), "{deleted}");
        assert_eq!(deleted["metadata"]["deletionGracePeriodSeconds"], 20);
        assert_eq!(target.read(&path).await["status"]["phase"], "Running", "it still runs");
        let mut terminal = None;
        loop {
            let (kind, object) = watch.next_change().await;
            if kind == "DELETED" {
                break;
            }
            if matches!(text(&object, "/status/phase"), "Succeeded" | "Failed") {
                terminal = Some(object);
            }
        }
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(1900) && took < Duration::from_secs(15),
            "{took:?}"
        );
        let terminal = terminal.expect("the phase says how it ended before the object goes");
        assert_eq!(
            terminal["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
            0
        );
        assert_eq!(target.get(&path).await.0, 404);
    });
}

#[test]
fn a_pod_that_ignores_its_end_is_killed_after_the_grace_period() {
    conformance(async |target| {
        target
            .running(&Target::shell("deaf", "trap '' TERM; while true; do sleep 0.1; done"))
            .await;
        let begun = Instant::now();
        target
            .delete_with(&target.path("pods/deaf"), &json!({"gracePeriodSeconds": 2}))
            .await;
        target.until_gone(&target.path("pods/deaf")).await;
        assert!(begun.elapsed() > Duration::from_millis(1500), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_pod_deleted_without_grace_is_gone_at_once() {
    conformance(async |target| {
        target.running(&Target::shell("slow", SLOW)).await;
        let (code, _) = target
            .delete_with(&target.path("pods/slow"), &json!({"gracePeriodSeconds": 0}))
            .await;
        assert_eq!(code, 200);
        assert_eq!(target.get(&target.path("pods/slow")).await.0, 404);
    });
}

#[test]
fn the_end_of_a_pod_says_how_it_ended() {
    conformance(async |target| {
        for (name, script, phase, code) in [("good", "exit 0", "Succeeded", 0), ("bad", "exit 3", "Failed", 3)] {
            target.create(&target.path("pods"), &Target::shell(name, script)).await;
            let ended = target
                .until_object(&target.path(&format!("pods/{name}")), "the pod ended", |pod| {
                    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
                })
                .await;
            assert_eq!(ended["status"]["phase"], phase);
            let state = &ended["status"]["containerStatuses"][0]["state"]["terminated"];
            assert_eq!(state["exitCode"], code);
            assert_eq!(state["reason"], if code == 0 { "Completed" } else { "Error" });
        }
    });
}

#[test]
fn a_container_that_fails_is_restarted_in_its_pod() {
    conformance(async |target| {
        let mut pod = Target::shell("again", "echo run; sleep 1; exit 1");
        pod["spec"]["restartPolicy"] = json!("Always");
        let created = target.create(&target.path("pods"), &pod).await;
        let restarted = target
            .until_object(&target.path("pods/again"), "it was restarted", |pod| {
                pod["status"]["containerStatuses"][0]["restartCount"]
                    .as_i64()
                    .unwrap_or(0)
                    >= 1
            })
            .await;
        assert_eq!(restarted["metadata"]["uid"], created["metadata"]["uid"]);
        assert_eq!(
            restarted["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
            1
        );
        let previous = LogParams {
            previous: true,
            ..LogParams::default()
        };
        assert_eq!(pods(target).logs("again", &previous).await.unwrap(), "run\n");
    });
}

#[test]
fn an_image_without_a_command_that_nobody_has_cannot_be_pulled() {
    conformance(async |target| {
        let body = json!({"metadata": {"name": "p"}, "spec": {"containers":
            [{"name": "main", "image": "localhost:1/no/such/image:1"}]}});
        target.create(&target.path("pods"), &body).await;
        target
            .until_object(&target.path("pods/p"), "the image is missed", |pod| {
                let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
                *reason == "ErrImagePull" || *reason == "ImagePullBackOff"
            })
            .await;
    });
}

#[test]
fn logs_are_cut_and_stamped_as_asked() {
    conformance(async |target| {
        target
            .create(
                &target.path("pods"),
                &Target::shell("p", "for i in 1 2 3 4; do echo line $i; done"),
            )
            .await;
        target
            .until_object(&target.path("pods/p"), "the pod ended", |pod| {
                pod["status"]["phase"] == "Succeeded"
            })
            .await;
        let api = pods(target);
        assert_eq!(
            api.logs("p", &LogParams::default()).await.unwrap(),
            "line 1\nline 2\nline 3\nline 4\n"
        );
        let tail = LogParams {
            tail_lines: Some(2),
            ..LogParams::default()
        };
        assert_eq!(api.logs("p", &tail).await.unwrap(), "line 3\nline 4\n");
        let limited = LogParams {
            limit_bytes: Some(8),
            ..LogParams::default()
        };
        assert_eq!(api.logs("p", &limited).await.unwrap(), "line 1\nl");
        let stamped = LogParams {
            timestamps: true,
            tail_lines: Some(1),
            ..LogParams::default()
        };
        let line = api.logs("p", &stamped).await.unwrap();
        let (stamp, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, "line 4\n");
        stamp.parse::<jiff::Timestamp>().unwrap();
        let wrong = LogParams {
            container: Some("none".to_owned()),
            ..LogParams::default()
        };
        let kube::Error::Api(status) = api.logs("p", &wrong).await.unwrap_err() else {
            panic!("an API error")
        };
        assert_eq!(
            (status.code, status.message.as_str()),
            (400, "container none is not valid for pod p")
        );
    });
}

#[test]
fn logs_are_followed_until_the_container_ends() {
    conformance(async |target| {
        target
            .running(&Target::shell("p", "for i in 1 2 3; do echo line $i; sleep 1; done"))
            .await;
        let follow = LogParams {
            follow: true,
            ..LogParams::default()
        };
        let mut lines = pods(target).log_stream("p", &follow).await.unwrap().lines();
        let mut seen = Vec::new();
        while let Some(line) = tokio::time::timeout(PATIENCE, lines.next()).await.unwrap() {
            seen.push((line.unwrap(), Instant::now()));
        }
        let texts: Vec<&str> = seen.iter().map(|(line, _)| line.as_str()).collect();
        assert_eq!(texts, ["line 1", "line 2", "line 3"]);
        let apart = seen[2].1.duration_since(seen[1].1);
        assert!(
            apart > Duration::from_millis(500),
            "lines come as they are written: {apart:?}"
        );
    });
}

#[test]
fn a_container_must_be_named_where_there_are_several() {
    conformance(async |target| {
        let mut pod = Target::shell("two", "sleep 600");
        let mut second = pod["spec"]["containers"][0].clone();
        second["name"] = json!("other");
        pod["spec"]["containers"].as_array_mut().unwrap().push(second);
        target.running(&pod).await;
        let kube::Error::Api(status) = pods(target).logs("two", &LogParams::default()).await.unwrap_err() else {
            panic!("an API error")
        };
        assert_eq!(status.code, 400);
        assert_eq!(
            status.message,
            "a container name must be specified for pod two, choose one of: [main other]"
        );
    });
}

#[test]
fn exec_gives_output_and_exit_code() {
    conformance(async |target| {
        target.running(&Target::shell("p", "sleep 600")).await;
        let params = AttachParams::default().stderr(true);
        let mut process = pods(target)
            .exec("p", ["sh", "-c", "echo out; echo err >&2; exit 3"], &params)
            .await
            .unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        let (mut stdout, mut stderr) = (process.stdout().unwrap(), process.stderr().unwrap());
        let status = process.take_status().unwrap();
        stdout.read_to_string(&mut out).await.unwrap();
        stderr.read_to_string(&mut err).await.unwrap();
        let status = serde_json::to_value(status.await.unwrap()).unwrap();
        assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
        assert_eq!(
            (&status["status"], &status["reason"]),
            (&json!("Failure"), &json!("NonZeroExitCode"))
        );
        assert_eq!(
            status["details"]["causes"][0],
            json!({"reason": "ExitCode", "message": "3"})
        );
    });
}

#[test]
fn exec_passes_standard_input() {
    conformance(async |target| {
        target.running(&Target::shell("p", "sleep 600")).await;
        let params = AttachParams::default().stdin(true).stderr(false);
        let mut process = pods(target).exec("p", ["head", "-n", "2"], &params).await.unwrap();
        let mut stdin = process.stdin().unwrap();
        let mut stdout = process.stdout().unwrap();
        let status = process.take_status().unwrap();
        stdin.write_all(b"one\ntwo\n").await.unwrap();
        stdin.flush().await.unwrap();
        let mut out = String::new();
        tokio::time::timeout(PATIENCE, stdout.read_to_string(&mut out))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(out, "one\ntwo\n");
        assert_eq!(status.await.unwrap().status.as_deref(), Some("Success"));
    });
}

#[test]
fn a_signal_sent_by_exec_ends_the_container() {
    conformance(async |target| {
        let mut pod = Target::shell("p", "trap 'exit 9' USR1; while true; do sleep 0.1; done");
        pod["spec"]["restartPolicy"] = json!("Never");
        target.running(&pod).await;
        let mut process = pods(target)
            .exec("p", ["sh", "-c", "kill -USR1 1"], &AttachParams::default())
            .await
            .unwrap();
        if let Some(status) = process.take_status() {
            status.await;
        }
        let ended = target
            .until_object(&target.path("pods/p"), "the container ended", |pod| {
                pod["status"]["phase"] == "Failed"
            })
            .await;
        let state: &Value = &ended["status"]["containerStatuses"][0]["state"];
        assert_eq!(state["terminated"]["exitCode"], 9);
    });
}

#[test]
fn exec_into_a_container_that_is_not_there_is_an_error() {
    conformance(async |target| {
        target.running(&Target::shell("p", "sleep 600")).await;
        let wrong = AttachParams::default().container("none");
        let error = pods(target).exec("p", ["true"], &wrong).await.err().expect("an error");
        assert!(
            error.to_string().contains("container none is not valid for pod p"),
            "{error}"
        );
    });
}

#[test]
fn port_forward_reaches_a_port_inside_of_the_pod() {
    conformance(async |target| {
        // Listens on the loopback of the pod alone: a service could not reach it. The one pod whose image is not
        // busybox: what busybox has for this does not take connection after connection.
        let mut pod = Target::shell("p", "");
        pod["spec"]["containers"][0]["image"] = json!("python:3-alpine");
        pod["spec"]["containers"][0]["command"] = json!([
            "python3",
            "-m",
            "http.server",
            "7000",
            "--bind",
            "127.0.0.1",
            "--directory",
            "/etc"
        ]);
        target.running(&pod).await;
        let answer = std::cell::RefCell::new(String::new());
        target
            .until("the port answers", async || {
                let mut forward = pods(target).portforward("p", &[7000]).await.unwrap();
                let mut stream = forward.take_stream(7000).unwrap();
                let mut text = String::new();
                let exchange = async {
                    stream.write_all(b"GET /passwd HTTP/1.0\r\n\r\n").await?;
                    stream.read_to_string(&mut text).await
                };
                let read = tokio::time::timeout(Duration::from_secs(3), exchange).await;
                let answered = matches!(read, Ok(Ok(1..)));
                *answer.borrow_mut() = text;
                answered
            })
            .await;
        let answer = answer.into_inner();
        assert!(
            answer.starts_with("HTTP/1.0 200") && answer.contains("root:"),
            "{answer}"
        );
    });
}
