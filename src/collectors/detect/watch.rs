// SPDX-License-Identifier: Apache-2.0
//! Where one key stands, and what is to be done about it.

use super::trend::Trend;
use super::usual::Usual;
use super::{Reading, Reason, Rules, ns};
use crate::host::Now;

#[derive(Debug, Clone, Copy)]
enum Phase {
    Calm,
    /// Too much, not yet for the whole window.
    Suspect {
        since: Now,
        taking: bool,
    },
    Open {
        since: Now,
    },
}

/// What is to be done after a reading of one key.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    Nothing,
    /// It is too much for the first time: begin to take evidence of it.
    Begin,
    /// It still is.
    Hold,
    /// It did not last: the evidence is of no use.
    Drop,
    /// It lasted. `since`: the first reading that was too much; `taken`: evidence of it was begun.
    Open {
        since: Now,
        reason: Reason,
        taken: bool,
    },
    /// It is over.
    Recover,
}

/// What is known of one key.
#[derive(Debug)]
pub(super) struct Watch {
    usual: Usual,
    trend: Trend,
    phase: Phase,
    calm: u32,
    /// When evidence that was opened with was begun last.
    taken_ns: Option<u64>,
    seen_ns: u64,
}

impl Watch {
    pub fn of_new(now: Now) -> Self {
        Self::new(Usual::nothing(), now)
    }

    pub fn of_unknown(now: Now) -> Self {
        Self::new(Usual::unknown(), now)
    }

    fn new(usual: Usual, now: Now) -> Self {
        Watch { usual, trend: Trend::default(), phase: Phase::Calm, calm: 0, taken_ns: None, seen_ns: now.boot_ns }
    }

    /// When it was last seen, on the boot clock.
    pub fn seen_ns(&self) -> u64 {
        self.seen_ns
    }

    pub fn usual(&self) -> Option<f64> {
        self.usual.get()
    }

    /// Why this reading is too much, if it is.
    fn judge(&mut self, rules: &Rules, reading: Reading, now: Now) -> Option<Reason> {
        let value = reading.value;
        let approach = rules.approach.is_some_and(|rule| {
            let seconds = self.trend.seconds_to_limit(&rule, value, now.boot_ns);
            seconds.is_some_and(|s| s <= rule.within.as_secs_f64())
        });
        if reading.negligible {
            None
        } else if rules.level.is_some_and(|level| value >= level) {
            Some(Reason::Level)
        } else if rules.jump.zip(self.usual.get()).is_some_and(|(jump, usual)| value - usual >= jump) {
            Some(Reason::Jump)
        } else {
            approach.then_some(Reason::Approach)
        }
    }

    /// Takes a reading into account.
    pub fn step(&mut self, rules: &Rules, reading: Reading, now: Now) -> Step {
        self.seen_ns = now.boot_ns;
        if !reading.value.is_finite() {
            self.usual.pause();
            return self.calm_reading(rules);
        }
        let since = |then: u64| now.boot_ns.saturating_sub(then);
        match (self.phase, self.judge(rules, reading, now)) {
            (Phase::Calm, None) => {
                self.usual.learn(reading.value, rules.usual_over, now.boot_ns);
                Step::Nothing
            }
            (Phase::Calm, Some(_)) => {
                self.usual.pause();
                let cool = self.taken_ns.is_none_or(|at| since(at) >= ns(rules.cool_down));
                let taking = reading.wanted && cool;
                self.phase = Phase::Suspect { since: now, taking };
                if taking { Step::Begin } else { Step::Nothing }
            }
            (Phase::Suspect { since: start, taking }, Some(reason)) if since(start.boot_ns) >= ns(rules.window) => {
                self.phase = Phase::Open { since: start };
                self.calm = 0;
                if taking {
                    self.taken_ns = Some(now.boot_ns);
                }
                Step::Open { since: start, reason, taken: taking }
            }
            (Phase::Open { since: start }, Some(reason)) => {
                self.calm = 0;
                if reason != Reason::Jump || since(start.boot_ns) < ns(rules.new_usual) {
                    return Step::Hold;
                }
                self.usual.set(reading.value);
                self.end()
            }
            (Phase::Suspect { .. }, Some(_)) => Step::Hold,
            (Phase::Suspect { .. } | Phase::Open { .. }, None) => self.calm_reading(rules),
        }
    }

    /// There was no reading of it: it did nothing, which is what is usual for one that is idle.
    pub fn absent(&mut self, rules: &Rules, now: Now) -> Step {
        match self.phase {
            Phase::Calm => self.usual.learn(0.0, rules.usual_over, now.boot_ns),
            Phase::Suspect { .. } | Phase::Open { .. } => self.usual.pause(),
        }
        self.calm_reading(rules)
    }

    fn calm_reading(&mut self, rules: &Rules) -> Step {
        if matches!(self.phase, Phase::Open { .. }) && self.calm.saturating_add(1) < rules.calm {
            self.calm += 1;
            return Step::Nothing;
        }
        self.end()
    }

    /// Ends what was begun, as if it were calm.
    pub fn end(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Calm) {
            Phase::Calm | Phase::Suspect { taking: false, .. } => Step::Nothing,
            Phase::Suspect { taking: true, .. } => Step::Drop,
            Phase::Open { .. } => Step::Recover,
        }
    }
}
