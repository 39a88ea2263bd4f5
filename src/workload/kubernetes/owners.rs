// SPDX-License-Identifier: Apache-2.0
//! Who made a pod: from its owner references where they are known, else from the labels that the
//! controllers put on their pods.

use std::collections::BTreeMap;

use crate::signal::Owners;
use crate::signal::semconv::attr;

/// Set by a Deployment's controller on ReplicaSets and pods; it ends the ReplicaSet's name
/// (pkg/controller/deployment/sync.go).
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Set by the controllers of StatefulSets and DaemonSets (staging/src/k8s.io/api/apps/v1/types.go).
const REVISION_HASH: &str = "controller-revision-hash";
const STATEFULSET_POD: &str = "statefulset.kubernetes.io/pod-name";
/// Set by the Job controller, the second before 1.27 only.
const JOB_NAMES: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

type Labels = BTreeMap<String, String>;

/// By the pod's controller as its owner reference names it.
pub(super) fn by_reference(kind: &str, name: &str, labels: &Labels) -> Owners {
    match kind {
        "ReplicaSet" => of_replicaset(name, labels),
        "StatefulSet" => [(attr::K8S_STATEFULSET_NAME, name.to_owned())].into(),
        "DaemonSet" => [(attr::K8S_DAEMONSET_NAME, name.to_owned())].into(),
        "Job" => of_job(name),
        // A static pod's owner is the node; other kinds are people's own.
        _ => Owners::default(),
    }
}

/// By the labels alone, as the runtime has them.
pub(super) fn by_labels(pod: &str, labels: &Labels) -> Owners {
    if let Some(hash) = labels.get(TEMPLATE_HASH) {
        // REPLICASET-RANDOM, and the ReplicaSet's name ends in the hash.
        return match pod.rsplit_once('-').filter(|(set, _)| set.ends_with(&format!("-{hash}"))) {
            Some((set, _)) => of_replicaset(set, labels),
            None => Owners::default(),
        };
    }
    if let Some(job) = JOB_NAMES.iter().find_map(|k| labels.get(*k)) {
        return of_job(job);
    }
    if !labels.contains_key(REVISION_HASH) {
        return Owners::default();
    }
    // NAME-ORDINAL of a StatefulSet, NAME-RANDOM of a DaemonSet.
    let Some((name, _)) = pod.rsplit_once('-') else { return Owners::default() };
    let key = if labels.contains_key(STATEFULSET_POD) { attr::K8S_STATEFULSET_NAME } else { attr::K8S_DAEMONSET_NAME };
    [(key, name.to_owned())].into()
}

/// A ReplicaSet of a Deployment is named DEPLOYMENT-HASH.
fn of_replicaset(set: &str, labels: &Labels) -> Owners {
    let hash = labels.get(TEMPLATE_HASH);
    let deployment = hash.and_then(|h| set.strip_suffix(h.as_str())?.strip_suffix('-')).filter(|d| !d.is_empty());
    let deployment = deployment.map(|d| (attr::K8S_DEPLOYMENT_NAME, d.to_owned()));
    deployment.into_iter().chain([(attr::K8S_REPLICASET_NAME, set.to_owned())]).collect()
}

/// A CronJob names its Jobs NAME-MINUTES, minutes since the epoch (pkg/controller/cronjob/utils.go):
/// eight digits from 1989 to 2160.
fn of_job(job: &str) -> Owners {
    let scheduled = |digits: &str| digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit());
    let cron = job.rsplit_once('-').filter(|(_, digits)| scheduled(digits));
    let cron = cron.map(|(name, _)| (attr::K8S_CRONJOB_NAME, name.to_owned()));
    [(attr::K8S_JOB_NAME, job.to_owned())].into_iter().chain(cron).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(owners: &Owners) -> Vec<(&str, &str)> {
        owners.iter().map(|(k, n)| (k.name, n.as_str())).collect()
    }

    /// What controllers write, read with and without the reference.
    #[test]
    fn each_controller() {
        let labels = |l: &[(&str, &str)]| l.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Labels>();
        let deployed = labels(&[("app", "shop"), (TEMPLATE_HASH, "6d4cf56db6")]);
        let want = [("k8s.deployment.name", "my-shop"), ("k8s.replicaset.name", "my-shop-6d4cf56db6")];
        assert_eq!(names(&by_labels("my-shop-6d4cf56db6-x7k2p", &deployed)), want);
        assert_eq!(names(&by_reference("ReplicaSet", "my-shop-6d4cf56db6", &deployed)), want);
        assert_eq!(names(&by_labels("somebody-elses-name", &deployed)), []);
        let alone = labels(&[]);
        assert_eq!(names(&by_reference("ReplicaSet", "alone", &alone)), [("k8s.replicaset.name", "alone")]);

        let stateful = labels(&[(REVISION_HASH, "db-7c9"), (STATEFULSET_POD, "db-0")]);
        assert_eq!(names(&by_labels("db-0", &stateful)), [("k8s.statefulset.name", "db")]);
        let daemon = labels(&[(REVISION_HASH, "55bb")]);
        assert_eq!(names(&by_labels("node-exporter-tx8tv", &daemon)), [("k8s.daemonset.name", "node-exporter")]);

        let job = labels(&[("job-name", "backup-29391840")]);
        let want = [("k8s.job.name", "backup-29391840"), ("k8s.cronjob.name", "backup")];
        assert_eq!(names(&by_labels("backup-29391840-abcde", &job)), want);
        assert_eq!(names(&by_reference("Job", "once", &alone)), [("k8s.job.name", "once")]);
        assert_eq!(names(&by_reference("Node", "n1", &alone)), []);
        assert_eq!(names(&by_labels("plain", &alone)), []);
    }
}
