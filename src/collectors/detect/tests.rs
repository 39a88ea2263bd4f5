// SPDX-License-Identifier: Apache-2.0
//! Sequences of readings and what each leads to, in one letter.

use super::*;
use crate::signal::Timestamp;

const SECOND: u64 = 1_000_000_000;
const KEY: u32 = 7;

fn at(second: u64) -> Now {
    let ns = second * SECOND;
    Now { wall: Timestamp(ns), boot_ns: ns }
}

fn rules() -> Rules {
    Rules { level: Some(0.9), jump: Some(0.4), window: Duration::from_secs(3), ..Rules::default() }
}

fn reading(value: f64) -> Reading {
    Reading { value, negligible: false, wanted: true }
}

fn letter(step: Step) -> char {
    match step {
        Step::Nothing => '.',
        Step::Begin => 'b',
        Step::Hold => 'h',
        Step::Drop => 'd',
        Step::Open { .. } => 'O',
        Step::Recover => 'R',
    }
}

/// One reading a second from a second on, of one key.
fn steps(d: &mut Detector<u32>, rules: &Rules, from_s: u64, values: &[f64]) -> String {
    let step = |(i, v): (usize, &f64)| letter(d.step(rules, KEY, reading(*v), at(from_s + i as u64)));
    values.iter().enumerate().map(step).collect()
}

fn steps_of_new(values: &[f64]) -> String {
    steps(&mut Detector::default(), &rules(), 100, values)
}

/// High for the whole window: evidence is begun at the first second, which is the onset; recovered after three
/// calm seconds.
#[test]
fn a_high_level_is_opened_and_recovers() {
    assert_eq!(steps_of_new(&[0.1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.1]), ".bhhOh..R.");
    let mut d = Detector::default();
    steps(&mut d, &rules(), 100, &[0.1, 1.0, 1.0, 1.0]);
    match d.step(&rules(), KEY, reading(1.0), at(104)) {
        Step::Open { since, reason: Reason::Level, taken: true } => assert_eq!(since.wall, at(101).wall),
        other => panic!("{other:?}"),
    }
}

/// What does not hold for the window opens nothing, and its evidence is dropped.
#[test]
fn a_peak_is_dropped() {
    assert_eq!(steps_of_new(&[0.1, 1.0, 1.0, 0.1, 0.1]), ".bhd.");
}

/// The limit itself is too much; what is just below is not.
#[test]
fn a_level_includes_its_limit() {
    assert_eq!(steps_of_new(&[0.9]), "b");
    let only_level = Rules { jump: None, ..rules() };
    assert_eq!(steps(&mut Detector::default(), &only_level, 100, &[0.899_999]), ".");
}

/// One that is new used nothing before: half of all is a jump.
#[test]
fn a_new_key_jumps_from_nothing() {
    assert_eq!(steps_of_new(&[0.05, 0.5, 0.5, 0.5, 0.5]), ".bhhO");
}

/// Of one that was there before it is not known what is usual: it is learnt in the first five seconds, whatever it
/// is. After that a jump is seen.
#[test]
fn what_was_there_is_learnt_first() {
    let mut d = Detector::default();
    d.was_there(&rules(), KEY, at(100));
    assert_eq!(steps(&mut d, &rules(), 101, &[0.51; 70]), ".".repeat(70));
    assert!((d.usual(KEY).unwrap() - 0.51).abs() < 1e-9);
    assert_eq!(steps(&mut d, &rules(), 171, &[0.89; 4]), "....");
    let mut quiet = Detector::default();
    quiet.was_there(&rules(), KEY, at(100));
    assert_eq!(steps(&mut quiet, &rules(), 101, &[0.02; 4]), "....");
    assert_eq!(quiet.usual(KEY), None);
    assert_eq!(steps(&mut quiet, &rules(), 105, &[0.02]), ".");
    assert_eq!(steps(&mut quiet, &rules(), 106, &[0.5; 4]), "bhhO");
}

/// One that was there and does nothing has no readings: that it is idle is learnt all the same, and a jump is seen.
#[test]
fn an_idle_one_is_known_to_be_idle() {
    let mut d = Detector::default();
    d.was_there(&rules(), KEY, at(100));
    for s in 101..=106 {
        assert!(d.end_round(&rules(), at(s)).is_empty());
    }
    assert_eq!(d.usual(KEY), Some(0.0));
    assert_eq!(steps(&mut d, &rules(), 107, &[0.5; 4]), "bhhO");
}

/// The level counts from the first reading on, known or not; what is learnt is learnt from calm readings alone.
#[test]
fn a_level_needs_no_usual() {
    let mut d = Detector::default();
    d.was_there(&rules(), KEY, at(100));
    assert_eq!(steps(&mut d, &rules(), 101, &[1.0; 100]), format!("bhhO{}", "h".repeat(96)));
    assert_eq!(steps(&mut d, &rules(), 201, &[0.2; 63]), format!("..R{}", ".".repeat(60)));
    assert!((d.usual(KEY).unwrap() - 0.2).abs() < 1e-9);
}

