// SPDX-License-Identifier: Apache-2.0
//! A network device that does not send any more.

use crate::support::{Agent, Need, place, provoke, timeout};

const NAME: &str = "linux.net.tx_timeout";

/// A device that takes a packet and never completes it: device, queue and how long, and again the
/// second time; of no other device anything.
#[test]
fn stuck_queue_is_reported_each_time() {
    let _place = place!(Need::Agent, Need::Iproute, Need::Module);
    let agent = Agent::start("");
    assert_eq!(agent.metric("linux_net_tx_timeouts_total", &[]), Some(0.0));
    provoke("txtimeout", &[]);
    let event = agent.wait_event(NAME, timeout(10), |_| true);
    assert_eq!(event["severity"], "ERROR");
    assert_eq!(event["collector"], "txtimeout");
    let attributes = &event["attributes"];
    assert_eq!(attributes["network.interface.name"], "stuck0");
    assert_eq!(attributes["linux.net.queue"], 0);
    assert_eq!(attributes["linux.net.queues"], 1);
    assert!(attributes["linux.net.tx_timeouts"].as_u64().is_some_and(|n| n >= 1), "{event}");
    // The module's limit is a second, and the watchdog looks once in that time.
    assert_eq!(attributes["linux.net.tx_timeout.limit"], 1_000_000_000);
    let stopped = event["duration_ns"].as_u64().unwrap_or(0);
    assert!((1_000_000_000..30_000_000_000).contains(&stopped), "{event}");

    let before = agent.json(&["events", "--name", NAME]).len();
    provoke("txtimeout", &[]);
    crate::support::wait_for("second timeout", timeout(10), || {
        let events = agent.json(&["events", "--name", NAME]);
        (events.len() > before).then_some(events)
    });
    let events = agent.json(&["events", "--name", NAME]);
    assert!(events.iter().all(|e| e["attributes"]["network.interface.name"] == "stuck0"), "{events:?}");
}
