//! What must be refused, and what must be reverted first, in a real lab.

use crate::support::lab::Lab;
use crate::support::{DEPLOYMENT_EXPERIMENT, file, texts};
use std::process::Stdio;
use std::time::Duration;

fn namespace(lab: &Lab, name: &str) {
    let body = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    assert_eq!(lab.api("POST", "/api/v1/namespaces", Some(&body)).0, 201);
}

fn deployment(lab: &Lab, namespace: &str, ready: bool) {
    let probe = if ready { "true" } else { "false" };
    let body = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": namespace},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
                "name": "web", "image": "busybox:1.36",
                "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.2; done"],
                "readinessProbe": {"exec": {"command": [probe]}, "periodSeconds": 1}}]}}},
    });
    assert_eq!(
        lab.api(
            "POST",
            &format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
            Some(&body)
        )
        .0,
        201
    );
}

#[test]
fn refusals_touch_nothing_and_say_why() {
    let lab = Lab::up("refusals");
    let experiment = file(lab.folder(), "web.yaml", DEPLOYMENT_EXPERIMENT);
    let experiment = experiment.to_str().unwrap();

    let missing = lab.run(&[experiment]);
    assert_eq!(missing.code, Some(77), "{}", missing.text);
    let said = missing.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("INCONCLUSIVE: web: namespace shop does not exist"),
        "{}",
        missing.text
    );
    assert!(
        missing.text.contains("namespace shop does not exist"),
        "{}",
        missing.text
    );

    namespace(&lab, "shop");
    let absent = lab.run(&[experiment]);
    assert_eq!(absent.code, Some(77), "{}", absent.text);
    assert!(
        absent.text.contains("there is no Deployment web in namespace shop"),
        "{}",
        absent.text
    );

    // A wrong label: no pod ever matches, so the steady state never holds.
    let text = DEPLOYMENT_EXPERIMENT.replace("deployment: web", "labels: {app: wbe}");
    let wrong = file(lab.folder(), "wrong.yaml", &text);
    let wrong = lab.run(&[wrong.to_str().unwrap()]);
    assert_eq!(wrong.code, Some(77), "{}", wrong.text);
    assert!(
        wrong.text.contains("steady state did not hold")
            && wrong.text.contains("no pod matches the target's selector app=wbe"),
        "{}",
        wrong.text
    );

    deployment(&lab, "shop", false);
    let unready = lab.run(&[experiment]);
    assert_eq!(unready.code, Some(77), "{}", unready.text);
    assert!(unready.text.contains("nothing was broken"), "{}", unready.text);
    // And why the pods are not ready, as the cluster itself says it.
    let words = unready.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("The cluster complains: Pod web-"), "{}", unready.text);
    assert!(words.contains("Readiness probe failed"), "{}", unready.text);
    let report = unready.report(lab.folder());
    assert_ne!(report["verdict"], "pass");
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
}

#[test]
fn a_signal_reverts_first_and_then_ends_with_its_own_code() {
    let lab = Lab::up("signals");
    namespace(&lab, "shop");
    deployment(&lab, "shop", true);
    // Service never comes back (more pods are wanted than there are), so the run is observing when the signal arrives.
    let text = DEPLOYMENT_EXPERIMENT
        .replace("baseline: 3s", "baseline: 30s")
        .replace("hold: 1s", "hold: 15s");
    let experiment = file(lab.folder(), "web.yaml", &text);
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let child = lab
            .command(&["run", "--out"])
            .arg(lab.folder())
            .arg(&experiment)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        lab.wait("the guard Job", Duration::from_secs(40), || {
            lab.leftovers().iter().any(|left| left.starts_with("Job"))
        });
        std::thread::sleep(Duration::from_millis(1500));
        let status = std::process::Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", texts(&output));
        assert!(texts(&output).contains("ABORTED"), "{}", texts(&output));
        assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
    }
}

#[test]
fn a_plan_names_the_pods_and_touches_nothing() {
    let lab = Lab::up("plan");
    namespace(&lab, "shop");
    deployment(&lab, "shop", true);
    let experiment = file(lab.folder(), "web.yaml", DEPLOYMENT_EXPERIMENT);
    lab.wait("ready pods", Duration::from_secs(20), || {
        let (_, object) = lab.api("GET", "/apis/apps/v1/namespaces/shop/deployments/web", None);
        object["status"]["readyReplicas"] == 2
    });
    let output = lab.command(&["plan"]).arg(&experiment).output().unwrap();
    let text = texts(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        text.contains("pods: 1 of web-") && text.contains("held    delete pods in shop"),
        "{text}"
    );
    assert!(lab.leftovers().is_empty());
}

#[test]
fn a_target_of_ones_own_is_broken_where_it_stands_and_nothing_is_put_beside_it() {
    let lab = Lab::up("own");
    namespace(&lab, "shop");
    deployment(&lab, "shop", true);
    let scenario = "scenarios/deployment-pod-kill.yaml";
    let own = ["--var", "NAMESPACE=shop", "--var", "REPLICAS=2", scenario];
    let run = lab.run(&own);
    assert_eq!(run.code, Some(0), "{}", run.text);
    let (code, _) = lab.api("GET", "/api/v1/namespaces/chaosrun-web", None);
    assert_eq!(code, 404, "the sample was deployed beside the target");
    assert!(!run.text.contains("applying manifests"), "{}", run.text);
    let (code, _) = lab.api("GET", "/apis/apps/v1/namespaces/shop/deployments/web", None);
    assert_eq!(code, 200, "it is left as it was found");

    let plan = lab.command(&["plan"]).args(own).output().unwrap();
    assert!(
        texts(&plan).contains("nothing is applied, the target exists"),
        "{}",
        texts(&plan)
    );

    let mistyped = lab.run(&["--var", "NAMESPACE=shop", "--var", "DEPLOYMENT=wbe", scenario]);
    assert_eq!(mistyped.code, Some(77), "{}", mistyped.text);
    let wanted = "there is no Deployment wbe in namespace shop, and no manifest of the setup makes it";
    assert!(mistyped.text.contains(wanted), "{}", mistyped.text);
    let plan = lab
        .command(&["plan", "--var", "NAMESPACE=shop", "--var", "DEPLOYMENT=wbe", scenario])
        .output()
        .unwrap();
    assert_eq!(plan.status.code(), Some(77));
    assert!(texts(&plan).contains(wanted), "{}", texts(&plan));
    let (code, _) = lab.api("GET", "/api/v1/namespaces/chaosrun-web", None);
    assert_eq!(code, 404);
}
