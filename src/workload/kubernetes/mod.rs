// SPDX-License-Identifier: Apache-2.0
//! What Kubernetes knows of the node's containers: pods, labels, owners. Asked beside the data's way,
//! when a container is born; the metadata is kept in [`Facts`], from where the
//! [`NameResolver`](super::NameResolver) puts it into the workloads.
//!
//! The runtime is asked for each container at its birth, and reports starts and ends by itself
//! where it can. The kubelet's list is read when a pod is new, and again until it has the new
//! containers, as it lags by a second or two. A source that is lost is tried again with growing pauses.

mod api_server;
mod cri;
mod facts;
mod https;
mod kubelet;
mod messages;
mod owners;
mod pods;

pub use facts::{Facts, Source, SourceState};

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use self::api_server::Ended;
use super::image::SANDBOX;
use super::settings::Settings;
use super::{Changes, Workloads, path};
use crate::signal::{Workload, WorkloadKey};

/// Pauses between two tries to reach a source.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// To the runtime's socket: a try costs nothing, and a restart is over in seconds.
const LAST_PAUSE_OF_RUNTIME: Duration = Duration::from_secs(5);
/// Interval between two log messages about a source that is down.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// When a container that the runtime did not know at its birth is asked for again: a pod's sandbox is
/// known a moment after its cgroup is made.
const ASK_AGAIN: [Duration; 4] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(600), Duration::from_secs(1)];
/// When the kubelet's list is read for a new container, after its birth.
const READ_AGAIN: [Duration; 5] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(20),
];
/// Between two readings of the list, whatever is born: it is a few MiB.
const READ_GAP: Duration = Duration::from_secs(1);
/// What is of no use any more is dropped once in so long.
const FORGET: Duration = Duration::from_secs(60);

/// Asks the sources, as long as it is polled.
pub struct Kubernetes {
    workloads: Workloads,
    facts: Facts,
    settings: Settings,
    env: BTreeMap<String, String>,
}

impl Kubernetes {
    /// `env`: what the Downward API handed in.
    #[must_use]
    pub fn new(settings: &Settings, env: &BTreeMap<String, String>, workloads: &Workloads) -> Self {
        Kubernetes {
            workloads: workloads.clone(),
            facts: Facts::new(settings),
            settings: settings.clone(),
            env: env.clone(),
        }
    }

    /// Where the metadata is kept.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Asks until dropped.
    pub async fn run(self) {
        tokio::join!(self.ask_runtime(), self.ask_kubelet(), self.ask_api_server());
    }

    /// Wakes the resolver for new metadata.
    fn notify(&self) {
        self.workloads.wake();
    }

    fn socket(&self) -> Option<PathBuf> {
        let cri = &self.settings.cri;
        cri.enabled.then(|| cri::socket(&self.workloads.host().root, cri.socket.as_ref())).flatten()
    }

    async fn ask_runtime(&self) {
        if !self.settings.cri.enabled {
            return;
        }
        let mut tries = Tries::new(Source::Cri, &self.facts);
        let births = self.workloads.changes();
        loop {
            let Some(socket) = self.socket() else {
                // A runtime that is installed later shows by its containers.
                tokio::time::timeout(LAST_PAUSE, births.next()).await.unwrap_or_default();
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            };
            let Err(e) = self.follow_runtime(&socket, &births, &mut tries).await;
            tries.failed(&format!("{}: {}", socket.display(), e.message()));
            tokio::time::sleep(tries.pause()).await;
        }
    }

