// SPDX-License-Identifier: Apache-2.0
//! What is mounted where: proc_pid_mountinfo(5).

use super::unescape;

/// A line of mountinfo.
#[derive(Debug)]
pub(super) struct Mount<'t> {
    /// What of the file system is mounted; `net:[INODE]` of a network namespace.
    pub root: String,
    pub at: String,
    pub kind: &'t str,
    /// Of the file system as a whole.
    pub options: &'t str,
}

impl<'t> Mount<'t> {
    /// `id parent major:minor root at options [optional fields] - kind source super-options`.
    pub fn parse(line: &'t str) -> Option<Self> {
        let (fields, rest) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, at) = (unescape(fields.next()?), unescape(fields.next()?));
        let mut rest = rest.split(' ');
        Some(Mount { root, at, kind: rest.next()?, options: rest.nth(1).unwrap_or_default() })
    }
}
