// SPDX-License-Identifier: Apache-2.0
//! The lifetime table: the workload of each cgroup, from its creation until some minutes after its removal.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use super::key_of;
use super::path::{Identity, identify, qos_of};
use super::texts::Texts;
use crate::probe::CgroupId;
use crate::signal::text::{escaped, unescape};
use crate::signal::{Pod, Workload, WorkloadKey, WorkloadKind};

/// How long a removed cgroup can still be looked up.
const KEEP_NS: u64 = 300 * 1_000_000_000;
/// And how many of them at most: several hundred containers on v1, thousands on v2.
const KEEP_PAIRS: usize = 8_192;
/// How many labels and annotations a workload may have that the settings choose, and their length in bytes.
const MAX_CHOSEN: usize = 64;
const MAX_CHOSEN_LEN: usize = 1024;
/// No node has so many cgroups by rights; beyond, new ones are not taken in.
const MAX_PAIRS: usize = 131_072;

pub(super) struct Table {
    boot: String,
    /// Path of the container or service that the agent runs in.
    own: Option<Box<str>>,
    pairs: HashMap<CgroupId, Pair>,
    workloads: HashMap<WorkloadKey, Entry>,
    texts: Texts,
    removed: VecDeque<(u64, CgroupId)>,
    /// Number of the walk that last saw a pair.
    scan: u32,
    /// Removed while a walk is under way and not known before: the walk may still come by with them.
    removed_unknown: Option<HashSet<CgroupId>>,
}

/// One cgroup of one hierarchy.
struct Pair {
    key: WorkloadKey,
    removed_ns: Option<u64>,
    seen: u32,
}

struct Entry {
    workload: Arc<Workload>,
    /// Pairs of the workload's own path, its children's not: one where there is one hierarchy.
    own: SmallVec<[CgroupId; 1]>,
    /// Pairs that live, and all that are known, children's too.
    live: u32,
    pairs: u32,
    /// When the last of them was removed.
    ended_ns: u64,
}

impl Table {
    /// `own`: the agent's paths in all hierarchies.
    pub fn new(boot: String, own: &[&str]) -> Self {
        Table {
            boot,
            own: own_identity(own).map(|i| i.path.into()),
            pairs: HashMap::new(),
            workloads: HashMap::new(),
            texts: Texts::default(),
            removed: VecDeque::new(),
            scan: 0,
            removed_unknown: None,
        }
    }

    pub fn of_cgroup(&self, id: CgroupId) -> Option<Arc<Workload>> {
        self.by_key(self.pairs.get(&id)?.key)
    }

    pub fn by_key(&self, key: WorkloadKey) -> Option<Arc<Workload>> {
        self.workloads.get(&key).map(|e| Arc::clone(&e.workload))
    }

    /// The same, but not of one that has been gone for longer than it can be looked up.
    pub fn kept(&self, key: WorkloadKey, now_ns: u64) -> Option<Arc<Workload>> {
        let is_kept = |e: &&Entry| e.live > 0 || now_ns.saturating_sub(e.ended_ns) < KEEP_NS;
        self.workloads.get(&key).filter(is_kept).map(|e| Arc::clone(&e.workload))
    }

    pub fn of_path(&self, path: &str) -> Option<Arc<Workload>> {
        let key = cgroup_key(&self.boot, path);
        self.workloads.get(&key).filter(|e| e.live > 0).map(|e| Arc::clone(&e.workload))
    }

    /// The container or service of the agent, while the table has it.
    pub fn own(&self) -> Option<Arc<Workload>> {
        self.of_paths([&**self.own.as_ref()?].into_iter())
    }

    pub fn live(&self) -> Vec<Arc<Workload>> {
        self.workloads.values().filter(|e| e.live > 0).map(|e| Arc::clone(&e.workload)).collect()
    }

    /// Every cgroup that exists, with its workload.
    pub fn cgroups(&self) -> Vec<(CgroupId, Arc<Workload>)> {
        let living = self.pairs.iter().filter(|(_, p)| p.removed_ns.is_none());
        living.filter_map(|(id, p)| Some((*id, self.by_key(p.key)?))).collect()
    }

    pub fn is_alive(&self, key: WorkloadKey) -> bool {
        self.workloads.get(&key).is_some_and(|e| e.live > 0)
    }

    pub fn cgroups_of(&self, key: WorkloadKey) -> Vec<CgroupId> {
        self.workloads.get(&key).map(|e| e.own.to_vec()).unwrap_or_default()
    }

