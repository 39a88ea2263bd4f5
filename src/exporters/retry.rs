// SPDX-License-Identifier: Apache-2.0
//! How long to wait before the next try, how to stop, and how seldom to complain.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Exponential back-off with full jitter, so that many agents do not come back at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    /// `seed` differs between agents.
    #[must_use]
    pub fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Backoff { first, longest, failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// The wait before the next try; at least what the server asked for.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        let own = ceiling.mul_f64(0.5 + self.random.f64() / 2.0);
        // A server may ask for patience, not for silence until its retention has passed.
        asked.map_or(own, |a| a.min(Duration::from_secs(600)) + own.mul_f64(0.1)).max(own)
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The agent's request to end. Yields the moment until which there is time to flush.
pub type Shutdown = Pin<Box<dyn Future<Output = Instant> + Send>>;

/// Watches for the end while other things are waited for.
pub struct Stop {
    shutdown: Option<Shutdown>,
    deadline: Option<Instant>,
}

impl Stop {
    pub fn new(shutdown: impl Future<Output = Instant> + Send + 'static) -> Self {
        Stop { shutdown: Some(Box::pin(shutdown)), deadline: None }
    }

    /// Whether the agent is ending.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.deadline.is_some()
    }

    /// Whether there is no time left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.deadline.is_some_and(|d| d <= Instant::now())
    }

    /// Runs `work` to its end, or until there is no time left.
    pub async fn within<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        if let Some(shutdown) = &mut self.shutdown {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                deadline = shutdown => self.deadline = Some(deadline),
            }
            self.shutdown = None;
        }
        let deadline = self.deadline?;
        tokio::select! {
            biased;
            done = &mut work => Some(done),
            () = sleep_until(deadline) => None,
        }
    }

    /// Waits until the agent begins to end.
    pub async fn begun(&mut self) {
        if let Some(shutdown) = &mut self.shutdown {
            self.deadline = Some(shutdown.await);
            self.shutdown = None;
        }
    }

    /// Waits for `d`; less when the agent begins to end meanwhile.
    pub async fn pause(&mut self, d: Duration) {
        let until = Instant::now() + d;
        if let Some(shutdown) = &mut self.shutdown {
            tokio::select! {
                () = sleep_until(until) => return,
                deadline = shutdown => self.deadline = Some(deadline),
            }
            self.shutdown = None;
            return;
        }
        sleep_until(self.deadline.map_or(until, |deadline| until.min(deadline))).await;
    }
}

/// Lets one through a minute.
#[derive(Debug, Default)]
pub struct OnceAMinute {
    last: Option<Instant>,
}

impl OnceAMinute {
    /// Whether it may be said now.
    pub fn may_speak(&mut self) -> bool {
        let now = Instant::now();
        let may = self.last.is_none_or(|l| now.duration_since(l) >= Duration::from_secs(60));
        if may {
            self.last = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits double up to the longest, spread over their upper half, and begin anew after a success.
    #[test]
    fn waits_double_with_jitter() {
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(100), ms(1000), 42);
        for ceiling in [100, 200, 400, 800, 1000, 1000] {
            let w = b.next(None);
            assert!(w >= ms(ceiling) / 2 && w <= ms(ceiling), "{w:?} for {ceiling}");
        }
        b.reset();
        assert!(b.next(None) <= ms(100));
        let other = Backoff::new(ms(100), ms(1000), 43).next(None);
        assert_ne!(other, Backoff::new(ms(100), ms(1000), 42).next(None));
    }

    /// The server's wish is the least wait, but an absurd one is cut.
    #[test]
    fn servers_wish_is_obeyed() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 1);
        let asked = Duration::from_secs(30);
        let w = b.next(Some(asked));
        assert!(w >= asked && w < asked * 2);
        assert!(b.next(Some(Duration::from_secs(86_400))) < Duration::from_secs(700));
    }

    /// Work that outlasts the deadline is cut; a pause ends when the agent does.
    #[tokio::test(start_paused = true)]
    async fn deadline_cuts_work_and_pauses() {
        let begin = Instant::now();
        let after = move |s| begin + Duration::from_secs(s);
        let mut stop = Stop::new(async move {
            sleep_until(after(10)).await;
            after(15)
        });
        assert_eq!(stop.within(async { 1 }).await, Some(1));
        stop.pause(Duration::from_secs(60)).await;
        assert_eq!((Instant::now(), stop.is_ending(), stop.is_over()), (after(10), true, false));
        assert_eq!(stop.within(std::future::pending::<()>()).await, None);
        assert_eq!((Instant::now(), stop.is_over()), (after(15), true));
    }
}
