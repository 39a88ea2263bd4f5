// SPDX-License-Identifier: Apache-2.0
//! The container runtime's own word on pods and containers, over its socket: containerd, CRI-O and
//! what else speaks the kubelet's `runtime.v1`.

use std::collections::HashMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::facts::{ContainerFacts, Facts, PodFacts, Source};
use super::messages::{
    Container, ContainerEvent, ContainerMetadata, Filter, GetEventsRequest, ImageSpec, ListContainersResponse,
    ListPodSandboxResponse, ListRequest, PodSandbox, PodSandboxMetadata, VersionRequest, VersionResponse,
};
use crate::signal::ContainerKind;
use crate::workload::image::names_image;
use crate::workload::path;

/// Where runtimes listen, the first that is there is asked.
const SOCKETS: [&str; 7] = [
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "run/k3s/containerd/containerd.sock",
    "run/k0s/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
    "run/cri-dockerd.sock",
    "var/run/cri-dockerd.sock",
];

/// A runtime answers in milliseconds, unless it is ill.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The list of all containers of a large node: the kubelet takes 16 MiB (cri-client, maxMsgSize).
const MAX_ANSWER: usize = 16 << 20;

/// The runtime's socket: the configured one, else the first that is there.
pub(super) fn socket(root: &Path, configured: Option<&PathBuf>) -> Option<PathBuf> {
    match configured {
        Some(path) => Some(path.clone()),
        None => SOCKETS.iter().map(|s| root.join(s)).find(|p| p.exists()),
    }
}

/// A connection to the runtime.
pub(super) struct Client {
    channel: Channel,
    grpc: Grpc<Channel>,
    taker: Taker,
}

/// The runtime's stream of events.
pub(super) enum Events {
    /// Runtimes in Go begin their answer with the first event, so this may take long.
    Opening(Pin<Box<dyn Future<Output = Result<Streaming<ContainerEvent>, Status>> + Send>>),
    Open(Box<Streaming<ContainerEvent>>),
    /// There will be no more.
    Ended,
}

impl Events {
    /// The next one; `None`, once: there will be no more. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<ContainerEvent> {
        loop {
            match self {
                Events::Opening(stream) => match stream.await {
                    Ok(stream) => *self = Events::Open(Box::new(stream)),
                    Err(e) => {
                        tracing::debug!(
                            "the runtime has no container events, it is queried for each new container: {}",
                            e.message()
                        );
                        *self = Events::Ended;
                        return None;
                    }
                },
                Events::Open(stream) => {
                    let event = stream.message().await.ok().flatten();
                    if event.is_none() {
                        *self = Events::Ended;
                    }
                    return event;
                }
                Events::Ended => pending().await,
            }
        }
    }
}

/// Makes facts of what the runtime says.
pub(super) struct Taker {
    facts: Facts,
    runtime: Option<&'static str>,
    /// The pod of each known sandbox.
    pods: HashMap<String, Arc<str>>,
}

impl Client {
    /// # Errors
    /// Nobody listens there, or it is no runtime.
    pub async fn connect(socket: &Path, facts: &Facts) -> Result<Client, Status> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|e| Status::invalid_argument(e.to_string()))?
            .connect_timeout(TIMEOUT);
        let channel = endpoint.connect().await.map_err(|e| Status::from_error(Box::new(e)))?;
        let grpc = Grpc::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let mut client = Client { channel, grpc, taker: Taker::new(facts, "") };
        let version = client.is_there().await?;
        tracing::debug!("{} {} answers on {}", version.runtime_name, version.runtime_version, socket.display());
        client.taker = Taker::new(facts, &version.runtime_name);
        Ok(client)
    }

    /// # Errors
    /// It is not, or it is no runtime.
    pub async fn is_there(&mut self) -> Result<VersionResponse, Status> {
        self.ask("Version", VersionRequest {}).await
    }

    async fn ask<Q, A>(&mut self, method: &str, question: Q) -> Result<A, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let answer = self.grpc.unary(Request::new(question), service(method)?, codec);
        let answer = tokio::time::timeout(TIMEOUT, answer).await;
        Ok(answer
            .map_err(|_| Status::deadline_exceeded(format!("{method} took longer than {TIMEOUT:?}")))??
            .into_inner())
    }

    /// Takes in all pods and containers.
    pub async fn list(&mut self) -> Result<(), Status> {
        self.taker.pods.clear();
        self.sandboxes(None).await?;
        self.containers(None).await?;
        Ok(())
    }

    /// Takes in what has this id, a container or the sandbox of a pod. Whether there is such.
    pub async fn look_up(&mut self, id: &str) -> Result<bool, Status> {
        Ok(self.containers(Some(id)).await? || self.sandboxes(Some(id)).await?)
    }

    async fn sandboxes(&mut self, id: Option<&str>) -> Result<bool, Status> {
        let list: ListPodSandboxResponse = self.ask("ListPodSandbox", only(id)).await?;
        let any = !list.items.is_empty();
        list.items.into_iter().for_each(|s| self.taker.sandbox(s));
        Ok(any)
    }

    async fn containers(&mut self, id: Option<&str>) -> Result<bool, Status> {
        let list: ListContainersResponse = self.ask("ListContainers", only(id)).await?;
        let any = !list.containers.is_empty();
        for c in list.containers {
            if !self.taker.pods.contains_key(&c.pod_sandbox_id) {
                let sandbox = c.pod_sandbox_id.clone();
                self.sandboxes(Some(&sandbox)).await?;
            }
            self.taker.container(c);
        }
        Ok(any)
    }

    /// Lives and deaths of containers, where the runtime reports them (containerd 1.7, CRI-O 1.26).
    pub fn events(&self) -> Events {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        Events::Opening(Box::pin(async move {
            grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
            let codec: ProstCodec<GetEventsRequest, ContainerEvent> = ProstCodec::default();
            let method = service("GetContainerEvents")?;
            Ok(grpc.server_streaming(Request::new(GetEventsRequest {}), method, codec).await?.into_inner())
        }))
    }

    /// An event holds the pod and all its containers.
    pub fn take_event(&mut self, event: ContainerEvent) {
        self.taker.event(event);
    }

    /// Drops what nobody can ask for any more.
    pub fn forget(&mut self) {
        let Taker { facts, pods, .. } = &mut self.taker;
        pods.retain(|sandbox, _| facts.knows_container(sandbox));
    }
}

