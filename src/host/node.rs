// SPDX-License-Identifier: Apache-2.0
//! The node's identity, and what it lets an agent do: the material of `doctor`.

use std::path::{Path, PathBuf};

use super::{Host, ReadError, Reading};

/// Kernel lockdown: `/sys/kernel/security/lockdown`, kernel_lockdown(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    /// Not compiled in, or securityfs is not mounted.
    Absent,
    None,
    /// BPF may read kernel memory still.
    Integrity,
    /// No reading of kernel memory by BPF: probes cannot load.
    Confidentiality,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Unlimited,
    Bytes(u64),
}

impl Host {
    /// The machine id, 32 hex digits: machine-id(5). That of process 1 comes first: in a container that sees the node's
    /// processes it is the node's, without a mount that a node may have nothing for.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn machine_id(&self) -> Reading<String> {
        let own = self.root.join("etc/machine-id");
        let read = |path: &Path| {
            let id = super::read(path)?.trim().to_owned();
            // At first boot the file may hold the word `uninitialized`.
            let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
            if valid { Ok(id) } else { Err(ReadError::malformed(path, "no 32 hex digits")) }
        };
        read(&self.proc.join("1/root/etc/machine-id"))
            .or_else(|_| read(&own))
            .or_else(|e| read(&self.root.join("var/lib/dbus/machine-id")).map_err(|_| e))
    }

    /// An id that is new at each boot.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn boot_id(&self) -> Reading<String> {
        Ok(self.read_proc("sys/kernel/random/boot_id")?.trim().to_owned())
    }

    /// The node's name. In a container with a UTS namespace of its own, `/proc/sys` shows the container's;
    /// `etc/hostname` below [`Host::root`] is asked when that root is not the process's own.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn hostname(&self) -> Reading<String> {
        if self.root.as_os_str() != "/"
            && let Ok(name) = super::read(&self.root.join("etc/hostname"))
            && !name.trim().is_empty()
        {
            return Ok(name.trim().to_owned());
        }
        Ok(self.read_proc("sys/kernel/hostname")?.trim().to_owned())
    }

    /// Kernel release, e.g. `6.12.0-amd64`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn kernel_release(&self) -> Reading<String> {
        Ok(self.read_proc("sys/kernel/osrelease")?.trim().to_owned())
    }

    /// The architecture by OpenTelemetry's name.
    #[must_use]
    pub fn arch() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "arm" => "arm32",
            other => other,
        }
    }

    /// The kernel's own BTF, if it has one.
    #[must_use]
    pub fn btf(&self) -> Option<PathBuf> {
        let path = self.sys.join("kernel/btf/vmlinux");
        path.exists().then_some(path)
    }

    /// Kernel lockdown.
    #[must_use]
    pub fn lockdown(&self) -> Lockdown {
        self.read_sys("kernel/security/lockdown").map_or(Lockdown::Absent, |text| parse_lockdown(&text))
    }

    /// The agent's limit of locked memory, which kernels before 5.11 charge BPF maps to.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn memlock_limit(&self) -> Reading<Limit> {
        let text = self.read_proc("self/limits")?;
        let soft = text.lines().find_map(|l| l.strip_prefix("Max locked memory")?.split_whitespace().next());
        match soft {
            Some("unlimited") => Ok(Limit::Unlimited),
            Some(n) if n.parse::<u64>().is_ok() => Ok(Limit::Bytes(n.parse().unwrap_or(0))),
            _ => Err(ReadError::malformed(&self.proc.join("self/limits"), "no limit of locked memory")),
        }
    }

    /// Where tracefs is mounted.
    #[must_use]
    pub fn tracefs(&self) -> Option<PathBuf> {
        let below = ["kernel/tracing", "kernel/debug/tracing"].map(|p| self.sys.join(p));
        below.into_iter().find(|p| p.join("events").is_dir())
    }

    /// Whether the kernel can put probes on functions (`CONFIG_KPROBE_EVENTS`): it then offers the
    /// `kprobe` performance unit.
    #[must_use]
    pub fn has_kprobes(&self) -> bool {
        self.sys.join("bus/event_source/devices/kprobe").is_dir()
    }

    /// Whether functions can be traced (fentry needs it); `None`: tracefs is not mounted, so not known.
    #[must_use]
    pub fn has_ftrace(&self) -> Option<bool> {
        self.tracefs().map(|t| t.join("available_filter_functions").exists())
    }

    /// `kernel.kptr_restrict`: above 0, kernel symbols take CAP_SYSLOG; 2 hides them from all.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn kptr_restrict(&self) -> Reading<i32> {
        self.sysctl("kernel/kptr_restrict")
    }

    /// `kernel.perf_event_paranoid`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn perf_event_paranoid(&self) -> Reading<i32> {
        self.sysctl("kernel/perf_event_paranoid")
    }

    /// `kernel.unprivileged_bpf_disabled`.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn unprivileged_bpf_disabled(&self) -> Reading<i32> {
        self.sysctl("kernel/unprivileged_bpf_disabled")
    }

    fn sysctl(&self, name: &str) -> Reading<i32> {
        let path = self.proc.join("sys").join(name);
        let text = super::read(&path)?;
        text.trim().parse().map_err(|_| ReadError::malformed(&path, text.trim()))
    }
}

