//! Endpoints and `EndpointSlices` of Services: where a Service's name leads.
//!
//! May depend on the controllers' runtime; [`addresses`] is pure. Central type: [`EndpointsController`]. Contract: an
//! address is ready when its pod is Ready and not being deleted (or the Service publishes unready ones); both forms
//! always say the same; a Service without a selector is left to its owner. The Service `kubernetes` leads to the API
//! server itself. Source of the rules: `pkg/controller/endpoint` and `endpointslice` of Kubernetes 1.33.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServicePort, ServiceSpec,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::context::{Context, Informers, wake, wake_on_self};
use super::meta::{contains_all, controller_reference, is_ready, is_terminal, is_terminating};
use super::runtime::{Change, Key, Outcome, Queue, Reconcile, ReconcileError};
use super::scheduler::fit::node_of;

/// Names the Service that a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Names who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller, by the name it has in Kubernetes.
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// Keeps the endpoints of Services.
pub(crate) struct EndpointsController {
    context: Context,
    api_address: Option<SocketAddr>,
}

impl EndpointsController {
    /// A controller that wakes when Services change, or pods that they select.
    pub(crate) fn new(
        context: Context,
        informers: &mut Informers,
        queue: &Arc<Queue>,
        api_address: Option<SocketAddr>,
    ) -> Self {
        wake_on_self(&mut informers.services, queue);
        let services = context.caches.services.clone();
        wake(&mut informers.pods, queue, move |change: &Change<Pod>| {
            let mut keys = Vec::new();
            for pod in change.states() {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                for service in services.in_namespace(namespace) {
                    if selects_pod(&service, pod) {
                        keys.push(Key::of(&*service));
                    }
                }
            }
            keys
        });
        // What somebody else changed or removed is put back.
        wake_on_self(&mut informers.endpoints, queue);
        wake(
            &mut informers.endpoint_slices,
            queue,
            |change: &Change<EndpointSlice>| {
                let slices = change.states();
                let named = slices.filter_map(|slice| {
                    let service = slice.labels().get(SERVICE_NAME)?;
                    Some(Key::new(slice.namespace().unwrap_or_default(), service))
                });
                named.collect()
            },
        );
        Self { context, api_address }
    }

    async fn write(&self, service: &Service, endpoints: Endpoints, slice: EndpointSlice) -> Result<(), ReconcileError> {
        let Context { objects, caches, .. } = &self.context;
        let namespace = service.namespace().unwrap_or_default();
        match caches.endpoints.get(&namespace, &service.name_any()) {
            None => {
                objects.create(&caches.endpoints, &endpoints).await?;
            }
            Some(present) if present.subsets != endpoints.subsets => {
                let mut updated = (*present).clone();
                updated.subsets = endpoints.subsets;
                objects.replace(&caches.endpoints, &updated).await?;
            }
            Some(_) => {}
        }
        match self.slice_of(service) {
            None => {
                objects.create(&caches.endpoint_slices, &slice).await?;
            }
            Some(present) if present.endpoints != slice.endpoints || present.ports != slice.ports => {
                let mut updated = (*present).clone();
                updated.endpoints = slice.endpoints;
                updated.ports = slice.ports;
                objects.replace(&caches.endpoint_slices, &updated).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn slice_of(&self, service: &Service) -> Option<Arc<EndpointSlice>> {
        let namespace = service.namespace().unwrap_or_default();
        let slices = self.context.caches.endpoint_slices.in_namespace(&namespace);
        slices.into_iter().find(|slice| {
            slice.labels().get(SERVICE_NAME) == Some(&service.name_any())
                && slice.labels().get(MANAGED_BY).is_some_and(|by| by == SLICE_CONTROLLER)
                && slice
                    .owner_references()
                    .iter()
                    .any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref())
        })
    }

    /// Kubernetes' Endpoints have no owner reference; their controller takes them away.
    async fn clean_up(&self, key: &Key) -> Result<(), ReconcileError> {
        let Context { objects, caches, .. } = &self.context;
        if let Some(endpoints) = caches.endpoints.get(&key.namespace, &key.name)
            && endpoints.labels().contains_key(MANAGED_BY)
        {
            objects.delete(&caches.endpoints, &*endpoints).await?;
        }
        Ok(())
    }
}

impl Reconcile for EndpointsController {
    const NAME: &'static str = "endpoint-controller";

    async fn reconcile(&self, key: Key) -> Result<Outcome, ReconcileError> {
        let caches = &self.context.caches;
        let Some(service) = caches.services.get(&key.namespace, &key.name) else {
            self.clean_up(&key).await?;
            return Ok(Outcome::Done);
        };
        if is_terminating(&service.metadata) {
            return Ok(Outcome::Done);
        }
        let spec = service.spec.clone().unwrap_or_default();
        let groups = if key == Key::new("default", "kubernetes") {
            let Some(address) = self.api_address else {
                return Ok(Outcome::Done);
            };
            vec![api_group(&spec, address)]
        } else {
            if selector(&service).is_none() {
                return Ok(Outcome::Done);
            }
            addresses(&service, &spec, &caches.pods.in_namespace(&key.namespace))
        };
        self.write(&service, endpoints(&service, &groups), slice(&service, &groups))
            .await?;
        Ok(Outcome::Done)
    }

    fn keys(&self) -> Vec<Key> {
        let services = self.context.caches.services.all();
        let endpoints = self.context.caches.endpoints.all();
        services
            .iter()
            .map(|one| Key::of(&**one))
            .chain(endpoints.iter().map(|one| Key::of(&**one)))
            .collect()
    }
}

fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    service
        .spec
        .as_ref()?
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
}

fn selects_pod(service: &Service, pod: &Pod) -> bool {
    selector(service).is_some_and(|selector| contains_all(pod.metadata.labels.as_ref(), selector))
}

/// One address of a Service.
#[derive(Debug, Clone, PartialEq)]
struct Address {
    ip: String,
    ready: bool,
    serving: bool,
    terminating: bool,
    hostname: Option<String>,
    node: Option<String>,
    target: Option<ObjectReference>,
}

/// Addresses that share the same ports (a named target port may lead to different numbers on different pods).
#[derive(Debug, Clone, PartialEq)]
struct Group {
    ports: Vec<(ServicePort, i32)>,
    addresses: Vec<Address>,
}

/// Where the Service leads, given all pods of its namespace.
fn addresses(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Vec<Group> {
    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let mut groups: Vec<Group> = Vec::new();
    for pod in pods.iter().filter(|pod| selects_pod(service, pod) && !is_terminal(pod)) {
        let Some(ip) = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone())
            .filter(|ip| !ip.is_empty())
        else {
            continue;
        };
        let ports: Vec<(ServicePort, i32)> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| target_port(port, pod).map(|number| (port.clone(), number)))
            .collect();
        // A Service with ports of which the pod has none does not lead there; a headless one without ports does.
        if ports.is_empty() && spec.ports.as_ref().is_some_and(|ports| !ports.is_empty()) {
            continue;
        }
        let terminating = is_terminating(&pod.metadata);
        let serving = is_ready(pod);
        let address = Address {
            ip,
            ready: publish_unready || (serving && !terminating),
            serving,
            terminating,
            hostname: hostname(service, pod),
            node: node_of(pod).map(str::to_owned),
            target: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: pod.namespace(),
                name: pod.metadata.name.clone(),
                uid: pod.uid(),
                ..ObjectReference::default()
            }),
        };
        match groups.iter_mut().find(|group| group.ports == ports) {
            Some(group) => group.addresses.push(address),
            None => groups.push(Group {
                ports,
                addresses: vec![address],
            }),
        }
    }
    groups
}

