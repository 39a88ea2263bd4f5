// SPDX-License-Identifier: Apache-2.0

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use zerocopy::IntoBytes as _;

use super::kernel::{HISTORY, Kernel};
use super::sampler::MAX_SUBSCRIPTIONS;
use super::stacks::MAX_STACKS;
use super::testing::{Fake, record};
use super::{HistorySettings, SAMPLE_PERIOD_NS, Sampler, Scope, Subscription, Taken};
use crate::probe::shared::{Shared, SharedProbe as _};
use crate::probe::skeletons::cpu_sample::{Record, Records, SKELETON};
use crate::probe::{CgroupId, Loader, Reader, RecordSet as _, Stop};

fn cgroups(ids: &[u64]) -> Scope {
    Scope::Cgroups(ids.iter().map(|id| CgroupId { hierarchy: 0, id: *id }).collect())
}

/// Addresses and counts of what was sampled.
fn places(t: &Taken) -> Vec<(u64, u64)> {
    let mut all: Vec<_> = t.stacks.iter().map(|s| (s.user[0], s.count)).collect();
    all.sort_unstable();
    all
}

/// Two on one cgroup, one on the node and one on a process get the same samples, each those of its
/// scope; the end of one takes nothing from the others.
#[test]
fn subscriptions_share_samples() {
    let (kernel, sampler) = Fake::new();
    let subscribe = |scope| sampler.subscribe(&scope).unwrap();
    let (a, b) = (subscribe(cgroups(&[7])), subscribe(cgroups(&[7, 8])));
    let (node, process) = (subscribe(Scope::Node), subscribe(Scope::Processes(vec![30])));
    kernel.sample(&sampler, 7, 20, 0xa);
    kernel.sample(&sampler, 8, 30, 0xb);
    kernel.sample(&sampler, 9, 40, 0xc);
    kernel.with(|t| t.now_ns = 5_000);
    let first = a.take();
    assert_eq!((first.start_ns, first.end_ns, first.samples), (1_000, 5_000, 1));
    assert_eq!(first.period_ns, SAMPLE_PERIOD_NS);
    drop(a);
    kernel.sample(&sampler, 7, 20, 0xa);
    assert_eq!(places(&first), [(0xa, 1)]);
    assert_eq!(places(&b.take()), [(0xa, 2), (0xb, 1)]);
    assert_eq!(places(&process.take()), [(0xb, 1)]);
    assert_eq!(places(&node.take()), [(0xa, 2), (0xb, 1), (0xc, 1)]);
    assert!(kernel.with(|t| t.cgroups.is_empty() && t.processes.is_empty() && t.node == 0));
}

/// It runs while somebody subscribes and no longer, however a subscription ends.
#[test]
fn sampling_runs_while_somebody_subscribes() {
    let (kernel, sampler) = Fake::new();
    assert!(!kernel.with(|t| t.runs));
    let (a, b) = (sampler.subscribe(&Scope::Node).unwrap(), sampler.subscribe(&cgroups(&[7])).unwrap());
    let history = sampler.subscribe_history(HistorySettings::default()).unwrap();
    drop(a);
    b.stop();
    assert!(kernel.with(|t| t.runs), "the history still wants it");
    drop(history);
    assert!(!kernel.with(|t| t.runs || t.history > 0) && !sampler.is_running());
    assert!(kernel.with(|t| t.cgroups.is_empty()), "a stopped one leaves nothing in the kernel");
    drop(b);
}

/// The 65th is refused with the reason; there is room again as soon as one ended.
#[test]
fn subscriptions_are_64_at_most() {
    let (kernel, sampler) = Fake::new();
    let mut all: Vec<Subscription> =
        (0..MAX_SUBSCRIPTIONS).map(|_| sampler.subscribe(&cgroups(&[7])).unwrap()).collect();
    assert_eq!(kernel.with(|t| t.cgroups[&7]), u64::MAX);
    let refused = sampler.subscribe(&Scope::Node).unwrap_err();
    assert_eq!(refused.to_string(), "all 64 subscriptions of the CPU sampler are taken");
    all.remove(40);
    sampler.subscribe(&Scope::Node).unwrap();
}

/// What the kernel's map has no room for is an error that leaves nothing behind.
#[test]
fn a_full_map_is_an_error() {
    let (kernel, sampler) = Fake::new();
    kernel.with(|t| t.room = 2);
    let a = sampler.subscribe(&cgroups(&[1, 2])).unwrap();
    assert!(sampler.subscribe(&cgroups(&[1, 3])).is_err());
    assert_eq!(kernel.with(|t| t.cgroups.clone()), HashMap::from([(1, 1), (2, 1)]));
    assert!(a.extend(&cgroups(&[3])).is_err());
    drop(a);
    assert!(!sampler.is_running());
}

