//! The target of a test, and plain requests to it.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use chaosrun_lab::lifecycle::{Lab, LabConfig};
use chaosrun_lab::node::BackOff;
use futures::FutureExt;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// Names the kubeconfig of a real cluster.
const VARIABLE: &str = "CHAOSRUN_TEST_KUBECONFIG";
/// How long a cluster may take for what it does on its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const MERGE: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub(crate) const JSON: &str = "application/json-patch+json";
pub(crate) const APPLY: &str = "application/apply-patch+yaml";

/// A cluster, and a namespace in it for one test.
pub(crate) struct Target {
    pub(crate) client: kube::Client,
    pub(crate) namespace: String,
    /// Paths of objects outside of the namespace that go with it.
    outside: RefCell<Vec<String>>,
}

/// An answer: code and body.
pub(crate) type Answer = (u16, Value);

/// Runs a test against the target.
pub(crate) fn conformance(body: impl AsyncFnOnce(&Target)) {
    conformance_with(|_| {}, body);
}

/// The same, with a lab that is configured otherwise. What a real cluster would do anyway may be made quicker so.
pub(crate) fn conformance_with(configure: impl FnOnce(&mut LabConfig), body: impl AsyncFnOnce(&Target)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (lab, kubeconfig) = match std::env::var_os(VARIABLE) {
            Some(path) => (None, path.into()),
            None => {
                let lab = boot(configure).await;
                let kubeconfig = lab.info().kubeconfig.clone();
                (Some(lab), kubeconfig)
            }
        };
        let client = connect(&kubeconfig).await;
        let target = Target {
            client,
            namespace: format!("conformance-{}", unique()),
            outside: RefCell::default(),
        };
        let outcome = AssertUnwindSafe(async {
            target.enter().await;
            body(&target).await;
        })
        .catch_unwind()
        .await;
        target.leave().await;
        if let Some(lab) = lab {
            lab.stop().await.unwrap();
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Eight characters that nobody else has.
pub(crate) fn unique() -> String {
    uuid::Uuid::new_v4().simple().to_string().chars().take(8).collect()
}

async fn boot(configure: impl FnOnce(&mut LabConfig)) -> Lab {
    drop(
        tracing_subscriber::fmt()
            .with_env_filter("warn")
            .with_test_writer()
            .try_init(),
    );
    let mut config = LabConfig {
        back_off: BackOff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(4),
            reset: Duration::from_secs(600),
        },
        ..LabConfig::new(format!("conform-{}", unique()))
    };
    configure(&mut config);
    let controllers = vec![chaosrun_lab::controllers::in_lab(None)];
    match Box::pin(Lab::start(config, controllers)).await {
        Ok(lab) => lab,
        Err(error) => panic!("a lab needs root, runc, iproute2 and nftables: {error}"),
    }
}

async fn connect(path: &Path) -> kube::Client {
    let kubeconfig =
        Kubeconfig::read_from(path).unwrap_or_else(|error| panic!("kubeconfig {}: {error}", path.display()));
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    // A refusal is an answer here: an eviction that is told to come back later must not be repeated behind the test.
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

impl Target {
    async fn enter(&self) {
        let namespace = json!({"metadata": {"name": self.namespace}});
        let (code, answer) = self.post("/api/v1/namespaces", &namespace).await;
        assert_eq!(code, 201, "{answer}");
        // Pods are refused until the namespace has its default service account.
        let account = self.path("serviceaccounts/default");
        self.until("the default service account exists", async || {
            self.get(&account).await.0 == 200
        })
        .await;
    }

    async fn leave(&self) {
        self.delete(&format!("/api/v1/namespaces/{}", self.namespace)).await;
        let outside = std::mem::take(&mut *self.outside.borrow_mut());
        for path in outside {
            self.delete(&path).await;
        }
    }

    /// Removes the object at the path when the test is over, however it ends.
    pub(crate) fn remove_later(&self, path: &str) {
        self.outside.borrow_mut().push(path.to_owned());
    }

    /// A path of the core group in the test's namespace.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/v1/namespaces/{}/{rest}", self.namespace)
    }

    /// A path of another group, as `apps/v1`, in the test's namespace.
    pub(crate) fn group_path(&self, group: &str, rest: &str) -> String {
        format!("/apis/{group}/namespaces/{}/{rest}", self.namespace)
    }

    /// Sends a request and gives back the answer without waiting for its body.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Option<&Value>,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = request.body(Body::from(bytes)).unwrap();
        tokio::time::timeout(PATIENCE, self.client.send(request))
            .await
            .expect("an answer within 60 s")
            .unwrap()
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> Answer {
        let headers = [(header::CONTENT_TYPE, kind), (header::ACCEPT, "application/json")];
        let response = self.open(method, path, &headers, body).await;
        let code = response.status().as_u16();
        let bytes = tokio::time::timeout(PATIENCE, response.into_body().collect())
            .await
            .unwrap_or_else(|_| panic!("no end of the answer to {path} within {PATIENCE:?}"))
            .unwrap()
            .to_bytes();
        let text = || Value::from(String::from_utf8_lossy(&bytes).into_owned());
        (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| text()))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "application/json", None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, "application/json", Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, "application/json", Some(body)).await
    }

    pub(crate) async fn patch(&self, kind: &str, path: &str, body: &Value) -> Answer {
        self.call(Method::PATCH, path, kind, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, "application/json", None).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        self.call(Method::DELETE, path, "application/json", Some(options)).await
    }

    /// Creates an object that must be accepted.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Value {
        let (code, answer) = self.post(path, body).await;
        assert_eq!(code, 201, "POST {path}: {answer}");
        answer
    }

    /// Reads an object that must be there.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let (code, answer) = self.get(path).await;
        assert_eq!(code, 200, "GET {path}: {answer}");
        answer
    }

    /// Asks until it holds.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let begun = Instant::now();
        while !holds().await {
            assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads an object until it is as wanted, and gives it back.
    pub(crate) async fn until_object(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let found = RefCell::new(Value::Null);
        self.until(what, async || {
            let (code, object) = self.get(path).await;
            let good = code == 200 && holds(&object);
            *found.borrow_mut() = object;
            good
        })
        .await;
        found.into_inner()
    }

    /// Waits until nothing is at the path any more.
    pub(crate) async fn until_gone(&self, path: &str) {
        self.until(&format!("{path} is gone"), async || self.get(path).await.0 == 404)
            .await;
    }

    /// Starts a watch; the query belongs to the path.
    pub(crate) async fn watch(&self, path: &str) -> Watch {
        let response = self
            .open(Method::GET, path, &[(header::ACCEPT, "application/json")], None)
            .await;
        Watch {
            code: response.status().as_u16(),
            body: response.into_body(),
            buffer: BytesMut::new(),
        }
    }

    /// A pod that runs a shell script.
    pub(crate) fn shell(name: &str, script: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script]}],
            },
        })
    }

    /// Creates a pod and waits until it is ready.
    pub(crate) async fn running(&self, pod: &Value) -> Value {
        let created = self.create(&self.path("pods"), pod).await;
        let path = self.path(&format!("pods/{}", text(&created, "/metadata/name")));
        self.until_object(&path, "the pod is ready", |pod| condition(pod, "Ready") == Some("True"))
            .await
    }
}

