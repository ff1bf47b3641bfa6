//! Label and field selectors.

use serde_json::json;

use crate::harness::{Target, config_map, conformance, names};

#[test]
fn label_selectors_choose() {
    conformance(async |target| {
        let all = target.path("configmaps");
        for (name, labels) in [
            ("a", json!({"tier": "front", "set": "s"})),
            ("b", json!({"tier": "back", "set": "s"})),
            ("c", json!({"set": "s", "extra": ""})),
        ] {
            let mut one = config_map(name);
            one["metadata"]["labels"] = labels;
            target.create(&all, &one).await;
        }
        for (selector, expected) in [
            ("set=s", &["a", "b", "c"][..]),
            ("set=s,tier=front", &["a"]),
            ("set==s,tier!=front", &["b", "c"]),
            ("tier in (front,back)", &["a", "b"]),
            ("set=s,tier notin (front)", &["b", "c"]),
            ("set,tier", &["a", "b"]),
            ("set,!tier", &["c"]),
            ("extra=", &["c"]),
            ("set=other", &[]),
        ] {
            let query = selector
                .replace(' ', "%20")
                .replace('=', "%3D")
                .replace('!', "%21")
                .replace(',', "%2C");
            let list = target.read(&format!("{all}?labelSelector={query}")).await;
            assert_eq!(names(&list), expected, "{selector}");
        }
        assert_eq!(target.get(&format!("{all}?labelSelector=a%20b")).await.0, 400);
    });
}

#[test]
fn field_selectors_choose() {
    conformance(async |target| {
        let all = target.path("pods");
        target.running(&Target::shell("runs", "sleep 60")).await;
        target.create(&all, &Target::shell("ends", "true")).await;
        target
            .until_object(&target.path("pods/ends"), "the pod succeeded", |pod| {
                pod["status"]["phase"] == "Succeeded"
            })
            .await;
        for (selector, expected) in [
            ("metadata.name%3Druns", &["runs"][..]),
            ("metadata.name%21%3Druns", &["ends"]),
            ("status.phase%3DRunning", &["runs"]),
            ("status.phase%21%3DRunning", &["ends"]),
            ("status.phase%3DSucceeded,metadata.name%3Dends", &["ends"]),
            ("spec.nodeName%3Dno-such-node", &[]),
            ("spec.restartPolicy%3DNever", &["ends", "runs"]),
        ] {
            let list = target.read(&format!("{all}?fieldSelector={selector}")).await;
            assert_eq!(names(&list), expected, "{selector}");
        }
        assert_eq!(
            target.get(&format!("{all}?fieldSelector=spec.hostname2%3Dx")).await.0,
            400
        );
        assert_eq!(
            target
                .delete(&format!("{all}?fieldSelector=status.phase%3DSucceeded"))
                .await
                .0,
            200
        );
        target.until_gone(&target.path("pods/ends")).await;
        assert_eq!(target.get(&target.path("pods/runs")).await.0, 200);
    });
}
