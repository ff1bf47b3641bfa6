//! Defaults as Kubernetes sets them where clients can see it, and what the server allocates.

use std::net::Ipv4Addr;

use base64::Engine as _;
use serde_json::{Value, json};

use super::object::{array_at, copy, i64_at, is_set, name, remove, set, set_default, str_at, uid};
use super::pod_defaults;
use super::registry::ResourceType;
use super::server::{ApiServer, ApiServerConfig};
use super::status::{ApiError, Cause};

/// Fills in what the writer left out.
pub(crate) fn apply(resource: &ResourceType, object: &mut Value) {
    if let Some(custom) = &resource.custom {
        if let Some(schema) = &custom.schema {
            super::structural::shape(schema, object);
        }
        return;
    }
    match resource.plural.as_str() {
        "pods" => pod_defaults::pod(object),
        "namespaces" => namespace(object),
        "deployments" => deployment(object),
        "statefulsets" => stateful_set(object),
        "daemonsets" => daemon_set(object),
        "replicasets" => template_and_replicas(object),
        "replicationcontrollers" => replication_controller(object),
        "jobs" => job(object),
        "cronjobs" => cron_job(object),
        "services" => service(object),
        "secrets" => secret(object),
        "customresourcedefinitions" => super::crds::defaults(object),
        "persistentvolumeclaims" => {
            set_default(object, "/spec/volumeMode", "Filesystem");
            set_default(object, "/status/phase", "Pending");
        }
        "persistentvolumes" => {
            set_default(object, "/spec/volumeMode", "Filesystem");
            set_default(object, "/spec/persistentVolumeReclaimPolicy", "Retain");
            set_default(object, "/status/phase", "Pending");
        }
        "networkpolicies" => network_policy(object),
        "storageclasses" => {
            set_default(object, "/reclaimPolicy", "Delete");
            set_default(object, "/volumeBindingMode", "Immediate");
        }
        "priorityclasses" => set_default(object, "/preemptionPolicy", "PreemptLowerPriority"),
        "horizontalpodautoscalers" => set_default(object, "/spec/minReplicas", 1),
        "rolebindings" | "clusterrolebindings" => binding(object),
        _ => {}
    }
}

fn namespace(object: &mut Value) {
    let name = name(object).to_owned();
    super::object::set_key(object, "/metadata/labels", "kubernetes.io/metadata.name", name);
    set_default(object, "/spec", json!({"finalizers": ["kubernetes"]}));
    set_default(object, "/status/phase", "Active");
}

fn template_and_replicas(object: &mut Value) {
    set_default(object, "/spec/replicas", 1);
    pod_defaults::template(object, "/spec/template");
}

fn deployment(object: &mut Value) {
    template_and_replicas(object);
    set_default(object, "/spec/strategy/type", "RollingUpdate");
    if str_at(object, "/spec/strategy/type") == Some("RollingUpdate") {
        set_default(object, "/spec/strategy/rollingUpdate/maxUnavailable", "25%");
        set_default(object, "/spec/strategy/rollingUpdate/maxSurge", "25%");
    }
    set_default(object, "/spec/revisionHistoryLimit", 10);
    set_default(object, "/spec/progressDeadlineSeconds", 600);
}

fn stateful_set(object: &mut Value) {
    template_and_replicas(object);
    set_default(object, "/spec/podManagementPolicy", "OrderedReady");
    set_default(object, "/spec/updateStrategy/type", "RollingUpdate");
    if str_at(object, "/spec/updateStrategy/type") == Some("RollingUpdate") {
        set_default(object, "/spec/updateStrategy/rollingUpdate/partition", 0);
    }
    set_default(object, "/spec/revisionHistoryLimit", 10);
    set_default(
        object,
        "/spec/persistentVolumeClaimRetentionPolicy",
        json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
    );
    for claim in super::object::array_mut(object, "/spec/volumeClaimTemplates") {
        set_default(claim, "/kind", "PersistentVolumeClaim");
        set_default(claim, "/apiVersion", "v1");
        set_default(claim, "/spec/volumeMode", "Filesystem");
        set_default(claim, "/status/phase", "Pending");
    }
}

fn daemon_set(object: &mut Value) {
    pod_defaults::template(object, "/spec/template");
    set_default(object, "/spec/updateStrategy/type", "RollingUpdate");
    if str_at(object, "/spec/updateStrategy/type") == Some("RollingUpdate") {
        set_default(object, "/spec/updateStrategy/rollingUpdate/maxUnavailable", 1);
        set_default(object, "/spec/updateStrategy/rollingUpdate/maxSurge", 0);
    }
    set_default(object, "/spec/revisionHistoryLimit", 10);
}