/// The text at a pointer.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no text at {pointer} in {object}"))
}

/// The status of a condition.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a str> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|one| one["type"] == kind)?["status"]
        .as_str()
}

/// Names in a list, in its order.
pub(crate) fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| text(item, "/metadata/name"))
        .collect()
}

/// A config map.
pub(crate) fn config_map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"a": "1"}})
}

/// A running watch.
pub(crate) struct Watch {
    pub(crate) code: u16,
    body: Body,
    buffer: BytesMut,
}

impl Watch {
    /// The next event; none at the end of the watch.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event within 60 s")?;
            if let Ok(data) = frame.ok()?.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// Type and object name of the next event that is no bookmark.
    pub(crate) async fn next_change(&mut self) -> (String, Value) {
        loop {
            let event = self.next().await.expect("the watch goes on");
            if event["type"] != "BOOKMARK" {
                return (text(&event, "/type").to_owned(), event["object"].clone());
            }
        }
    }

    /// Everything that is left, as one JSON value: for answers that are no watch.
    pub(crate) async fn rest(self) -> Value {
        let mut bytes = self.buffer;
        bytes.extend_from_slice(&self.body.collect().await.unwrap().to_bytes());
        serde_json::from_slice(&bytes).unwrap_or(Value::Null)
    }
}
