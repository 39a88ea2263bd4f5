// SPDX-License-Identifier: Apache-2.0
//! Helpers that answer, that do not, and that cannot be ended, as threads and as nothing at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::known::{LEFT, STARTS};
use super::start::Process;
use super::*;
use crate::helper::messages::{Ask, Devices, Subject};
use crate::helper::wire::{LARGEST, Socket};
use crate::pipeline::metrics::{MetricState, Series};
use crate::probe::stacks::LateNames;
use crate::signal::metric::Reading;
use crate::signal::{Timestamp, Value};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(30);

fn by(wait: Duration) -> Instant {
    Instant::now() + wait
}

/// Cannot be ended while it is held.
struct Held(Arc<AtomicBool>);

impl Process for Held {
    fn kill(&mut self) {}
    fn is_gone(&mut self) -> bool {
        !self.0.load(Ordering::Relaxed)
    }
}

/// Helpers whose parser is `body`, which gets each question; and how many were started.
fn helpers(
    held: &Arc<AtomicBool>,
    body: impl Fn(Ask, &Socket) -> bool + Clone + Send + Sync + 'static,
) -> (Helpers, Arc<AtomicUsize>) {
    let (held, started, count) = (held.clone(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = started.clone();
    let start = move || {
        let ((asks, asked), (replies, answers)) = (Socket::pair()?, Socket::pair()?);
        let body = body.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; LARGEST];
            while let Ok(Some(message)) = asked.receive(&mut buffer) {
                if !body(Ask::decode(message).unwrap(), &replies) {
                    return;
                }
            }
        });
        count.fetch_add(1, Ordering::Relaxed);
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(Running { asks, answers, processes: vec![Box::new(Held(held.clone()))] })
    };
    (Helpers::starting(Box::new(start), SelfMetrics::unread(), SHORT, Duration::ZERO), started)
}

fn pid(ask: &Ask) -> u32 {
    match ask.query.subject() {
        Subject::Process(pid) => pid,
        Subject::Folder(_) => panic!("of no process"),
    }
}

fn answer(ask: &Ask, replies: &Socket) -> bool {
    let frames = vec![Frame { symbol: Some("f".into()), address: 99, ..Frame::default() }; 3];
    replies.send(&Answer::Frames { id: ask.id, frames }.encode()).is_ok()
}

/// Frames of an answer that came in time.
fn in_time(named: Named) -> Option<Vec<Frame>> {
    match named {
        Named::Frames(frames) => Some(frames),
        Named::Late(_) | Named::Unknown => None,
    }
}

fn frames(helpers: &Helpers, pid: u32, addresses: &[u64], urgency: Urgency, wait: Duration) -> Option<Vec<Frame>> {
    in_time(helpers.frames(pid, addresses, urgency, by(wait)))
}

/// Frames are of the addresses that were asked for, whatever the parser says.
#[test]
fn answers_are_bounded_by_the_question() {
    let (helpers, started) = helpers(&Arc::default(), |ask, replies| answer(&ask, replies));
    for _ in 0..3 {
        let named = frames(&helpers, 1, &[0x10, 0x20], Urgency::Event, LONG).unwrap();
        assert_eq!(named.iter().map(|f| f.address).collect::<Vec<_>>(), [0x10, 0x20]);
    }
    assert_eq!(started.load(Ordering::Relaxed), 1, "one serves all");
    helpers.trim(LONG);
    assert_eq!(started.load(Ordering::Relaxed), 1, "it was asked just now");
    // What it keeps goes with it; a fresh one waits for events, and is not replaced until it has worked.
    helpers.trim(Duration::ZERO);
    helpers.trim(Duration::ZERO);
    assert_eq!(started.load(Ordering::Relaxed), 2);
    assert!(frames(&helpers, 1, &[1], Urgency::Capture, LONG).is_some());
    helpers.trim(Duration::ZERO);
    assert_eq!(started.load(Ordering::Relaxed), 3);
    assert!(helpers.captures.take(by(SHORT)).unwrap().iter().all(Option::is_none), "nobody asks any more");
}

/// One that does not answer is ended, and its device and process are left alone; while four cannot be ended,
/// none is started, and it is said; when one lets go, the next is.
#[test]
fn at_most_four_are_left_behind() {
    let held = Arc::new(AtomicBool::new(true));
    let silent = |ask: Ask, replies: &Socket| {
        let unknown = Devices::AllBut(Vec::new());
        ask.devices == unknown && replies.send(&Answer::Touches(5 << 32 | u64::from(pid(&ask))).encode()).is_ok()
            || ask.devices != unknown && pid(&ask) < 50
            || answer(&ask, replies)
    };
    let (helpers, started) = helpers(&held, silent);
    for pid in 1..12 {
        assert_eq!(frames(&helpers, pid, &[1], Urgency::Event, SHORT), None);
        std::thread::sleep(SHORT);
        helpers.trim(LONG);
    }
    assert_eq!(started.load(Ordering::Relaxed), LEFT);
    assert!(helpers.impaired().unwrap().starts_with("4 helper processes wait"), "{:?}", helpers.impaired());
    assert!(helpers.known().devices.contains_key(&(5 << 32 | 1)), "{:?}", helpers.known().devices);
    assert_eq!(helpers.known().devices(&Subject::Process(77)), Some(Devices::Only(Vec::new())));
    assert_eq!(helpers.known().devices(&Subject::Process(1)), None, "left alone");
    held.store(false, Ordering::Relaxed);
    assert_eq!(helpers.impaired(), None);
    helpers.known().devices.insert(6, Instant::now());
    assert!(frames(&helpers, 77, &[1], Urgency::Event, LONG).is_some());
}

