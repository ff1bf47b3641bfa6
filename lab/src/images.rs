//! The images that the lab knows: Apache Spark, and the built-in pipeline and probe server.
//!
//! Depends on [`crate::node`] for the table only. Central function: [`known_images`]. Nothing is pulled: Spark comes
//! from a distribution on this machine (see `scripts/install-spark.sh`), the built-in programs are the lab's own
//! executable. Where Spark is missing its image is not in the table, and pods with it fail as with any image that
//! cannot be had.

use std::path::{Path, PathBuf};

use crate::node::{Image, ImageBind, ImageTable};

/// The entry point of Spark's image, ours.
const SPARK_ENTRYPOINT: &str = include_str!("../images/spark-entrypoint.sh");
/// Holds the entry point: not a file, so that there is nothing to write and to remove, and not an argument, because it
/// would stay in the command line of PID 1, where whoever looks for processes by name would find it.
const SPARK_ENTRYPOINT_VARIABLE: &str = "CHAOSRUN_ENTRYPOINT";
const SPARK_ENTRYPOINT_COMMAND: [&str; 4] = ["/bin/sh", "-c", "eval \"$CHAOSRUN_ENTRYPOINT\"", "entrypoint"];
/// Where a container sees the lab's executable.
const INSIDE: &str = "/opt/chaosrun/lab";
/// Where a Spark distribution is looked for when the environment does not say.
const DEFAULT_SPARK_HOME: &str = "/var/cache/chaosrun/spark-4.3.0";
const SPARK_REPOSITORIES: [&str; 4] = ["apache/spark", "*/apache/spark", "spark", "docker.io/library/spark"];
/// Network tools: the host's own, with a `tc` in front that also works where the kernel has no netem.
const TOOLS_REPOSITORIES: [&str; 2] = ["nicolaka/netshoot", "*/nicolaka/netshoot"];
const TOOLS_PATH: &str = "/opt/chaosrun/tools:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Images that only live: the pods of doubles whose work the lab's process does, and the pause image.
const IDLE_REPOSITORIES: [&str; 3] = ["chaosrun/chaos-mesh-double", "*/pause", "pause"];
const PIPELINE_REPOSITORIES: [&str; 2] = ["chaosrun/pipeline", "*/chaosrun/pipeline"];

/// A Spark distribution on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparkHome {
    /// The folder with `bin`, `jars` and `python`.
    pub folder: PathBuf,
    /// Its version, as its jars say it.
    pub version: String,
}

/// Looks for Spark: `CHAOSRUN_SPARK_HOME`, else the folder that `scripts/install-spark.sh` fills. Java must be there,
/// too.
#[must_use]
pub fn find_spark() -> Option<SparkHome> {
    let folder =
        std::env::var_os("CHAOSRUN_SPARK_HOME").map_or_else(|| PathBuf::from(DEFAULT_SPARK_HOME), PathBuf::from);
    let java = std::env::var_os("JAVA_HOME").map_or_else(
        || PathBuf::from("/usr/bin/java"),
        |home| PathBuf::from(home).join("bin/java"),
    );
    if !folder.join("bin/spark-submit").is_file() || !java.exists() {
        return None;
    }
    let version = std::fs::read_dir(folder.join("jars"))
        .ok()?
        .flatten()
        .find_map(|entry| kubernetes_jar_version(entry.file_name().to_str()?))?;
    Some(SparkHome { folder, version })
}

/// `4.3.0` of `spark-kubernetes_2.13-4.3.0.jar`.
fn kubernetes_jar_version(name: &str) -> Option<String> {
    let rest = name.strip_prefix("spark-kubernetes_")?.strip_suffix(".jar")?;
    rest.split_once('-').map(|(_, version)| version.to_owned())
}

/// The lab's images. `program` is an executable of the lab whose `lab-internal pipeline` arguments lead to
/// [`crate::pipeline::main`].
#[must_use]
pub fn known_images(spark: Option<&SparkHome>, program: &Path) -> ImageTable {
    let mut table = ImageTable::new();
    if let Some(spark) = spark {
        let image = spark_image(spark);
        for repository in SPARK_REPOSITORIES {
            table.insert(repository, image.clone());
        }
    }
    let pipeline = Image {
        entrypoint: vec![INSIDE.to_owned(), "lab-internal".to_owned(), "pipeline".to_owned()],
        binds: vec![ImageBind {
            source: program.to_owned(),
            target: PathBuf::from(INSIDE),
            writable: false,
        }],
        // With an init the program can be killed from inside its container: PID 1 cannot.
        init: true,
        ..Image::default()
    };
    for repository in PIPELINE_REPOSITORIES {
        table.insert(repository, pipeline.clone());
    }
    for repository in IDLE_REPOSITORIES {
        let idle = Image {
            entrypoint: vec![INSIDE.to_owned(), "lab-internal".to_owned(), "idle".to_owned()],
            bare: true,
            ..pipeline.clone()
        };
        table.insert(repository, idle);
    }
    let tools = Image {
        entrypoint: vec!["/bin/bash".to_owned()],
        environment: std::collections::BTreeMap::from([("PATH".to_owned(), TOOLS_PATH.to_owned())]),
        binds: vec![ImageBind {
            source: program.to_owned(),
            target: PathBuf::from("/opt/chaosrun/tools/tc"),
            writable: false,
        }],
        ..Image::default()
    };
    for repository in TOOLS_REPOSITORIES {
        table.insert(repository, tools.clone());
    }
    for (pattern, image) in crate::controllers::prometheus::images(program) {
        table.insert(pattern, image);
    }
    table
}

