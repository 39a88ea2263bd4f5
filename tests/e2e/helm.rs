// SPDX-License-Identifier: Apache-2.0
//! The Helm chart, by the real Helm: what it renders is what Kubernetes takes, and a configuration
//! that the agent takes; what cannot be is refused before anything reaches a cluster.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/helm/bianque");

/// Of `tests/backends/helm`.
fn program(name: &str) -> Command {
    let dir = std::env::var_os("BACKENDS_DIR").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var("HOME").unwrap_or_else(|_| "/root".into());
        Path::new(&home).join(".cache/bianque/backends")
    });
    let mut c = Command::new(dir.join("helm/bin").join(name));
    // It keeps nothing of whoever runs it.
    c.env("HELM_CONFIG_HOME", "/nonexistent").env("HELM_CACHE_HOME", "/nonexistent").stdin(Stdio::null());
    c
}

fn helm(command: &[&str], values: &[&str]) -> Output {
    let mut c = program("helm");
    c.args(command).args(values);
    c.output().expect("helm: run tests/backends/helm/install")
}

/// The chart's manifests for a release `seen` in the namespace `obs`.
fn rendered(version: &str, values: &[&str]) -> Result<String, String> {
    let out = helm(&["template", "seen", CHART, "--namespace", "obs", "--kube-version", version], values);
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    if out.status.success() { Ok(text(&out.stdout)) } else { Err(text(&out.stderr)) }
}

/// The files of values that the chart is tested with.
fn cases() -> Vec<String> {
    let files = std::fs::read_dir(Path::new(CHART).join("ci")).unwrap().flatten();
    let mut files: Vec<String> = files.map(|f| f.path().display().to_string()).collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

/// The file that a ConfigMap of the manifests holds.
fn configuration(manifests: &str) -> String {
    let block = manifests.split("config.toml: |\n").nth(1).expect("a ConfigMap with the configuration");
    let lines = block.lines().take_while(|l| l.is_empty() || l.starts_with("    "));
    lines.fold(String::new(), |text, l| text + l.trim_start() + "\n")
}

/// Every case is well formed, is what Kubernetes takes, old and new, and configures the agent.
#[test]
fn every_case_is_taken() {
    for values in cases() {
        let values = ["--values", values.as_str()];
        let out = helm(&["lint", "--strict", CHART, "--kube-version", "1.34.0"], &values);
        assert!(out.status.success(), "{values:?}: {}", String::from_utf8_lossy(&out.stdout));
        for version in ["1.25.0", "1.30.0", "1.34.0"] {
            let manifests = rendered(version, &values).unwrap();
            let mut check = program("manifests")
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            check.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
            let out = check.wait_with_output().unwrap();
            assert!(out.status.success(), "{values:?} {version}: {}", String::from_utf8_lossy(&out.stderr));
            assert!(String::from_utf8_lossy(&out.stdout).contains("DaemonSet"), "{manifests}");

            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(configuration(&manifests).as_bytes()).unwrap();
            let mut agent = Command::new(env!("CARGO_BIN_EXE_bianque"));
            let out = agent.env_clear().args(["config", "check", "--config"]).arg(file.path()).output().unwrap();
            assert!(out.status.success(), "{values:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

/// The reader of manifests refuses what Kubernetes would.
#[test]
fn faulty_manifests_are_found() {
    let good = rendered("1.34.0", &[]).unwrap();
    for (right, wrong, why) in [
        ("hostPID: true", "hostPid: true", "unknown field \"spec.template.spec.hostPid\""),
        ("privileged: false", "privileged: true", "is privileged"),
        ("name: store, mountPath", "name: stor, mountPath", "no such volume"),
        ("port: http\n", "port: htp\n", "asks no port of the container"),
        ("kind: DaemonSet", "kind: DaemonSets", "no kind \"DaemonSets\""),
    ] {
        assert!(good.contains(right), "{right:?} is not in the manifests");
        let mut check =
            program("manifests").stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        check.stdin.take().unwrap().write_all(good.replace(right, wrong).as_bytes()).unwrap();
        let out = check.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(why), "{wrong}: {said}");
    }
}

/// By default: no privileges, only named capabilities, nothing writable but the store, and nobody
/// beyond the node is answered.
#[test]
fn defaults_are_tight() {
    let manifests = rendered("1.34.0", &[]).unwrap();
    for line in [
        "privileged: false",
        "enableServiceLinks: false",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
        "type: RuntimeDefault",
        "resources: [nodes/pods]",
        "http.listen = \"127.0.0.1:9774\"",
    ] {
        assert!(manifests.contains(line), "{line:?} is not in\n{manifests}");
    }
    // What a node may lack keeps the pod from starting.
    assert!(!manifests.contains("type: File}") && !manifests.contains("type: Socket"), "{manifests}");
    assert!(rendered("1.32.0", &[]).unwrap().contains("resources: [nodes/proxy]"), "older kubelets know only that");
    let mounts = manifests.lines().filter(|l| l.contains("mountPath:") && !l.contains("readOnly: true"));
    let writable: Vec<&str> = mounts.filter_map(|l| l.split("name: ").nth(1)?.split(',').next()).collect();
    assert_eq!(writable, ["store", "run"]);
    assert!(!manifests.contains("SYS_ADMIN"), "{manifests}");
}

/// Dashboards and alerts come when they are asked for: those of the project's folder, whole.
#[test]
fn monitoring_is_brought_along() {
    let values = ["--set", "prometheusRule.enabled=true,dashboards.enabled=true"];
    let manifests = rendered("1.34.0", &values).unwrap();
    let none = rendered("1.34.0", &[]).unwrap();
    for kind in ["kind: PrometheusRule", "grafana_dashboard: "] {
        assert!(manifests.contains(kind) && !none.contains(kind), "{kind}");
    }
    let lines: std::collections::HashSet<&str> = manifests.lines().map(str::trim_start).collect();
    for (path, text) in bianque::cli::monitoring::files(bianque::collectors::BUILT_IN) {
        let file = path.rsplit('/').next().unwrap();
        assert!(path.ends_with(".yaml") || manifests.contains(&format!("bianque-{file}: |")), "{path}");
        for line in text.lines().map(str::trim_start) {
            assert!(lines.contains(line), "{path}: {line:?} is not in the manifests");
        }
    }
}

/// Values that cannot be are refused, and the message names them.
#[test]
fn wrong_values_are_refused() {
    for (set, named) in [
        ("imagee.tag=x", "imagee"),
        ("http.port=99999", "http/port"),
        ("http.address=localhost", "http/address"),
        ("http.address=0.0.0.0", "http.tokenSecret"),
        ("http.tlsSecret.clientCa=true", "http.tlsSecret.name"),
        ("capabilities={SYS_ADMIN}", "capabilities"),
        ("config.http.listen=0.0.0.0:1", "config"),
        ("rbac.kubeletResource=pods", "kubeletResource"),
        ("serviceMonitor.enabled=true", "serviceMonitor"),
        ("updateStrategy.type=Recreate", "updateStrategy"),
        ("store.hostPath=relative", "hostPath"),
        ("env[0].name=A", "env"),
    ] {
        let Err(said) = rendered("1.34.0", &["--set", set]) else { panic!("{set} is taken") };
        assert!(said.contains(named), "{set}: {said}");
    }
    let said = rendered("1.24.0", &[]).expect_err("an old cluster is taken");
    assert!(said.contains("kubeVersion"), "{said}");
}
