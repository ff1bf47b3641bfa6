//! The `CustomResourceDefinition` of `SparkApplication`, as the controller installs it.
//!
//! Pure data. The schema is open (`x-kubernetes-preserve-unknown-fields`), because the lab's controller reads only a
//! part of the real one and must not lose the rest.

use serde_json::{Value, json};

use super::types::{GROUP, VERSION};

/// Name of the CRD object.
pub(crate) const CRD_NAME: &str = "sparkapplications.sparkoperator.k8s.io";

/// The CRD: status subresource and no scale, short name, printer columns.
pub(crate) fn spark_application_crd() -> Value {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": CRD_NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "SparkApplication",
                "listKind": "SparkApplicationList",
                "plural": "sparkapplications",
                "singular": "sparkapplication",
                "shortNames": ["sparkapp"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Suspend", "type": "boolean", "jsonPath": ".spec.suspend"},
                    {"name": "Status", "type": "string", "jsonPath": ".status.applicationState.state"},
                    {"name": "Attempts", "type": "string", "jsonPath": ".status.executionAttempts"},
                    {"name": "Start", "type": "string", "jsonPath": ".status.lastSubmissionAttemptTime"},
                    {"name": "Finish", "type": "string", "jsonPath": ".status.terminationTime"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "required": ["metadata", "spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": open.clone(),
                        "status": open,
                    },
                }},
            }],
        },
    })
}
