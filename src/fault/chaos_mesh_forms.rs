//! Faults that only Chaos Mesh can do, in words of their own: slow or failing files, a clock that is wrong, HTTP answers, a Java program.
//!
//! Pure; may depend on the rest of `fault`. Central function: [`spec_of`]. Contract: what it gives is what Chaos Mesh documents for these
//! kinds, without selector, mode and duration. Facts: `specs/chaos-mesh.md`, section 3.

use super::kinds::FaultKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// Calls on files that an `IOChaos` can be limited to.
pub const FILE_CALLS: [&str; 26] = [
    "lookup",
    "getattr",
    "setattr",
    "readlink",
    "mknod",
    "mkdir",
    "unlink",
    "rmdir",
    "symlink",
    "rename",
    "link",
    "open",
    "read",
    "write",
    "flush",
    "release",
    "fsync",
    "opendir",
    "readdir",
    "releasedir",
    "statfs",
    "setxattr",
    "getxattr",
    "listxattr",
    "access",
    "create",
];

/// Errors that a file can answer with, by the names and numbers of Linux (`errno(3)`, the generic table).
const ERRORS: [(&str, u32); 21] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("EINTR", 4),
    ("EIO", 5),
    ("ENXIO", 6),
    ("EAGAIN", 11),
    ("ENOMEM", 12),
    ("EACCES", 13),
    ("EBUSY", 16),
    ("EEXIST", 17),
    ("ENOTDIR", 20),
    ("EISDIR", 21),
    ("EINVAL", 22),
    ("ENFILE", 23),
    ("EMFILE", 24),
    ("EFBIG", 27),
    ("ENOSPC", 28),
    ("EROFS", 30),
    ("ETIMEDOUT", 110),
    ("ESTALE", 116),
    ("EDQUOT", 122),
];

/// The number of an error, given by its name or as a number.
///
/// # Errors
/// What would be right, for the reader of the file.
pub fn errno(text: &str) -> Result<u32, String> {
    let text = text.trim();
    if let Some((_, number)) = ERRORS.iter().find(|(name, _)| *name == text) {
        return Ok(*number);
    }
    // The kernel's own limit, MAX_ERRNO.
    let number = text.parse().ok().filter(|number| (1..=4095).contains(number));
    number.ok_or_else(|| {
        let names: Vec<&str> = ERRORS.iter().map(|(name, _)| *name).collect();
        format!(
            "{text:?} is no error of a file; write its number, or one of {}",
            names.join(", ")
        )
    })
}

/// The name of an error, where it has one here.
fn errno_name(number: u32) -> String {
    let found = ERRORS.iter().find(|(_, held)| *held == number);
    found.map_or_else(|| format!("error {number}"), |(name, _)| (*name).to_owned())
}

/// Which half of an exchange is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpSide {
    /// What the pods are asked.
    Request,
    /// What they answer.
    Response,
}

impl HttpSide {
    /// The word in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
        }
    }
}

/// What becomes of an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum HttpEffect {
    /// The answer has another status.
    Status {
        /// Such as 503.
        code: u16,
    },
    /// The connection is broken off.
    Abort {},
    /// It comes later.
    Latency {
        /// By so much.
        #[serde(with = "super::duration_millis")]
        latency: Duration,
    },
}

/// What happens in a Java program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum JvmEffect {
    /// A method takes longer.
    Latency {
        /// Its class.
        class: String,
        /// The method.
        method: String,
        /// By so much.
        #[serde(with = "super::duration_millis")]
        latency: Duration,
    },
    /// A method throws.
    Exception {
        /// Its class.
        class: String,
        /// The method.
        method: String,
        /// Such as `java.io.IOException("broken")`.
        exception: String,
    },
    /// A method gives back another value.
    Return {
        /// Its class.
        class: String,
        /// The method.
        method: String,
        /// The value as Java writes it.
        value: String,
    },
    /// The garbage collector runs.
    Gc {},
    /// Threads keep processors busy.
    StressCpu {
        /// So many.
        count: u32,
    },
    /// Memory is taken.
    StressMemory {
        /// On the stack, else on the heap.
        stack: bool,
    },
}

/// The key of a value that a method gives back, from Chaos Mesh 2.8 on; `value` before. Which it is the cluster says.
pub const RETURN_KEY: &str = "returnValue";

