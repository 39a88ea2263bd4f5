// SPDX-License-Identifier: Apache-2.0
//! How the agent's logs look on standard error.

use std::fmt;
use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, format};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as subscriber_fmt};

/// What is written to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Lines for people; their look depends on where standard error leads.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// A terminal: colours.
    Terminal,
    /// A file or a container's log: plain, with time.
    Plain,
    /// The journal, which has the time itself and takes the level as `<N>` (sd-daemon(3)).
    Journal,
    Json,
}

/// The layer that writes to standard error.
pub fn layer<S>(output: Output) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let look = match output {
        Output::Json => Look::Json,
        Output::Text if std::io::stderr().is_terminal() => Look::Terminal,
        Output::Text if leads_to_journal(std::env::var("JOURNAL_STREAM").ok().as_deref()) => Look::Journal,
        Output::Text => Look::Plain,
    };
    to(look, std::io::stderr)
}

/// Whether standard error is the stream that systemd says it is: a child whose output was redirected
/// inherits the variable too (systemd.exec(5), `$JOURNAL_STREAM`).
fn leads_to_journal(variable: Option<&str>) -> bool {
    let Some((device, inode)) = variable.and_then(|v| v.split_once(':')) else { return false };
    std::fs::metadata("/dev/stderr").is_ok_and(|m| device.parse() == Ok(m.dev()) && inode.parse() == Ok(m.ino()))
}

fn to<S, W>(look: Look, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let layer = subscriber_fmt::layer().with_writer(writer);
    match look {
        Look::Json => layer.json().flatten_event(true).boxed(),
        _ => layer.with_ansi(look == Look::Terminal).event_format(Lines { look }).boxed(),
    }
}

struct Lines {
    look: Look,
}

/// The journal's priorities (syslog(3)).
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, cx: &FmtContext<'_, S, N>, mut w: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.look == Look::Journal {
            write!(w, "<{}>", priority(event.metadata().level()))?;
            return format().compact().without_time().with_level(false).with_ansi(false).format_event(cx, w, event);
        }
        format().compact().with_ansi(self.look == Look::Terminal).format_event(cx, w, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::layer::SubscriberExt as _;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(b)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(look: Look) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(to(look, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || tracing::warn!(target: "x", "careful"));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// The journal gets the level as its own prefix and neither time nor colours.
    #[test]
    fn journal_lines_carry_a_priority() {
        assert_eq!(written(Look::Journal), "<4>x: careful\n");
    }

    /// A file gets time and level, without colours; a terminal gets colours.
    #[test]
    fn plain_lines_have_time_and_level() {
        let plain = written(Look::Plain);
        assert!(plain.starts_with("20") && plain.contains("WARN") && !plain.contains('\u{1b}'), "{plain:?}");
        assert!(written(Look::Terminal).contains('\u{1b}'));
    }

    /// JSON lines are objects with level, target and message.
    #[test]
    fn json_lines_are_objects() {
        let line: serde_json::Value = serde_json::from_str(&written(Look::Json)).unwrap();
        assert_eq!(
            (&line["level"], &line["target"], &line["message"]),
            (&"WARN".into(), &"x".into(), &"careful".into())
        );
    }

    /// The variable alone does not make a redirected stream the journal.
    #[test]
    fn journal_is_recognised_by_the_stream_itself() {
        let m = std::fs::metadata("/dev/stderr").unwrap();
        assert!(leads_to_journal(Some(&format!("{}:{}", m.dev(), m.ino()))));
        assert!(!leads_to_journal(Some(&format!("{}:{}", m.dev(), m.ino() + 1))));
        assert!(!leads_to_journal(Some("x")) && !leads_to_journal(None));
    }
}
