// SPDX-License-Identifier: Apache-2.0
//! Workload filters, `collectors.NAME.filter`: which workloads a collector reports, by their metadata.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::signal::semconv::attr;
use crate::signal::{Pod, QosClass, Workload};

/// Which workloads the collector reports. What is filtered out is counted as suppressed, with the reason `filter`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Only of what one of these selects, and of the node itself; when empty, of all. A selector is
    /// `container=NAME`, `namespace=NAME`, `image=NAME`, `image=NAME:TAG`, `qos=CLASS`, `label=KEY`, `label=KEY=VALUE`,
    /// `unit=NAME`, `cgroup=PATH` or `node`, with `*` for any text. Of a pod's labels those are known that
    /// `workload.labels` names. A container passes while its metadata is being looked up.
    #[schemars(example = ["namespace=shop-*", "label=tier=front"])]
    pub allow: Vec<String>,
    /// Never of what one of these selects, also where `allow` selects it. `node` is what belongs to no workload.
    #[schemars(example = ["container=load-test-*", "qos=BestEffort"])]
    pub deny: Vec<String>,
}

impl Settings {
    /// Nothing is filtered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Checks what types cannot: each key that is wrong, and what would be valid.
    #[must_use]
    pub fn invalid(&self) -> Vec<(&'static str, String)> {
        let wrong = |key, all: &[String]| {
            let first = all.iter().find_map(|text| Selector::parse(text).err().map(|valid| (text, valid)));
            first.map(|(text, valid)| (key, format!("{valid} in place of {text:?}")))
        };
        [wrong("allow", &self.allow), wrong("deny", &self.deny)].into_iter().flatten().collect()
    }
}

/// What selects a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selector {
    Container(Glob),
    Namespace(Glob),
    Image(Glob),
    Qos(QosClass),
    Label(String, Glob),
    Unit(Glob),
    Cgroup(Glob),
    /// What belongs to no workload.
    Node,
}

const KINDS: &str = "one of `container=`, `namespace=`, `image=`, `qos=`, `label=`, `unit=`, `cgroup=` with a name, or \
                     `node`,";

impl Selector {
    /// The error says what would be valid.
    fn parse(text: &str) -> Result<Self, String> {
        if text == "node" {
            return Ok(Selector::Node);
        }
        let (kind, value) = text.split_once('=').filter(|(_, v)| !v.is_empty()).ok_or(KINDS)?;
        let glob = Glob(value.to_owned());
        Ok(match kind {
            "container" => Selector::Container(glob),
            "namespace" => Selector::Namespace(glob),
            "image" => Selector::Image(glob),
            "unit" => Selector::Unit(glob),
            "cgroup" => Selector::Cgroup(glob),
            "qos" => {
                Selector::Qos(QosClass::parse(value).ok_or("`qos=Guaranteed`, `qos=Burstable` or `qos=BestEffort`")?)
            }
            "label" => match value.split_once('=').unwrap_or((value, "*")) {
                ("", _) => return Err("`label=KEY` or `label=KEY=VALUE`".into()),
                (key, value) => Selector::Label(key.to_owned(), Glob(value.to_owned())),
            },
            _ => return Err(KINDS.into()),
        })
    }

    fn selects(&self, w: &Workload) -> bool {
        let of_pod = |get: fn(&Pod) -> Option<&Arc<str>>| w.pod.as_ref().and_then(get).map(AsRef::as_ref);
        match self {
            Selector::Container(name) => {
                name.fits(w.container_name.as_deref()) || name.fits(of_pod(|p| p.container.as_ref()))
            }
            Selector::Namespace(name) => name.fits(of_pod(|p| p.namespace.as_ref())),
            Selector::Image(name) => {
                let tagged = w.image_name.as_ref().zip(w.image_tag.as_ref()).map(|(n, t)| format!("{n}:{t}"));
                name.fits(w.image_name.as_deref()) || name.fits(tagged.as_deref())
            }
            Selector::Qos(class) => w.pod.as_ref().is_some_and(|p| p.qos == Some(*class)),
            Selector::Label(key, value) => {
                let of_pods = || w.chosen.get(&format!("{}{key}", attr::K8S_POD_LABEL));
                value.fits(w.labels.get(key).map(String::as_str)) || value.fits(of_pods().map(String::as_str))
            }
            Selector::Unit(name) => name.fits(w.unit.as_deref()),
            Selector::Cgroup(path) => path.fits(Some(&w.cgroup)),
            Selector::Node => false,
        }
    }
}