/// A pod has a name of its own under a Service when that is its subdomain.
fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let under_this_service = spec.subdomain == service.metadata.name && pod.namespace() == service.namespace();
    spec.hostname
        .clone()
        .filter(|hostname| !hostname.is_empty() && under_this_service)
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten();
            let containers = spec.containers.iter().chain(sidecars);
            containers
                .flat_map(|container| container.ports.iter().flatten())
                .find(|declared| {
                    declared.name.as_deref() == Some(name) && declared.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|declared| declared.container_port)
        }
    }
}

/// The API server as the one address of the Service `kubernetes`.
fn api_group(spec: &ServiceSpec, address: SocketAddr) -> Group {
    let port = spec
        .ports
        .iter()
        .flatten()
        .next()
        .cloned()
        .unwrap_or_else(|| ServicePort {
            name: Some("https".to_owned()),
            protocol: Some("TCP".to_owned()),
            port: 443,
            ..ServicePort::default()
        });
    Group {
        ports: vec![(port, i32::from(address.port()))],
        addresses: vec![Address {
            ip: address.ip().to_string(),
            ready: true,
            serving: true,
            terminating: false,
            hostname: None,
            node: None,
            target: None,
        }],
    }
}

fn endpoints(service: &Service, groups: &[Group]) -> Endpoints {
    let mut labels = service.labels().clone();
    labels.insert(MANAGED_BY.to_owned(), "endpoint-controller".to_owned());
    let subsets: Vec<EndpointSubset> = groups
        .iter()
        .map(|group| {
            let of = |ready: bool| -> Option<Vec<EndpointAddress>> {
                let found: Vec<EndpointAddress> = group
                    .addresses
                    .iter()
                    .filter(|address| address.ready == ready && (ready || !address.terminating))
                    .map(|address| EndpointAddress {
                        ip: address.ip.clone(),
                        hostname: address.hostname.clone(),
                        node_name: address.node.clone(),
                        target_ref: address.target.clone(),
                    })
                    .collect();
                (!found.is_empty()).then_some(found)
            };
            let ports: Vec<EndpointPort> = group
                .ports
                .iter()
                .map(|(port, number)| EndpointPort {
                    name: port.name.clone(),
                    port: *number,
                    protocol: port.protocol.clone().or_else(|| Some("TCP".to_owned())),
                    app_protocol: port.app_protocol.clone(),
                })
                .collect();
            EndpointSubset {
                addresses: of(true),
                not_ready_addresses: of(false),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .filter(|subset| subset.addresses.is_some() || subset.not_ready_addresses.is_some())
        .collect();
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn slice(service: &Service, groups: &[Group]) -> EndpointSlice {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.to_owned(), SLICE_CONTROLLER.to_owned());
    // One slice holds one set of ports. Pods that give a named port different numbers are rare; the first set is
    // written to the slice, all of them to the Endpoints.
    let ports = groups.first().map(|group| group.ports.as_slice()).unwrap_or_default();
    let ports: Vec<SlicePort> = ports
        .iter()
        .map(|(port, number)| SlicePort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(*number),
            protocol: port.protocol.clone().or_else(|| Some("TCP".to_owned())),
            app_protocol: port.app_protocol.clone(),
        })
        .collect();
    let endpoints = groups
        .first()
        .into_iter()
        .flat_map(|group| &group.addresses)
        .map(|address| Endpoint {
            addresses: vec![address.ip.clone()],
            conditions: Some(EndpointConditions {
                ready: Some(address.ready),
                serving: Some(address.serving),
                terminating: Some(address.terminating),
            }),
            hostname: address.hostname.clone(),
            node_name: address.node.clone(),
            target_ref: address.target.clone(),
            ..Endpoint::default()
        })
        .collect();
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints,
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Pod, Service};
    use serde_json::{Value, json};

    use super::{addresses, endpoints, slice};

    fn service(more: &Value) -> Service {
        let mut value = json!({
            "metadata": {"name": "web", "namespace": "ns"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
        });
        json_patch::merge(&mut value, more);
        serde_json::from_value(value).unwrap()
    }

    fn pod(name: &str, ready: bool, more: &Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
            "status": {"podIP": format!("10.0.0.{}", name.len()), "phase": "Running", "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}
            ]},
        });
        json_patch::merge(&mut value, more);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn both(service: &Service, pods: &[Arc<Pod>]) -> (Value, Value) {
        let groups = addresses(service, service.spec.as_ref().unwrap(), pods);
        let value = |one: Result<Value, serde_json::Error>| one.unwrap();
        (
            value(serde_json::to_value(endpoints(service, &groups).subsets)),
            value(serde_json::to_value(slice(service, &groups))),
        )
    }

    #[test]
    fn ready_and_unready_pods_are_told_apart_and_named_ports_are_resolved() {
        let (subsets, slice) = both(
            &service(&json!({})),
            &[pod("a", true, &json!({})), pod("bb", false, &json!({}))],
        );
        assert_eq!(subsets[0]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(subsets[0]["addresses"][0]["targetRef"]["uid"], "a");
        assert_eq!(subsets[0]["notReadyAddresses"][0]["ip"], "10.0.0.2");
        assert_eq!(subsets[0]["ports"][0]["port"], 8080);
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
        assert_eq!(slice["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(slice["ports"][0]["port"], 8080);
    }

    #[test]
    fn a_pod_being_deleted_is_not_ready_but_may_still_serve() {
        let going = pod(
            "a",
            true,
            &json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        );
        let (subsets, slice) = both(&service(&json!({})), &[going]);
        assert_eq!(subsets, Value::Null);
        let conditions = &slice["endpoints"][0]["conditions"];
        assert_eq!(
            conditions,
            &json!({"ready": false, "serving": true, "terminating": true})
        );
    }

    #[test]
    fn unready_addresses_are_published_when_asked_for() {
        let service = service(&json!({"spec": {"publishNotReadyAddresses": true}}));
        let (subsets, _) = both(&service, &[pod("a", false, &json!({}))]);
        assert_eq!(subsets[0]["addresses"][0]["ip"], "10.0.0.1");
    }

    #[test]
    fn ended_pods_and_pods_without_address_or_port_are_left_out() {
        let pods = [
            pod("a", true, &json!({"status": {"phase": "Succeeded"}})),
            pod("bb", true, &json!({"status": {"podIP": ""}})),
            pod("ccc", true, &json!({"spec": {"containers": []}})),
            pod("dddd", true, &json!({"metadata": {"labels": {"app": "other"}}})),
        ];
        assert_eq!(both(&service(&json!({})), &pods).0, Value::Null);
    }

    #[test]
    fn a_pod_has_a_host_name_under_its_headless_service_only() {
        let named = json!({"spec": {"hostname": "web-0", "subdomain": "web"}});
        let (subsets, slice) = both(&service(&json!({})), &[pod("a", true, &named)]);
        assert_eq!(subsets[0]["addresses"][0]["hostname"], "web-0");
        assert_eq!(slice["endpoints"][0]["hostname"], "web-0");
        let other = json!({"spec": {"hostname": "web-0", "subdomain": "other"}});
        let (subsets, _) = both(&service(&json!({})), &[pod("a", true, &other)]);
        assert_eq!(subsets[0]["addresses"][0].get("hostname"), None);
    }
}
