//! Whether traffic really passes: a session in a pod that tries to connect, and says each time whether it could.
//!
//! Uses whatever the image has: bash, nc, python3 or curl. Says so when it has none of them.

use super::stage::{InjectError, Stage};
use crate::cluster::{ClusterError, Session};
use crate::model::{Interval, PodName};
use std::time::Duration;

/// Reads "host port" lines and answers open, closed or no-tool. An attempt takes at most about 0.4 s.
const ASK_SCRIPT: &str = r#"
if command -v bash >/dev/null 2>&1; then tool=bash
elif command -v nc >/dev/null 2>&1; then tool=nc
elif command -v python3 >/dev/null 2>&1; then tool=python3
elif command -v curl >/dev/null 2>&1; then tool=curl
else tool=none; fi
while read -r host port; do
  case $tool in
  bash) timeout 0.4 bash -c "exec 3<>/dev/tcp/$host/$port" 2>/dev/null ;;
  nc) nc -z -w 1 "$host" "$port" 2>/dev/null ;;
  python3) python3 -c "import socket,sys; socket.create_connection((sys.argv[1],int(sys.argv[2])),0.4)" "$host" "$port" 2>/dev/null ;;
  curl) curl -s -o /dev/null --connect-timeout 0.4 --max-time 0.4 "telnet://$host:$port" </dev/null; [ $? != 7 ] && [ $? != 28 ] ;;
  none) echo no-tool; continue ;;
  esac
  if [ $? = 0 ]; then echo open; else echo closed; fi
done
"#;

/// One connection that is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// From this pod.
    pub(super) from: PodName,
    /// Container to try it in.
    pub(super) container: Option<String>,
    /// To this address.
    pub(super) host: String,
    /// And port.
    pub(super) port: u16,
}

impl std::fmt::Display for Route {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} to {}:{}", self.from.name, self.host, self.port)
    }
}

/// A pod that is asked to connect again and again.
pub(super) struct Traffic {
    session: Session,
    route: Route,
}

/// How often a connection that should pass is tried.
const ATTEMPTS: usize = 4;

/// How long one question may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

impl Traffic {
    /// Opens the session.
    ///
    /// # Errors
    /// When exec is refused or the pod is not there.
    pub(super) async fn open(stage: &Stage, route: Route) -> Result<Self, ClusterError> {
        let command = ["sh", "-c", ASK_SCRIPT].map(str::to_owned);
        let session = Session::open(
            &stage.cluster,
            &route.from.namespace,
            &route.from.name,
            route.container.as_deref(),
            &command,
        )
        .await?;
        Ok(Self { session, route })
    }

    /// Tries once: when, and whether it passed.
    ///
    /// # Errors
    /// When the session is gone, or the pod has nothing to connect with.
    pub(super) async fn passes(&mut self, stage: &Stage) -> Result<(Interval, bool), String> {
        let clock = stage.recorder.clock();
        let asked = clock.now();
        let question = format!("{} {}", self.route.host, self.route.port);
        let answer = self
            .session
            .ask(&question, ANSWER_LIMIT)
            .await
            .map_err(|error| error.to_string())?;
        let within = Interval {
            lower: asked,
            upper: clock.now(),
        };
        match answer.as_str() {
            "open" => Ok((within, true)),
            "closed" => Ok((within, false)),
            _ => Err(format!(
                "pod {} has nothing to connect with (bash, nc, python3 or curl), so nobody can see whether traffic stops",
                self.route.from.name
            )),
        }
    }
}

/// A session for each route, or why it could not be opened.
pub(super) async fn open_all(stage: &Stage, routes: &[Route]) -> Vec<Result<Traffic, String>> {
    let mut opened = Vec::new();
    for route in routes {
        let traffic = Traffic::open(stage, route.clone()).await;
        opened.push(traffic.map_err(|error| error.to_string()));
    }
    opened
}

/// The first of several routes that carries traffic now.
///
/// # Errors
/// When none does: then its end could not be seen either.
pub(super) async fn first_open(stage: &Stage, fault: &str, routes: &[Route]) -> Result<Route, InjectError> {
    let mut tried = Vec::new();
    for route in routes {
        let mut traffic = match Traffic::open(stage, route.clone()).await {
            Ok(traffic) => traffic,
            Err(error) => {
                tried.push(error.to_string());
                continue;
            }
        };
        let mut said = String::new();
        // On a busy machine one attempt may run out of its time.
        for _ in 0..ATTEMPTS {
            match traffic.passes(stage).await {
                Ok((_, true)) => return Ok(route.clone()),
                Ok((_, false)) => said = format!("{route}: no connection"),
                Err(why) => {
                    said = why;
                    break;
                }
            }
        }
        tried.push(said);
    }
    let tried = if tried.is_empty() {
        "there is no pair of pods and port to try; name the port by `ports`".to_owned()
    } else {
        tried.join("; ")
    };
    Err(InjectError::Refused(format!(
        "fault {fault:?}: no traffic passes between the two sides before the fault, so its end could not be proven ({tried})"
    )))
}