/// The usual follows slowly, by the time that went by and not by the number of readings.
#[test]
fn the_usual_follows() {
    let (mut often, mut rarely) = (Detector::default(), Detector::default());
    steps(&mut often, &rules(), 100, &[0.3; 61]);
    for i in 0..=6 {
        rarely.step(&rules(), KEY, reading(0.3), at(100 + i * 10));
    }
    let (often, rarely) = (often.usual(KEY).unwrap(), rarely.usual(KEY).unwrap());
    assert!((0.17..0.21).contains(&often) && (often - rarely).abs() < 0.02, "{often} {rarely}");
}

/// A slow ramp never jumps, and is found at the level.
#[test]
fn a_ramp_is_found() {
    let ramp: Vec<f64> = (0..250).map(|i| (f64::from(i) * 0.005).min(1.0)).collect();
    let all = steps_of_new(&ramp);
    assert!(matches!(all.find('b'), Some(180 | 181)) && all.contains('O'), "{all}");
}

/// A jump that lasts ten minutes is the new usual and ends; a level is too much for as long as it holds.
#[test]
fn a_jump_that_stays_is_the_new_usual() {
    let all = steps_of_new(&[0.5; 700]);
    assert_eq!((all.matches('O').count(), all.find('R')), (1, Some(600)));
    assert!(all.ends_with("...."), "{all}");
    assert_eq!(steps_of_new(&[1.0; 2000]), format!("bhhO{}", "h".repeat(1996)));
}

/// After evidence was taken the next onset is opened without, until it is cool.
#[test]
fn no_evidence_within_the_cool_down() {
    let mut d = Detector::default();
    assert_eq!(steps(&mut d, &rules(), 100, &[1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]), "bhhO..R");
    assert_eq!(steps(&mut d, &rules(), 110, &[1.0, 1.0, 1.0, 1.0, 0.1, 0.1, 0.1]), ".hhO..R");
    // Evidence was opened with at second 103.
    assert_eq!(steps(&mut d, &rules(), 162, &[1.0, 0.1, 1.0]), "..b");
}

/// What nobody wants goes through the same, but no evidence of it is taken or has to be dropped; also not when it
/// is wanted from the middle of it on.
#[test]
fn nothing_is_taken_of_what_is_not_wanted() {
    let (rules, mut d) = (rules(), Detector::default());
    let mut step = |second, value, wanted| d.step(&rules, KEY, Reading { wanted, ..reading(value) }, at(second));
    let all: String = [1.0, 0.1, 1.0, 1.0, 1.0].iter().zip(100..).map(|(v, s)| letter(step(s, *v, false))).collect();
    assert_eq!(all, "...hh");
    assert!(matches!(step(105, 1.0, true), Step::Open { taken: false, .. }));
}

/// What is negligible is calm, whatever the rules say.
#[test]
fn the_negligible_is_calm() {
    let (rules, mut d) = (rules(), Detector::default());
    let negligible = Reading { negligible: true, ..reading(1.0) };
    assert_eq!(letter(d.step(&rules, KEY, negligible, at(100))), '.');
    assert_eq!(letter(d.step(&rules, KEY, reading(1.0), at(101))), 'b');
    assert_eq!(letter(d.step(&rules, KEY, negligible, at(102))), 'd');
}

/// Growth that meets the limit within the time is too much long before the limit; slower growth, and a fall, are not.
#[test]
fn an_approach_is_seen_ahead() {
    let approach = Approach { limit: 100.0, within: Duration::from_secs(60), over: Duration::from_secs(20) };
    let rules = Rules { approach: Some(approach), window: Duration::from_secs(3), ..Rules::default() };
    let first = |per_second: f64| {
        let values: Vec<f64> = (0..90).map(|i| 10.0 + f64::from(i) * per_second).collect();
        steps(&mut Detector::default(), &rules, 100, &values).find('b')
    };
    // From 40 on it is a minute to 100; the first ten seconds show no trend.
    assert!((29..=31).contains(&first(1.0).unwrap()), "{:?}", first(1.0));
    assert_eq!((first(0.1), first(-1.0), first(0.0)), (None, None, None));
    assert_eq!(first(2.0), Some(10));
    let mut d = Detector::default();
    let values: Vec<f64> = (0..40).map(|i| 10.0 + f64::from(i)).collect();
    assert!(steps(&mut d, &rules, 100, &values).contains('O'));
    // It stands still: no approach any more.
    assert!(steps(&mut d, &rules, 140, &[50.0; 30]).contains('R'));
}

