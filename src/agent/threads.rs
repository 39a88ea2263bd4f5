// SPDX-License-Identifier: Apache-2.0
//! The agent's threads: each with a name, and a way to be asked to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;

use super::collectors::{Built, Taken, ToRead};
use super::outlet::Junction;
use super::{Kept, drop_privileges};
use crate::collectors::run::{AutotracingLoop, Command, EventsLoop, MetricsLoop, RecordQueue};
use crate::collectors::sources::RING;
use crate::collectors::{Kind, Limits};
use crate::host::Clock;
use crate::pipeline::Input;
use crate::probe::shared::{Shared, SharedRing};
use crate::probe::{Object, Reader, Stop};
use crate::workload::{NameResolver, Workloads};

/// What one capture may cost.
const CAPTURE: Limits = Limits { duration: Duration::from_secs(300), stacks: 2000 };
/// A thread that has nothing to do waits so long, unless it is woken.
const LOOK: Duration = Duration::from_secs(3600);

/// A thread of ours and how it is asked to end.
pub(super) struct Worker {
    name: &'static str,
    thread: JoinHandle<()>,
}

fn worker(name: &'static str, body: impl FnOnce() + Send + 'static) -> anyhow::Result<Worker> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    Ok(Worker { name, thread: thread.with_context(|| format!("start the thread {name}"))? })
}

impl Worker {
    /// Its name, when it has ended or panicked.
    pub fn ended(&self) -> Option<&'static str> {
        self.thread.is_finished().then_some(self.name)
    }

    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread {} panicked", self.name);
        }
    }
}

/// A thread that looks at a flag.
pub(super) type Stoppable = (Arc<AtomicBool>, Worker);

pub(super) fn stoppable(
    name: &'static str,
    body: impl FnOnce(&AtomicBool) + Send + 'static,
) -> anyhow::Result<Stoppable> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    Ok((stop, worker(name, move || body(&seen))?))
}

/// For threads that are started while the others still need their privileges.
pub(super) fn with_less(
    kept: &Kept,
    body: impl FnOnce(&AtomicBool) + Send + 'static,
) -> impl FnOnce(&AtomicBool) + Send + 'static {
    let kept = kept.clone();
    move |stop| {
        drop_privileges(&kept);
        body(stop);
    }
}

/// Looks names up, and tells the pipeline and the state of metrics of every workload that is new or
/// got a name.
pub(super) fn start_names(
    resolver: NameResolver,
    workloads: &Workloads,
    junction: &Junction,
) -> anyhow::Result<[Stoppable; 2]> {
    let (changes, sender, state) = (workloads.changes(), junction.sender.clone(), junction.state.clone());
    let kernel_filter = junction.kernel_filter.clone();
    let telling = move |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            // Woken when the agent stops, too.
            for w in changes.wait(LOOK) {
                state.rename(&w);
                sender.send(Input::Workload(w));
            }
            kernel_filter.judge();
        }
    };
    Ok([stoppable("names", |stop| resolver.run(stop))?, stoppable("workloads", telling)?])
}

/// The threads that run collectors, and how they are told something.
pub(super) struct Loops {
    metrics: SyncSender<Command>,
    autotracing: SyncSender<Command>,
    events: RecordQueue,
    collectors: Vec<Worker>,
    reader: (Stop, Worker),
}

