// SPDX-License-Identifier: Apache-2.0
//! Paths of cgroups as nodes have them.

use super::*;
use proptest::prelude::*;

const ID: &str = "28d402025fb48c08c89210e4aff98eac4086db94f8874abe933d2b07a68495e7";
const OUTER: &str = "e573a7f56331c8dc5a5172b7e168c2b4ced1d49b36ec88b08f11aa5a49c133e2";
const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
const UID_: &str = "0a1b2c3d_1111_2222_3333_444455556666";

/// Real paths of containers: runtime, pod and how much of the path is the container's. `ID` and so on stand for the
/// ids; `|` marks where the workload's path ends.
const CONTAINERS: &[(&str, Option<&str>, Option<&str>)] = &[
    // Docker: cgroupfs, systemd, rootless, own parent.
    ("/docker/ID|", Some(DOCKER), None),
    ("/docker/ID|/init.scope", Some(DOCKER), None),
    ("/docker/ID|/system.slice/nginx.service", Some(DOCKER), None),
    ("/system.slice/docker-ID.scope|", Some(DOCKER), None),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope|", Some(DOCKER), None),
    ("/batch/ID|", None, None),
    // containerd.
    ("/kubepods/burstable/podUID/ID|", Some(CONTAINERD), Some(UID)),
    ("/kubepods/podUID/ID|", Some(CONTAINERD), Some(UID)),
    (
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope|",
        Some(CONTAINERD),
        Some(UID_),
    ),
    ("/kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope|/app", Some(CONTAINERD), Some(UID_)),
    (
        "/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID|",
        Some(CONTAINERD),
        Some(UID_),
    ),
    ("/system.slice/nerdctl-ID.scope|", Some(CONTAINERD), None),
    ("/default/ID|", None, None),
    // CRI-O.
    (
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/crio-ID.scope|",
        Some(CRI_O),
        Some(UID_),
    ),
    ("/kubepods/besteffort/podUID/crio-ID|", Some(CRI_O), Some(UID)),
    (
        "/kubepods.slice/kubepods-pod0a1b2c3d111122223333444455556666.slice/crio-ID.scope|/container",
        Some(CRI_O),
        Some("0a1b2c3d111122223333444455556666"),
    ),
    // Docker's shim for Kubernetes, with each driver.
    ("/kubepods.slice/kubepods-podUID_.slice/docker-ID.scope|", Some(DOCKER), Some(UID_)),
    // A kubelet with a --cgroup-root of its own; k3s in its unit.
    (
        "/node.slice/node-kubepods.slice/node-kubepods-podUID_.slice/cri-containerd-ID.scope|",
        Some(CONTAINERD),
        Some(UID_),
    ),
    ("/system.slice/k3s.service/kubepods/burstable/podUID/ID|", Some(CONTAINERD), Some(UID)),
    // podman: cgroupfs, systemd, in a pod, rootless, with its inner `container` cgroup.
    ("/libpod_parent/libpod-ID|", Some(PODMAN), None),
    ("/machine.slice/libpod-ID.scope|", Some(PODMAN), None),
    ("/machine.slice/libpod-ID.scope|/container", Some(PODMAN), None),
    ("/machine.slice/machine-libpod_pod_OUTER.slice/libpod-ID.scope|/container", Some(PODMAN), None),
    ("/libpod_parent/OUTER/libpod-ID|", Some(PODMAN), None),
    ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope|/container", Some(PODMAN), None),
    // Quadlet: the unit, split by podman.
    ("/system.slice/web.service/libpod-payload-ID|", Some(PODMAN), None),
    ("/system.slice/web.service/libpod-payload-ID|/init.scope", Some(PODMAN), None),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-ID|", Some(PODMAN), None),
    // systemd's form of a path, taken literally.
    ("/system.slice:docker:ID|", Some(DOCKER), None),
    ("/docker/OUTER/machine.slice:libpod:ID|", Some(PODMAN), None),
    ("/kubepods-besteffort-podUID_.slice:crio:ID|", Some(CRI_O), Some(UID_)),
    ("/system.slice:nerdctl:ID|", Some(CONTAINERD), None),
    ("/:example:ID|", None, None),
    // Kata.
    ("/kubepods/burstable/podUID/kata_ID|", None, Some(UID)),
    ("/kata_overhead/ID|", None, None),
    // Nested: the innermost wins (kind; Docker in Docker; podman in Docker).
    (
        "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podUID_.slice/cri-containerd-ID.scope|",
        Some(CONTAINERD),
        Some(UID_),
    ),
    ("/docker/OUTER/kubelet/kubepods/burstable/podUID/ID|", Some(CONTAINERD), Some(UID)),
    ("/docker/OUTER/docker/ID|", Some(DOCKER), None),
    ("/system.slice/docker-OUTER.scope/docker/ID|/init.scope", Some(DOCKER), None),
    ("/docker/OUTER/system.slice/docker-ID.scope|", Some(DOCKER), None),
    ("/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service/docker/ID|", Some(DOCKER), None),
    ("/libpod_parent/libpod-OUTER/libpod_parent/libpod-ID|", Some(PODMAN), None),
    ("/machine.slice/libpod-OUTER.scope/container/kubelet/kubepods/podUID/crio-ID|", Some(CRI_O), Some(UID)),
    ("/system.slice/docker-OUTER.scope/libpod_parent/libpod-ID|", Some(PODMAN), None),
    ("/lxc.payload.web/system.slice/docker-ID.scope|", Some(DOCKER), None),
    ("/machine.slice/systemd-nspawn@web.service/payload/docker/ID|", Some(DOCKER), None),
    ("/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0/docker/ID|", Some(DOCKER), None),
];

