// SPDX-License-Identifier: Apache-2.0
//! When a workload's CPU use is too much, and what is to be done about it: a state machine of one
//! step a second, without a clock or a kernel of its own.

use super::Config;
use crate::host::Now;

/// Below this many CPUs nothing is too much: a limit of 0.1 CPU is met by any start-up.
pub(super) const LEAST_CPUS: f64 = 0.05;
/// The usual use follows the real one with this time constant.
const USUAL_SECONDS: f64 = 60.0;
/// Seconds in a row below the limit before it counts as recovered.
const CALM_CHECKS: u32 = 3;
/// A jump that lasts this long is the new usual.
const NEW_USUAL_NS: u64 = 600_000_000_000;

#[derive(Debug, Clone, Copy)]
enum Phase {
    Calm,
    /// Over the limit, not yet for the whole window.
    Suspect {
        since: Now,
        sampled: bool,
    },
    Open {
        since: Now,
    },
}

/// What is to be done after a check of one workload.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Nothing,
    /// It is over its limit for the first second: sample it.
    Sample,
    /// It still is.
    Wait,
    /// It did not last.
    Drop,
    Open {
        since: Now,
        reason: &'static str,
        sampled: bool,
    },
    Recover,
}

/// Where one workload stands against its limit.
pub(super) struct Limit {
    /// What it may use, in CPUs.
    pub(super) capacity: f64,
    /// The share of it that it usually uses.
    pub(super) usual: f64,
    phase: Phase,
    calm: u32,
    last_capture_ns: Option<u64>,
}

impl Limit {
    pub(super) fn new(capacity: f64) -> Self {
        Limit { capacity, usual: 0.0, phase: Phase::Calm, calm: 0, last_capture_ns: None }
    }

