// SPDX-License-Identifier: Apache-2.0
//! "Did you mean …": the nearest of the valid names.

/// The valid name that a slip of the keyboard would turn into `wrong`, if there is one.
pub fn nearest<'a>(wrong: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_ascii_lowercase().replace('-', "_");
    let limit = (wrong.chars().count() / 3).max(1);
    valid.into_iter().map(|v| (distance(&wrong, v), v)).filter(|(d, _)| *d <= limit).min().map(|(_, v)| v)
}

/// Edits between two words (Damerau–Levenshtein, adjacent transpositions count once).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                _ => {
                    let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slips are recognised; what is merely another word is not guessed at.
    #[test]
    fn finds_slips_only() {
        let valid = ["path", "max_size", "max_age", "interval"];
        for (wrong, right) in [
            ("pth", Some("path")),
            ("max-size", Some("max_size")),
            ("itnerval", Some("interval")),
            ("MAX_AGE", Some("max_age")),
            ("colour", None),
        ] {
            assert_eq!(nearest(wrong, valid), right, "{wrong}");
        }
    }
}
