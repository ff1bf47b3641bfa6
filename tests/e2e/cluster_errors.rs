//! Clusters that cannot be used: a clear message and the right exit code, each.

use crate::support::{ApiDouble, DEPLOYMENT_EXPERIMENT, Script, file, kubeconfig, run, texts};

fn run_against(script: Script) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let double = ApiDouble::start(script);
    let config = kubeconfig(folder.path(), double.port);
    file(folder.path(), "web.yaml", DEPLOYMENT_EXPERIMENT);
    run(folder.path(), &["--kubeconfig", config.to_str().unwrap(), "web.yaml"])
}

fn assert_failure(output: &std::process::Output, code: i32, wanted: &[&str]) {
    let text = texts(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in wanted {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn an_unreachable_cluster_is_69_and_says_which_address() {
    let folder = tempfile::tempdir().unwrap();
    // Bound and dropped: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = kubeconfig(folder.path(), port);
    file(folder.path(), "web.yaml", DEPLOYMENT_EXPERIMENT);
    let output = run(folder.path(), &["--kubeconfig", config.to_str().unwrap(), "web.yaml"]);
    assert_failure(
        &output,
        69,
        &["cannot reach the API server at", &port.to_string(), "hint:"],
    );
    assert!(
        !folder
            .path()
            .join("reports")
            .read_dir()
            .is_ok_and(|mut entries| entries.next().is_some()),
        "no run folder is left"
    );
}

#[test]
fn a_deaf_api_server_is_69_within_its_deadline() {
    assert_failure(&run_against(Script::Deaf), 69, &["no answer within", "hint:"]);
}

#[test]
fn an_api_that_hangs_after_the_first_call_is_69() {
    assert_failure(
        &run_against(Script::Hangs),
        69,
        &["read Deployment shop/web", "no answer within"],
    );
}

#[test]
fn an_api_that_answers_403_is_77_and_names_the_call() {
    assert_failure(
        &run_against(Script::Always(403)),
        77,
        &["read Deployment shop/web", "403", "hint:"],
    );
}

#[test]
fn an_api_that_answers_429_is_69_and_is_not_hammered() {
    assert_failure(&run_against(Script::Always(429)), 69, &["429"]);
}

#[test]
fn an_api_that_answers_500_is_69_and_says_what_it_answered() {
    assert_failure(&run_against(Script::Always(500)), 69, &["500", "the double says 500"]);
}

#[test]
fn a_missing_kubeconfig_is_69_and_names_the_file() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "web.yaml", DEPLOYMENT_EXPERIMENT);
    let output = run(folder.path(), &["--kubeconfig", "nowhere.yaml", "web.yaml"]);
    assert_failure(&output, 69, &["nowhere.yaml"]);
}

#[test]
fn a_missing_experiment_file_is_64() {
    let folder = tempfile::tempdir().unwrap();
    assert_failure(
        &run(folder.path(), &["nowhere.yaml"]),
        64,
        &["cannot find nowhere.yaml"],
    );
}

#[test]
fn a_scenario_of_ten_megabytes_is_65_and_quick() {
    let folder = tempfile::tempdir().unwrap();
    let big = format!("{DEPLOYMENT_EXPERIMENT}\n# {}\n", "x".repeat(10 * 1024 * 1024));
    file(folder.path(), "big.yaml", &big);
    assert_failure(&run(folder.path(), &["validate", "big.yaml"]), 65, &["big.yaml"]);
}

#[test]
fn an_alias_bomb_is_65_and_uses_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let alias = format!("*a{}", level - 1);
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [alias.as_str(); 10].join(", ")));
    }
    file(folder.path(), "bomb.yaml", &bomb);
    assert_failure(&run(folder.path(), &["validate", "bomb.yaml"]), 65, &["bomb.yaml"]);
}

#[test]
fn a_variable_that_no_file_uses_is_64() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "web.yaml", DEPLOYMENT_EXPERIMENT);
    assert_failure(
        &run(folder.path(), &["validate", "--var", "TYPO=1", "web.yaml"]),
        64,
        &["TYPO"],
    );
}

#[test]
fn two_experiments_of_one_name_in_two_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "a.yaml", DEPLOYMENT_EXPERIMENT);
    file(folder.path(), "b.yaml", DEPLOYMENT_EXPERIMENT);
    assert_failure(
        &run(folder.path(), &["validate", "a.yaml", "b.yaml"]),
        65,
        &["experiment \"web\" is in a.yaml and in b.yaml"],
    );
}
