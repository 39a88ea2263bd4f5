// SPDX-License-Identifier: Apache-2.0
//! A network device stopped transmitting.
//!
//! ## What it reports
//! A transmit queue was stopped and its device took nothing from it for longer than its driver
//! allows: which device and queue, by which driver, how long, and how often that queue had it.
//!
//! ## How
//! `net:net_dev_xmit_timeout` (include/trace/events/net.h) at the moment when the kernel's watchdog
//! calls the driver's reset. The queue's own times are in jiffies; how many a second is found from
//! both clocks of the same instant.
//!
//! ## Signals
//! `linux.net.tx_timeout`, one for each queue and round of the watchdog.
//!
//! ## Limits
//! The watchdog (dev_watchdog in net/sched/sch_generic.c) looks once in the driver's limit, five
//! seconds by default, so a stall is seen up to twice that late; a round names one queue of a device.
//! At most 20 records of a device at once, one more each second; what was limited is a number on
//! the next.
//!
//! ## What to do next
//! See `dmesg` for what the driver said after `NETDEV WATCHDOG`, and whether the link went down
//! (`linux.net.link_change`). One queue again and again: its interrupt (`/proc/interrupts`, affinity
//! to a dead or busy CPU) or a driver's fault; all queues: the device, its firmware, or pause frames
//! from the switch (`ethtool -S`, `ethtool -a`).

use std::time::Duration;

use crate::collectors::{Collector, Context, EventCollector, Events, Info, NoSettings, Unavailable, head_doc};
use crate::host::Clock;
use crate::probe::skeletons::txtimeout::{Record, Records, SKELETON, TxTimeout as Timeout};
use crate::probe::text;
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Key, MetricDef, Severity};

const NET_QUEUES: Key = Key::new("linux.net.queues", "Transmit queues of the device");
const NET_TX_TIMEOUTS: Key = Key::new("linux.net.tx_timeouts", "Timeouts of this queue since the device is there");
const NET_TX_LIMIT: Key = Key::new("linux.net.tx_timeout.limit", "The driver's limit (watchdog_timeo), in nanoseconds");

const BY: &[Key] = &[attr::NETWORK_INTERFACE_NAME, attr::LINUX_NET_DEVICE_DRIVER];

static TIMEOUTS: MetricDef =
    MetricDef::counter("linux.net.tx_timeouts", "{event}", "Transmit queues stopped longer than their driver allows")
        .by(BY);

/// A queue that stands still.
pub static TX_TIMEOUT: EventDef = EventDef {
    name: "linux.net.tx_timeout",
    summary: "A network device's transmit queue was stopped for longer than its driver allows",
    severity: Severity::Error,
    worst: Severity::Error,
    attributes: &[
        attr::NETWORK_INTERFACE_NAME,
        attr::LINUX_NET_IFINDEX,
        attr::LINUX_NET_NAMESPACE,
        attr::LINUX_NET_DEVICE_KIND,
        attr::LINUX_NET_DEVICE_DRIVER,
        attr::LINUX_NET_QUEUE,
        NET_QUEUES,
        NET_TX_TIMEOUTS,
        NET_TX_LIMIT,
    ],
    counter: &TIMEOUTS,
    container_counter: None,
};

/// The collector.
pub struct TxTimeout {
    clock: Clock,
}

impl Collector for TxTimeout {
    const INFO: Info = Info {
        name: "txtimeout",
        summary: "network devices that stopped transmitting",
        doc: head_doc(include_str!("txtimeout.rs")),
        object: Some(&SKELETON),
        events: &[&TX_TIMEOUT],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        cx.load(SKELETON.options())?;
        Ok(TxTimeout { clock: cx.clock.clone() })
    }