    /// Ends when the runtime is lost.
    async fn follow_runtime(&self, socket: &Path, births: &Changes, tries: &mut Tries) -> Result<Infallible, Status> {
        let mut client = cri::Client::connect(socket, &self.facts).await?;
        let mut events = client.events();
        client.list().await?;
        tries.succeeded();
        self.notify();
        let mut asking = Asking::default();
        let mut forget = tokio::time::interval(FORGET);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => client.take_event(event),
                    // A runtime that stops, which the next request notices; or CRI-O with its events switched off.
                    None => client.list().await?,
                },
                born = births.next() => {
                    let of_runtime = born.iter().filter(|w| is_of_runtime(w)).filter_map(|w| w.container_id.clone());
                    asking.take_on(of_runtime.filter(|id| !self.facts.is_settled(id)));
                },
                id = asking.next() => {
                    let found = self.facts.is_settled(&id) || client.look_up(&id).await?;
                    if !found && !asking.again(&id) {
                        self.facts.set_unknown(&id);
                    }
                    if self.facts.is_settled(&id) {
                        asking.done(&id);
                    }
                },
                _ = forget.tick() => {
                    client.is_there().await?;
                    client.forget();
                    self.facts.forget(&self.workloads);
                },
            }
            self.notify();
        }
    }

    async fn ask_kubelet(&self) {
        let Some(url) = &self.settings.kubelet.address(&self.env) else { return };
        let mut tries = Tries::new(Source::Kubelet, &self.facts);
        let births = self.workloads.changes();
        // A kubelet's own certificate is made out to the node's name in the cluster or to that of the machine.
        let node = ["K8S_NODE_NAME", "K8S_NODE_IP"].iter().filter_map(|v| self.env.get(*v).cloned());
        let names: Vec<String> = node.chain(self.workloads.host().hostname().ok()).collect();
        let client = loop {
            match kubelet::Client::new(&self.workloads.host().root, url, &names, &self.settings.kubelet) {
                Ok(client) => break client,
                Err(e) => tries.failed(&format!("{e:#}")),
            }
            tokio::time::sleep(tries.pause()).await;
        };
        let mut awaited = Awaited::default();
        loop {
            match client.read(&self.facts).await {
                Ok(_) => tries.succeeded(),
                Err(e) => tries.failed(&format!("{url}: {e:#}")),
            }
            self.notify();
            let gap = if tries.is_down() { tries.pause() } else { READ_GAP };
            tokio::time::sleep(gap).await;
            let refresh = Instant::now() + self.settings.kubelet.refresh.get();
            loop {
                awaited.drop_known(&self.facts);
                let due = if tries.is_down() { Instant::now() } else { awaited.due().unwrap_or(refresh).min(refresh) };
                tokio::select! {
                    () = tokio::time::sleep_until(due) => break,
                    born = births.next() => awaited.take_on(&born),
                }
            }
            awaited.tried();
        }
    }

    async fn ask_api_server(&self) {
        if !self.settings.api_server.enabled {
            return;
        }
        let mut tries = Tries::new(Source::ApiServer, &self.facts);
        loop {
            let Err(e) = self.follow_api_server(&mut tries).await;
            tries.failed(&format!("{e:#}"));
            tokio::time::sleep(tries.pause()).await;
        }
    }

    /// Ends when the API server is lost.
    async fn follow_api_server(&self, tries: &mut Tries) -> anyhow::Result<Infallible> {
        let client = api_server::Client::new(&self.settings.api_server, &self.env)?;
        loop {
            let mut from = client.list(&self.facts).await?;
            tries.succeeded();
            self.notify();
            while let Ended::InTime = client.watch(&mut from, &self.facts, || self.notify()).await? {
                // One that ends at once is no reason to ask without a pause.
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        }
    }
}

/// Whether a runtime with the kubelet's interface may know it: podman has none, and Docker's own
/// containers are in no pod.
fn is_of_runtime(w: &Workload) -> bool {
    let is_docker = w.runtime == Some(path::DOCKER) && w.pod.is_none();
    w.container_id.is_some() && w.runtime != Some(path::PODMAN) && !is_docker
}

/// Containers that the runtime is to be asked for, by the time when.
#[derive(Default)]
struct Asking {
    due: VecDeque<(Instant, String)>,
    tries: HashMap<String, usize>,
}