/// Cgroups that come later count from then on; a stopped subscription takes none.
#[test]
fn a_scope_grows() {
    let (kernel, sampler) = Fake::new();
    let s = sampler.subscribe(&cgroups(&[7])).unwrap();
    kernel.sample(&sampler, 8, 1, 0xb);
    s.extend(&cgroups(&[7, 8])).unwrap();
    kernel.sample(&sampler, 8, 1, 0xb);
    assert_eq!(s.samples(), 1);
    s.stop();
    s.extend(&cgroups(&[9])).unwrap();
    assert!(kernel.with(|t| t.cgroups.is_empty()));
}

/// Losses are of the subscription that lost them, and of its own time.
#[test]
fn losses_are_of_each() {
    let (kernel, sampler) = Fake::new();
    kernel.with(|t| t.lost = HashMap::from([(0, 5), (1, 6)]));
    let (a, b) = (sampler.subscribe(&Scope::Node).unwrap(), sampler.subscribe(&Scope::Node).unwrap());
    kernel.with(|t| t.lost = HashMap::from([(0, 5), (1, 9)]));
    assert_eq!((a.take().lost, b.take().lost), (0, 3));
    assert_eq!(b.take().lost, 0, "taken once");
}

/// A sample on its way to who had the slot before is not the next one's.
#[test]
fn late_samples_are_nobodys() {
    let (kernel, sampler) = Fake::new();
    let before = sampler.subscribe(&cgroups(&[7])).unwrap();
    let late = record(1_500, 1, 7, 1, 0xa, false);
    drop(before);
    kernel.with(|t| t.now_ns = 2_000);
    let next = sampler.subscribe(&cgroups(&[8])).unwrap();
    sampler.on_record(0, late.as_bytes());
    assert_eq!(next.samples(), 0);
}

/// Distinct stacks are bounded for each; what has no room is lost, what is there still counts.
#[test]
fn stacks_are_bounded() {
    let (kernel, sampler) = Fake::new();
    let s = sampler.subscribe(&Scope::Node).unwrap();
    (0..MAX_STACKS as u64 + 3).for_each(|i| kernel.sample(&sampler, 7, 1, i));
    kernel.sample(&sampler, 7, 1, 0);
    let t = s.take();
    assert_eq!((t.stacks.len(), t.lost, t.samples), (MAX_STACKS, 3, MAX_STACKS as u64 + 4));
}

/// A stop from elsewhere wakes who waits, and what was sampled by then is still there.
#[tokio::test]
async fn a_stop_wakes() {
    let (kernel, sampler) = Fake::new();
    let s = sampler.subscribe(&Scope::Node).unwrap();
    kernel.sample(&sampler, 7, 1, 0xa);
    assert!(tokio::time::timeout(Duration::from_millis(1), s.stopped()).await.is_err());
    sampler.stop_all();
    tokio::time::timeout(Duration::from_secs(60), s.stopped()).await.unwrap();
    kernel.sample(&sampler, 7, 1, 0xa);
    assert_eq!(s.take().samples, 1);
}

/// A subscription looks back at what its scope did before it began, as far as the window reaches.
#[test]
fn history_is_looked_back_into() {
    let (kernel, sampler) = Fake::new();
    let settings = HistorySettings { rate_hz: 33, window: Duration::from_nanos(1_000), bytes: 1 << 20 };
    let history = sampler.subscribe_history(settings).unwrap();
    assert_eq!(kernel.with(|t| t.history), 3);
    for (now, cgroup, address) in [(2_000, 7, 0x1), (2_500, 7, 0x2), (3_100, 8, 0x3), (3_200, 7, 0x2)] {
        kernel.with(|t| t.now_ns = now);
        kernel.sample(&sampler, cgroup, 1, address);
    }
    assert_eq!(history.size().samples, 3, "the first is older than the window");
    kernel.with(|t| t.lost = HashMap::from([(HISTORY, 4)]));
    kernel.with(|t| t.now_ns = 3_300);
    let s = sampler.subscribe(&cgroups(&[7])).unwrap();
    let back = s.look_back().unwrap();
    assert_eq!((places(&back), back.period_ns), (vec![(0x2, 2)], 3 * SAMPLE_PERIOD_NS));
    assert_eq!((back.start_ns, back.end_ns, back.lost), (2_500, 3_300, 4));
    assert_eq!(s.samples(), 0, "what was before is not of it");
    kernel.with(|t| t.now_ns = 3_400);
    kernel.sample(&sampler, 7, 1, 0x4);
    assert_eq!((places(&s.look_back().unwrap()), s.samples()), (vec![(0x2, 2)], 1), "nor the other way round");
    drop(history);
    assert!(s.look_back().is_none());
}