fn replication_controller(object: &mut Value) {
    template_and_replicas(object);
    if let Some(labels) = object.pointer("/spec/template/metadata/labels").cloned() {
        set_default(object, "/spec/selector", labels.clone());
        set_default(object, "/metadata/labels", labels);
    }
}

fn job(object: &mut Value) {
    job_spec(object, "/spec");
    let manual = super::object::bool_at(object, "/spec/manualSelector");
    if let Some(labels) = object.pointer("/spec/template/metadata/labels").cloned() {
        set_default(object, "/metadata/labels", labels);
    }
    if manual || object.pointer("/spec/selector").is_some() {
        return;
    }
    let (job_uid, job_name) = (uid(object).to_owned(), name(object).to_owned());
    let labels = [
        ("batch.kubernetes.io/controller-uid", job_uid.clone()),
        ("batch.kubernetes.io/job-name", job_name.clone()),
        ("controller-uid", job_uid.clone()),
        ("job-name", job_name),
    ];
    for (key, value) in labels {
        super::object::set_key(object, "/spec/template/metadata/labels", key, value);
    }
    set(
        object,
        "/spec/selector",
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": job_uid}}),
    );
}

fn job_spec(object: &mut Value, at: &str) {
    let field = |name: &str| format!("{at}/{name}");
    if !is_set(object, &field("completions")) && !is_set(object, &field("parallelism")) {
        set(object, &field("completions"), 1);
    }
    set_default(object, &field("parallelism"), 1);
    let per_index = is_set(object, &field("backoffLimitPerIndex"));
    set_default(
        object,
        &field("backoffLimit"),
        if per_index { i64::from(i32::MAX) } else { 6 },
    );
    set_default(object, &field("completionMode"), "NonIndexed");
    set_default(object, &field("suspend"), false);
    set_default(object, &field("manualSelector"), false);
    let policy = if is_set(object, &field("podFailurePolicy")) {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set_default(object, &field("podReplacementPolicy"), policy);
    pod_defaults::template(object, &field("template"));
}

fn cron_job(object: &mut Value) {
    set_default(object, "/spec/concurrencyPolicy", "Allow");
    set_default(object, "/spec/suspend", false);
    set_default(object, "/spec/successfulJobsHistoryLimit", 3);
    set_default(object, "/spec/failedJobsHistoryLimit", 1);
    // The jobs get the other defaults when they are created.
    pod_defaults::template(object, "/spec/jobTemplate/spec/template");
}

fn service(object: &mut Value) {
    set_default(object, "/spec/type", "ClusterIP");
    set_default(object, "/spec/sessionAffinity", "None");
    for port in super::object::array_mut(object, "/spec/ports") {
        set_default(port, "/protocol", "TCP");
        if let Some(number) = port.get("port").cloned() {
            set_default(port, "/targetPort", number);
        }
    }
    let kind = str_at(object, "/spec/type").unwrap_or_default().to_owned();
    if kind != "ExternalName" {
        set_default(object, "/spec/internalTrafficPolicy", "Cluster");
        set_default(object, "/spec/ipFamilies", json!(["IPv4"]));
        set_default(object, "/spec/ipFamilyPolicy", "SingleStack");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        set_default(object, "/spec/externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set_default(object, "/spec/allocateLoadBalancerNodePorts", true);
    }
    set_default(object, "/status", json!({"loadBalancer": {}}));
}

fn secret(object: &mut Value) {
    set_default(object, "/type", "Opaque");
    if let Some(Value::Object(plain)) = remove(object, "/stringData") {
        for (key, value) in plain {
            let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
            super::object::set_key(object, "/data", &key, encoded);
        }
    }
}

fn network_policy(object: &mut Value) {
    if object.pointer("/spec/policyTypes").is_none() {
        let mut types = vec!["Ingress"];
        if !array_at(object, "/spec/egress").is_empty() {
            types.push("Egress");
        }
        set(object, "/spec/policyTypes", json!(types));
    }
    for direction in ["/spec/ingress", "/spec/egress"] {
        for rule in super::object::array_mut(object, direction) {
            for port in super::object::array_mut(rule, "/ports") {
                set_default(port, "/protocol", "TCP");
            }
        }
    }
}

fn binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    set_default(object, "/roleRef/apiGroup", GROUP);
    for subject in super::object::array_mut(object, "/subjects") {
        if matches!(str_at(subject, "/kind"), Some("User" | "Group")) {
            set_default(subject, "/apiGroup", GROUP);
        }
    }
}

/// Address of the service `kubernetes` in `default`: the first of the range.
pub(crate) fn kubernetes_service_ip(config: &ApiServerConfig) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(config.service_cidr.0).saturating_add(1))
}

