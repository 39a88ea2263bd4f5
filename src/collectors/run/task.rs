// SPDX-License-Identifier: Apache-2.0
//! The loop of one collector, for a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::{Command, Message, Outbox};
use super::supervisor::Progress;

/// A collector that wants to be called at no time waits so long for a record or command.
const IDLE_WAIT: Duration = Duration::from_secs(3600);

/// What a task does for the kind of its collector.
pub(super) trait Work: Send {
    /// When [`Self::on_time`] is due; `None`: only records matter.
    fn due(&self) -> Option<Instant>;
    fn on_time(&mut self);
    /// `read`: when the record was read.
    fn on_record(&mut self, ring: usize, bytes: &[u8], read: Instant);
    fn reload(&mut self, settings: &toml::Table);
}

/// One collector with its queue; runs until it is told to stop.
pub(crate) struct Task {
    pub name: &'static str,
    /// For the [`Supervisor`](super::Supervisor).
    pub progress: Arc<Progress>,
    work: Box<dyn Work>,
    outbox: Outbox,
}

impl Task {
    pub(super) fn new(name: &'static str, progress: Arc<Progress>, work: impl Work + 'static, outbox: Outbox) -> Self {
        Task { name, progress, work: Box::new(work), outbox }
    }

    /// Blocks; for a thread of its own.
    pub fn run(mut self) {
        loop {
            let wait = self.work.due().map_or(IDLE_WAIT, |at| at.saturating_duration_since(Instant::now()));
            match self.outbox.wait(wait) {
                Ok(Some(Message::Record { ring, bytes, read })) => self.work.on_record(ring, &bytes, read),
                Ok(Some(Message::Wake) | None) => {}
                Err(()) => return,
            }
            for command in self.outbox.commands() {
                match command {
                    Command::Reload(settings) => self.work.reload(&settings),
                    Command::Stop => return self.drain(),
                }
            }
            // After a record too: a stream of them delays no timer.
            if self.work.due().is_some_and(|at| at <= Instant::now()) {
                self.work.on_time();
            }
        }
    }

    fn drain(&mut self) {
        while let Some(message) = self.outbox.next() {
            if let Message::Record { ring, bytes, read } = message {
                self.work.on_record(ring, &bytes, read);
            }
        }
    }
}