/// Each of them, and whatever is made below it.
#[test]
fn containers() {
    for (template, runtime, pod) in CONTAINERS {
        let path = real(template);
        let full = path.replace('|', "");
        let want = Identity {
            path: path.split('|').next().unwrap(),
            container: Some(Container { id: ID, runtime: *runtime, is_guest: false }),
            unit: None,
            pod: *pod,
        };
        for below in ["", "/init.scope", "/system.slice/x.service", "/a/b", "/job_1/step_0", "/machine.slice"] {
            assert_eq!(identify(&format!("{full}{below}")), Some(want), "{template}{below}");
        }
    }
}

/// The level of the tree that holds the pod gives its QoS class, with each driver and nested.
#[test]
fn classes() {
    for (template, class) in [
        ("/kubepods/burstable/podUID/ID", Some(QosClass::Burstable)),
        ("/kubepods/besteffort/podUID", Some(QosClass::BestEffort)),
        ("/kubepods/podUID/crio-ID", Some(QosClass::Guaranteed)),
        ("/kubepods.slice/kubepods-podUID_.slice/cri-containerd-ID.scope", Some(QosClass::Guaranteed)),
        ("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice", Some(QosClass::Burstable)),
        (
            "/system.slice/containerd.service/kubepods-besteffort-podUID_.slice:cri-containerd:ID",
            Some(QosClass::BestEffort),
        ),
        ("/docker/OUTER/kubelet/kubepods/burstable/podUID/ID", Some(QosClass::Burstable)),
        (
            "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID_.slice",
            Some(QosClass::Guaranteed),
        ),
        ("/batch/podUID/ID", None),
        ("/docker/ID", None),
    ] {
        assert_eq!(qos_of(&real(template)), class, "{template}");
    }
}

/// A guest's units are the guest's, not the node's.
#[test]
fn guests() {
    for (template, name, runtime) in [
        ("/machine.slice/systemd-nspawn@web.service|/payload/system.slice/nginx.service", "web", NSPAWN),
        ("/machine.slice/systemd-nspawn@web.service|/supervisor", "web", NSPAWN),
        ("/machine.slice/machine-web\\x2d1.scope|/payload/init.scope", "web\\x2d1", NSPAWN),
        ("/lxc.payload.web|/system.slice/nginx.service", "web", LXC),
        ("/lxc.payload/web|/init.scope", "web", LXC),
        ("/lxc/101|/ns/system.slice/cron.service", "101", LXC),
        ("/user.slice/user-1000.slice/session-3.scope/lxc.payload.web|", "web", LXC),
        ("/machine.slice/machine-lxc\\x2d1\\x2dweb.scope|", "lxc\\x2d1\\x2dweb", LXC),
    ] {
        let full = template.replace('|', "");
        let container = Some(Container { id: name, runtime: Some(runtime), is_guest: true });
        let want = Identity { path: template.split('|').next().unwrap(), container, unit: None, pod: None };
        assert_eq!(identify(&full), Some(want), "{template}");
    }
}