    /// Whether an incident is open.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    /// Why this use is too much, if it is.
    fn reason(&self, config: &Config, cpus: f64) -> Option<&'static str> {
        let share = cpus / self.capacity;
        if cpus < LEAST_CPUS {
            None
        } else if share >= config.usage_limit {
            Some("usage")
        } else if share - self.usual >= config.jump_limit {
            Some("jump")
        } else {
            None
        }
    }

    /// Takes one second's use into account. `wanted`: its samples would be of use to somebody.
    pub(super) fn step(&mut self, config: &Config, cpus: f64, wanted: bool, now: Now) -> Step {
        let share = cpus / self.capacity;
        match (self.phase, self.reason(config, cpus)) {
            (Phase::Calm, None) => {
                self.usual += (share - self.usual) / USUAL_SECONDS;
                Step::Nothing
            }
            (Phase::Calm, Some(_)) => {
                let cool = self.last_capture_ns.is_none_or(|at| now.boot_ns - at >= config.cool_down.ns());
                let sampled = wanted && cool;
                self.phase = Phase::Suspect { since: now, sampled };
                if sampled { Step::Sample } else { Step::Nothing }
            }
            (Phase::Suspect { .. }, None) => {
                self.phase = Phase::Calm;
                Step::Drop
            }
            (Phase::Suspect { since, sampled }, Some(reason)) if now.boot_ns - since.boot_ns >= config.window.ns() => {
                self.phase = Phase::Open { since };
                self.calm = 0;
                if sampled {
                    self.last_capture_ns = Some(now.boot_ns);
                }
                Step::Open { since, reason, sampled }
            }
            (Phase::Open { since }, Some(_)) if now.boot_ns - since.boot_ns < NEW_USUAL_NS => {
                self.calm = 0;
                Step::Wait
            }
            (Phase::Suspect { .. }, Some(_)) => Step::Wait,
            (Phase::Open { .. }, None) if self.calm + 1 < CALM_CHECKS => {
                self.calm += 1;
                Step::Nothing
            }
            (Phase::Open { .. }, over) => {
                if over.is_some() {
                    self.usual = share;
                }
                self.phase = Phase::Calm;
                Step::Recover
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Timestamp;
    use crate::signal::units::HumanDuration;

    const SECOND: u64 = 1_000_000_000;

    /// What each second of this use leads to, in one letter.
    fn steps(w: &mut Limit, from_s: u64, cpus: &[f64]) -> String {
        steps_if(true, w, from_s, cpus)
    }

    fn steps_if(wanted: bool, w: &mut Limit, from_s: u64, cpus: &[f64]) -> String {
        let config = Config { window: HumanDuration::from_secs(3), ..Config::default() };
        let at = |i: usize| {
            let ns = (from_s + i as u64) * SECOND;
            Now { wall: Timestamp(ns), boot_ns: ns }
        };
        let letter = |step| match step {
            Step::Nothing => '.',
            Step::Sample => 's',
            Step::Wait => 'w',
            Step::Drop => 'd',
            Step::Open { .. } => 'O',
            Step::Recover => 'R',
        };
        cpus.iter().enumerate().map(|(i, c)| letter(w.step(&config, *c, wanted, at(i)))).collect()
    }

    /// High for the whole window: sampled after one second, opened with that second as its onset,
    /// recovered after three calm seconds.
    #[test]
    fn high_use_is_opened_and_recovers() {
        let mut w = Limit::new(1.0);
        assert_eq!(steps(&mut w, 100, &[0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]), ".swwOw..R.");
    }

    /// A peak shorter than the window opens nothing, and its samples are dropped.
    #[test]
    fn a_peak_is_dropped() {
        assert_eq!(steps(&mut Limit::new(1.0), 100, &[0.1, 1.0, 1.0, 0.1, 0.1]), ".swd.");
    }

    /// Half of what it may use is a jump for who used next to nothing, not for who usually does.
    #[test]
    fn a_jump_is_told_from_the_usual() {
        assert_eq!(steps(&mut Limit::new(2.0), 100, &[0.1, 1.0, 1.0, 1.0, 1.0]), ".swwO");
        let mut used_to_it = Limit::new(2.0);
        used_to_it.usual = 0.4;
        assert_eq!(steps(&mut used_to_it, 100, &[0.8, 1.0, 1.0, 1.0, 1.0]), ".....");
    }

    /// A slow ramp never jumps, and is found at the limit.
    #[test]
    fn a_ramp_is_found() {
        let ramp: Vec<f64> = (0..200).map(|i| (f64::from(i) * 0.01).min(1.0)).collect();
        assert!(steps(&mut Limit::new(1.0), 100, &ramp).contains('O'));
    }

    /// Right after a capture the next onset is told, but not sampled again.
    #[test]
    fn a_second_onset_within_the_cool_down_is_not_sampled() {
        let mut w = Limit::new(1.0);
        assert_eq!(steps(&mut w, 100, &[1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]), "swwO..R");
        assert_eq!(steps(&mut w, 110, &[1.0, 1.0, 1.0, 1.0]), ".wwO");
    }

    /// Whom nobody wants goes through the same, to be counted, but is never sampled; also not when it
    /// is wanted from the middle of it on.
    #[test]
    fn who_is_not_wanted_is_not_sampled() {
        let mut w = Limit::new(1.0);
        assert_eq!(steps_if(false, &mut w, 100, &[1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]), ".wwO..R");
        assert_eq!(steps_if(false, &mut w, 110, &[1.0, 1.0, 1.0]), ".ww");
        let now = Now { wall: Timestamp(0), boot_ns: 113 * SECOND };
        let config = Config { window: HumanDuration::from_secs(3), ..Config::default() };
        assert!(matches!(w.step(&config, 1.0, true, now), Step::Open { sampled: false, .. }));
        // Nothing was taken that others would have to wait for.
        assert_eq!(steps(&mut w, 114, &[0.1, 0.1, 0.1, 1.0]), "..Rs");
    }

    /// A load that stays for ten minutes is the new usual: its incident ends.
    #[test]
    fn what_stays_is_the_new_usual() {
        let mut w = Limit::new(2.0);
        let all = steps(&mut w, 100, &[1.0; 700]);
        assert_eq!((all.matches('O').count(), all.matches('R').count()), (1, 1));
        assert!(all.ends_with("...."), "{all}");
    }
}
