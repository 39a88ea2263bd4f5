// SPDX-License-Identifier: Apache-2.0
//! Which variables of the environment are settings, and which only look like some.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::ENV_PREFIX;

/// Which file to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum File {
    /// [`DEFAULT_FILE`](super::DEFAULT_FILE), if it is there.
    #[default]
    Default,
    /// This one; it is an error when it is missing.
    Named(PathBuf),
    #[cfg_attr(not(feature = "internals"), expect(dead_code, reason = "tests read no file of the machine"))]
    None,
}

/// Names the configuration file, where no flag does.
pub const FILE_VARIABLE: &str = "BIANQUE_CONFIG";

/// The file that a flag or [`FILE_VARIABLE`] names, else the default one.
#[must_use]
pub fn file(flag: Option<PathBuf>, env: &BTreeMap<String, String>) -> File {
    let variable = || env.get(FILE_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
    flag.or_else(variable).map_or(File::Default, File::Named)
}

/// The variables that are settings of ours, by key.
pub fn settings(env: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str, &str)> {
    let services = services(env);
    env.iter().filter_map(move |(name, value)| {
        let key = name.strip_prefix(ENV_PREFIX)?;
        let is_setting = name != FILE_VARIABLE && !services.iter().any(|s| is_link(name, s));
        is_setting.then_some((name.as_str(), key, value.as_str()))
    })
}

/// Without the variables that the kubelet (or a runtime's `--link`) made for services: a Service named
/// `otel-gateway` becomes `OTEL_GATEWAY_PORT` and more of the kind.
#[must_use]
pub fn without_links(env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let services = services(env);
    let is_own = |name: &str| !services.iter().any(|s| is_link(name, s));
    env.iter().filter(|(name, _)| is_own(name)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// One warning for each service whose variables look like settings of ours.
pub fn link_warnings(env: &BTreeMap<String, String>) -> impl Iterator<Item = String> {
    let ours = |s: &String| format!("{s}_").starts_with(ENV_PREFIX);
    services(env).into_iter().filter(ours).map(|s| {
        format!(
            "{s}_PORT and the like are variables of a Kubernetes Service, not settings; ignored (`enableServiceLinks: \
             false` in the pod's spec keeps them out)"
        )
    })
}

/// Prefixes of the variables made for services, by what each service has in any case (Kubernetes,
/// `getServiceEnvVars` in `pkg/kubelet/envvars/envvars.go`; Docker's legacy links have the second form only).
fn services(env: &BTreeMap<String, String>) -> BTreeSet<String> {
    let is_url = |v: &str| ["tcp://", "udp://", "sctp://"].iter().any(|scheme| v.starts_with(scheme));
    env.iter()
        .filter_map(|(name, value)| match name.strip_suffix("_SERVICE_HOST") {
            Some(prefix) if env.contains_key(&format!("{prefix}_SERVICE_PORT")) => Some(prefix),
            _ => name.strip_suffix("_PORT").filter(|_| is_url(value)),
        })
        .map(str::to_owned)
        .collect()
}

fn is_link(name: &str, service: &str) -> bool {
    let Some(rest) = name.strip_prefix(service) else { return false };
    let below = |part: &str| rest.strip_prefix(part).is_some_and(|r| r.is_empty() || r.starts_with('_'));
    rest == "_SERVICE_HOST" || below("_SERVICE_PORT") || below("_PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(names: &[(&str, &str)]) -> BTreeMap<String, String> {
        names.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    /// Variables of services are no settings, whatever part of our prefix the service's name is.
    #[test]
    fn variables_of_services_are_no_settings() {
        for service in ["BIANQUE", "BIANQUE_GATEWAY", "BIANQUE_STORE", "BIANQUE__STORE"] {
            let of = |suffix: &str, value: &str| (format!("{service}{suffix}"), value.to_owned());
            let mut env: BTreeMap<_, _> = [
                of("_SERVICE_HOST", "10.96.12.7"),
                of("_SERVICE_PORT", "4317"),
                of("_SERVICE_PORT_OTLP_GRPC", "4317"),
                of("_PORT", "tcp://10.96.12.7:4317"),
                of("_PORT_4317_TCP", "tcp://10.96.12.7:4317"),
                of("_PORT_4317_TCP_PROTO", "tcp"),
                of("_PORT_4317_TCP_PORT", "4317"),
                of("_PORT_4317_TCP_ADDR", "10.96.12.7"),
            ]
            .into();
            env.insert("BIANQUE_STORE__PATH".into(), "/x".into());
            env.insert("BIANQUE_STROE__PATH".into(), "/y".into());
            let found: Vec<_> = settings(&env).collect();
            // A wrong name of a setting stays one: it is for the check to refuse.
            let expected = [("BIANQUE_STORE__PATH", "STORE__PATH", "/x"), ("BIANQUE_STROE__PATH", "STROE__PATH", "/y")];
            assert_eq!(found, expected, "{service}");
            let warnings: Vec<_> = link_warnings(&env).collect();
            assert!(warnings.len() == 1 && warnings[0].starts_with(service), "{warnings:?}");
        }
    }

    /// What only resembles such a variable is a setting still.
    #[test]
    fn other_ports_are_settings() {
        let env =
            env(&[("BIANQUE_X_PORT", "4317"), ("BIANQUE_Y_SERVICE_HOST", "h"), ("OTEL_A_PORT", "udp://1.2.3.4:1")]);
        assert_eq!(settings(&env).count(), 2);
        assert_eq!(link_warnings(&env).count(), 0);
        assert_eq!(without_links(&env).len(), 2);
    }

    /// A flag names the file before the variable does; an empty variable names none.
    #[test]
    fn file_of_flag_or_variable() {
        let variable = env(&[(FILE_VARIABLE, "/v")]);
        assert_eq!(file(None, &variable), File::Named("/v".into()));
        assert_eq!(file(Some("/f".into()), &variable), File::Named("/f".into()));
        assert_eq!(file(None, &env(&[(FILE_VARIABLE, "")])), File::Default);
        assert_eq!(settings(&variable).count(), 0);
    }
}