impl Asking {
    fn take_on(&mut self, ids: impl Iterator<Item = String>) {
        for id in ids {
            if self.tries.insert(id.clone(), 0).is_none() {
                self.put(Instant::now(), id);
            }
        }
    }

    fn put(&mut self, due: Instant, id: String) {
        let at = self.due.partition_point(|(d, _)| *d <= due);
        self.due.insert(at, (due, id));
    }

    /// The next one, when its time has come. Nothing is lost when the future is dropped.
    async fn next(&mut self) -> String {
        let Some((due, _)) = self.due.front() else { return pending().await };
        tokio::time::sleep_until(*due).await;
        match self.due.pop_front() {
            Some((_, id)) => id,
            None => pending().await,
        }
    }

    /// Asks for it later; false when it was asked for often enough.
    fn again(&mut self, id: &str) -> bool {
        let Some(tried) = self.tries.get_mut(id) else { return false };
        let Some(pause) = ASK_AGAIN.get(*tried) else { return false };
        *tried += 1;
        self.put(Instant::now() + *pause, id.to_owned());
        true
    }

    fn done(&mut self, id: &str) {
        self.tries.remove(id);
    }
}

/// New containers that the kubelet's list does not have yet, each with its birth and the readings since.
#[derive(Default)]
struct Awaited(HashMap<WorkloadKey, (Instant, usize)>);

impl Awaited {
    fn take_on(&mut self, born: &[Arc<Workload>]) {
        let of_pods = born.iter().filter(|w| w.pod.is_some() && w.container_name.as_deref() != Some(SANDBOX));
        for w in of_pods.filter(|w| w.container_id.is_some()) {
            self.0.entry(w.key).or_insert((Instant::now(), 0));
        }
    }

    fn drop_known(&mut self, facts: &Facts) {
        self.0.retain(|key, (_, tries)| *tries < READ_AGAIN.len() && !facts.is_in_list(*key));
        // At start it held all there are.
        self.0.shrink_to(self.0.len() * 2);
    }

    fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|(born, tries)| Some(*born + *READ_AGAIN.get(*tries)?)).min()
    }

    /// The list is being read: all whose time it is by now are served.
    fn tried(&mut self) {
        let now = Instant::now();
        for (born, tries) in self.0.values_mut() {
            while READ_AGAIN.get(*tries).is_some_and(|after| *born + *after <= now) {
                *tries += 1;
            }
        }
    }
}

/// How often a source was tried in vain, and when that was logged.
struct Tries {
    source: Source,
    facts: Facts,
    failures: u32,
    logged: Option<Instant>,
}

impl Tries {
    fn new(source: Source, facts: &Facts) -> Self {
        Tries { source, facts: facts.clone(), failures: 0, logged: None }
    }

    fn is_down(&self) -> bool {
        self.failures > 0
    }

    fn succeeded(&mut self) {
        if self.facts.state(self.source) != SourceState::Ok {
            tracing::info!(source = self.source.name(), "provides pod metadata");
            self.facts.set_state(self.source, SourceState::Ok);
        }
        self.failures = 0;
    }

    fn failed(&mut self, why: &str) {
        let state = match self.facts.state(self.source) {
            SourceState::Ok | SourceState::Old => SourceState::Old,
            SourceState::Absent | SourceState::Down => SourceState::Down,
        };
        self.facts.set_state(self.source, state);
        self.failures = self.failures.saturating_add(1);
        if self.logged.is_none_or(|t| t.elapsed() >= LOG_INTERVAL) {
            self.logged = Some(Instant::now());
            let kept = if state == SourceState::Old { "; earlier metadata is kept" } else { "" };
            tracing::warn!(source = self.source.name(), "provides no pod metadata{kept}: {why}");
        }
    }

    fn pause(&self) -> Duration {
        let last = if self.source == Source::Cri { LAST_PAUSE_OF_RUNTIME } else { LAST_PAUSE };
        FIRST_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(6)).min(last)
    }
}

#[cfg(test)]
mod tests;
