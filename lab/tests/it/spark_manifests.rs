//! The shipped manifests: well formed, and the stand-in stays what its name says.

use serde_json::{Value, json};

fn documents(file: &str) -> Vec<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../kind-config")
        .join(file);
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n---\n")
        .map(|document| serde_yaml::from_str(document).unwrap())
        .collect()
}

fn remove(value: &mut Value, pointer: &str, key: &str) {
    if let Some(map) = value.pointer_mut(pointer).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

#[test]
fn the_stand_in_differs_from_the_real_pipeline_only_in_what_makes_it_a_stand_in() {
    let mut real = documents("spark-pipeline.yaml");
    let mut stand_in = documents("builtin-pipeline.yaml");
    // The Python program and its volume are Spark's only.
    real.retain(|document| !(document["kind"] == "ConfigMap" && document["metadata"]["name"] == "pipeline"));
    for document in &mut stand_in {
        assert_eq!(
            document["metadata"]["labels"]["chaosrun.dev/stand-in"], "built-in-pipeline",
            "{} is not labelled",
            document["kind"]
        );
        remove(document, "/metadata/labels", "chaosrun.dev/stand-in");
        if document["metadata"]["labels"] == json!({}) {
            remove(document, "/metadata", "labels");
        }
    }
    for document in real
        .iter_mut()
        .chain(&mut stand_in)
        .filter(|document| document["kind"] == "SparkApplication")
    {
        for key in [
            "image",
            "imagePullPolicy",
            "sparkVersion",
            "pythonVersion",
            "mainApplicationFile",
        ] {
            remove(document, "/spec", key);
        }
        let namespace = document["spec"]["sparkConf"]["spark.metrics.namespace"].clone();
        document["spec"]["sparkConf"] = json!({"spark.metrics.namespace": namespace});
        for list in ["/spec/volumes", "/spec/driver/volumeMounts"] {
            let list = document.pointer_mut(list).and_then(Value::as_array_mut).unwrap();
            list.retain(|entry| entry["name"] != "pipeline");
        }
    }
    assert_eq!(real, stand_in);
}

#[test]
fn the_pipeline_restarts_as_its_claim_says() {
    let documents = documents("spark-pipeline.yaml");
    let application = documents
        .iter()
        .find(|document| document["kind"] == "SparkApplication")
        .unwrap();
    assert_eq!(application["metadata"]["name"], "spark-streaming-pipeline");
    assert_eq!(application["metadata"]["namespace"], "spark-pipeline");
    assert_eq!(
        application["spec"]["restartPolicy"],
        json!({
            "type": "OnFailure", "onFailureRetries": 5, "onFailureRetryInterval": 30,
            "onSubmissionFailureRetries": 5, "onSubmissionFailureRetryInterval": 20,
        })
    );
    assert_eq!(application["spec"]["executor"]["instances"], 2);
}
