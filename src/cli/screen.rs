// SPDX-License-Identifier: Apache-2.0
//! Where output goes: as wide as the terminal, coloured only where wanted, and gone quietly when the
//! reader is.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};

use crate::host::sys;

/// A colour or weight, as its SGR parameter (ECMA-48, 8.3.117).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Plain,
    Bold,
    Dim,
    Red,
    Yellow,
    Green,
}

impl Style {
    fn sgr(self) -> &'static str {
        match self {
            Style::Plain => "0",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "31",
            Style::Yellow => "33",
            Style::Green => "32",
        }
    }
}

/// Standard output as the commands see it.
pub struct Screen {
    out: Box<dyn Write>,
    /// Columns of the terminal; `None` when it is none and nothing should be cut.
    pub width: Option<usize>,
    colour: bool,
}

impl Screen {
    /// The process's standard output. `COLUMNS`, `NO_COLOR` and `TERM` are obeyed.
    #[must_use]
    pub fn stdout(env: &BTreeMap<String, String>) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let set = |name: &str| env.get(name).filter(|v| !v.is_empty());
        let asked = set("COLUMNS").and_then(|c| c.parse().ok()).filter(|c| *c > 0);
        let width = if terminal { asked.or_else(|| sys::terminal_width(&stdout)).or(Some(80)) } else { asked };
        let colour = terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|t| t != "dumb");
        Screen { out: Box::new(BufWriter::new(stdout.lock())), width, colour }
    }

    /// Text in a style, where styles are shown.
    #[must_use]
    pub fn paint(&self, style: Style, text: &str) -> String {
        if self.colour && style != Style::Plain {
            format!("\x1b[{}m{text}\x1b[0m", style.sgr())
        } else {
            text.to_owned()
        }
    }

    /// One line.
    ///
    /// # Errors
    /// The reader is gone, or the disk is full.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// Text as it is.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// Hands over what is buffered.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A message on standard error; a failure to write it is ignored, as there is nowhere to report it.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// What is going on, on a terminal only, once it has lasted for a second.
pub struct Progress {
    since: std::time::Instant,
    terminal: bool,
    shown: bool,
}

impl Default for Progress {
    fn default() -> Self {
        Progress { since: std::time::Instant::now(), terminal: io::stderr().is_terminal(), shown: false }
    }
}

impl Progress {
    /// Says what is being done now.
    pub fn step(&mut self, what: &str) {
        if self.terminal && self.since.elapsed().as_secs() >= 1 {
            self.shown = true;
            let _ = write!(io::stderr(), "\r\x1b[K{what} …");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod testing {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// What was written to a screen.
    #[derive(Clone, Default)]
    pub struct Written(Rc<RefCell<Vec<u8>>>);

    impl Written {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        /// One without colours that keeps what is written.
        pub fn in_memory(width: Option<usize>) -> (Self, Written) {
            let written = Written::default();
            (Screen { out: Box::new(written.clone()), width, colour: false }, written)
        }
    }
}
