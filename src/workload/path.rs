// SPDX-License-Identifier: Apache-2.0
//! Cgroup path → container, guest, pod, systemd unit, batch job. Every runtime's way to name cgroups is one line of
//! [`RUNTIMES`].

use crate::signal::QosClass;

/// What can be derived from a cgroup's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<'p> {
    /// The cgroup that is the workload: the path itself or an ancestor that it folds into.
    pub path: &'p str,
    pub container: Option<Container<'p>>,
    /// systemd unit, when it is no container.
    pub unit: Option<&'p str>,
    /// Pod UID as it stands in the path, `_` in place of `-` with the systemd driver.
    pub pod: Option<&'p str>,
}

/// A container as its path names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container<'p> {
    /// 64 hex digits; of a guest its name.
    pub id: &'p str,
    /// `None`: not in the path.
    pub runtime: Option<&'static str>,
    /// Whether it is a whole system with units of its own, which is known by its name.
    pub is_guest: bool,
}

pub const DOCKER: &str = "docker";
pub const CONTAINERD: &str = "containerd";
pub const CRI_O: &str = "cri-o";
pub const PODMAN: &str = "podman";
pub const LXC: &str = "lxc";
pub const NSPAWN: &str = "systemd-nspawn";

/// One way to name a container's cgroup: `prefix`, 64 hex digits, `suffix`.
struct Pattern {
    prefix: &'static str,
    suffix: &'static str,
    parent: Parent,
    /// Whether anything may stand before the prefix.
    infix: bool,
    runtime: Option<&'static str>,
}

/// What the folder around it must be.
enum Parent {
    Any,
    Named(&'static str),
    /// A pod's cgroup.
    Pod,
    /// Anything but podman's folder, whose bare ids are pods.
    NotPodman,
}

const fn named(prefix: &'static str, suffix: &'static str, runtime: &'static str) -> Pattern {
    Pattern { prefix, suffix, parent: Parent::Any, infix: false, runtime: Some(runtime) }
}

const fn bare(parent: Parent, runtime: Option<&'static str>) -> Pattern {
    Pattern { prefix: "", suffix: "", parent, infix: false, runtime }
}

const fn infix(prefix: &'static str, runtime: Option<&'static str>) -> Pattern {
    Pattern { prefix, suffix: "", parent: Parent::Any, infix: true, runtime }
}

/// All that is known of the runtimes' names; the first that fits holds.
const RUNTIMES: &[Pattern] = &[
    // systemd driver: one scope a container.
    named("docker-", ".scope", DOCKER),
    named("cri-containerd-", ".scope", CONTAINERD),
    named("nerdctl-", ".scope", CONTAINERD),
    named("crio-", ".scope", CRI_O),
    named("libpod-", ".scope", PODMAN),
    // `podman run --cgroups=split`, as Quadlet does: below the unit.
    named("libpod-payload-", "", PODMAN),
    // cgroupfs driver.
    named("crio-", "", CRI_O),
    named("libpod-", "", PODMAN),
    // A runtime that drives cgroupfs given a path in systemd's form, `SLICE:PREFIX:ID`.
    infix(":cri-containerd:", Some(CONTAINERD)),
    infix(":nerdctl:", Some(CONTAINERD)),
    infix(":docker:", Some(DOCKER)),
    infix(":crio:", Some(CRI_O)),
    infix(":libpod:", Some(PODMAN)),
    infix(":", None),
    // Kata's part of a container that is outside of its virtual machine.
    Pattern { prefix: "kata_", suffix: "", parent: Parent::Any, infix: false, runtime: None },
    bare(Parent::Named("docker"), Some(DOCKER)),
    bare(Parent::Pod, Some(CONTAINERD)),
    // `docker run --cgroup-parent=/x`, nerdctl's namespaces, ECS tasks.
    bare(Parent::NotPodman, None),
];

/// Where podman puts its containers and, under their bare ids, its pods.
const PODMAN_PARENT: &str = "libpod_parent";

/// A batch system: what stands above its jobs, and how a job's cgroup is named.
struct Batch {
    above: fn(&str) -> bool,
    job: fn(&str) -> bool,
}

/// Below one unit or folder, each job is a workload of its own.
const BATCH_SYSTEMS: &[Batch] = &[
    // Slurm: `slurmstepd.scope/job_4711/step_0` (also with the node's name in front), v1 `slurm/uid_0/job_4711`:
    // src/plugins/cgroup of github.com/SchedMD/slurm.
    Batch {
        above: |part| part.ends_with("slurmstepd.scope") || part == "slurm" || part.starts_with("slurm_"),
        job: |part| part.strip_prefix("job_").is_some_and(is_number),
    },
    // HTCondor: `htcondor/condor_…_slot1_1@host` (BASE_CGROUP), on v2 below its unit.
    Batch {
        above: |part| matches!(part, "htcondor" | "condor.service"),
        job: |part| part.starts_with("condor_") && part.contains("slot"),
    },
    // OpenPBS: `pbs_jobs.service/jobid/4711.server`, v1 `pbspro/4711.server`: the hook pbs_cgroups.
    Batch {
        above: |part| part.starts_with("pbs_jobs") || part.starts_with("pbspro"),
        job: |part| part.split_once('.').is_some_and(|(n, _)| is_number(n.trim_start_matches("pbspro-"))),
    },
    // LSF: `lsf/CLUSTER/job.4711.1234.1700000000`.
    Batch {
        above: |part| part == "lsf",
        job: |part| part.strip_prefix("job.").is_some_and(|rest| rest.split('.').all(is_number)),
    },
];

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A whole system in a cgroup, whose units are not the node's.
fn guest_of<'p>(part: &'p str, parent: &str) -> Option<Container<'p>> {
    let guest =
        |id: &'p str, runtime| (!id.is_empty()).then_some(Container { id, runtime: Some(runtime), is_guest: true });
    // systemd-nspawn@.service, and what is registered with systemd-machined; that registers virtual machines, too,
    // whose processes are the node's own.
    if let Some(name) = part.strip_prefix("systemd-nspawn@").and_then(|p| p.strip_suffix(".service")) {
        return guest(name, NSPAWN);
    }
    if let Some(name) = part.strip_prefix("machine-").and_then(|p| p.strip_suffix(".scope")) {
        let is_lxc = name.starts_with("lxc\\x2d");
        return if name.starts_with("qemu\\x2d") { None } else { guest(name, if is_lxc { LXC } else { NSPAWN }) };
    }
    // LXC and LXD: `lxc.payload.NAME`, older ones and Proxmox `lxc/NAME` and `lxc.payload/NAME`.
    match part.strip_prefix("lxc.payload.") {
        Some(name) => guest(name, LXC),
        None if matches!(parent, "lxc" | "lxc.payload") => guest(part, LXC),
        None => None,
    }
}

