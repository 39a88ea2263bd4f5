// SPDX-License-Identifier: Apache-2.0
//! How the agent's logs look on standard error.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter, format};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, fmt as subscriber_fmt};

/// Where standard error leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// A terminal: colours.
    Terminal,
    /// A file or a container's log: plain, with time.
    #[default]
    Plain,
    /// The journal, which has the time itself and takes the level as `<N>` (sd-daemon(3)).
    Journal,
}

/// The layer that writes to standard error.
pub fn layer<S>(output: Output) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    to(output, std::io::stderr)
}

fn to<S, W>(output: Output, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    let ansi = output == Output::Terminal;
    subscriber_fmt::layer().with_writer(writer).with_ansi(ansi).event_format(Lines { output })
}

struct Lines {
    output: Output,
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
        if self.output == Output::Journal {
            write!(w, "<{}>", priority(event.metadata().level()))?;
            return format().compact().without_time().with_level(false).with_ansi(false).format_event(cx, w, event);
        }
        format().compact().with_ansi(self.output == Output::Terminal).format_event(cx, w, event)
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

    fn written(output: Output) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(to(output, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || tracing::warn!(target: "x", "careful"));
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// The journal gets the level as its own prefix and neither time nor colours.
    #[test]
    fn journal_lines_carry_a_priority() {
        assert_eq!(written(Output::Journal), "<4>x: careful\n");
    }

    /// A file gets time and level, without colours; a terminal gets colours.
    #[test]
    fn plain_lines_have_time_and_level() {
        let plain = written(Output::Plain);
        assert!(plain.starts_with("20") && plain.contains("WARN") && !plain.contains('\u{1b}'), "{plain:?}");
        assert!(written(Output::Terminal).contains('\u{1b}'));
    }
}