/// Memory stays below the bytes; a place that many samples share is held once; what is cut is counted.
#[test]
fn history_is_bounded() {
    let (kernel, sampler) = Fake::new();
    let settings = HistorySettings { bytes: 8 << 10, ..HistorySettings::default() };
    let history = sampler.subscribe_history(settings).unwrap();
    (0..30).for_each(|_| kernel.sample(&sampler, 7, 1, 0xa));
    let shared = history.size();
    assert_eq!((shared.samples, shared.cut), (30, 0));
    (0..1_000).for_each(|i| kernel.sample(&sampler, 7, 1, i));
    let full = history.size();
    assert!(full.bytes <= 8 << 10 && full.samples > 30, "{full:?}");
    assert_eq!(full.cut + full.samples, 1_030);
    let more = sampler.subscribe_history(HistorySettings { bytes: 16 << 10, ..settings }).unwrap();
    (0..1_000).for_each(|i| kernel.sample(&sampler, 7, 1, i));
    assert!(more.size().bytes > 8 << 10);
    drop(more);
    assert!(history.size().bytes <= 8 << 10, "it shrinks with who wanted more");
    drop(history);
    assert_eq!(sampler.history_size().bytes, 0);
}

/// Stops a reader however a test ends.
struct Stopping(Stop);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn spin_until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
    }
}

/// On the kernel at hand: two subscriptions to one cgroup, one to the node and one to this process see
/// the same samples of a busy thread; the end of one leaves the others.
#[test]
fn real_samples_are_shared() {
    if !crate::probe::tests::can_load() {
        return;
    }
    let shared = Shared::load(&mut Loader::new(), &[super::CpuSample::STACKS]);
    let probe: super::CpuSample = shared.get().unwrap();
    let (sampler, me) = (probe.sampler(), std::process::id());
    let stop = Stop::new().unwrap();
    let reader = Reader::new(std::slice::from_ref(probe.object())).unwrap();
    let cgroup = Mutex::new(0);
    let on_record = |_, ring, bytes: &[u8]| {
        if let Ok(Record::CpuSample(r)) = Records::decode(ring, bytes)
            && r.thread.tgid == me
        {
            *cgroup.lock().unwrap() = r.cgroup;
        }
        sampler.on_record(ring, bytes);
    };
    std::thread::scope(|s| {
        let stopping = Stopping(stop.clone());
        s.spawn(|| reader.run(&stop, on_record).unwrap());
        let node = sampler.subscribe(&Scope::Node).unwrap();
        let process = sampler.subscribe(&Scope::Processes(vec![me])).unwrap();
        spin_until("the process is sampled", || process.samples() >= 5);
        let mine = cgroups(&[*cgroup.lock().unwrap()]);
        let (a, b) = (sampler.subscribe(&mine).unwrap(), sampler.subscribe(&mine).unwrap());
        spin_until("both see the cgroup", || a.samples() >= 5 && b.samples() >= 5);
        let ended = a.take();
        drop(a);
        let (of_b, of_node) = (b.samples(), node.samples());
        spin_until("the others go on", || b.samples() >= of_b + 5 && node.samples() >= of_node + 5);
        let (b, process, node) = (b.take(), process.take(), node.take());
        assert!(ended.samples < b.samples && b.samples <= node.samples, "{} {}", b.samples, node.samples);
        assert!(process.stacks.iter().all(|s| s.thread.pid == me) && process.samples <= node.samples);
        assert!(node.stacks.iter().all(|s| s.thread.pid != 0), "the idle task uses no CPU");
        assert!(!sampler.is_running());
        drop(stopping);
    });
}

/// On the kernel at hand: what a small ring without a reader has no room for is a loss of those who
/// wanted it, and of nobody else.
#[test]
fn real_losses_are_of_each() {
    if !crate::probe::tests::can_load() {
        return;
    }
    let object = Loader::new().load(SKELETON.options().map_size("cpu_sample", 4096)).unwrap();
    let sampler = Sampler::new(Kernel::new(&object).unwrap());
    let other = sampler.subscribe(&Scope::Processes(vec![u32::MAX])).unwrap();
    let mine = sampler.subscribe(&Scope::Processes(vec![std::process::id()])).unwrap();
    spin_until("a loss of the one that wants anything", || object.lost().unwrap()[0] >= 5);
    let history = sampler.subscribe_history(HistorySettings { rate_hz: 99, ..HistorySettings::default() }).unwrap();
    spin_until("a loss of the history", || mine.look_back().is_some_and(|t| t.lost > 0));
    assert!(mine.take().lost > 0);
    assert_eq!(other.take().lost, 0);
    drop(history);
}
