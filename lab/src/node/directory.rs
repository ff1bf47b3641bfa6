//! Services and their endpoints as the API has them, kept current by watches. Depends on kube.
//!
//! Central type: [`Directory`]. The translation of service addresses and the name server both read it.

use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Endpoints, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

/// Label of a slice that names its service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What is known about services.
#[derive(Clone)]
pub(crate) struct Directory {
    services: Store<Service>,
    slices: Store<EndpointSlice>,
    endpoints: Store<Endpoints>,
}

/// One address behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Backend {
    pub address: Ipv4Addr,
    pub ready: bool,
    /// For names of single pods.
    pub hostname: Option<String>,
    /// Port name and number.
    pub ports: Vec<(String, u16)>,
}

impl Directory {
    /// Starts the watches; the stream yields whenever something may have changed.
    pub(crate) fn start(client: &Client) -> (Self, impl Stream<Item = ()> + Send + 'static) {
        let (services, service_events) = follow::<Service>(client);
        let (slices, slice_events) = follow::<EndpointSlice>(client);
        let (endpoints, endpoint_events) = follow::<Endpoints>(client);
        let events = futures::stream::select(service_events, futures::stream::select(slice_events, endpoint_events));
        (
            Self {
                services,
                slices,
                endpoints,
            },
            events,
        )
    }

    /// All services.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        self.services.state()
    }

    /// One service.
    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(&reflector::ObjectRef::new(name).within(namespace))
    }

    /// Everything behind a service: from its slices, or from its Endpoints when it has no slice.
    pub(crate) fn backends(&self, namespace: &str, name: &str) -> Vec<Backend> {
        let belongs = |slice: &EndpointSlice| {
            slice.namespace().as_deref() == Some(namespace)
                && slice.labels().get(SERVICE_LABEL).is_some_and(|service| service == name)
        };
        let slices: Vec<_> = self.slices.state().into_iter().filter(|slice| belongs(slice)).collect();
        if !slices.is_empty() {
            return slices.iter().flat_map(|slice| from_slice(slice)).collect();
        }
        let endpoints = self.endpoints.get(&reflector::ObjectRef::new(name).within(namespace));
        endpoints
            .iter()
            .flat_map(|endpoints| from_endpoints(endpoints))
            .collect()
    }
}

pub(crate) fn follow<K>(client: &Client) -> (Store<K>, impl Stream<Item = ()> + Send + use<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store::<K>();
    let stream = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    (store, reflector::reflector(writer, stream).map(|_| ()))
}

fn port(name: Option<&String>, number: i32) -> Option<(String, u16)> {
    Some((name.cloned().unwrap_or_default(), u16::try_from(number).ok()?))
}

fn from_slice(slice: &EndpointSlice) -> Vec<Backend> {
    let ports: Vec<_> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|entry| port(entry.name.as_ref(), entry.port?))
        .collect();
    let mut backends = Vec::new();
    for endpoint in &slice.endpoints {
        let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false);
        for address in endpoint.addresses.iter().filter_map(|address| address.parse().ok()) {
            backends.push(Backend {
                address,
                ready,
                hostname: endpoint.hostname.clone(),
                ports: ports.clone(),
            });
        }
    }
    backends
}

fn from_endpoints(endpoints: &Endpoints) -> Vec<Backend> {
    let mut backends = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<_> = subset
            .ports
            .iter()
            .flatten()
            .filter_map(|entry| port(entry.name.as_ref(), entry.port))
            .collect();
        let ready = subset.addresses.iter().flatten().map(|entry| (entry, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|entry| (entry, false));
        for (entry, ready) in ready.chain(unready) {
            if let Ok(address) = entry.ip.parse() {
                backends.push(Backend {
                    address,
                    ready,
                    hostname: entry.hostname.clone(),
                    ports: ports.clone(),
                });
            }
        }
    }
    backends
}

/// The cluster address of a service; `None` for headless ones and names of other hosts.
pub(crate) fn cluster_address(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

/// Whether addresses that are not ready count, too.
pub(crate) fn publishes_unready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The backend's port for a port of the service.
pub(crate) fn target_port(backend: &Backend, wanted: &ServicePort) -> Option<u16> {
    let name = wanted.name.as_deref().unwrap_or_default();
    backend
        .ports
        .iter()
        .find(|(known, _)| known == name)
        .map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices_and_endpoints_say_the_same() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.1.1.1"], "conditions": {"ready": true}, "hostname": "a-0"},
                {"addresses": ["10.1.1.2"], "conditions": {"ready": false}},
            ],
        }))
        .unwrap();
        let endpoints: Endpoints = serde_json::from_value(json!({
            "subsets": [{"ports": [{"name": "http", "port": 8080}],
                "addresses": [{"ip": "10.1.1.1", "hostname": "a-0"}], "notReadyAddresses": [{"ip": "10.1.1.2"}]}],
        }))
        .unwrap();
        let backends = from_slice(&slice);
        assert_eq!(backends, from_endpoints(&endpoints));
        assert_eq!(backends.len(), 2);
        let wanted = ServicePort {
            name: Some("http".into()),
            port: 80,
            ..ServicePort::default()
        };
        assert_eq!(target_port(&backends[0], &wanted), Some(8080));
    }
}
