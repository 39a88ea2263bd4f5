// SPDX-License-Identifier: Apache-2.0
//! Call stacks with their names.

use std::ops::Deref;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::ids::{self, StackId, StackKey};

/// One resolved stack frame, innermost first in a stack.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct Frame {
    /// Demangled function name; `None` when nothing names the address.
    pub symbol: Option<Arc<str>>,
    /// Path of the mapped file as the process sees it, or the kernel module.
    pub module: Option<Arc<str>>,
    /// Offset into the symbol, or into the module's file where there is no symbol.
    pub offset: u64,
    pub address: u64,
    pub build_id: Option<Arc<str>>,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.symbol, &self.module) {
            (Some(s), Some(m)) => write!(f, "{s}+{:#x} [{m}]", self.offset),
            (Some(s), None) => write!(f, "{s}+{:#x}", self.offset),
            (None, Some(m)) => match &self.build_id {
                Some(b) => write!(f, "{:#x} [{m}+{:#x} {b}]", self.address, self.offset),
                None => write!(f, "{:#x} [{m}+{:#x}]", self.address, self.offset),
            },
            (None, None) => write!(f, "{:#x}", self.address),
        }
    }
}

/// A stack, innermost frame first. Its text and id are made once; a clone shares them.
#[derive(Debug, Clone, Default)]
pub struct Stack(Option<Arc<Known>>);

#[derive(Debug)]
struct Known {
    frames: Vec<Frame>,
    text: String,
    id: StackId,
    late: Option<StackKey>,
}

impl StackId {
    /// By what its frames are, not where they were loaded. Of addresses alone, by the process too.
    fn of(frames: &[Frame], pid: Option<u32>) -> Self {
        let mut h = Sha256::new();
        if let Some(pid) = pid {
            h.update(pid.to_be_bytes());
        }
        let part = |h: &mut Sha256, text: &Option<Arc<str>>| {
            h.update(text.as_deref().unwrap_or_default());
            // No name holds it: "a", "bc" is not "ab", "c".
            h.update([0]);
        };
        for f in frames {
            [&f.symbol, &f.module, &f.build_id].into_iter().for_each(|text| part(&mut h, text));
            let unknown = f.symbol.is_none() && f.module.is_none();
            h.update(if unknown { f.address } else { f.offset }.to_be_bytes());
        }
        StackId(ids::first(h))
    }
}

impl Stack {
    /// A frame a line, as `code.stacktrace` is in the conventions: a string a frame would cost each
    /// event dozens of allocations.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.as_ref().map_or("", |known| &known.text)
    }

    /// The same for the same functions at the same places, in every process and on every node: where
    /// something was loaded does not count. `None` of an empty stack.
    #[must_use]
    pub fn id(&self) -> Option<StackId> {
        self.0.as_ref().map(|known| known.id)
    }

    /// Addresses in process `pid`, which nobody has named. `late`: under which names may still come.
    #[must_use]
    pub fn unnamed(pid: u32, addresses: &[u64], late: Option<StackKey>) -> Self {
        Self::new(addresses.iter().map(|a| Frame { address: *a, ..Frame::default() }).collect(), Some(pid), late)
    }

    /// Under which its names may still come.
    #[must_use]
    pub fn late(&self) -> Option<StackKey> {
        self.0.as_ref().and_then(|known| known.late)
    }

    fn new(frames: Vec<Frame>, pid: Option<u32>, late: Option<StackKey>) -> Self {
        use std::fmt::Write as _;
        if frames.is_empty() {
            return Stack(None);
        }
        let mut text = String::with_capacity(frames.len() * 48);
        for frame in &frames {
            let separator = if text.is_empty() { "" } else { "\n" };
            // Writing to a String cannot fail.
            let _ = write!(text, "{separator}{frame}");
        }
        let id = StackId::of(&frames, pid);
        Stack(Some(Arc::new(Known { frames, text, id, late })))
    }
}

impl From<Vec<Frame>> for Stack {
    fn from(frames: Vec<Frame>) -> Self {
        Self::new(frames, None, None)
    }
}

impl FromIterator<Frame> for Stack {
    fn from_iter<I: IntoIterator<Item = Frame>>(frames: I) -> Self {
        frames.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Stack {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        self.0.as_ref().map_or(&[], |known| &known.frames)
    }
}

impl PartialEq for Stack {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Stack {}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(symbol: Option<&str>, module: Option<&str>, offset: u64, address: u64) -> Frame {
        Frame { symbol: symbol.map(Into::into), module: module.map(Into::into), offset, address, build_id: None }
    }

    /// Elsewhere loaded is the same stack; another place, another order and another module are not.
    #[test]
    fn id_is_of_the_places() {
        let id = |frames: &[Frame]| Stack::from(frames.to_vec()).id().unwrap();
        let (a, b) = (frame(Some("a"), Some("/lib/x"), 4, 0x1004), frame(None, Some("/lib/x"), 0x20, 0x1020));
        let moved = |f: &Frame| Frame { address: f.address + 0x7000, ..f.clone() };
        let of = id(&[a.clone(), b.clone()]);
        assert_eq!(of, id(&[moved(&a), moved(&b)]));
        assert_ne!(of, id(&[b.clone(), a.clone()]));
        assert_ne!(of, id(&[Frame { offset: 5, ..a.clone() }, b.clone()]));
        assert_ne!(of, id(&[a.clone(), Frame { build_id: Some("1f".into()), ..b.clone() }]));
        assert_ne!(id(&[frame(Some("ab"), None, 0, 0)]), id(&[frame(Some("a"), Some("b"), 0, 0)]));
        // Of what nothing is known only the address is left.
        assert_ne!(id(&[frame(None, None, 0, 1)]), id(&[frame(None, None, 0, 2)]));
        assert_eq!(Stack::default().id(), None);
        // In another process the same address is another place.
        assert_eq!(Stack::unnamed(7, &[1], Some(StackKey(5))).id(), Stack::unnamed(7, &[1], None).id());
        assert_ne!(Stack::unnamed(7, &[1], None).id(), Stack::unnamed(8, &[1], None).id());
    }

    /// A frame a line; an empty stack is no text.
    #[test]
    fn text_has_a_frame_a_line() {
        let stack: Stack = [frame(Some("f"), None, 16, 0), frame(Some("g"), Some("xfs"), 1, 0)].into_iter().collect();
        assert_eq!((stack.text(), stack.len()), ("f+0x10\ng+0x1 [xfs]", 2));
        assert_eq!((Stack::from(Vec::new()).text(), Stack::default().len()), ("", 0));
    }
}
