// SPDX-License-Identifier: Apache-2.0
//! Notifies the service manager, in the protocol of sd_notify(3): that the agent has started,
//! reads its configuration again, stops; in a line how it is; and for the watchdog that it is
//! alive, which is said only while all its loops answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::api::Readiness;
use crate::collectors::run::State;

/// Between two checks of the loops, unless the watchdog demands more.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// Checks within the watchdog's timeout: one may be late, and one answer too.
const CHECKS_PER_TIMEOUT: u32 = 3;

/// The service manager that has started the agent, if one has.
pub(super) struct Service {
    listens: bool,
    period: Duration,
    pulse: Pulse,
    /// What was said last, so that it is not said again.
    status: String,
    silent: Vec<&'static str>,
}

impl Service {
    /// The manager that the environment names. `loops`: who must answer.
    pub fn new(env: &BTreeMap<String, String>, loops: &[&'static str]) -> Self {
        Service {
            listens: env.contains_key("NOTIFY_SOCKET"),
            period: sd_notify::watchdog_enabled()
                .map_or(CHECK_INTERVAL, |time| (time / CHECKS_PER_TIMEOUT).min(CHECK_INTERVAL)),
            pulse: Pulse::of(loops),
            status: String::new(),
            silent: Vec::new(),
        }
    }

    /// Waits until it is time for a look; for ever where nobody wants to know.
    pub async fn turn(&self) {
        if self.listens {
            tokio::time::sleep(self.period).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// All stages run, or run with their new settings.
    pub fn ready(&mut self, state: &Readiness) {
        self.status = in_words(state);
        self.say(&[NotifyState::Ready, NotifyState::Status(&self.status)]);
    }

    /// Until [`Self::ready`] is said.
    pub fn reloading(&self) {
        // Since systemd 253 the time must go with it.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.say(&[NotifyState::Reloading, now]);
        }
    }

    pub fn stopping(&self) {
        self.say(&[NotifyState::Stopping, NotifyState::Status("hands on what is under way")]);
    }

    /// Asks all loops whether they turn, and says what they answered to the last question. `ended`:
    /// threads that are no more.
    pub fn check(&mut self, ended: Vec<&'static str>, state: &Readiness, ask: impl Fn(&'static str, &Answer) -> bool) {
        if !self.listens {
            return;
        }
        let mut silent = ended;
        silent.extend(self.pulse.check(ask));
        let mut status = in_words(state);
        if !silent.is_empty() {
            status = format!("no answer from {}; {status}", silent.join(", "));
        }
        if silent != self.silent {
            if silent.is_empty() {
                tracing::warn!("all loops answer again");
            } else {
                tracing::error!("no answer from {}: if that lasts, a watchdog ends this agent", silent.join(", "));
            }
            self.silent = silent;
        }
        if self.silent.is_empty() {
            self.say(&[NotifyState::Watchdog]);
        }
        if status != self.status {
            self.say(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    fn say(&self, what: &[NotifyState<'_>]) {
        if let Err(e) = sd_notify::notify(what) {
            tracing::debug!("cannot notify the service manager: {e}");
        }
    }
}

/// Set by whoever is asked.
pub(super) type Answer = Arc<AtomicBool>;

struct Question {
    who: &'static str,
    answer: Answer,
    /// `Some(false)`: the queue was full and took no question; it is asked again at the next look.
    asked: Option<bool>,
}

/// The questions to all loops.
struct Pulse(Vec<Question>);

impl Pulse {
    fn of(loops: &[&'static str]) -> Self {
        Pulse(loops.iter().map(|who| Question { who, answer: Answer::default(), asked: None }).collect())
    }

    /// Asks; who has not answered the last question is not asked again. Returns who did not answer.
    fn check(&mut self, ask: impl Fn(&'static str, &Answer) -> bool) -> Vec<&'static str> {
        let mut silent = Vec::new();
        for q in &mut self.0 {
            let answered = q.answer.swap(false, Ordering::Relaxed);
            if !answered && q.asked.is_some() {
                silent.push(q.who);
            }
            if answered || q.asked != Some(true) {
                q.asked = Some(ask(q.who, &q.answer));
            }
        }
        silent
    }
}

/// For one line of `systemctl status`.
fn in_words(r: &Readiness) -> String {
    let of = |state| r.collectors.iter().filter(|c| c.state == state).map(|c| c.name).collect::<Vec<_>>();
    let mut text = format!("{} collectors run", of(State::Running).len());
    for state in [State::Unavailable, State::Failed, State::Stuck] {
        let names = of(state);
        if !names.is_empty() {
            text += &format!("; {}: {}", state.name(), names.join(", "));
        }
    }
    if let Some(why) = &r.store.reason {
        // A message is lines to the manager.
        text += &format!("; events are not saved: {}", why.replace('\n', " "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StoreReadiness;
    use crate::collectors::Kind;
    use crate::collectors::run::Status;

    /// Who answers is heard at the next look; who does not is named until it does, and asked only once.
    #[test]
    fn silence_is_named() {
        let mut pulse = Pulse::of(&["quick", "slow"]);
        let asked = std::cell::RefCell::new(Vec::new());
        let slow = std::cell::RefCell::new(None);
        let ask = |who: &'static str, answer: &Answer| {
            asked.borrow_mut().push(who);
            match who {
                "quick" => answer.store(true, Ordering::Relaxed),
                _ => *slow.borrow_mut() = Some(answer.clone()),
            }
            true
        };
        assert!(pulse.check(ask).is_empty(), "nobody was asked yet");
        assert_eq!(pulse.check(ask), ["slow"]);
        assert_eq!(pulse.check(ask), ["slow"]);
        assert_eq!(*asked.borrow(), ["quick", "slow", "quick", "quick"]);
        slow.borrow().as_ref().unwrap().store(true, Ordering::Relaxed);
        assert!(pulse.check(ask).is_empty());
        assert_eq!(pulse.check(ask), ["slow"], "one answer is for one question");
    }

    /// A queue that is full takes the question the next time.
    #[test]
    fn full_queue_is_asked_again() {
        let mut pulse = Pulse::of(&["pipeline"]);
        assert!(pulse.check(|_, _| false).is_empty());
        let ask = |_: &'static str, answer: &Answer| {
            answer.store(true, Ordering::Relaxed);
            true
        };
        assert_eq!(pulse.check(ask), ["pipeline"]);
        assert!(pulse.check(ask).is_empty());
    }

    /// One line, with what an operator must know.
    #[test]
    fn status_in_words() {
        let row = |name, state| Status { name, kind: Kind::Events, state, hook: None, reason: None, emits: Vec::new() };
        let mut r = Readiness {
            ready: true,
            store: StoreReadiness { state: "ok", reason: None, dropped: 0 },
            symbols: None,
            exporters: Vec::new(),
            collectors: vec![row("cpu", State::Running), row("lacp", State::Running), row("ras", State::Disabled)],
        };
        assert_eq!(in_words(&r), "2 collectors run");
        r.collectors.push(row("softirq", State::Unavailable));
        r.store.reason = Some("no space left\non device".to_owned());
        assert_eq!(
            in_words(&r),
            "2 collectors run; unavailable: softirq; events are not saved: no space left on device"
        );
    }
}