/// A helper that ends on a process costs that process its names for a while, and no other.
#[test]
fn failure_is_of_one_process() {
    let (helpers, started) = helpers(&Arc::default(), |ask, replies| pid(&ask) != 13 && answer(&ask, replies));
    let named = |pid| frames(&helpers, pid, &[1], Urgency::Event, LONG).is_some();
    assert!(named(1) && !named(13) && !named(13) && named(2));
    assert_eq!(started.load(Ordering::Relaxed), 2);
}

/// Failures do not make the agent start helpers all the time.
#[test]
fn starts_are_limited() {
    let (helpers, started) = helpers(&Arc::default(), |_, _| false);
    for pid in 0..30 {
        assert_eq!(frames(&helpers, pid, &[1], Urgency::Event, LONG), None);
    }
    assert_eq!(started.load(Ordering::Relaxed), STARTS);
}

/// An event does not wait for the names of a capture; a late answer is not taken for that of the next question.
#[test]
fn captures_hold_up_no_event() {
    let late = |ask: Ask, replies: &Socket| {
        if pid(&ask) == 1 {
            std::thread::sleep(Duration::from_millis(300));
        }
        answer(&ask, replies)
    };
    let (mut helpers, started) = helpers(&Arc::default(), late);
    helpers.hangs = LONG;
    std::thread::scope(|scope| {
        let capture = scope.spawn(|| frames(&helpers, 1, &[1], Urgency::Capture, LONG));
        assert!(frames(&helpers, 2, &[1], Urgency::Event, LONG).is_some());
        assert!(!capture.is_finished(), "it waited for the capture");
        assert!(capture.join().unwrap().is_some());
    });
    // Nor for the names of another event.
    assert_eq!(frames(&helpers, 1, &[1], Urgency::Event, SHORT), None);
    assert!(frames(&helpers, 2, &[1, 2], Urgency::Event, LONG).is_some_and(|f| f.len() == 2));
    assert_eq!(started.load(Ordering::Relaxed), 3);
}

/// An event that comes while a helper is started for the next one does not wait for that.
#[test]
fn a_start_holds_up_no_event() {
    let starting = Arc::new(Mutex::new(()));
    let (helpers, _) = helpers(&Arc::default(), |ask, replies| answer(&ask, replies));
    let (slow, first) = (starting.clone(), AtomicBool::new(true));
    let quick = helpers.start;
    let start = move || {
        if first.swap(false, Ordering::Relaxed) {
            drop(slow.lock().unwrap());
        }
        quick()
    };
    let helpers = Helpers {
        start: Box::new(start),
        ..Helpers::starting(Box::new(|| unreachable!()), SelfMetrics::unread(), SHORT, SHORT)
    };
    std::thread::scope(|scope| {
        let held = starting.lock().unwrap();
        let trim = scope.spawn(|| helpers.trim(LONG));
        while helpers.known().starts.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(frames(&helpers, 1, &[1], Urgency::Event, LONG).is_some(), "it has one started for itself");
        drop(held);
        trim.join().unwrap();
    });
    assert_eq!(helpers.events.take(by(SHORT)).unwrap().iter().flatten().count(), 2);
}

/// A helper that was late with its answer is not thrown away, with all that it has read by then: it is asked again.
#[test]
fn who_was_late_is_asked_again() {
    let slow_at_first = |ask: Ask, replies: &Socket| {
        if ask.id == 1 {
            std::thread::sleep(Duration::from_millis(100));
        }
        answer(&ask, replies)
    };
    let (mut helpers, started) = helpers(&Arc::default(), slow_at_first);
    helpers.hangs = LONG;
    assert_eq!(frames(&helpers, 1, &[1], Urgency::Event, SHORT), None);
    assert_eq!(frames(&helpers, 1, &[1], Urgency::Event, SHORT), None);
    std::thread::sleep(Duration::from_millis(300));
    for _ in 0..5 {
        assert!(frames(&helpers, 1, &[1], Urgency::Event, LONG).is_some());
    }
    assert_eq!(started.load(Ordering::Relaxed), 2);
}

/// A collector that panics while it asks takes no helpers with it.
#[test]
fn a_panic_gives_the_helpers_back() {
    let lane = Lane::default();
    let panics = std::panic::AssertUnwindSafe(|| {
        let _taken = lane.take(by(SHORT)).unwrap();
        panic!("as a collector may");
    });
    assert!(std::panic::catch_unwind(panics).is_err());
    assert!(lane.take(by(SHORT)).is_some());
}

