// SPDX-License-Identifier: Apache-2.0
//! Plain tables: columns by their content; where the terminal is too narrow, the widest is cut or wrapped first.

use super::screen::{Screen, Style};

const GAP: usize = 2;
/// No column is cut below this.
const LEAST: usize = 8;
/// Width of a wrapped table that goes into a file or a pipe.
const WRAPPED: usize = 100;

/// Rows under headings.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<(String, Style)>>,
    wraps: bool,
}

impl Table {
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        Table { headings: headings.to_vec(), rows: Vec::new(), wraps: false }
    }

    /// One whose long cells go on in further lines, of which nothing is cut.
    #[must_use]
    pub fn wrapped(headings: &[&'static str]) -> Self {
        Table { wraps: true, ..Self::new(headings) }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        self.rows.push(cells.into_iter().map(|(text, style)| (one_line(&text), style)).collect());
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Writes headings and rows.
    ///
    /// # Errors
    /// As [`Screen::line`].
    pub fn write(&self, screen: &mut Screen) -> std::io::Result<()> {
        let widths = self.widths(screen.width.or(self.wraps.then_some(WRAPPED)));
        let head: Vec<_> = self.headings.iter().map(|h| ((*h).to_owned(), Style::Bold)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let lines = if self.wraps { wrap_row(row, &widths) } else { vec![row.clone()] };
            for line in lines {
                let line = layout(screen, &line, &widths);
                screen.line(&line)?;
            }
        }
        Ok(())
    }

    fn widths(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headings.iter().map(|h| len(h)).collect();
        for row in &self.rows {
            for (width, (cell, _)) in widths.iter_mut().zip(row) {
                *width = (*width).max(len(cell));
            }
        }
        let Some(limit) = limit else { return widths };
        let mut total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        while total > limit {
            match widths.iter_mut().max() {
                Some(widest) if *widest > LEAST => {
                    *widest -= 1;
                    total -= 1;
                }
                _ => break,
            }
        }
        widths
    }
}

/// A row as so many as its longest cell has lines.
fn wrap_row(row: &[(String, Style)], widths: &[usize]) -> Vec<Vec<(String, Style)>> {
    let cells: Vec<Vec<String>> = row.iter().zip(widths).map(|((text, _), width)| wrap(text, *width)).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let line = |n: usize| {
        let texts = cells.iter().map(|lines| lines.get(n).cloned().unwrap_or_default());
        texts.zip(row).map(|(text, (_, style))| (text, *style)).collect()
    };
    (0..height).map(line).collect()
}

/// Lines of at most `width` characters, broken between words; a word that is longer is broken itself.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let mut rest: Vec<char> = word.chars().collect();
        let mut line = lines.pop().unwrap_or_default();
        if !line.is_empty() && len(&line) + 1 + rest.len() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        while len(&line) + rest.len() > width {
            let fits = width.saturating_sub(len(&line)).max(1);
            line.extend(rest.drain(..fits.min(rest.len())));
            lines.push(std::mem::take(&mut line));
        }
        line.extend(rest);
        lines.push(line);
    }
    lines
}

/// One row in columns of given widths, for tables whose end is not known yet.
pub fn layout(screen: &Screen, row: &[(String, Style)], widths: &[usize]) -> String {
    let mut line = String::new();
    for (i, ((cell, style), width)) in row.iter().zip(widths).enumerate() {
        let text = cut(cell, *width);
        let pad = if i + 1 == row.len() { 0 } else { width + GAP - len(&text) };
        line.push_str(&screen.paint(*style, &text));
        line.extend(std::iter::repeat_n(' ', pad));
    }
    line.truncate(line.trim_end_matches(' ').len());
    line
}

/// At most `width` characters, with `…` where something is left out.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if len(text) <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

pub fn len(text: &str) -> usize {
    text.chars().count()
}

/// Line ends and control characters, which a container's name may hold, must not reach the terminal.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut t = Table::new(&["NAME", "WHY"]);
        t.row([("a".into(), Style::Plain), ("x".repeat(40), Style::Plain)]);
        t.row([("bb\x1b[31m\n".into(), Style::Plain), ("y".into(), Style::Plain)]);
        t
    }

    /// Columns are as wide as their content, and the widest gives way to the terminal.
    #[test]
    fn widths_follow_content_and_terminal() {
        assert_eq!(table().widths(None), [8, 40]);
        assert_eq!(table().widths(Some(30)), [8, 20]);
        assert_eq!(table().widths(Some(3)), [8, 8], "a column that says nothing helps nobody");
    }

    /// A wrapped table is as wide as the terminal, or 100 columns, and has every word.
    #[test]
    fn cells_wrap() {
        let mut t = Table::wrapped(&["NAME", "WHY"]);
        t.row([("a".into(), Style::Plain), ("one two three four".into(), Style::Plain)]);
        t.row([("b".into(), Style::Plain), ("0123456789abcdefghij".into(), Style::Plain)]);
        let (mut screen, written) = Screen::in_memory(Some(14));
        t.write(&mut screen).unwrap();
        drop(screen);
        assert_eq!(
            written.text(),
            "NAME  WHY\na     one two\n      three\n      four\nb     01234567\n      89abcdef\n      ghij\n"
        );
        assert_eq!(wrap("", 8), [""]);
        let (mut screen, written) = Screen::in_memory(None);
        t.row([("c".into(), Style::Plain), ("word ".repeat(99), Style::Plain)]);
        t.write(&mut screen).unwrap();
        drop(screen);
        let text = written.text();
        assert!(text.lines().all(|l| len(l) <= 100) && text.matches("word").count() == 99, "{text}");
    }

    /// Cut text says so; control characters never reach the terminal.
    #[test]
    fn cut_and_clean() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(one_line("a\x1b[31m\nb"), "a [31m b");
    }
}
