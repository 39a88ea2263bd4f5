// SPDX-License-Identifier: Apache-2.0
//! Capabilities: which the agent has, and dropping those that it no longer needs.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::Context as _;
use caps::{CapSet, Capability};

use super::{Host, ReadError, Reading};

/// The effective capabilities of this process, by name (`CAP_BPF`), from `/proc/self/status`.
///
/// # Errors
/// [`ReadError`]
pub fn effective(host: &Host) -> Reading<BTreeSet<String>> {
    let path = host.proc.join("self/status");
    let text = super::read(&path)?;
    let mask = text
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:"))
        .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
        .ok_or_else(|| ReadError::malformed(&path, "no CapEff line"))?;
    Ok(caps::all().into_iter().filter(|c| mask & c.bitmask() != 0).map(|c| c.to_string()).collect())
}

/// Drops all capabilities but `keep`, for good: effective, permitted, inheritable, ambient and, where
/// that is allowed, the bounding set. Capabilities belong to a thread, so call it before others are started.
///
/// # Errors
/// A name that is no capability, or the kernel's refusal.
pub fn keep_only(keep: &[&str]) -> anyhow::Result<()> {
    let mut wanted = caps::CapsHashSet::new();
    for name in keep {
        wanted.insert(Capability::from_str(name).ok().with_context(|| format!("{name} is no capability"))?);
    }
    let permitted = caps::read(None, CapSet::Permitted).context("reading the permitted capabilities")?;
    let kept: caps::CapsHashSet = permitted.intersection(&wanted).copied().collect();
    // Needs CAP_SETPCAP; without it the process could not gain any by exec either, as it has none.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        for c in caps::read(None, CapSet::Bounding).context("reading the bounding set")?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *c).with_context(|| format!("dropping {c} from the bounding set"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).ok();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).with_context(|| format!("dropping capabilities from the {set:?} set"))?;
    }
    caps::clear(None, CapSet::Inheritable).context("dropping inheritable capabilities")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mask of a status file is turned into names.
    #[test]
    fn names_of_a_mask() {
        let d = tempfile::tempdir().unwrap();
        let host = Host::under(d.path());
        std::fs::create_dir_all(d.path().join("proc/self")).unwrap();
        std::fs::write(d.path().join("proc/self/status"), "Name:\tx\nCapEff:\t000000c000000000\n").unwrap();
        let got: Vec<_> = effective(&host).unwrap().into_iter().collect();
        assert_eq!(got, ["CAP_BPF", "CAP_PERFMON"]);
        std::fs::write(d.path().join("proc/self/status"), "Name:\tx\n").unwrap();
        assert!(matches!(effective(&host), Err(ReadError::Malformed { .. })));
    }

    /// What is not kept is really gone, on a thread of its own so that the other tests keep theirs.
    #[test]
    fn dropped_is_dropped() {
        std::thread::spawn(|| {
            if !caps::has_cap(None, CapSet::Permitted, Capability::CAP_BPF).unwrap() {
                assert!(keep_only(&["CAP_BPF"]).is_ok(), "having none is no error");
                return;
            }
            keep_only(&["CAP_BPF"]).unwrap();
            let left: Vec<_> = caps::read(None, CapSet::Effective).unwrap().into_iter().collect();
            assert_eq!(left, [Capability::CAP_BPF]);
            assert!(!caps::has_cap(None, CapSet::Permitted, Capability::CAP_SYS_ADMIN).unwrap());
            assert!(keep_only(&["CAP_NONSENSE"]).is_err());
        })
        .join()
        .unwrap();
    }
}
