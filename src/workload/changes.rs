// SPDX-License-Identifier: Apache-2.0
//! Notifications of new and renamed workloads; a slow receiver never blocks the sender.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use crate::signal::{Workload, WorkloadKey};

/// More than this many workloads are not kept for one who does not read.
const MAX_WAITING: usize = 65_536;

#[derive(Default)]
pub(super) struct Subscribers(Mutex<Vec<Weak<Queue>>>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// For those who wait in a task, and on a thread.
    task: Notify,
    thread: Condvar,
}

#[derive(Default)]
struct Waiting {
    order: VecDeque<WorkloadKey>,
    newest: HashMap<WorkloadKey, Arc<Workload>>,
    /// Changes that were refused because nobody read: the reader must look at all workloads.
    refused: u64,
    /// Who waits on a thread is to return, whatever there is.
    woken: bool,
}

/// What was new or renamed since the last look, each workload once and as it is now.
pub struct Changes(Arc<Queue>);

impl Subscribers {
    pub fn subscribe(&self) -> Changes {
        let queue = Arc::new(Queue::default());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&queue));
        Changes(queue)
    }

    pub fn publish(&self, w: &Arc<Workload>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|s| {
            let Some(queue) = s.upgrade() else { return false };
            queue.push(w);
            true
        });
    }

    pub fn wake(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in all.iter().filter_map(Weak::upgrade) {
            queue.waiting.lock().unwrap_or_else(PoisonError::into_inner).woken = true;
            queue.thread.notify_one();
        }
    }
}

impl Queue {
    fn push(&self, w: &Arc<Workload>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { order, newest, refused, .. } = &mut *waiting;
        if let Some(slot) = newest.get_mut(&w.key) {
            *slot = Arc::clone(w);
        } else if order.len() < MAX_WAITING {
            order.push_back(w.key);
            newest.insert(w.key, Arc::clone(w));
        } else {
            *refused += 1;
        }
        drop(waiting);
        self.task.notify_one();
        self.thread.notify_one();
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<Arc<Workload>> {
        let mut newest = std::mem::take(&mut self.newest);
        std::mem::take(&mut self.order).into_iter().filter_map(|key| newest.remove(&key)).collect()
    }
}

impl Changes {
    /// What there is now; does not wait.
    #[must_use]
    pub fn take(&self) -> Vec<Arc<Workload>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for changes, in a task. Nothing is lost when the future is dropped.
    pub async fn next(&self) -> Vec<Arc<Workload>> {
        loop {
            let ready = self.0.task.notified();
            let now = self.take();
            if !now.is_empty() {
                return now;
            }
            ready.await;
        }
    }

    /// Waits for changes, on a thread; empty when there were none in time, or it was
    /// [woken](super::Workloads::wake).
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> Vec<Arc<Workload>> {
        let waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .0
            .thread
            .wait_timeout_while(waiting, at_most, |w| w.order.is_empty() && !w.woken)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.woken = false;
        waiting.take()
    }

    /// How many changes were refused because nobody read.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).refused
    }
}