impl Loops {
    pub fn start(
        built: Built,
        shared: &Shared,
        workloads: &Workloads,
        junction: &Arc<Junction>,
        clock: Clock,
    ) -> anyhow::Result<Loops> {
        let names: Arc<[&'static str]> = built.events.iter().map(|s| s.name).collect();
        let (events, messages) = RecordQueue::new(names, junction.clone());
        let (metrics, metrics_commands) = mpsc::sync_channel(16);
        let (autotracing, autotracing_commands) = mpsc::sync_channel(16);
        let metrics_loop = MetricsLoop::new(built.metrics, junction.clone());
        let events_loop = EventsLoop::new(built.events, clock.clone(), junction.clone());
        let autotracing_loop = AutotracingLoop::new(built.autotracing, CAPTURE, clock, junction.clone());
        let reader = start_reader(built.read, shared, workloads, &events)?;
        let collectors = vec![
            worker("metrics", move || metrics_loop.run(&metrics_commands))?,
            worker("events", move || events_loop.run(&messages))?,
            worker("autotracing", move || autotracing_loop.run(&autotracing_commands))?,
        ];
        Ok(Loops { metrics, autotracing, events, collectors, reader })
    }

    /// Hands a command to the loop of a kind.
    pub fn tell(&self, kind: Kind, command: Command) {
        match kind {
            Kind::Metrics => drop(self.metrics.try_send(command)),
            Kind::Autotracing => drop(self.autotracing.try_send(command)),
            Kind::Events => self.events.command(command),
        }
    }

    /// Has the loop of a kind set `answer`; `false`: its queue is full and takes no question.
    pub fn ask(&self, kind: Kind, answer: &Arc<AtomicBool>) -> bool {
        let question = Command::Answer(answer.clone());
        match kind {
            Kind::Metrics => self.metrics.try_send(question).is_ok(),
            Kind::Autotracing => self.autotracing.try_send(question).is_ok(),
            Kind::Events => self.events.try_command(question),
        }
    }

    /// Those of the threads that are no more.
    pub fn ended(&self) -> impl Iterator<Item = &'static str> {
        self.collectors.iter().chain([&self.reader.1]).filter_map(Worker::ended)
    }

    /// Reads what is left in the rings, works it off, and ends. Blocks.
    pub fn stop(self) {
        drop(self.metrics.send(Command::Stop));
        drop(self.autotracing.send(Command::Stop));
        self.reader.0.stop();
        self.reader.1.join();
        self.events.command(Command::Stop);
        self.collectors.into_iter().for_each(Worker::join);
    }
}

/// Rings of shared probes whose records go to event collectors.
fn taken_rings(taken: Vec<Taken>, queue: &RecordQueue) -> Vec<SharedRing> {
    let mut objects: Vec<(Object, Vec<(usize, usize)>)> = Vec::new();
    for Taken { slot, records } in taken {
        match objects.iter_mut().find(|(o, _)| o.name() == records.object.name()) {
            Some((_, slots)) => slots.push((records.ring, slot)),
            None => objects.push((records.object, vec![(records.ring, slot)])),
        }
    }
    let ring = |(object, slots): (Object, Vec<(usize, usize)>)| {
        let queue = queue.clone();
        let on_record = move |ring: usize, bytes: &[u8]| {
            if let Some((_, slot)) = slots.iter().find(|(r, _)| *r == ring) {
                queue.record(*slot, ring, bytes);
            }
        };
        SharedRing { object, on_record: Arc::new(on_record) }
    };
    objects.into_iter().map(ring).collect()
}

/// One thread reads all rings: those of the shared probes for their handles or takers, the others for
/// the events loop.
fn start_reader(
    read: ToRead,
    shared: &Shared,
    workloads: &Workloads,
    queue: &RecordQueue,
) -> anyhow::Result<(Stop, Worker)> {
    let ToRead { objects: owned, sources, taken } = read;
    let workloads = workloads.clone();
    let mut readers = shared.rings(move |change| workloads.on_change(change));
    readers.extend(taken_rings(taken, queue));
    let first_owned = readers.len();
    let objects: Vec<_> =
        readers.iter().map(|r| r.object.clone()).chain(owned.iter().map(|o| o.object.clone())).collect();
    let slots: Vec<Option<usize>> = owned.iter().map(|o| o.slot).collect();
    let first_source = objects.len();
    let heard: Vec<usize> = sources.iter().map(|s| s.slot).collect();
    let (stop, queue) = (Stop::new().context("make the readers' stop handle")?, queue.clone());
    let reader = Reader::new(&objects).context("read the ring buffers")?;
    let reader = reader.with_sources(sources.into_iter().map(|s| s.source.source).collect());
    let (seen, reader) = (stop.clone(), reader.context("read the sources beside the ring buffers")?);
    let body = move || {
        let result = reader.run(&seen, |object, ring, bytes| match readers.get(object) {
            Some(shared) => (shared.on_record)(ring, bytes),
            None if object >= first_source => queue.record(heard[object - first_source], RING, bytes),
            None => {
                if let Some(slot) = slots.get(object - first_owned).copied().flatten() {
                    queue.record(slot, ring, bytes);
                }
            }
        });
        if let Err(e) = result {
            tracing::error!("records are no longer read: {e}");
        }
    };
    Ok((stop, worker("records", body)?))
}