impl Taker {
    pub fn new(facts: &Facts, runtime: &str) -> Self {
        let runtime = [path::CONTAINERD, path::CRI_O, path::DOCKER].into_iter().find(|r| *r == runtime);
        Taker { facts: facts.clone(), runtime, pods: HashMap::new() }
    }

    pub fn event(&mut self, event: ContainerEvent) {
        let Some(s) = event.pod_sandbox_status else { return };
        let sandbox = s.id.clone();
        let (metadata, labels, annotations) = (s.metadata, s.labels, s.annotations);
        self.sandbox(PodSandbox { id: s.id, metadata, labels, annotations });
        for c in event.containers_statuses {
            let pod_sandbox_id = sandbox.clone();
            let (metadata, image, image_ref, labels) = (c.metadata, c.image, c.image_ref, c.labels);
            self.container(Container { id: c.id, pod_sandbox_id, metadata, image, image_ref, labels });
        }
    }

    pub fn sandbox(&mut self, s: PodSandbox) {
        let Some(PodSandboxMetadata { name, uid, namespace }) = s.metadata else { return };
        let uid: Arc<str> = uid.into();
        self.pods.insert(s.id.clone(), Arc::clone(&uid));
        let kind = Some(ContainerKind::Sandbox);
        let sandbox =
            ContainerFacts { pod: Arc::clone(&uid), runtime: self.runtime, kind, ..ContainerFacts::default() };
        self.facts.set_container(Source::Cri, &s.id, sandbox);
        let is_static = is_static(s.annotations.get(CONFIG_SOURCE).map(String::as_str));
        let (labels, annotations) = (s.labels.into_iter().collect(), s.annotations.into_iter().collect());
        let pod = PodFacts {
            name: name.into(),
            namespace: namespace.into(),
            labels,
            annotations,
            is_static,
            ..PodFacts::default()
        };
        self.facts.set_pod(Source::Cri, &uid, pod);
    }

    pub fn container(&mut self, c: Container) {
        // The kubelet writes the UID on the container, too; others who use the interface may not.
        let labelled = c.labels.get("io.kubernetes.pod.uid").map(|uid| uid.as_str().into());
        let Some(pod) = self.pods.get(&c.pod_sandbox_id).cloned().or(labelled) else { return };
        let ContainerMetadata { name, attempt } = c.metadata.unwrap_or_default();
        let facts = ContainerFacts {
            pod,
            name: Some(name).filter(|n| !n.is_empty()).map(Into::into),
            image: image_name(c.image.unwrap_or_default(), c.image_ref).map(Into::into),
            runtime: self.runtime,
            labels: c.labels.into_iter().collect(),
            kind: None,
            restarts: Some(attempt),
        };
        self.facts.set_container(Source::Cri, &c.id, facts);
    }
}

fn service(method: &str) -> Result<PathAndQuery, Status> {
    format!("/runtime.v1.RuntimeService/{method}").parse().map_err(|_| Status::internal("no name of a method"))
}

fn only(id: Option<&str>) -> ListRequest {
    ListRequest { filter: id.map(|id| Filter { id: id.to_owned() }) }
}

/// The kubelet asks for an image by its id: that names nothing. CRI-O's lists have no more than that, and the
/// repository.
fn image_name(image: ImageSpec, reference: String) -> Option<String> {
    [image.user_specified_image, image.image, reference].into_iter().find(|i| names_image(i))
}

/// Set by the kubelet on pods that it made itself (pkg/kubelet/types/pod_update.go).
pub(super) const CONFIG_SOURCE: &str = "kubernetes.io/config.source";

pub(super) fn is_static(source: Option<&str>) -> bool {
    source.is_some_and(|s| s != "api")
}