/// The mode in force is in brackets: `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Lockdown {
    match text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(mode, _)| mode) {
        Some("integrity") => Lockdown::Integrity,
        Some("confidentiality") => Lockdown::Confidentiality,
        Some(_) => Lockdown::None,
        None => Lockdown::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let d = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = d.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let host = Host::under(d.path());
        (d, host)
    }

    /// The mode in brackets counts; a kernel without lockdown is no trouble.
    #[test]
    fn lockdown() {
        assert_eq!(parse_lockdown("none [integrity] confidentiality\n"), Lockdown::Integrity);
        assert_eq!(parse_lockdown("[none] integrity confidentiality\n"), Lockdown::None);
        assert_eq!(parse_lockdown("none integrity [confidentiality]\n"), Lockdown::Confidentiality);
        assert_eq!(fixture(&[]).1.lockdown(), Lockdown::Absent);
    }

    /// An image's empty or uninitialized machine id is none; D-Bus's copy stands in.
    #[test]
    fn machine_id() {
        let id = "0123456789abcdef0123456789abcdef";
        let (_d, host) = fixture(&[("etc/machine-id", "uninitialized\n"), ("var/lib/dbus/machine-id", id)]);
        assert_eq!(host.machine_id().unwrap(), id);
        let (_d, host) = fixture(&[("etc/machine-id", "\n")]);
        assert!(matches!(host.machine_id(), Err(ReadError::Malformed { .. })));
        assert!(fixture(&[]).1.machine_id().unwrap_err().is_missing());
        let (_d, host) = fixture(&[("proc/1/root/etc/machine-id", id), ("etc/machine-id", &"f".repeat(32))]);
        assert_eq!(host.machine_id().unwrap(), id, "the node's, not the container's");
    }

    /// What `doctor` asks, on a made-up node.
    #[test]
    fn doctors_facts() {
        let limits =
            "Limit                     Soft Limit  Hard Limit  Units\nMax locked memory         65536  65536  bytes\n";
        let (_d, host) = fixture(&[
            ("proc/self/limits", limits),
            ("proc/sys/kernel/kptr_restrict", "2\n"),
            ("proc/sys/kernel/perf_event_paranoid", "-1\n"),
            ("sys/kernel/btf/vmlinux", ""),
            ("sys/kernel/debug/tracing/events/x", ""),
            ("etc/hostname", "node-7\n"),
        ]);
        assert_eq!(host.memlock_limit().unwrap(), Limit::Bytes(65536));
        assert_eq!((host.kptr_restrict().unwrap(), host.perf_event_paranoid().unwrap()), (2, -1));
        assert!(host.btf().is_some() && !host.has_kprobes());
        assert_eq!(host.has_ftrace(), Some(false));
        assert_eq!(host.hostname().unwrap(), "node-7");
    }

    /// The real node has an identity.
    #[test]
    fn the_real_node() {
        let host = Host::default();
        assert_eq!(host.boot_id().unwrap().len(), 36);
        assert!(!host.kernel_release().unwrap().is_empty() && !host.hostname().unwrap().is_empty());
        assert!(!Host::arch().contains("x86"));
        host.memlock_limit().unwrap();
    }
}
