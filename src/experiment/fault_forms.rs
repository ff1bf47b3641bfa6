//! Faults that only Chaos Mesh can do: as a person writes them, and as values. Doc comments of the types are what an editor shows.
//!
//! Depends on the rest of `experiment` and on `fault`. Contract: each has exactly one effect, and what Chaos Mesh would silently ignore
//! is refused.

use super::fault_file::FaultFile;
use super::faults::Selection;
use super::file::{DurationText, ErrnoText, OffsetText, PercentText};
use super::quantity::offset;
use super::resolve::Resolver;
use crate::fault::{FILE_CALLS, FaultKind, HttpEffect, HttpSide, JvmEffect, errno};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Calls on files take longer. Only by Chaos Mesh.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IoDelayFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// Where the container mounts a volume: the mount as a whole, no folder in it.
    pub(super) path: String,
    /// By so much.
    pub(super) latency: DurationText,
    /// Only these calls, such as read, write, open (default: every call).
    #[serde(default)]
    pub(super) methods: Vec<String>,
    /// How many of the calls (default 100%).
    pub(super) percent: Option<PercentText>,
}

/// Calls on files fail. Only by Chaos Mesh.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IoErrorFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// Where the container mounts a volume: the mount as a whole, no folder in it.
    pub(super) path: String,
    /// With this error.
    pub(super) errno: ErrnoText,
    /// Only these calls, such as read, write, open (default: every call).
    #[serde(default)]
    pub(super) methods: Vec<String>,
    /// How many of the calls (default 100%).
    pub(super) percent: Option<PercentText>,
}

/// The clock of a container's program is wrong. Only by Chaos Mesh.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ClockSkewFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// By so much.
    pub(super) offset: OffsetText,
}

/// HTTP requests to the pods, or their responses, are changed: exactly one of status, abort, latency. Only by Chaos Mesh.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HttpFaultFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// The pods' own port.
    #[schemars(range(min = 1, max = 65_535))]
    pub(super) port: u16,
    /// `response` (what the pods answer; the default) or `request` (what they are asked).
    #[schemars(extend("enum" = ["request", "response", null]))]
    pub(super) side: Option<String>,
    /// Only these paths, with `*` for anything (default: all).
    pub(super) path: Option<String>,
    /// Only this method (default: all).
    #[schemars(extend("enum" = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", null]))]
    pub(super) method: Option<String>,
    /// The response has this status.
    #[schemars(range(min = 100, max = 599))]
    pub(super) status: Option<u16>,
    /// `true`: the connection is broken off.
    pub(super) abort: Option<bool>,
    /// It comes later by so much.
    pub(super) latency: Option<DurationText>,
}

/// Something happens inside a Java program: exactly one of latency, exception, returnValue (of a method), gc, stress. Only by Chaos Mesh.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct JvmFaultFile {
    /// Only pods of this role.
    pub(super) role: Option<String>,
    /// Only pods that carry these labels as well.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// Container (default: the first one of the pod).
    pub(super) container: Option<String>,
    /// Full name of the class.
    pub(super) class: Option<String>,
    /// Name of the method.
    pub(super) method: Option<String>,
    /// The method takes so much longer.
    pub(super) latency: Option<DurationText>,
    /// The method throws this, such as `java.io.IOException("broken")`.
    pub(super) exception: Option<String>,
    /// The method gives this back, as Java writes it.
    pub(super) return_value: Option<String>,
    /// `true`: the garbage collector runs.
    pub(super) gc: Option<bool>,
    /// The program keeps processors busy, or takes memory.
    pub(super) stress: Option<JvmStressFile>,
}

/// What a Java program takes: exactly one of both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct JvmStressFile {
    /// So many busy threads.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) cpu: Option<u32>,
    /// Memory on the `heap` or on the `stack`.
    #[schemars(extend("enum" = ["heap", "stack", null]))]
    pub(super) memory: Option<String>,
}