/// A span of time in Go's words.
fn millis(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

/// Sets `methods` where there are some: without, every call is meant.
fn with_methods(mut spec: Value, methods: &[String]) -> Value {
    if !methods.is_empty() {
        super::chaos_mesh::set(&mut spec, "methods", json!(methods));
    }
    spec
}

/// Kind and spec for a fault that only Chaos Mesh can do; none for every other one.
pub(super) fn spec_of(fault: &FaultKind) -> Option<(&'static str, Value)> {
    Some(match fault {
        FaultKind::IoDelay {
            path,
            latency,
            methods,
            percent,
            ..
        } => {
            let spec = json!({"action": "latency", "delay": millis(*latency), "volumePath": path, "percent": percent});
            ("IOChaos", with_methods(spec, methods))
        }
        FaultKind::IoError {
            path,
            errno,
            methods,
            percent,
            ..
        } => {
            let spec = json!({"action": "fault", "errno": errno, "volumePath": path, "percent": percent});
            ("IOChaos", with_methods(spec, methods))
        }
        FaultKind::ClockSkew { offset_millis, .. } => {
            ("TimeChaos", json!({"timeOffset": format!("{offset_millis}ms")}))
        }
        FaultKind::HttpFault {
            port,
            side,
            path,
            method,
            effect,
        } => {
            let target = match side {
                HttpSide::Request => "Request",
                HttpSide::Response => "Response",
            };
            let mut spec = json!({"target": target, "port": port});
            let (key, value) = match effect {
                HttpEffect::Status { code } => ("replace", json!({"code": code})),
                HttpEffect::Abort {} => ("abort", json!(true)),
                HttpEffect::Latency { latency } => ("delay", json!(millis(*latency))),
            };
            super::chaos_mesh::set(&mut spec, key, value);
            for (key, held) in [("path", path), ("method", method)] {
                if let Some(held) = held {
                    super::chaos_mesh::set(&mut spec, key, json!(held));
                }
            }
            ("HTTPChaos", spec)
        }
        FaultKind::JvmFault { effect, .. } => ("JVMChaos", jvm(effect)),
        _ => return None,
    })
}

fn jvm(effect: &JvmEffect) -> Value {
    match effect {
        JvmEffect::Latency { class, method, latency } => {
            let milliseconds = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
            json!({"action": "latency", "class": class, "method": method, "latency": milliseconds})
        }
        JvmEffect::Exception {
            class,
            method,
            exception,
        } => json!({"action": "exception", "class": class, "method": method, "exception": exception}),
        JvmEffect::Return { class, method, value } => {
            json!({"action": "return", "class": class, "method": method, RETURN_KEY: value})
        }
        JvmEffect::Gc {} => json!({"action": "gc"}),
        JvmEffect::StressCpu { count } => json!({"action": "stress", "cpuCount": count}),
        JvmEffect::StressMemory { stack } => {
            json!({"action": "stress", "memType": if *stack { "stack" } else { "heap" }})
        }
    }
}

/// What such a fault does, in words; none for every other one.
#[must_use]
pub fn form_words(fault: &FaultKind) -> Option<String> {
    let calls = |methods: &[String], percent: u8| {
        let which = if methods.is_empty() {
            "every call".to_owned()
        } else {
            format!("calls of {}", methods.join(", "))
        };
        format!("{which}, {percent} % of them,")
    };
    Some(match fault {
        FaultKind::IoDelay {
            path,
            latency,
            methods,
            percent,
            ..
        } => {
            let calls = calls(methods, *percent);
            format!(
                "{calls} on files of the mount {path} take {} ms longer",
                latency.as_millis()
            )
        }
        FaultKind::IoError {
            path,
            errno,
            methods,
            percent,
            ..
        } => {
            let calls = calls(methods, *percent);
            format!("{calls} on files of the mount {path} fail with {}", errno_name(*errno))
        }
        FaultKind::ClockSkew { offset_millis, .. } => {
            let way = if *offset_millis < 0 { "behind" } else { "ahead" };
            let by = offset_millis.unsigned_abs();
            format!("the clock is {by} ms {way} for the container's own program and its children")
        }
        FaultKind::HttpFault {
            port,
            side,
            path,
            method,
            effect,
        } => {
            let what = match effect {
                HttpEffect::Status { code } => format!("have the status {code}"),
                HttpEffect::Abort {} => "are broken off".to_owned(),
                HttpEffect::Latency { latency } => format!("come {} ms later", latency.as_millis()),
            };
            let (side, method) = (side.word(), method.as_deref().unwrap_or("any method"));
            let path = path.as_deref().unwrap_or("any path");
            format!("HTTP {side}s of port {port} ({method}, {path}) {what}")
        }
        FaultKind::JvmFault { effect, .. } => match effect {
            JvmEffect::Latency { class, method, latency } => {
                format!("{class}.{method} takes {} ms longer", latency.as_millis())
            }
            JvmEffect::Exception {
                class,
                method,
                exception,
            } => format!("{class}.{method} throws {exception}"),
            JvmEffect::Return { class, method, value } => format!("{class}.{method} gives back {value}"),
            JvmEffect::Gc {} => "the garbage collector runs".to_owned(),
            JvmEffect::StressCpu { count } => format!("{count} threads of the Java program keep processors busy"),
            JvmEffect::StressMemory { stack: true } => "the Java program takes memory on its stack".to_owned(),
            JvmEffect::StressMemory { stack: false } => "the Java program takes memory on its heap".to_owned(),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(side: HttpSide, path: Option<&str>, method: Option<&str>, effect: HttpEffect) -> FaultKind {
        FaultKind::HttpFault {
            port: 8080,
            side,
            path: path.map(str::to_owned),
            method: method.map(str::to_owned),
            effect,
        }
    }

    fn in_jvm(effect: JvmEffect) -> FaultKind {
        FaultKind::JvmFault {
            container: None,
            effect,
        }
    }

    fn all() -> Vec<(FaultKind, &'static str, Value)> {
        let (class, method) = ("shop.Cart".to_owned(), "add".to_owned());
        let of = |more: Value| {
            let mut spec = json!({"class": "shop.Cart", "method": "add"});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        vec![
            (
                FaultKind::IoDelay {
                    container: None,
                    path: "/data".to_owned(),
                    latency: Duration::from_millis(100),
                    methods: vec!["read".to_owned(), "write".to_owned()],
                    percent: 50,
                },
                "IOChaos",
                json!({"action": "latency", "delay": "100ms", "volumePath": "/data", "percent": 50, "methods": ["read", "write"]}),
            ),
            (
                FaultKind::IoError {
                    container: Some("web".to_owned()),
                    path: "/data".to_owned(),
                    errno: 28,
                    methods: Vec::new(),
                    percent: 100,
                },
                "IOChaos",
                json!({"action": "fault", "errno": 28, "volumePath": "/data", "percent": 100}),
            ),
            (
                FaultKind::ClockSkew {
                    container: None,
                    offset_millis: -600_000,
                },
                "TimeChaos",
                json!({"timeOffset": "-600000ms"}),
            ),
            (
                http(
                    HttpSide::Response,
                    Some("/api/*"),
                    Some("GET"),
                    HttpEffect::Status { code: 503 },
                ),
                "HTTPChaos",
                json!({"target": "Response", "port": 8080, "path": "/api/*", "method": "GET", "replace": {"code": 503}}),
            ),
            (
                http(HttpSide::Request, None, None, HttpEffect::Abort {}),
                "HTTPChaos",
                json!({"target": "Request", "port": 8080, "abort": true}),
            ),
            (
                http(
                    HttpSide::Request,
                    None,
                    None,
                    HttpEffect::Latency {
                        latency: Duration::from_secs(2),
                    },
                ),
                "HTTPChaos",
                json!({"target": "Request", "port": 8080, "delay": "2000ms"}),
            ),
            (
                in_jvm(JvmEffect::Latency {
                    class: class.clone(),
                    method: method.clone(),
                    latency: Duration::from_millis(250),
                }),
                "JVMChaos",
                of(json!({"action": "latency", "latency": 250})),
            ),
            (
                in_jvm(JvmEffect::Exception {
                    class: class.clone(),
                    method: method.clone(),
                    exception: "java.io.IOException(\"x\")".to_owned(),
                }),
                "JVMChaos",
                of(json!({"action": "exception", "exception": "java.io.IOException(\"x\")"})),
            ),
            (
                in_jvm(JvmEffect::Return {
                    class,
                    method,
                    value: "9".to_owned(),
                }),
                "JVMChaos",
                of(json!({"action": "return", "returnValue": "9"})),
            ),
            (in_jvm(JvmEffect::Gc {}), "JVMChaos", json!({"action": "gc"})),
            (
                in_jvm(JvmEffect::StressCpu { count: 2 }),
                "JVMChaos",
                json!({"action": "stress", "cpuCount": 2}),
            ),
            (
                in_jvm(JvmEffect::StressMemory { stack: false }),
                "JVMChaos",
                json!({"action": "stress", "memType": "heap"}),
            ),
        ]
    }

    #[test]
    fn each_form_gives_the_object_that_chaos_mesh_documents() {
        for (fault, kind, spec) in all() {
            let object = super::super::chaos_mesh_object(&fault).unwrap();
            assert_eq!((object.kind.as_str(), &object.spec), (kind, &spec));
            assert!(
                fault.only_by_chaos_mesh() && form_words(&fault).is_some(),
                "{}",
                fault.word()
            );
            assert!(super::super::litmus_experiment(&fault).is_err(), "{}", fault.word());
        }
        assert!(!FaultKind::DnsFailure {}.only_by_chaos_mesh());
    }

    #[test]
    fn each_form_is_read_back_from_the_log_as_it_was_written() {
        for (fault, _, _) in all() {
            let text = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<FaultKind>(&text).unwrap(), fault, "{text}");
        }
    }

    #[test]
    fn errors_of_files_have_names_or_numbers() {
        assert_eq!(errno("ENOSPC"), Ok(28));
        assert_eq!(errno("5"), Ok(5));
        for bad in ["ENOTHING", "0", "-5", "4096", "eio"] {
            assert!(errno(bad).is_err(), "{bad}");
        }
    }
}
