//! Starts an API server alone and prints the path of its kubeconfig. `cargo run -p chaosrun-lab --example api_only`.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use chaosrun_lab::api::{ApiServer, ApiServerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = ApiServer::new(ApiServerConfig::default())?;
    let handle = server.serve(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]).await?;
    let mut file = tempfile::Builder::new()
        .prefix("api-only-")
        .suffix(".yaml")
        .tempfile()?;
    file.write_all(server.kubeconfig_yaml().as_bytes())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", file.path().display())?;
    out.flush()?;
    tokio::signal::ctrl_c().await?;
    handle.stop().await;
    Ok(())
}