impl Resolver<'_> {
    /// A fault that only Chaos Mesh can do.
    pub(super) fn by_chaos_mesh_only(&mut self, pointer: &str, file: &FaultFile) -> Option<Selection> {
        if let Some(held) = &file.io_delay {
            let at = format!("{pointer}/ioDelay");
            let (methods, percent) = self.file_calls(&at, &held.methods, held.percent.as_ref());
            self.mount(&format!("{at}/path"), &held.path);
            let kind = FaultKind::IoDelay {
                container: held.container.clone(),
                path: trimmed(&held.path),
                latency: self.latency(&format!("{at}/latency"), &held.latency),
                methods,
                percent,
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.io_error {
            let at = format!("{pointer}/ioError");
            let (methods, percent) = self.file_calls(&at, &held.methods, held.percent.as_ref());
            self.mount(&format!("{at}/path"), &held.path);
            let kind = FaultKind::IoError {
                container: held.container.clone(),
                path: trimmed(&held.path),
                errno: errno(&held.errno.0).unwrap_or_else(|why| {
                    self.error("errno", self.at(&format!("{at}/errno")), why, None);
                    1
                }),
                methods,
                percent,
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.clock_skew {
            let offset_millis = offset(&held.offset.0).unwrap_or_else(|why| {
                self.error("offset", self.at(&format!("{pointer}/clockSkew/offset")), why, None);
                1
            });
            let kind = FaultKind::ClockSkew {
                container: held.container.clone(),
                offset_millis,
            };
            return Some(self.selection(pointer, kind, held));
        }
        if let Some(held) = &file.http_fault {
            let kind = self.http(&format!("{pointer}/httpFault"), held);
            return Some(self.selection(pointer, kind, held));
        }
        let held = file.jvm_fault.as_ref()?;
        let kind = FaultKind::JvmFault {
            container: held.container.clone(),
            effect: self.jvm(&format!("{pointer}/jvmFault"), held),
        };
        Some(self.selection(pointer, kind, held))
    }

    fn file_calls(&mut self, at: &str, methods: &[String], percent: Option<&PercentText>) -> (Vec<String>, u8) {
        for (index, method) in methods.iter().enumerate() {
            if !FILE_CALLS.contains(&method.as_str()) {
                let help = format!("one of {}", FILE_CALLS.join(", "));
                let place = self.at(&format!("{at}/methods/{index}"));
                self.error(
                    "file-call",
                    place,
                    format!("{method:?} is no call on a file"),
                    Some(&help),
                );
            }
        }
        let percent = percent.map_or(100, |text| self.percent(&format!("{at}/percent"), text));
        (methods.to_vec(), percent)
    }

    fn mount(&mut self, at: &str, path: &str) {
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.trim_matches('/').is_empty() {
            let message = format!("{path:?} cannot be where a volume is mounted: that is absolute, and not the root");
            self.error("path", self.at(at), message, None);
        }
    }

    fn latency(&mut self, at: &str, text: &DurationText) -> Duration {
        let latency = self.duration(at, Some(text), Duration::from_millis(1));
        if latency < Duration::from_millis(1) {
            let place = self.at(at);
            self.error("latency", place, "a delay below 1 ms could not be told from none", None);
        }
        latency
    }

    /// `false` would be an effect that is none.
    fn only_true(&mut self, at: &str, held: Option<bool>) {
        if held == Some(false) {
            self.error(
                "effect",
                self.at(at),
                "false does nothing",
                Some("say true, or leave it out"),
            );
        }
    }

    fn http(&mut self, at: &str, held: &HttpFaultFile) -> FaultKind {
        let present = [
            ("status", held.status.is_some()),
            ("abort", held.abort.is_some()),
            ("latency", held.latency.is_some()),
        ];
        self.one_of(at, "the httpFault", &present);
        self.only_true(&format!("{at}/abort"), held.abort);
        let side = match held.side.as_deref() {
            Some("request") => HttpSide::Request,
            _ => HttpSide::Response,
        };
        if side == HttpSide::Request && held.status.is_some() {
            let place = self.at(&format!("{at}/status"));
            let help = "say side: response, or leave side out";
            self.error("effect", place, "a request has no status", Some(help));
        }
        if let Some(path) = held.path.as_ref().filter(|path| !path.starts_with('/')) {
            let place = self.at(&format!("{at}/path"));
            let help = "such as /api/*";
            self.error(
                "path",
                place,
                format!("{path:?} matches no request: a path begins with /"),
                Some(help),
            );
        }
        let effect = match (held.status, &held.latency) {
            (Some(code), _) => HttpEffect::Status { code },
            (None, Some(text)) => HttpEffect::Latency {
                latency: self.latency(&format!("{at}/latency"), text),
            },
            (None, None) => HttpEffect::Abort {},
        };
        FaultKind::HttpFault {
            port: held.port,
            side,
            path: held.path.clone(),
            method: held.method.clone(),
            effect,
        }
    }

    fn jvm(&mut self, at: &str, held: &JvmFaultFile) -> JvmEffect {
        let present = [
            ("latency", held.latency.is_some()),
            ("exception", held.exception.is_some()),
            ("returnValue", held.return_value.is_some()),
            ("gc", held.gc.is_some()),
            ("stress", held.stress.is_some()),
        ];
        self.one_of(at, "the jvmFault", &present);
        self.only_true(&format!("{at}/gc"), held.gc);
        let of_method = held.latency.is_some() || held.exception.is_some() || held.return_value.is_some();
        let of_program = held.gc.is_some() || held.stress.is_some();
        for (key, value) in [("class", &held.class), ("method", &held.method)] {
            let is_said = value.as_ref().is_some_and(|value| !value.trim().is_empty());
            if of_method && !is_said {
                let place = self.places.key(at);
                let message = format!("this happens in a method, so it needs a {key}");
                self.error("jvm-method", place, message, Some("give class and method"));
            }
            if of_program && !of_method && value.is_some() {
                let place = self.at(&format!("{at}/{key}"));
                let message = format!("this happens in the whole program, and not in one {key}");
                self.error("jvm-method", place, message, Some("leave class and method out"));
            }
        }
        let class = held.class.clone().unwrap_or_default();
        let method = held.method.clone().unwrap_or_default();
        if let Some(text) = &held.latency {
            let latency = self.latency(&format!("{at}/latency"), text);
            return JvmEffect::Latency { class, method, latency };
        }
        if let Some(exception) = held.exception.clone() {
            return JvmEffect::Exception {
                class,
                method,
                exception,
            };
        }
        if let Some(value) = held.return_value.clone() {
            return JvmEffect::Return { class, method, value };
        }
        let Some(stress) = &held.stress else {
            return JvmEffect::Gc {};
        };
        let present = [("cpu", stress.cpu.is_some()), ("memory", stress.memory.is_some())];
        self.one_of(&format!("{at}/stress"), "the stress", &present);
        match stress.cpu {
            Some(count) => JvmEffect::StressCpu { count },
            None => JvmEffect::StressMemory {
                stack: stress.memory.as_deref() == Some("stack"),
            },
        }
    }
}

/// A mount is the same with a slash at its end.
fn trimmed(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}