    /// The workload of a process by its paths in all hierarchies: a container before a unit before the
    /// deepest cgroup, as one controller's path may be a root while another's is not.
    pub fn of_paths<'p>(&self, paths: impl Iterator<Item = &'p str>) -> Option<Arc<Workload>> {
        let best = foremost(paths)?;
        match best.container {
            Some(c) => self.by_key(container_key(c.id)),
            None => self.of_path(best.path),
        }
    }

    /// Takes in a cgroup. The workload, if this is the first that is known of it.
    pub fn made(&mut self, id: CgroupId, path: &str, pending: bool, now_ns: u64) -> Option<Arc<Workload>> {
        self.expire(now_ns);
        let identity = identify(path)?;
        if self.is_same(id, &identity) {
            return None;
        }
        self.forget(id, now_ns);
        if self.pairs.len() >= MAX_PAIRS {
            return None;
        }
        let is_own = identity.path == path.trim_end_matches('/');
        let is_agent = self.own.as_deref() == Some(identity.path);
        let key = key_of_identity(&self.boot, &identity);
        self.pairs.insert(id, Pair { key, removed_ns: None, seen: self.scan });
        let new = || {
            let new = describe(key, path, pending);
            Arc::new(if is_agent { Workload { kind: WorkloadKind::Own, ..new } } else { new })
        };
        let entry = self.workloads.entry(key).or_insert_with(|| Entry {
            workload: new(),
            own: SmallVec::new(),
            live: 0,
            pairs: 0,
            ended_ns: 0,
        });
        if is_own {
            entry.own.push(id);
        }
        entry.live += 1;
        entry.pairs += 1;
        let born = entry.live == 1;
        // What a unit's earlier processes said of themselves need not be so of the new ones.
        if born && entry.pairs > 1 && identity.container.is_none() {
            entry.workload = new();
        }
        born.then(|| Arc::clone(&entry.workload))
    }

    /// Whether the id is known and still names the same workload.
    fn is_same(&self, id: CgroupId, identity: &Identity<'_>) -> bool {
        let Some(entry) = self.pairs.get(&id).and_then(|p| self.workloads.get(&p.key)) else { return false };
        match identity.container {
            Some(c) => entry.workload.container_id.as_deref() == Some(c.id),
            None => entry.workload.container_id.is_none() && entry.workload.cgroup == identity.path,
        }
    }

    /// A cgroup is no more.
    pub fn removed(&mut self, id: CgroupId, now_ns: u64) {
        match self.pairs.get_mut(&id) {
            Some(pair) if pair.removed_ns.is_none() => {
                pair.removed_ns = Some(now_ns);
                let key = pair.key;
                self.removed.push_back((now_ns, id));
                self.one_less_alive(key, now_ns);
            }
            Some(_) => {}
            None => {
                if let Some(unknown) = &mut self.removed_unknown {
                    unknown.insert(id);
                }
            }
        }
        self.expire(now_ns);
    }

    fn one_less_alive(&mut self, key: WorkloadKey, now_ns: u64) {
        let Some(entry) = self.workloads.get_mut(&key) else { return };
        entry.live = entry.live.saturating_sub(1);
        entry.ended_ns = now_ns;
    }

    /// Drops a pair at once: its id names something else now.
    fn forget(&mut self, id: CgroupId, now_ns: u64) {
        let Some(pair) = self.pairs.remove(&id) else { return };
        if pair.removed_ns.is_none() {
            self.one_less_alive(pair.key, now_ns);
        }
        if let Some(entry) = self.workloads.get_mut(&pair.key) {
            entry.own.retain(|o| *o != id);
            entry.pairs = entry.pairs.saturating_sub(1);
            if entry.pairs == 0 {
                self.workloads.remove(&pair.key);
            }
        }
    }

    fn expire(&mut self, now_ns: u64) {
        while let Some((at, id)) = self.removed.front().copied() {
            if self.removed.len() <= KEEP_PAIRS && now_ns.saturating_sub(at) < KEEP_NS {
                break;
            }
            self.removed.pop_front();
            if self.pairs.get(&id).is_some_and(|p| p.removed_ns == Some(at)) {
                self.forget(id, now_ns);
            }
        }
    }

    pub fn begin_scan(&mut self) {
        self.scan = self.scan.wrapping_add(1);
        self.removed_unknown = Some(HashSet::new());
    }

    /// Whether a walk need not take this one in: it is known, or it was removed behind the walk's back.
    pub fn knows_for_scan(&self, id: CgroupId, path: &str) -> bool {
        self.removed_unknown.as_ref().is_some_and(|r| r.contains(&id))
            || identify(path).is_none_or(|i| self.is_same(id, &i))
    }

    pub fn seen(&mut self, id: CgroupId) {
        if let Some(pair) = self.pairs.get_mut(&id) {
            pair.seen = self.scan;
        }
    }

    /// Ends what the walk did not see: its removal was missed.
    pub fn end_scan(&mut self, now_ns: u64) {
        self.removed_unknown = None;
        let scan = self.scan;
        let missed = self.pairs.iter().filter(|(_, p)| p.removed_ns.is_none() && p.seen != scan);
        let missed: Vec<CgroupId> = missed.map(|(id, _)| *id).collect();
        for id in missed {
            self.removed(id, now_ns);
        }
    }

    /// The changed workload, and whether it did change.
    pub fn update(&mut self, key: WorkloadKey, change: impl FnOnce(&mut Workload)) -> Option<(Arc<Workload>, bool)> {
        let entry = self.workloads.get_mut(&key)?;
        let mut new = (*entry.workload).clone();
        change(&mut new);
        new.key = key;
        bound(&mut new.chosen);
        let changed = new != *entry.workload;
        if changed {
            self.texts.share(&mut new);
            entry.workload = Arc::new(new);
        }
        Some((Arc::clone(&entry.workload), changed))
    }
}

