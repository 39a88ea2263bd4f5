// SPDX-License-Identifier: Apache-2.0
//! The agent's threads: each with a name, and a way to be asked to end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::collectors::Built;
use super::helper::Helpers;
use super::router::SignalRouter;
use super::{RetainedCaps, drop_privileges};
use crate::collectors::run::{self, Captures, Command, Inbox, Statuses, Supervisor};
use crate::collectors::sources::{Named, RING};
use crate::collectors::{Limits, SharedRecords};
use crate::host::Clock;
use crate::pipeline::Input;
use crate::probe::shared::{Cgroups, OnRecord, Shared};
use crate::probe::{Object, Reader, Source, Stop};
use crate::signal::StackNames;
use crate::workload::{NameResolver, Workloads};

/// What one capture may cost.
const CAPTURE: Limits = Limits { duration: Duration::from_secs(300), stacks: 2000 };
/// A thread that has nothing to do waits so long, unless it is woken.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

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

    pub fn name(&self) -> &'static str {
        self.name
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

/// Drops capabilities first: for threads started while others still need theirs.
pub(super) fn with_reduced_privileges(
    retained_caps: &RetainedCaps,
    body: impl FnOnce(&AtomicBool) + Send + 'static,
) -> impl FnOnce(&AtomicBool) + Send + 'static {
    let retained_caps = retained_caps.clone();
    move |stop| {
        drop_privileges(&retained_caps);
        body(stop);
    }
}

/// Starts name resolution, and publishes each new or renamed workload to the pipeline and the metric state, and
/// names of stacks that come late to the pipeline.
pub(super) fn start_names(
    resolver: NameResolver,
    workloads: &Workloads,
    helpers: Arc<Helpers>,
    router: &SignalRouter,
) -> anyhow::Result<[Stoppable; 3]> {
    let (changes, sender, state) = (workloads.changes(), router.sender.clone(), router.state.clone());
    let kernel_filter = router.kernel_filter.clone();
    let publish_changes = move |stop: &AtomicBool| {
        while !stop.load(Ordering::Relaxed) {
            // Woken when the agent stops, too.
            for w in changes.wait(IDLE_WAIT) {
                state.rename(&w);
                sender.send(Input::Workload(w));
            }
            kernel_filter.judge();
        }
    };
    let sender = router.sender.clone();
    let publish_names = move |stop: &AtomicBool| {
        helpers.name_late(stop, |late| {
            if let Some(names) = StackNames::new(late.key, &late.before, &late.named) {
                sender.send(Input::Names(names));
            }
        });
    };
    Ok([
        stoppable("names", |stop| resolver.run(stop))?,
        stoppable("workloads", publish_changes)?,
        stoppable("late names", publish_names)?,
    ])
}

/// How often it is looked whether a thread has ended.
pub(super) const END_POLL: Duration = Duration::from_millis(5);

/// The threads that run collectors: one for each, one that reads their records, one that watches them.
pub(super) struct Loops {
    inboxes: HashMap<&'static str, Inbox>,
    collectors: Vec<Worker>,
    statuses: Arc<Statuses>,
    questions: SyncSender<Arc<AtomicBool>>,
    supervisor: Worker,
    reader: (Stop, Worker),
}

impl Loops {
    pub fn start(
        built: Vec<Built>,
        shared: &Shared,
        router: &Arc<SignalRouter>,
        statuses: &Arc<Statuses>,
        clock: Clock,
    ) -> anyhow::Result<Loops> {
        let for_tasks = run::Shared {
            sink: router.clone(),
            statuses: statuses.clone(),
            clock,
            captures: Captures::default(),
            limits: CAPTURE,
        };
        let mut reading = Reading::of_shared(shared, &router.workloads);
        let (mut inboxes, mut tasks) = (HashMap::new(), Vec::new());
        for b in built {
            let (inbox, task) = run::task(b.name, b.running, b.interval, b.symbols, &for_tasks);
            reading.add(b.objects, b.sources, b.rings, &inbox);
            inboxes.insert(b.name, inbox);
            tasks.push(task);
        }
        let supervisor = Supervisor::new(tasks.iter(), statuses.clone(), router.clone());
        let (questions, asked) = mpsc::sync_channel(1);
        let reader = reading.start()?;
        let start = |task: run::Task| worker(task.name, move || task.run());
        let collectors = tasks.into_iter().map(start).collect::<anyhow::Result<_>>()?;
        let supervisor = worker("supervisor", move || supervisor.run(&asked))?;
        Ok(Loops { inboxes, collectors, statuses: statuses.clone(), questions, supervisor, reader })
    }

    /// Hands a collector its changed settings; one that cannot take them now is named in the log.
    pub fn reload(&self, collector: &'static str, settings: toml::Table) {
        let Some(inbox) = self.inboxes.get(collector) else {
            tracing::warn!(collector, "does not run: its changed settings take effect at the next start");
            return;
        };
        if self.statuses.is_stuck(collector) {
            tracing::error!(collector, "is stuck: its changed settings take effect once it answers");
        }
        inbox.command(Command::Reload(settings));
    }