/// A round in which a key is missing is a calm one for it: a suspect is dropped at once, what is open recovers
/// after as many as it would with readings. Others are left alone.
#[test]
fn the_absent_are_calm() {
    let (rules, mut d) = (rules(), Detector::default());
    let mut round = |second: u64, of: &[(u32, f64)]| {
        for (key, v) in of {
            d.step(&rules, *key, reading(*v), at(second));
        }
        let ended = d.end_round(&rules, at(second));
        ended.into_iter().map(|(key, step)| (key, letter(step))).collect::<Vec<_>>()
    };
    for second in 100..104 {
        assert_eq!(round(second, &[(1, 1.0), (3, 0.1)]), []);
    }
    assert_eq!(round(104, &[(1, 1.0), (2, 1.0)]), []);
    assert_eq!(round(105, &[]), [(2, 'd')]);
    assert_eq!(round(106, &[]), []);
    assert_eq!(round(107, &[]), [(1, 'R')]);
    assert_eq!(round(108, &[]), []);
}

/// A key that is back within the time is known; after that it is new.
#[test]
fn the_absent_are_forgotten() {
    let (rules, mut d) = (rules(), Detector::default());
    d.was_there(&rules, KEY, at(100));
    steps(&mut d, &rules, 101, &[0.5; 60]);
    assert!((d.usual(KEY).unwrap() - 0.5).abs() < 1e-9 && d.end_round(&rules, at(190)).is_empty());
    // Half a minute of nothing, over a minute.
    assert!((d.usual(KEY).unwrap() - 0.25).abs() < 1e-9);
    assert!(d.end_round(&rules, at(191)).is_empty());
    assert_eq!((d.usual(KEY), d.watches(KEY)), (None, false));
    // What is open, or suspect, ends with it.
    steps(&mut d, &rules, 200, &[1.0; 4]);
    d.step(&rules, 8, reading(1.0), at(203));
    let mut ended: Vec<_> = d.end_round(&rules, at(234)).into_iter().map(|(k, s)| (k, letter(s))).collect();
    ended.sort_unstable();
    assert_eq!(ended, [(KEY, 'R'), (8, 'd')]);
    assert!(!d.watches(KEY) && !d.watches(8));
}

/// At the end all that was begun or is open is handed back, and nothing else.
#[test]
fn the_end_of_all() {
    let (rules, mut d) = (rules(), Detector::default());
    steps(&mut d, &rules, 100, &[1.0; 4]);
    d.step(&rules, 8, reading(1.0), at(103));
    d.step(&rules, 9, reading(0.1), at(103));
    d.step(&rules, 10, Reading { wanted: false, ..reading(1.0) }, at(103));
    let mut ended: Vec<_> = d.end().into_iter().map(|(k, s)| (k, letter(s))).collect();
    ended.sort_unstable();
    assert_eq!(ended, [(KEY, 'R'), (8, 'd')]);
    assert!(d.end().is_empty());
}

/// No more keys than the rules allow; those that are known go on, and room is used again.
#[test]
fn keys_are_bounded() {
    let (rules, mut d) = (Rules { keys: 2, ..rules() }, Detector::default());
    for key in 1..=3 {
        d.step(&rules, key, reading(0.1), at(100));
    }
    d.was_there(&rules, 4, at(100));
    assert_eq!([1, 2, 3, 4].map(|k| d.watches(k)), [true, true, false, false]);
    assert_eq!(letter(d.step(&rules, 3, reading(1.0), at(101))), '.');
    assert_eq!(letter(d.step(&rules, 1, reading(1.0), at(101))), 'b');
    d.step(&rules, 1, reading(0.1), at(140));
    assert!(d.end_round(&rules, at(140)).is_empty());
    assert_eq!(letter(d.step(&rules, 3, reading(1.0), at(141))), 'b');
}

/// A clock that stands still, goes back or leaps neither ends nor breaks anything; what is no number is absent.
#[test]
fn clocks_and_numbers_at_their_edges() {
    let (rules, mut d) = (rules(), Detector::default());
    let mut step = |second: u64, value: f64| letter(d.step(&rules, KEY, reading(value), at(second)));
    assert_eq!((step(100, 1.0), step(100, 1.0), step(100, 1.0), step(100, 1.0)), ('b', 'h', 'h', 'h'));
    assert_eq!((step(50, 1.0), step(0, 1.0), step(103, 1.0), step(0, 1.0)), ('h', 'h', 'O', 'h'));
    assert_eq!((step(u64::MAX / SECOND, 1.0), step(1, 0.1), step(1, 0.1), step(1, 0.1)), ('h', '.', '.', 'R'));
    assert_eq!((step(2, f64::NAN), step(3, f64::INFINITY), step(4, 0.1)), ('.', '.', '.'));
    assert!(d.usual(KEY).unwrap() <= 0.1);
    assert!(d.end_round(&rules, at(0)).is_empty());
}