/// Of a process's paths in all hierarchies the one that says most.
fn foremost<'p>(paths: impl Iterator<Item = &'p str>) -> Option<Identity<'p>> {
    paths.filter_map(identify).max_by_key(|i| (i.container.is_some(), i.unit.is_some(), i.path.len()))
}

/// The container or service that these paths of the agent are of. A session's or a shell's cgroup has other
/// processes; a guest is a whole system.
pub(super) fn own_identity<'p>(paths: &[&'p str]) -> Option<Identity<'p>> {
    let is_its_own = |i: &Identity<'_>| match i.container {
        Some(c) => !c.is_guest,
        None => i.unit.is_some_and(|u| u.ends_with(".service")),
    };
    foremost(paths.iter().copied()).filter(is_its_own)
}

/// The key of what a path names: one for all that live under the same name one after the other, as they have one
/// identity in everything that is exported.
pub(super) fn key_of_identity(boot: &str, identity: &Identity<'_>) -> WorkloadKey {
    match identity.container {
        Some(c) => container_key(c.id),
        None => cgroup_key(boot, identity.path),
    }
}

fn cgroup_key(boot: &str, path: &str) -> WorkloadKey {
    key_of(&[b"cgroup", boot.as_bytes(), path.as_bytes()])
}

/// Labels and annotations are whoever's who made the container, and are on each of its events: so many, so long.
fn bound(chosen: &mut BTreeMap<String, String>) {
    let mut left = MAX_CHOSEN;
    chosen.retain(|name, _| {
        let fits = left > 0 && name.len() <= MAX_CHOSEN_LEN;
        left -= usize::from(fits);
        fits
    });
    chosen.values_mut().for_each(|value| value.truncate(value.floor_char_boundary(MAX_CHOSEN_LEN)));
}

pub(super) fn container_key(id: &str) -> WorkloadKey {
    key_of(&[b"container", id.as_bytes()])
}

/// What can be derived from a path alone.
pub(super) fn describe(key: WorkloadKey, path: &str, pending: bool) -> Workload {
    let identity = identify(path);
    let container = identity.and_then(|i| i.container);
    let unit = identity.and_then(|i| i.unit);
    let kind = match (container, unit) {
        (Some(_), _) => WorkloadKind::Container,
        (None, Some(_)) => WorkloadKind::Unit,
        (None, None) => WorkloadKind::Cgroup,
    };
    Workload {
        container_id: container.map(|c| c.id.to_owned()),
        runtime: container.and_then(|c| c.runtime),
        unit: unit.map(str::to_owned),
        // systemd does not take dashes in a slice's name, so runtimes write underscores.
        pod: identity.and_then(|i| i.pod).map(|uid| Pod {
            uid: uid.replace('_', "-").into(),
            qos: qos_of(path),
            ..Pod::default()
        }),
        // No runtime has another name for it.
        container_name: container.filter(|c| c.is_guest).map(|c| escaped(&unescape(c.id, |_| true)).into_owned()),
        pending: pending && container.is_some_and(|c| !c.is_guest),
        ..Workload::new(key, kind, identity.map_or("/", |i| i.path))
    }
}
