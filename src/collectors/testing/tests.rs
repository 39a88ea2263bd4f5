// SPDX-License-Identifier: Apache-2.0
//! What the rig promises, and what every collector must bear.

use std::time::Duration;

use zerocopy::FromZeros as _;

use super::*;
use crate::collectors::registry::{Running, SettingsError};
use crate::collectors::{BUILT_IN, Kind};
use crate::probe::skeletons::{oom, sched, softirq};
use crate::signal::Metrics;

fn of(name: &str) -> &'static Registration {
    BUILT_IN.iter().find(|r| r.info.name == name).unwrap()
}

/// Calls all that its loop would call.
fn run_once(c: &mut Rigged<'_>, kind: Kind) {
    // An error is an answer; a panic is what must not be.
    match kind {
        Kind::Metrics => drop(c.collect(&mut Metrics::default())),
        Kind::Events => {
            drop(c.tick());
            let _ = c.period();
        }
        Kind::Autotracing => drop(c.check()),
    }
}

/// Every collector is built and runs without a kernel and without privileges.
#[test]
fn every_collector_runs() {
    let rig = Rig::new().unwrap();
    for r in BUILT_IN {
        let mut c = rig.run(r, "").unwrap_or_else(|e| panic!("{}: {e:#}", r.info.name));
        run_once(&mut c, r.kind);
        rig.advance(Duration::from_secs(1));
        run_once(&mut c, r.kind);
    }
}

/// A record that is too short or too long is refused, and one of any bytes is borne.
#[test]
fn any_bytes_are_borne() {
    let rig = Rig::new().unwrap();
    for r in BUILT_IN.iter().filter(|r| r.kind == Kind::Events) {
        let mut c = rig.run(r, "").unwrap();
        let rings: Vec<_> = c.rings().into_iter().filter(|(name, _)| *name != "cgroup_change").collect();
        for (ring, size) in rings {
            assert!(c.bytes(ring, &vec![0; size - 8]).is_err(), "{} {ring}", r.info.name);
            assert!(c.bytes(ring, &vec![0; size + 8]).is_err(), "{} {ring}", r.info.name);
            for byte in [0xff, 0x80, 0x41, 0] {
                drop(c.bytes(ring, &vec![byte; size]));
                run_once(&mut c, r.kind);
            }
        }
        for byte in [0xff, 1, 0] {
            drop(c.notice(&[byte; 64]));
            drop(c.notice(&[byte; 3]));
        }
    }
}

/// Where a file is missing, or is anything but what it should be, there is a reason and no panic.
#[test]
fn any_files_are_borne() {
    let junk: Vec<u8> = (0..4096_u32).map(|i| (i * 7 % 256) as u8).collect();
    let contents = [&b""[..], b"\n\n\n", b"cpu -1 -2 99999999999999999999999 x\ncpu0\n0::/../..\n", &junk];
    let files = ["proc/stat", "proc/self/mountinfo", "proc/self/cgroup", "proc/meminfo", "proc/pressure/memory"];
    for file in files {
        for content in contents.iter().map(Some).chain([None]) {
            let rig = Rig::new().unwrap();
            rig.cgroup("/a.service").unwrap();
            match content {
                Some(c) => rig.write(file, c).unwrap(),
                None => drop(rig.remove(file)),
            }
            for r in BUILT_IN {
                if let Ok(mut c) = rig.run(r, "") {
                    run_once(&mut c, r.kind);
                }
            }
        }
    }
}

/// What the kernel lacks is what the collector is told, by slot and reason; a hook that is optional is not
/// needed.
#[test]
fn hooks_can_be_missing() {
    let rig = Rig::new().unwrap();
    rig.kernel().refuse(&oom::SKELETON, "kill", "no such tracepoint");
    rig.run(of("oom"), "").unwrap();
    assert_eq!(rig.kernel().object(&oom::SKELETON).unwrap().attached("kill"), None);
    rig.kernel().refuse(&softirq::SKELETON, "raise", "no such tracepoint");
    let e = rig.run(of("softirq"), "").err().unwrap();
    assert_eq!(e.to_string(), "softirq: no hook for raise: no such tracepoint");
}

/// Settings reach the object as they would reach the kernel's, at the start and when they change; wrong ones
/// are refused as the agent refuses them.
#[test]
fn settings_reach_the_object() {
    let rig = Rig::new().unwrap();
    let mut c = rig.run(of("softirq"), "delay_limit = \"5ms\"").unwrap();
    let limit = || rig.kernel().object(&softirq::SKELETON).unwrap().get(softirq::setting::SOFTIRQ_LIMIT_NS).unwrap();
    assert_eq!(limit(), 5_000_000);
    c.reload("delay_limit = \"7ms\"").unwrap();
    assert_eq!(limit(), 7_000_000);
    let e = rig.run(of("softirq"), "delay_limit = \"1us\"").err().unwrap();
    let invalid = e.downcast_ref::<BuildError>();
    assert!(matches!(invalid, Some(BuildError::Settings(SettingsError::Invalid(i))) if i.key == "delay_limit"), "{e}");
}

/// A kind has only its own calls, and a ring that is not read for the collector is said to be none.
#[test]
fn wrong_calls_are_refused() {
    let rig = Rig::new().unwrap();
    let mut c = rig.run(of("oom"), "").unwrap();
    assert!(c.collect(&mut Metrics::default()).is_err() && c.check().is_err() && c.notice(&[0]).is_err());
    assert_eq!(c.bytes("lockup", &[]).unwrap_err().to_string(), "oom reads no ring lockup");
    assert!(matches!(
        rig.build(of("cpu").info, &[], |cx| (of("cpu").build)(&toml::Table::new(), cx)).0,
        Err(BuildError::Unavailable(_))
    ));
    assert!(matches!(
        rig.build(of("oom").info, of("oom").info.needs, |cx| (of("oom").build)(&toml::Table::new(), cx)).0,
        Ok(Running::Events(_))
    ));
}

/// Tables in memory do what the kernel's do: arrays are full of zeros, hashes have an end, per-CPU maps a value
/// for each CPU.
#[test]
fn tables_are_as_the_kernels() {
    let rig = Rig::new().unwrap();
    let kernel = rig.kernel();
    let cpus = kernel.table::<u32, sched::SchedCpu>(&sched::SKELETON, "sched_cpus").unwrap();
    assert_eq!(cpus.get_per_cpu(&0).unwrap().unwrap().len(), CPUS);
    assert!(cpus.get_per_cpu(&1).unwrap().is_none() && cpus.get(&0).is_err() && cpus.remove(&0).is_err());
    let group = |run_ns| sched::SchedGroup { run_ns, ..sched::SchedGroup::new_zeroed() };
    for id in 0..2048_u64 {
        kernel.put(&sched::SKELETON, "sched_evicted", &id, &[group(id)]).unwrap();
    }
    assert!(kernel.put(&sched::SKELETON, "sched_evicted", &9999_u64, &[group(1)]).is_err());
    let mut evicted = kernel.table::<u64, sched::SchedGroup>(&sched::SKELETON, "sched_evicted").unwrap();
    let mut sum = 0;
    assert_eq!(evicted.drain(|id, g| sum += u64::from(g[0].run_ns == *id)).unwrap(), 2048);
    assert_eq!((sum, evicted.for_each(|_, _| ()).unwrap()), (2048, 0));
    assert!(kernel.table::<u64, u64>(&sched::SKELETON, "sched_evicted").is_err());
    assert!(kernel.table::<u64, u64>(&sched::SKELETON, "nothing").is_err());
}