/// A text in which each `*` stands for any text, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(String);

impl Glob {
    pub(crate) fn new(text: String) -> Self {
        Glob(text)
    }

    pub(crate) fn fits(&self, text: Option<&str>) -> bool {
        let Some(text) = text else { return false };
        let Some((first, rest)) = self.0.split_once('*') else { return self.0 == text };
        let Some(mut text) = text.strip_prefix(first) else { return false };
        let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The earliest place of each part leaves the most for those that follow.
        for part in between.split('*') {
            let Some(at) = text.find(part) else { return false };
            text = &text[at + part.len()..];
        }
        text.ends_with(last)
    }
}

/// One collector's filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    allow: Vec<Selector>,
    deny: Vec<Selector>,
}

impl Filter {
    /// Of settings that were checked; a selector that is none selects nothing.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let parse = |all: &[String]| all.iter().filter_map(|s| Selector::parse(s).ok()).collect();
        Filter { allow: parse(&settings.allow), deny: parse(&settings.deny) }
    }

    /// Whether the collector reports this workload (`None`: the node itself).
    #[must_use]
    pub fn passes(&self, workload: Option<&Workload>) -> bool {
        let Some(w) = workload else { return !self.deny.contains(&Selector::Node) };
        let selected = |by: &[Selector]| by.iter().any(|s| s.selects(w));
        // While metadata is being looked up, one event too many is better than one too few.
        !selected(&self.deny) && (self.allow.is_empty() || w.pending || selected(&self.allow))
    }
}

/// The filters of all collectors that have one. Cheap to clone; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Filters(Arc<RwLock<HashMap<String, Arc<Filter>>>>);