/// Reads a path: the innermost container, else the innermost batch job or systemd unit, else the cgroup itself.
/// `None`: a root.
#[must_use]
pub fn identify(path: &str) -> Option<Identity<'_>> {
    let path = path.trim_end_matches('/');
    let mut container = None;
    let mut unit = None;
    let mut job = None;
    let mut batch: Option<&Batch> = None;
    let mut pod = None;
    let mut parent = "";
    let mut end = 0;
    for part in path.split('/') {
        end += part.len();
        let here = path.get(..end)?;
        pod = pod_of(part).or(pod);
        if let Some(found) = container_of(part, parent).or_else(|| guest_of(part, parent)) {
            container = Some((here, found, pod));
        } else if is_unit(part) {
            unit = Some((here, part));
        }
        match batch {
            Some(Batch { job: is_job, .. }) if job.is_none() && is_job(part) => job = Some(here),
            _ => batch = BATCH_SYSTEMS.iter().find(|b| (b.above)(part)).or(batch),
        }
        parent = part;
        end += 1;
    }
    if path.is_empty() {
        None
    } else if let Some((path, found, pod)) = container {
        Some(Identity { path, container: Some(found), unit: None, pod })
    } else if let Some(path) = job {
        Some(Identity { path, container: None, unit: None, pod })
    } else if let Some((path, unit)) = unit {
        Some(Identity { path, container: None, unit: Some(unit), pod })
    } else {
        Some(Identity { path, container: None, unit: None, pod })
    }
}

/// The path of the pod's own cgroup, as far as the path of something in the pod shows it.
#[must_use]
pub fn pod_path(path: &str) -> Option<&str> {
    let mut end = 0;
    let mut found = None;
    for part in path.split('/') {
        end += part.len();
        if pod_of(part).is_some() {
            found = path.get(..end);
        }
        end += 1;
    }
    found
}

fn container_of<'p>(part: &'p str, parent: &str) -> Option<Container<'p>> {
    // Most folders are no container: do not try the table on what is too short to hold an id.
    if part.len() < 64 {
        return None;
    }
    RUNTIMES.iter().find_map(|p| {
        let body = part.strip_suffix(p.suffix)?;
        let id = if p.infix { body.rsplit_once(p.prefix)?.1 } else { body.strip_prefix(p.prefix)? };
        let placed = match p.parent {
            Parent::Any => true,
            Parent::Named(name) => parent == name,
            Parent::Pod => pod_of(parent).is_some(),
            Parent::NotPodman => parent != PODMAN_PARENT,
        };
        (placed && is_id(id)).then_some(Container { id, runtime: p.runtime, is_guest: false })
    })
}

fn is_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `podUID` with the cgroupfs driver, `…-podUID.slice` with systemd's (also as a prefix before `:`).
/// Static pods have 32 hex digits without dashes.
fn pod_of(part: &str) -> Option<&str> {
    let slice = part.split_once(".slice").map(|(name, _)| name);
    let uid = match slice {
        Some(name) if name.contains("kubepods") => name.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => part.strip_prefix("pod")?,
    };
    let dash = |b: u8| b == if slice.is_some() { b'_' } else { b'-' };
    let dashed = uid.len() == 36
        && uid.bytes().enumerate().all(
            |(i, b)| {
                if matches!(i, 8 | 13 | 18 | 23) { dash(b) } else { b.is_ascii_hexdigit() }
            },
        );
    let plain = uid.len() == 32 && uid.bytes().all(|b| b.is_ascii_hexdigit());
    (dashed || plain).then_some(uid)
}

/// A pod's class, which the kubelet makes a level of the tree: none for guaranteed pods
/// (pkg/kubelet/cm/qos_container_manager_linux.go).
#[must_use]
pub fn qos_of(path: &str) -> Option<QosClass> {
    let mut parent = "";
    for part in path.split('/') {
        if pod_of(part).is_some() {
            let level = part.split_once(".slice").and_then(|(name, _)| Some(name.rsplit_once("-pod")?.0));
            let level = level.unwrap_or(parent);
            return match level.rsplit('-').next().unwrap_or_default() {
                "burstable" => Some(QosClass::Burstable),
                "besteffort" => Some(QosClass::BestEffort),
                "kubepods" => Some(QosClass::Guaranteed),
                _ => None,
            };
        }
        parent = part;
    }
    None
}

/// systemd's units that hold processes; slices only hold units.
fn is_unit(part: &str) -> bool {
    [".service", ".scope"].iter().any(|s| part.len() > s.len() && part.ends_with(s))
}

#[cfg(test)]
mod tests;
