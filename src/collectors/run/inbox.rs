// SPDX-License-Identifier: Apache-2.0
//! The entrance to a collector's task: records through a bounded queue, commands beside it, so that a
//! full queue or a collector that is stuck never loses a command.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::CollectorSink;

/// What the agent asks of a task while it runs.
#[derive(Debug)]
pub(crate) enum Command {
    /// Changed settings, without the common keys.
    Reload(toml::Table),
    /// Works off the records that wait, and ends.
    Stop,
}

#[derive(Debug)]
pub(super) enum Message {
    /// A record of ring `ring` of the collector's object, or of a source, and when it was read.
    Record { ring: usize, bytes: Box<[u8]>, read: Instant },
    /// There is a command.
    Wake,
}

type Commands = Arc<Mutex<Vec<Command>>>;

/// Hands records and commands to one collector. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inbox {
    collector: &'static str,
    messages: SyncSender<Message>,
    commands: Commands,
    sink: Arc<dyn CollectorSink>,
}

/// The task's side of an [`Inbox`].
pub(super) struct Outbox {
    messages: Receiver<Message>,
    commands: Commands,
}

/// `capacity`: records that may wait.
pub(super) fn inbox(collector: &'static str, capacity: usize, sink: Arc<dyn CollectorSink>) -> (Inbox, Outbox) {
    let (tx, rx) = sync_channel(capacity);
    let commands = Commands::default();
    (Inbox { collector, messages: tx, commands: commands.clone(), sink }, Outbox { messages: rx, commands })
}

impl Inbox {
    #[cfg(test)]
    pub fn collector(&self) -> &'static str {
        self.collector
    }

    /// A record that is read now. Never blocks: the ring must be drained. A full queue is a counted loss.
    pub fn record(&self, ring: usize, bytes: &[u8]) {
        let sent = self.messages.try_send(Message::Record { ring, bytes: bytes.into(), read: Instant::now() });
        if matches!(sent, Err(TrySendError::Full(_))) {
            self.sink.dropped(self.collector, "queue_full", 1);
        }
    }

    /// Never blocks and never fails: the task takes it as soon as the collector answers.
    pub fn command(&self, command: Command) {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        // A full queue wakes the task, too.
        drop(self.messages.try_send(Message::Wake));
    }
}

impl Outbox {
    /// Waits for a message; `Err`: there is no entrance any more.
    pub fn wait(&self, timeout: Duration) -> Result<Option<Message>, ()> {
        match self.messages.recv_timeout(timeout) {
            Ok(message) => Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    /// A message that is there already.
    pub fn next(&self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    pub fn commands(&self) -> Vec<Command> {
        std::mem::take(&mut *self.commands.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
