// SPDX-License-Identifier: Apache-2.0
//! Plain tables: columns by their content, the widest cut first when the terminal is too narrow.

use super::screen::{Screen, Style};

const GAP: usize = 2;
/// No column is cut below this.
const LEAST: usize = 8;

/// Rows under headings.
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<(String, Style)>>,
}

impl Table {
    #[must_use]
    pub fn new(headings: &[&'static str]) -> Self {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn row<const N: usize>(&mut self, cells: [(String, Style); N]) {
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
        let widths = self.widths(screen.width);
        let head: Vec<_> = self.headings.iter().map(|h| ((*h).to_owned(), Style::Bold)).collect();
        for row in std::iter::once(&head).chain(&self.rows) {
            let line = layout(screen, row, &widths);
            screen.line(&line)?;
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

    /// Cut text says so; control characters never reach the terminal.
    #[test]
    fn cut_and_clean() {
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("abcd", 4), "abcd");
        assert_eq!(one_line("a\x1b[31m\nb"), "a [31m b");
    }
}
