//! One error for every call to the API server, sorted by what a reader can do about it.

use std::time::Duration;

/// Why a call failed, in classes that lead to different exit codes and hints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    /// No connection, broken connection, TLS.
    Unreachable,
    /// No answer within the deadline.
    TimedOut(Duration),
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 410, or a watch told so.
    Gone,
    /// 429 after retries.
    Throttled,
    /// 400 or 422: the request was wrong.
    Rejected(u16),
    /// 5xx after retries.
    Server(u16),
    /// The answer could not be understood, or another local failure.
    Other,
}

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot {attempted}: {why}")]
pub(crate) struct ClusterError {
    /// What was attempted, on what: `list pods in namespace "a"`.
    pub(crate) attempted: String,
    /// Class.
    pub(crate) failed: Failed,
    /// In words.
    pub(crate) why: String,
}

impl ClusterError {
    /// A call that did not answer in time.
    pub(crate) fn timed_out(attempted: impl Into<String>, after: Duration) -> Self {
        Self {
            attempted: attempted.into(),
            failed: Failed::TimedOut(after),
            why: format!("no answer within {} s", after.as_secs_f64()),
        }
    }

    /// From kube's error.
    pub(crate) fn from_kube(attempted: impl Into<String>, error: &kube::Error) -> Self {
        let attempted = attempted.into();
        match error {
            kube::Error::Api(status) => Self::from_status(attempted, status),
            kube::Error::HyperError(_) | kube::Error::Service(_) => Self {
                attempted,
                failed: Failed::Unreachable,
                why: chain(error),
            },
            other => Self {
                attempted,
                failed: Failed::Other,
                why: chain(other),
            },
        }
    }

    /// From a `Status` object.
    pub(crate) fn from_status(attempted: impl Into<String>, status: &kube::core::Status) -> Self {
        let failed = match status.code {
            401 => Failed::Unauthorized,
            403 => Failed::Forbidden,
            404 => Failed::NotFound,
            409 => Failed::Conflict,
            410 => Failed::Gone,
            429 => Failed::Throttled,
            code @ (400 | 422) => Failed::Rejected(code),
            code if code >= 500 => Failed::Server(code),
            _ => Failed::Other,
        };
        let message = if status.message.is_empty() {
            &status.reason
        } else {
            &status.message
        };
        Self {
            attempted: attempted.into(),
            failed,
            why: format!("the API server answered {}: {message}", status.code),
        }
    }

    /// What to do next, when something sensible can be said.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self.failed {
            Failed::Unreachable | Failed::TimedOut(_) => Some(
                "check that the cluster is up and that the kubeconfig context is the right one (`kubectl cluster-info`); \
                 without a cluster, `--lab` boots the embedded one",
            ),
            Failed::Unauthorized => Some("the credentials of this kubeconfig context are not accepted: log in again"),
            Failed::Forbidden => {
                Some("ask for the missing permission; `chaosrun plan FILE` lists the verbs an experiment needs")
            }
            Failed::Throttled => Some("the API server is overloaded: try again later"),
            Failed::NotFound
            | Failed::Conflict
            | Failed::Gone
            | Failed::Rejected(_)
            | Failed::Server(_)
            | Failed::Other => None,
        }
    }
}

/// The texts of an error and its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