impl Filters {
    /// These and no others from now on.
    pub fn set<'a>(&self, all: impl Iterator<Item = (&'a str, &'a Settings)>) {
        let new =
            all.filter(|(_, s)| !s.is_empty()).map(|(name, s)| (name.to_owned(), Arc::new(Filter::new(s)))).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// A collector's filter, for checking many workloads at once; `None`: it has none.
    #[must_use]
    pub fn of(&self, collector: &str) -> Option<Arc<Filter>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(collector).cloned()
    }

    /// Whether a collector reports this workload (`None`: the node itself).
    #[must_use]
    pub fn pass(&self, collector: &str, workload: Option<&Workload>) -> bool {
        self.of(collector).is_none_or(|f| f.passes(workload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::{WorkloadKey, WorkloadKind};

    fn filter(allow: &[&str], deny: &[&str]) -> Filter {
        let list = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        let settings = Settings { allow: list(allow), deny: list(deny) };
        assert_eq!(settings.invalid(), []);
        Filter::new(&settings)
    }

    fn web() -> Workload {
        let mut w = Workload::new(WorkloadKey(1), WorkloadKind::Container, "/kubepods/pod1/c1");
        w.container_name = Some("web-1".into());
        w.image_name = Some("docker.io/library/nginx".into());
        w.image_tag = Some("1.27".into());
        w.labels.insert("tier".into(), "front=end".into());
        w.chosen.insert("k8s.pod.label.team".into(), "shop".into());
        let qos = Some(QosClass::Burstable);
        w.pod = Some(Pod { namespace: Some("prod".into()), container: Some("web".into()), qos, ..Pod::default() });
        w
    }

    /// Each kind of selector finds the workload by what it names, and no other.
    #[test]
    fn selectors() {
        let w = web();
        for yes in [
            "container=web-1",
            "container=web",
            "container=w*1",
            "namespace=prod",
            "image=*/nginx",
            "image=*/nginx:1.27",
            "qos=Burstable",
            "label=tier",
            "label=tier=front=end",
            "label=team=sh*",
            "cgroup=/kubepods/*",
        ] {
            assert!(!filter(&[], &[yes]).passes(Some(&w)), "{yes} denies it");
            assert!(filter(&[yes], &[]).passes(Some(&w)), "{yes} allows it");
        }
        for no in [
            "container=we",
            "namespace=pro",
            "image=nginx",
            "image=*/nginx:1.2",
            "qos=BestEffort",
            "label=tie",
            "label=tier=front",
            "label=team=x",
            "unit=*",
            "cgroup=/kubepods",
            "node",
        ] {
            assert!(filter(&[], &[no]).passes(Some(&w)), "{no} does not deny it");
            assert!(!filter(&[no], &[]).passes(Some(&w)), "{no} does not allow it");
        }
    }

    /// Denied workloads are not reported, whatever else allows them; the node goes only by its own name.
    #[test]
    fn deny_wins_and_the_node_passes_unless_named() {
        assert!(!filter(&["namespace=prod"], &["container=web*"]).passes(Some(&web())));
        assert!(filter(&["namespace=prod"], &["container=*"]).passes(None));
        assert!(!filter(&[], &["node"]).passes(None) && filter(&["node"], &[]).passes(None));
        assert!(Filter::default().passes(Some(&web())) && Filter::default().passes(None));
    }

    /// A container passes until its metadata is known, unless what is known already denies it.
    #[test]
    fn names_that_are_still_to_come() {
        let mut w = Workload::new(WorkloadKey(1), WorkloadKind::Container, "/libpod-1");
        w.pending = true;
        assert!(filter(&["container=web"], &["container=db"]).passes(Some(&w)));
        assert!(!filter(&[], &["cgroup=/libpod-*"]).passes(Some(&w)));
        w.pending = false;
        assert!(!filter(&["container=web"], &[]).passes(Some(&w)));
    }

    #[test]
    fn globs() {
        for (glob, text, fits) in [
            ("*", "", true),
            ("a*", "a", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*b", "abb", true),
            ("*ab", "aab", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "ac", false),
            ("a**c", "abc", true),
            ("é*", "éa", true),
            ("", "", true),
            ("a", "b", false),
        ] {
            assert_eq!(Glob(glob.into()).fits(Some(text)), fits, "{glob} {text}");
        }
    }

    /// Each error names the list, what is wrong in it and what would be right.
    #[test]
    fn errors_name_the_selector() {
        let of = |deny: &str| Settings { deny: vec!["node".into(), deny.into()], ..Settings::default() }.invalid();
        for wrong in ["contaner=x", "web", "container=", ""] {
            let all = of(wrong);
            let (key, text) = &all[0];
            assert!(*key == "deny" && text.contains("`container=`") && text.contains(&format!("{wrong:?}")), "{text}");
        }
        assert!(of("qos=best")[0].1.contains("qos=BestEffort"));
        assert!(of("label==x")[0].1.contains("label=KEY=VALUE"));
    }

    /// A collector without a filter reports all workloads; a new set replaces the old one whole.
    #[test]
    fn filters_of_collectors() {
        let (all, w) = (Filters::default(), web());
        let same = all.clone();
        let deny = Settings { deny: vec!["container=web".into()], ..Settings::default() };
        all.set([("oom", &deny)].into_iter());
        assert!(!same.pass("oom", Some(&w)) && same.pass("oom", None) && same.pass("softirq", Some(&w)));
        all.set([("oom", &Settings::default())].into_iter());
        assert!(same.pass("oom", Some(&w)));
    }
}
