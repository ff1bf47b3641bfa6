//! Defaults as Kubernetes sets them where clients can see it.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::object::set_default;
use super::registry::ResourceType;
use super::server::{ApiServer, ApiServerConfig};
use super::status::ApiError;

/// Fills in what the writer left out.
pub(crate) fn apply(resource: &ResourceType, object: &mut Value) {
    if resource.custom.is_some() {
        return;
    }
    match resource.plural.as_str() {
        "pods" => {
            set_default(object, "/spec/restartPolicy", "Always");
            set_default(
                object,
                "/status",
                json!({"phase": "Pending", "qosClass": "BestEffort"}),
            );
        }
        "namespaces" => {
            set_default(object, "/spec/finalizers", json!(["kubernetes"]));
            set_default(object, "/status/phase", "Active");
        }
        _ => {}
    }
}

/// Address of the service `kubernetes` in `default`: the first of the range.
pub(crate) fn kubernetes_service_ip(config: &ApiServerConfig) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(config.service_cidr.0).saturating_add(1))
}

impl ApiServer {
    /// Allocates what the server allocates: cluster IPs.
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "allocation can fail once it allocates"
    )]
    pub(crate) fn allocate(
        &self,
        _resource: &ResourceType,
        _old: Option<&Value>,
        _new: &mut Value,
    ) -> Result<(), ApiError> {
        Ok(())
    }
}