    /// Has the supervisor set `answer`; `false`: it has not taken the last question yet.
    pub fn ask(&self, answer: &Arc<AtomicBool>) -> bool {
        self.questions.try_send(answer.clone()).is_ok()
    }

    /// Those of the threads that are no more.
    pub fn ended(&self) -> impl Iterator<Item = &'static str> {
        self.collectors.iter().chain([&self.supervisor, &self.reader.1]).filter_map(Worker::ended)
    }

    /// Reads what is left in the rings, works it off, and ends; collectors that do not end within `limit`
    /// are left behind. Blocks.
    pub fn stop(self, limit: Duration) {
        drop(self.questions);
        self.reader.0.stop();
        self.reader.1.join();
        self.inboxes.values().for_each(|inbox| inbox.command(Command::Stop));
        self.supervisor.join();
        let deadline = Instant::now() + limit;
        let (mut ended, mut running): (Vec<_>, Vec<_>) = (Vec::new(), self.collectors);
        while !running.is_empty() && Instant::now() < deadline {
            std::thread::sleep(END_POLL);
            ended.extend(running.extract_if(.., |w| w.ended().is_some()));
        }
        ended.into_iter().for_each(Worker::join);
        for left in running {
            tracing::error!(collector = left.name, "did not end in time: the records that it had are lost");
        }
    }
}

/// What the reader's thread reads, each with who takes its records.
struct Reading {
    objects: Vec<(Object, OnRecord)>,
    sources: Vec<(Box<dyn Source>, OnRecord)>,
    /// Rings of shared probes that collectors take.
    taken: Vec<(SharedRecords, Inbox)>,
}

impl Reading {
    /// The shared probes' own records.
    fn of_shared(shared: &Shared, workloads: &Workloads) -> Self {
        let workloads = workloads.clone();
        if let Ok(cgroups) = shared.get::<Cgroups>() {
            cgroups.on_change(move |change| workloads.on_change(change));
        }
        let objects = shared.rings().into_iter().map(|r| (r.object, r.on_record)).collect();
        Reading { objects, sources: Vec::new(), taken: Vec::new() }
    }

    /// What is read on behalf of a collector.
    fn add(&mut self, objects: Vec<Object>, sources: Vec<Named>, rings: Vec<SharedRecords>, inbox: &Inbox) {
        let to = |inbox: Inbox| -> OnRecord { Arc::new(move |ring, bytes| inbox.record(ring, bytes)) };
        self.objects.extend(objects.into_iter().map(|o| (o, to(inbox.clone()))));
        for named in sources {
            let inbox = inbox.clone();
            self.sources.push((named.source, Arc::new(move |_, bytes| inbox.record(RING, bytes))));
        }
        self.taken.extend(rings.into_iter().map(|r| (r, inbox.clone())));
    }

    /// One callback for each shared object whose rings are taken.
    fn join_taken(&mut self) {
        let mut by_object: Vec<(Object, Vec<(usize, Inbox)>)> = Vec::new();
        for (SharedRecords { object, ring }, inbox) in self.taken.drain(..) {
            match by_object.iter_mut().find(|(o, _)| o.name() == object.name()) {
                Some((_, takers)) => takers.push((ring, inbox)),
                None => by_object.push((object, vec![(ring, inbox)])),
            }
        }
        for (object, takers) in by_object {
            let on_record = move |ring: usize, bytes: &[u8]| {
                if let Some((_, inbox)) = takers.iter().find(|(r, _)| *r == ring) {
                    inbox.record(ring, bytes);
                }
            };
            self.objects.push((object, Arc::new(on_record)));
        }
    }

    /// One thread reads all of it.
    fn start(mut self) -> anyhow::Result<(Stop, Worker)> {
        self.join_taken();
        let (objects, mut takers): (Vec<Object>, Vec<OnRecord>) = self.objects.into_iter().unzip();
        let (sources, of_sources): (Vec<_>, Vec<OnRecord>) = self.sources.into_iter().unzip();
        // The reader numbers sources behind the objects.
        takers.extend(of_sources);
        let stop = Stop::new().context("make the readers' stop handle")?;
        let reader = Reader::new(&objects).context("read the ring buffers")?;
        let reader = reader.with_sources(sources).context("read the sources beside the ring buffers")?;
        let seen = stop.clone();
        let body = move || {
            let result = reader.run(&seen, |from, ring, bytes| {
                if let Some(take) = takers.get(from) {
                    take(ring, bytes);
                }
            });
            if let Err(e) = result {
                tracing::error!("records are no longer read: {e}");
            }
        };
        Ok((stop, worker("records", body)?))
    }
}