/// Each job of a batch system is a workload, with its steps and tasks.
#[test]
fn batch_jobs() {
    for template in [
        "/system.slice/slurmstepd.scope/job_4711|/step_0/user/task_0",
        "/system.slice/node7_slurmstepd.scope/job_4711|/step_batch",
        "/slurm/uid_1000/job_4711|/step_0/task_0",
        "/slurm_node7/uid_1000/job_4711|",
        "/htcondor/condor_var_lib_condor_execute_slot1_1@node7|",
        "/system.slice/condor.service/condor_var_lib_condor_execute_slot1@node7|/x",
        "/pbs_jobs.service/jobid/4711.head|",
        "/pbspro/4711.head|/x",
        "/pbspro.slice/pbspro-4711.head.slice|",
        "/lsf/cluster1/job.4711.22333.1700000000|",
    ] {
        let full = template.replace('|', "");
        let want = Identity { path: template.split('|').next().unwrap(), container: None, unit: None, pod: None };
        assert_eq!(identify(&full), Some(want), "{template}");
    }
}

fn real(template: &str) -> String {
    template.replace("OUTER", OUTER).replace("UID_", UID_).replace("UID", UID).replace("ID", ID)
}

/// Real paths that are no containers: units, pods and plain cgroups.
#[test]
fn others() {
    let table: &[(&str, Option<&str>, Option<&str>)] = &[
        ("/system.slice/nginx.service|", Some("nginx.service"), None),
        ("/system.slice/nginx.service|/worker", Some("nginx.service"), None),
        ("/init.scope|", Some("init.scope"), None),
        ("/user.slice/user-1000.slice/session-3.scope|", Some("session-3.scope"), None),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-term.scope|", Some("app-term.scope"), None),
        ("/system.slice/system-getty.slice/getty@tty1.service|", Some("getty@tty1.service"), None),
        (
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope|/libvirt/emulator",
            Some("machine-qemu\\x2d1\\x2dvm.scope"),
            None,
        ),
        ("/system.slice/slurmstepd.scope|/system", Some("slurmstepd.scope"), None),
        ("/lxc.monitor.web|", None, None),
        // No job of Slurm's.
        ("/system.slice/runner.service|/job_4711", Some("runner.service"), None),
        // Helpers of a runtime are no containers.
        ("/machine.slice/libpod-conmon-ID.scope|", Some("libpod-conmon-ID.scope"), None),
        ("/kubepods.slice/kubepods-podUID_.slice/crio-conmon-ID.scope|", Some("crio-conmon-ID.scope"), Some(UID_)),
        ("/libpod_parent/conmon|", None, None),
        // A pod as a whole, with each driver, and a static pod.
        ("/kubepods/burstable/podUID|", None, Some(UID)),
        ("/kubepods.slice/kubepods-podUID_.slice|", None, Some(UID_)),
        ("/kubepods/pod0a1b2c3d111122223333444455556666|", None, Some("0a1b2c3d111122223333444455556666")),
        ("/libpod_parent/OUTER|", None, None),
        // Plain.
        ("/kubepods/burstable|", None, None),
        ("/user.slice|", None, None),
        ("/podium/x|", None, None),
        ("/docker/ID0|", None, None),
        ("/.service|", None, None),
    ];
    for (template, unit, pod) in table {
        let path = real(template);
        let full = path.replace('|', "");
        let unit = unit.map(real);
        let want =
            Identity { path: path.split('|').next().unwrap(), container: None, unit: unit.as_deref(), pod: *pod };
        assert_eq!(identify(&full), Some(want), "{template}");
    }
    assert_eq!(identify("/"), None);
    assert_eq!(identify(""), None);
}

proptest! {
    /// No path makes it panic, and the workload's path is always a prefix at a folder's end.
    #[test]
    fn any_path(path in "(?s)(/(docker|kubepods|pod.{0,36}|libpod-[0-9a-f]{63,65}|[0-9a-f]{64}|.{0,12}(\\.scope|\\.slice)?)){0,6}") {
        if let Some(i) = identify(&path) {
            prop_assert!(path.starts_with(i.path));
            let rest = &path[i.path.len()..];
            prop_assert!(rest.is_empty() || rest.starts_with('/'));
        }
    }
}