fn spark_image(spark: &SparkHome) -> Image {
    let environment = [
        ("SPARK_HOME", "/opt/spark"),
        ("LANG", "C.UTF-8"),
        (SPARK_ENTRYPOINT_VARIABLE, SPARK_ENTRYPOINT),
    ];
    let mut environment: std::collections::BTreeMap<String, String> = environment
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    if let Ok(java_home) = std::env::var("JAVA_HOME") {
        environment.insert("JAVA_HOME".to_owned(), java_home);
    }
    Image {
        entrypoint: SPARK_ENTRYPOINT_COMMAND.map(str::to_owned).into(),
        environment,
        binds: vec![ImageBind {
            source: spark.folder.clone(),
            target: "/opt/spark".into(),
            writable: false,
        }],
        init: true,
        working_directory: Some("/opt/spark/work-dir".to_owned()),
        ..Image::default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn spark_is_known_under_its_usual_names_only_where_it_is_installed() {
        let spark = SparkHome {
            folder: "/spark".into(),
            version: "4.3.0".into(),
        };
        let table = known_images(Some(&spark), Path::new("/bin/chaosrun"));
        for name in [
            "apache/spark:4.0.1-python3",
            "docker.io/apache/spark",
            "r:5000/apache/spark:1",
            "spark:3",
            "docker.io/library/spark",
        ] {
            assert_eq!(
                table.find(name).unwrap().entrypoint.last().unwrap(),
                "entrypoint",
                "{name}"
            );
        }
        assert!(table.find("docker.io/chaosrun/pipeline:1").is_some());
        assert!(table.find("busybox:1.36").is_none());
        let without = known_images(None, Path::new("/bin/chaosrun"));
        assert!(without.find("apache/spark").is_none() && without.find("chaosrun/pipeline").is_some());
    }

    #[test]
    fn the_version_is_read_from_the_jar() {
        assert_eq!(
            kubernetes_jar_version("spark-kubernetes_2.13-4.3.0.jar").as_deref(),
            Some("4.3.0")
        );
        assert_eq!(kubernetes_jar_version("spark-core_2.13-4.3.0.jar"), None);
    }

    /// Runs the entry point with a Java that prints what it is given.
    fn entrypoint(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let print = "#!/bin/sh\nfor each in \"$@\"; do printf '%s\\n' \"$each\"; done\n";
        for (path, text) in [
            (folder.path().join("bin/java"), print),
            (folder.path().join("bin/spark-submit"), print),
        ] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let output = std::process::Command::new("/bin/sh")
            .args(SPARK_ENTRYPOINT_COMMAND.get(1..).unwrap())
            .args(arguments)
            .env_clear()
            .env(SPARK_ENTRYPOINT_VARIABLE, SPARK_ENTRYPOINT)
            .env("SPARK_HOME", folder.path())
            .env("JAVA_HOME", folder.path())
            .envs(environment.iter().copied())
            .current_dir("/")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout)
            .unwrap()
            .replace(&folder.path().display().to_string(), "HOME")
    }

    #[test]
    fn the_entry_point_starts_an_executor_with_its_options_in_order() {
        let environment = [
            ("SPARK_JAVA_OPT_0", "-Da=x y"),
            ("SPARK_JAVA_OPT_1", "-Db=$(id)"),
            ("SPARK_JAVA_OPT_10", "-Dc"),
            ("SPARK_EXECUTOR_MEMORY", "512m"),
            ("SPARK_DRIVER_URL", "spark://d@1.2.3.4:7078"),
            ("SPARK_EXECUTOR_ID", "7"),
            ("SPARK_EXECUTOR_CORES", "1"),
            ("SPARK_APPLICATION_ID", "spark-1"),
            ("SPARK_EXECUTOR_POD_IP", "1.2.3.5"),
            ("SPARK_RESOURCE_PROFILE_ID", "0"),
            ("SPARK_EXECUTOR_POD_NAME", "p-exec-7"),
            ("SPARK_CONF_DIR", "/opt/spark/conf"),
        ];
        let lines = entrypoint(&["executor"], &environment);
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "-Da=x y",
                "-Db=$(id)",
                "-Dc",
                "-Xms512m",
                "-Xmx512m",
                "-cp",
                "/opt/spark/conf:HOME/jars/*:/",
                "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend",
                "--driver-url",
                "spark://d@1.2.3.4:7078",
                "--executor-id",
                "7",
                "--cores",
                "1",
                "--app-id",
                "spark-1",
                "--hostname",
                "1.2.3.5",
                "--resourceProfileId",
                "0",
                "--podName",
                "p-exec-7",
            ]
        );
    }

    #[test]
    fn the_entry_point_starts_a_driver_in_client_mode_and_anything_else_as_it_is() {
        let environment = [("SPARK_DRIVER_BIND_ADDRESS", "1.2.3.4")];
        let lines = entrypoint(&["driver", "--class", "C", "r", "a b"], &environment);
        assert_eq!(
            lines.lines().collect::<Vec<_>>(),
            [
                "--conf",
                "spark.driver.bindAddress=1.2.3.4",
                "--conf",
                "spark.executorEnv.SPARK_DRIVER_POD_IP=1.2.3.4",
                "--deploy-mode",
                "client",
                "--class",
                "C",
                "r",
                "a b",
            ]
        );
        assert_eq!(entrypoint(&["echo", "x"], &[]), "x\n");
    }
}
