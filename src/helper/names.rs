// SPDX-License-Identifier: Apache-2.0
//! Names of functions as people read them, of bounded length.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::wire::{NAME, cut};

/// A mangled name that is longer is not taken apart.
const LONGEST_MANGLED: usize = 8 << 10;

/// A text that takes no more than [`NAME`] bytes: the error ends a demangler that would write on. A C++
/// name of 9 kB may stand for more text than there is memory.
#[derive(Default)]
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = cut(text, NAME - self.0.len());
        self.0.push_str(fits);
        if fits.len() < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// The demangled name of a symbol: Rust's, else C++'s, else as it is.
pub fn demangled(symbol: &str) -> Arc<str> {
    let mut text = Bounded::default();
    if symbol.len() <= LONGEST_MANGLED {
        if let Ok(name) = rustc_demangle::try_demangle(symbol) {
            // An error means that it was cut.
            let _ = write!(text, "{name:#}");
        } else if let Ok(name) = cpp_demangle::Symbol::new(symbol) {
            let whole = name.structured_demangle(&mut text, &cpp_demangle::DemangleOptions::new()).is_ok();
            // Else it is one that the demangler does not know.
            if !whole && text.0.len() < NAME - 3 {
                text.0.clear();
            }
        }
    }
    if text.0.is_empty() { cut(symbol, NAME).into() } else { text.0.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rust and C++ as blazesym has them; C as it is.
    #[test]
    fn readable() {
        assert_eq!(&*demangled("_ZN4core3fmt5write17h0123456789abcdefE"), "core::fmt::write");
        assert_eq!(&*demangled("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(&*demangled("main"), "main");
        assert_eq!(&*demangled("_Znonsense"), "_Znonsense");
    }

    /// Text that doubles with every parameter is cut, and soon: in full it would be some 100 MB.
    #[test]
    fn bombs_are_cut() {
        let place =
            |i: u32| if i == 0 { "S_".to_owned() } else { format!("S{}_", char::from_digit(i - 1, 36).unwrap()) };
        let bomb = (2..26).fold("_Z1f1A1BIS_S_E".to_owned(), |name, last| {
            let before = place(last);
            name + &format!("S0_I{before}{before}E").to_uppercase()
        });
        let text = demangled(&bomb);
        assert!(text.starts_with("f(A, B<A, A>") && text.len() > NAME - 8 && text.len() <= NAME, "{text}");
        assert_eq!(demangled(&"x".repeat(1 << 20)).len(), NAME);
        assert_eq!(demangled(&format!("_ZN{}", "1a".repeat(1 << 20))).len(), NAME);
    }
}
