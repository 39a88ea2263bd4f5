// SPDX-License-Identifier: Apache-2.0
//! Which processes hold sockets.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::probe::shared::net::{Holder, Net, Sought};

/// How long a socket's holder is believed to be the same, and how many are kept.
const FRESH: Duration = Duration::from_secs(5);
const KEPT: usize = 1024;

/// A search looks at every open file of the node, 0.14 us each: searches may take a tenth of the time, and half a
/// second at once after a quiet while.
const SHARE: u32 = 10;
const BURST: Duration = Duration::from_millis(500);

/// Finds the processes that hold sockets, and remembers them for a while.
pub struct Holders {
    net: Net,
    known: HashMap<Sought, (Instant, Option<Holder>)>,
    budget: Budget,
}

impl Holders {
    pub fn new(net: Net) -> Self {
        Holders { net, known: HashMap::new(), budget: Budget { left: BURST, at: Instant::now() } }
    }

    /// The process that holds the socket; `None` also where it may not be searched for now.
    pub fn find(&mut self, socket: Sought) -> Option<Holder> {
        let begin = Instant::now();
        if let Some((at, holder)) = self.known.get(&socket)
            && begin.saturating_duration_since(*at) < FRESH
        {
            return holder.clone();
        }
        if !self.budget.is_left(begin) {
            return None;
        }
        let found = self.net.holder(socket).inspect_err(|e| tracing::debug!("holder of a socket: {e:#}"));
        let end = Instant::now();
        self.budget.spend(end.saturating_duration_since(begin));
        let found = found.ok()?;
        if self.known.len() >= KEPT {
            self.known.retain(|_, (at, _)| end.saturating_duration_since(*at) < FRESH);
        }
        if self.known.len() < KEPT {
            self.known.insert(socket, (end, found.clone()));
        }
        found
    }
}

/// Time that may be spent.
struct Budget {
    left: Duration,
    at: Instant,
}

impl Budget {
    fn is_left(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.at) / SHARE;
        self.left = self.left.saturating_add(earned).min(BURST);
        self.at = self.at.max(now);
        !self.left.is_zero()
    }

    /// What is over is owed by what comes next, and no more than is left.
    fn spend(&mut self, time: Duration) {
        let over = time.saturating_sub(self.left);
        self.left = self.left.saturating_sub(time);
        self.at += over * SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At first a burst, however long each search is; then a tenth of the time; after a quiet while a burst again,
    /// and no more.
    #[test]
    fn searches_take_a_tenth_of_the_time() {
        for search in [1, 46, 700].map(Duration::from_millis) {
            let mut now = Instant::now();
            let mut budget = Budget { left: BURST, at: now };
            for _ in 0..2 {
                let (end, mut spent) = (now + Duration::from_secs(100), Duration::ZERO);
                while now < end {
                    let search = if budget.is_left(now) { search } else { Duration::ZERO };
                    budget.spend(search);
                    spent += search;
                    now += search.max(Duration::from_millis(1));
                }
                let allowed = BURST + Duration::from_secs(10);
                assert!(spent <= allowed + search && spent + search >= allowed * 9 / 10, "{search:?}: {spent:?}");
                now += Duration::from_secs(1000);
            }
        }
    }
}