impl ApiServer {
    /// Allocates what the server allocates: cluster IPs and node ports.
    pub(crate) fn allocate(
        &self,
        resource: &ResourceType,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), ApiError> {
        if !resource.is("", "services") {
            return Ok(());
        }
        let kind = str_at(new, "/spec/type").unwrap_or_default().to_owned();
        if kind == "ExternalName" {
            for field in ["clusterIP", "clusterIPs"] {
                remove(new, &format!("/spec/{field}"));
            }
            return Ok(());
        }
        if let Some(old) = old.filter(|_| !is_set(new, "/spec/clusterIP")) {
            copy(old, new, "/spec/clusterIP");
        }
        if !is_set(new, "/spec/clusterIP") {
            let address = self.free_cluster_ip(resource)?;
            set(new, "/spec/clusterIP", address.to_string());
        } else if old.is_none() {
            self.claim_cluster_ip(resource, new)?;
        }
        let address = str_at(new, "/spec/clusterIP").unwrap_or_default().to_owned();
        set(new, "/spec/clusterIPs", json!([address]));
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            self.allocate_node_ports(resource, old, new);
        }
        Ok(())
    }

    fn used_cluster_ips(&self, services: &ResourceType) -> std::collections::HashSet<String> {
        let listing = self.store().list(&services.storage, None);
        let addresses = listing
            .objects
            .iter()
            .filter_map(|one| str_at(&one.value, "/spec/clusterIP"));
        addresses.map(str::to_owned).collect()
    }

    fn free_cluster_ip(&self, services: &ResourceType) -> Result<Ipv4Addr, ApiError> {
        let (first, prefix) = self.config().service_cidr;
        let size = 1_u32
            .checked_shl(u32::from(32_u8.saturating_sub(prefix)))
            .unwrap_or(u32::MAX);
        let used = self.used_cluster_ips(services);
        for _ in 0..size {
            // The counter alone keeps two creations at the same time apart. 0 is the network, 1 is `kubernetes`.
            let offset = self.next_service().rem_euclid(size.saturating_sub(11).max(1)) + 10;
            let candidate = Ipv4Addr::from(u32::from(first).saturating_add(offset));
            if !used.contains(&candidate.to_string()) {
                return Ok(candidate);
            }
        }
        Err(ApiError::internal("failed to allocate a serviceIP: range is full"))
    }

    fn claim_cluster_ip(&self, services: &ResourceType, new: &Value) -> Result<(), ApiError> {
        let wanted = str_at(new, "/spec/clusterIP").unwrap_or_default();
        if wanted == "None" {
            return Ok(());
        }
        let why = if wanted.parse::<Ipv4Addr>().is_err() {
            "must be empty, \"None\", or a valid IP address"
        } else if self.used_cluster_ips(services).contains(wanted) {
            "failed to allocate IP: provided IP is already allocated"
        } else {
            return Ok(());
        };
        let cause = Cause::invalid("spec.clusterIPs", &json!([wanted]), why);
        Err(ApiError::invalid(services, name(new), vec![cause]))
    }

    fn allocate_node_ports(&self, services: &ResourceType, old: Option<&Value>, new: &mut Value) {
        let listing = self.store().list(&services.storage, None);
        let mut used: std::collections::HashSet<i64> = listing
            .objects
            .iter()
            .flat_map(|one| array_at(&one.value, "/spec/ports"))
            .filter_map(|port| i64_at(port, "/nodePort"))
            .collect();
        let before: Vec<Value> = old.map(|old| array_at(old, "/spec/ports").to_vec()).unwrap_or_default();
        for port in super::object::array_mut(new, "/spec/ports") {
            if is_set(port, "/nodePort") {
                continue;
            }
            let same = before.iter().find(|one| one.get("port") == port.get("port"));
            if let Some(kept) = same.and_then(|one| one.get("nodePort")) {
                set(port, "/nodePort", kept.clone());
            } else if let Some(free) = (30_000..32_768).find(|candidate| !used.contains(candidate)) {
                used.insert(free);
                set(port, "/nodePort", free);
            }
        }
    }
}