/// Names that came late, until there are so many.
fn late_names(helpers: &Helpers, n: usize) -> Vec<LateNames> {
    let (stop, names) = (AtomicBool::new(n == 0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| helpers.name_late(&stop, |late| names.lock().unwrap().push(late)));
        let end = Instant::now() + LONG;
        while names.lock().unwrap().len() < n && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        helpers.wake();
    });
    names.into_inner().unwrap()
}

/// Answers no question about a process below 10 before it may.
fn slow(may_answer: &Arc<AtomicBool>) -> impl Fn(Ask, &Socket) -> bool + Clone + Send + Sync + 'static {
    let may_answer = may_answer.clone();
    move |ask: Ask, replies: &Socket| {
        while pid(&ask) < 10 && !may_answer.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        answer(&ask, replies)
    }
}

/// An event waits for its time and no longer; its names come under its key when the helper has answered. Events
/// that no helper was free for are asked about then, and one helper stays free for others meanwhile.
#[test]
fn names_come_late() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let (mut helpers, started) = helpers(&Arc::default(), slow(&may_answer));
    helpers.hangs = LONG;
    // Two helpers are late, and no third is asked.
    let asked: Vec<_> = (1..5).map(|pid| helpers.frames(pid, &[0x10, 0x20], Urgency::Event, by(SHORT))).collect();
    let keys: Vec<_> = asked.iter().map(|n| if let Named::Late(key) = n { *key } else { panic!("{n:?}") }).collect();
    assert_eq!(started.load(Ordering::Relaxed), 2);
    may_answer.store(true, Ordering::Relaxed);
    let mut late = late_names(&helpers, 4);
    late.sort_by_key(|l| keys.iter().position(|k| *k == l.key));
    let named: Vec<_> = late.iter().map(|l| (l.key, l.named.text(), l.before.text())).collect();
    assert_eq!(named, keys.iter().map(|k| (*k, "f+0x0\nf+0x1", "0x10\n0x21")).collect::<Vec<_>>());
    // An event that has waited in a queue for all of its time is asked about as well.
    may_answer.store(false, Ordering::Relaxed);
    let Named::Late(key) = helpers.frames(5, &[1], Urgency::Event, Instant::now()) else { panic!("no time is left") };
    may_answer.store(true, Ordering::Relaxed);
    assert_eq!(late_names(&helpers, 1)[0].key, key);
    assert_eq!(
        helpers.frames(11, &[1], Urgency::Capture, Instant::now()),
        Named::Unknown,
        "of a capture nothing comes late"
    );
}

/// What a helper that hangs was asked comes to nothing, and so does what waits behind it: nobody waits for it.
#[test]
fn names_that_do_not_come_are_given_up() {
    let may_answer = Arc::new(AtomicBool::new(false));
    let slow = slow(&may_answer);
    let silent = move |ask: Ask, replies: &Socket| (1..4).contains(&pid(&ask)) || slow(ask, replies);
    let (mut helpers, _) = helpers(&Arc::default(), silent);
    for pid in 1..4 {
        assert!(matches!(helpers.frames(pid, &[1], Urgency::Event, by(SHORT)), Named::Late(_)));
    }
    std::thread::sleep(2 * SHORT);
    assert!(frames(&helpers, 11, &[1], Urgency::Event, LONG).is_some(), "others are named");
    helpers.hangs = LONG;
    let Named::Late(key) = helpers.frames(5, &[1], Urgency::Event, Instant::now()) else { panic!("no time is left") };
    may_answer.store(true, Ordering::Relaxed);
    let late = late_names(&helpers, 1);
    assert_eq!(late.iter().map(|l| l.key).collect::<Vec<_>>(), [key]);
}

/// Each request without an answer is counted, by why.
#[test]
fn failures_are_counted() {
    let state = Arc::new(MetricState::new(100, Timestamp(0)));
    let own = SelfMetrics::new(state.clone(), || Timestamp(0));
    let held = Arc::new(AtomicBool::new(false));
    let (mut helpers, _) = helpers(&held, |ask, replies| match pid(&ask) {
        1..3 => true,
        13 => false,
        _ => answer(&ask, replies),
    });
    (helpers.own, helpers.hangs) = (own, LONG);
    for (pid, wait) in [(20, LONG), (13, LONG), (13, LONG), (1, SHORT), (2, SHORT), (3, SHORT)] {
        let _ = helpers.frames(pid, &[1], Urgency::Event, by(wait));
    }
    let counted = state.read().families().find(|f| f.def().name == "bianque.helper.failures").map(|f| {
        let of =
            |s: &Series| (s.attributes().get("reason").and_then(Value::as_str).map(str::to_owned), s.reading().clone());
        f.series().map(of).collect::<Vec<_>>()
    });
    let mut counted = counted.unwrap();
    counted.sort_by(|a, b| a.0.cmp(&b.0));
    let one = |why: &str, n| (Some(why.to_owned()), Reading::Int(n));
    assert_eq!(counted, [one("busy", 1), one("ended", 1), one("refused", 1), one("timed_out", 2)]);
}