    fn reload(&mut self, _: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl EventCollector for TxTimeout {
    type Records = Records;

    fn on_record(&mut self, Record::TxTimeout(r): Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        let (name, kind, driver) = (text(&r.dev.name), text(&r.dev.kind), text(&r.dev.driver));
        let mut e = Event::new(&TX_TIMEOUT, self.clock.wall(r.time_ns), None, String::new());
        e.duration = stopped(r);
        let by = if driver.is_empty() { String::new() } else { format!(" ({driver})") };
        let long = e.duration.map(|d| format!(" for {:.1} s", d.as_secs_f64())).unwrap_or_default();
        e.message = format!("{name}{by}: transmit queue {} has been stopped{long}", r.queue);
        e.attributes
            .set(attr::NETWORK_INTERFACE_NAME, name)
            .set(attr::LINUX_NET_IFINDEX, r.dev.ifindex)
            .set(attr::LINUX_NET_NAMESPACE, r.dev.netns)
            .set_some(attr::LINUX_NET_DEVICE_KIND, Some(kind).filter(|k| !k.is_empty()))
            .set_some(attr::LINUX_NET_DEVICE_DRIVER, Some(driver).filter(|d| !d.is_empty()))
            .set(attr::LINUX_NET_QUEUE, r.queue)
            .set(NET_QUEUES, r.queues)
            .set(NET_TX_TIMEOUTS, r.timeouts)
            .set_some(NET_TX_LIMIT, of_jiffies(r, r.limit_jiffies.into()).map(nanoseconds));
        out.emit(e);
        Ok(())
    }
}

/// How long the queue had been stopped.
fn stopped(r: &Timeout) -> Option<Duration> {
    of_jiffies(r, r.jiffies.checked_sub(r.trans_start)?)
}

fn of_jiffies(r: &Timeout, n: u64) -> Option<Duration> {
    let hz = jiffies_a_second(r.jiffies, Duration::from_nanos(r.monotonic_ns))?;
    Some(Duration::from_millis(n.saturating_mul(1000) / hz))
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// CONFIG_HZ, which is in no file: kernel/Kconfig.hz has these, arch/alpha and test builds others.
const RATES: [u64; 4] = [100, 250, 300, 1000];

/// Jiffies start at 2^32 - 300 HZ on 64-bit machines (INITIAL_JIFFIES in include/linux/jiffies.h),
/// so that both clocks give the rate, but when they are at 300 s: then every rate fits.
fn jiffies_a_second(jiffies: u64, monotonic: Duration) -> Option<u64> {
    let since_wrap = monotonic.as_secs_f64() - 300.0;
    if since_wrap.abs() < 2.0 {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "both are near 2^32")]
    let rate = (jiffies as f64 - 4_294_967_296.0) / since_wrap;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let off = |hz: u64| (rate / hz as f64 - 1.0).abs();
    RATES.into_iter().find(|hz| off(*hz) < 0.05)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;

    /// Before and after the counter's wrap, and where it is unknown.
    #[test]
    fn the_rate_is_found_from_both_clocks() {
        for hz in RATES {
            for seconds in [20, 290, 310, 40_000_000] {
                let jiffies = (1_u64 << 32) - 300 * hz + hz * seconds + 3;
                assert_eq!(jiffies_a_second(jiffies, Duration::from_secs(seconds)), Some(hz), "{hz} at {seconds} s");
            }
        }
        assert_eq!(jiffies_a_second(1 << 32, Duration::from_secs(300)), None);
    }

    /// A queue, its device, and for how long it stood still, at 250 jiffies a second.
    #[test]
    fn a_queue_that_stands_still() {
        let rig = Rig::new().unwrap();
        let mut r = Timeout::new_zeroed();
        (r.time_ns, r.monotonic_ns) = (rig.clock().boot_ns(), 1_000_000_000_000);
        r.jiffies = (1 << 32) - 300 * 250 + 1000 * 250;
        (r.trans_start, r.queue, r.queues, r.limit_jiffies) = (r.jiffies - 1500, 2, 4, 1250);
        r.dev.name[..4].copy_from_slice(b"eth0");
        r.dev.driver[..4].copy_from_slice(b"mlx5");
        let mut c = rig.run(&crate::collectors::events::<TxTimeout>(), "").unwrap();
        let e = c.record("tx_timeout", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.net.tx_timeout", Severity::Error));
        assert_eq!(e.message, "eth0 (mlx5): transmit queue 2 has been stopped for 6.0 s");
        let limit = e.attributes.get(NET_TX_LIMIT.name).and_then(crate::signal::Value::as_int);
        assert_eq!((e.duration, limit), (Some(Duration::from_secs(6)), Some(5_000_000_000)));
    }
}
