// SPDX-License-Identifier: Apache-2.0
//! `/proc/interrupts` and `/proc/softirqs`: counts by line and CPU (kernel/irq/proc.c, fs/proc/softirqs.c).

use std::io::{self, BufRead, BufReader, Read as _};
use std::path::PathBuf;

use crate::host::{Host, MAX_FILE, ReadError, Reading};

/// CPUs have lower numbers: as many are the most that a kernel is built for (NR_CPUS in arch/x86/Kconfig).
pub(in crate::host) const MAX_CPUS: u32 = 8192;

/// A line of either file.
#[derive(Debug, PartialEq, Eq)]
pub struct Counted<'a> {
    /// What stands before the colon: an interrupt's number, `LOC`, `NET_RX`.
    pub name: &'a str,
    /// Of 32 bits, which wrap: one of each CPU that the file's header names, in its order; one of all CPUs together
    /// (`ERR`); or none.
    pub counts: &'a [u32],
    /// What follows them: a description, or chip, hardware's number and handlers.
    pub rest: &'a str,
}

impl<'a> Counted<'a> {
    /// Splits a line in the places of so many CPUs; `counts` is filled anew.
    fn parse(line: &'a str, cpus: usize, counts: &'a mut Vec<u32>) -> Option<Self> {
        let (name, mut rest) = line.split_once(':')?;
        counts.clear();
        while counts.len() < cpus {
            let word = rest.trim_start();
            let (word, after) = word.split_at(word.find(char::is_whitespace).unwrap_or(word.len()));
            let Ok(n) = word.parse() else { break };
            counts.push(n);
            rest = after;
        }
        Some(Counted { name: name.trim(), counts, rest: rest.trim() })
    }

    /// Whether it is an interrupt that a device may have, by its number.
    #[must_use]
    pub fn is_numbered(&self) -> bool {
        self.name.bytes().all(|b| b.is_ascii_digit())
    }

    /// Who handles an interrupt that has a number, several with commas between them; `None`: nobody does now. They stand
    /// last, after two blanks or more.
    #[must_use]
    pub fn handlers(&self) -> Option<&'a str> {
        let (_, last) = self.rest.rsplit_once("  ")?;
        // Without handlers the line ends with the hardware's number and how it is triggered: `2-edge`, `27 Level`, `-virq`.
        let after = last.trim_start_matches(|c: char| c.is_ascii_digit());
        let trigger = |flow: &str| flow.starts_with(|c: char| c.is_ascii_alphabetic());
        let is_hardware = after.is_empty() || after.starts_with(' ') || after.strip_prefix('-').is_some_and(trigger);
        (!is_hardware).then_some(last)
    }
}

/// The CPUs of a header; `None`: it is none.
fn header(line: &str) -> Option<Vec<u32>> {
    let number = |word: &str| word.strip_prefix("CPU")?.parse().ok().filter(|n| *n < MAX_CPUS);
    line.split_whitespace().map(number).collect::<Option<Vec<_>>>().filter(|cpus| !cpus.is_empty())
}

impl Host {
    /// Hands over each line of `/proc/interrupts` with the numbers of the CPUs that are online.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn interrupts(&self, each: impl FnMut(&[u32], &Counted<'_>)) -> Reading<()> {
        self.counted("interrupts", each)
    }

    /// The same of `/proc/softirqs`, which has all CPUs that can be.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn softirqs(&self, each: impl FnMut(&[u32], &Counted<'_>)) -> Reading<()> {
        self.counted("softirqs", each)
    }

    /// A line at a time: with thousands of interrupts on hundreds of CPUs such a file has megabytes.
    fn counted(&self, file: &str, mut each: impl FnMut(&[u32], &Counted<'_>)) -> Reading<()> {
        let (path, mut lines) = self.unmasked(file)?;
        let (mut bytes, mut counts, mut cpus) = (Vec::new(), Vec::new(), None);
        loop {
            bytes.clear();
            if lines.read_until(b'\n', &mut bytes).map_err(|e| ReadError::io(&path, e))? == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&bytes);
            match &cpus {
                None => cpus = Some(header(&line).ok_or_else(|| ReadError::malformed(&path, "no header of CPUs"))?),
                Some(cpus) => {
                    if let Some(line) = Counted::parse(&line, cpus.len(), &mut counts) {
                        each(cpus, &line);
                    }
                }
            }
        }
        cpus.map(drop)
            .ok_or_else(|| ReadError::malformed(&path, "it is empty, as where a container's runtime masks it"))
    }

    /// The file itself, or as process 1 sees it where a container's runtime has put an empty one in its place.
    fn unmasked(&self, file: &str) -> Reading<(PathBuf, impl BufRead)> {
        let open = |path: PathBuf| -> Reading<_> {
            let io = |e: io::Error| ReadError::io(&path, e);
            let mut lines = BufReader::with_capacity(64 << 10, std::fs::File::open(&path).map_err(io)?.take(MAX_FILE));
            let is_empty = lines.fill_buf().map_err(io)?.is_empty();
            Ok((path, lines, is_empty))
        };
        let (path, lines, is_empty) = open(self.proc.join(file))?;
        match is_empty.then(|| open(self.proc.join("1/root/proc").join(file))) {
            Some(Ok((path, lines, false))) => Ok((path, lines)),
            _ => Ok((path, lines)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rest(rest: &str) -> Option<&str> {
        Counted { name: "1", counts: &[], rest }.handlers()
    }

    /// Handlers stand last, whatever the chip and the kernel; a name may have blanks and begin with digits.
    #[test]
    fn handlers() {
        for (line, expected) in [
            ("IO-APIC   2-edge      timer", Some("timer")),
            ("IO-APIC                  9-fasteoi   acpi", Some("acpi")),
            ("PCI-MSI 98305-edge      virtio5-input.0", Some("virtio5-input.0")),
            ("PCI-MSIX-0000:00:01.0   0-edge      virtio0-config", Some("virtio0-config")),
            ("IR-IO-APIC   16-fasteoi   ehci_hcd:usb1, i801_smbus", Some("ehci_hcd:usb1, i801_smbus")),
            ("GICv3  27 Level     arch_timer", Some("arch_timer")),
            ("GICv3 150 Level     30be0000.ethernet", Some("30be0000.ethernet")),
            ("gpio-mxc   3 Edge      0-0048", Some("0-0048")),
            ("PCI-MSI 458752-edge      PCIe PME, pciehp", Some("PCIe PME, pciehp")),
            ("xen-percpu    -virq      timer0", Some("timer0")),
            ("IO-APIC   2-edge", None),
            ("GICv3  27 Level", None),
            ("xen-percpu    -virq", None),
            ("PCI-MSI 524288-edge", None),
            ("", None),
        ] {
            assert_eq!(rest(line), expected, "{line}");
        }
    }

    /// As many counts as the header has CPUs, or fewer: one alone, or none.
    #[test]
    fn lines() {
        let mut counts = Vec::new();
        let mut parse = |line| {
            let found = Counted::parse(line, 2, &mut counts)?;
            Some((found.name.to_owned(), found.counts.to_vec(), found.rest.to_owned(), found.is_numbered()))
        };
        let line = |name: &str, counts: &[u32], rest: &str, numbered| {
            Some((name.to_owned(), counts.to_vec(), rest.to_owned(), numbered))
        };
        assert_eq!(
            parse(" 24:  7  4294967295  IO-APIC   5-edge   x\n"),
            line("24", &[7, u32::MAX], "IO-APIC   5-edge   x", true)
        );
        assert_eq!(parse("LOC: 1 2 Local timer interrupts\n"), line("LOC", &[1, 2], "Local timer interrupts", false));
        assert_eq!(
            (parse("ERR:  3\n"), parse("FIQ:  usb_fiq\n")),
            (line("ERR", &[3], "", false), line("FIQ", &[], "usb_fiq", false))
        );
        assert_eq!(parse("odd\n"), None);
    }

    /// CPUs are those that the header of the same reading names; a file that a runtime masks is read where process 1 has it.
    #[test]
    fn files() {
        let d = tempfile::tempdir().unwrap();
        let host = Host::under(d.path());
        let write = |path: &str, text: &str| {
            let path = d.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = || {
            let mut all = Vec::new();
            host.interrupts(|cpus, line| all.push((cpus.to_vec(), line.counts.to_vec()))).map(|()| all)
        };
        assert!(read().unwrap_err().is_missing());
        write("proc/interrupts", "       CPU9       CPU20\nLOC:  1  2  Local timer interrupts\n");
        assert_eq!(read().unwrap(), [(vec![9, 20], vec![1, 2])]);
        write("proc/interrupts", "");
        assert!(read().unwrap_err().to_string().contains("masks"));
        write("proc/1/root/proc/interrupts", "  CPU0\nLOC:  3  Local timer interrupts\n");
        assert_eq!(read().unwrap(), [(vec![0], vec![3])]);
        write("proc/interrupts", "LOC:  3\n");
        assert!(matches!(read(), Err(ReadError::Malformed { .. })));
        write("proc/interrupts", "CPU0 CPU8192\n");
        assert!(matches!(read(), Err(ReadError::Malformed { .. })));
    }

    proptest! {
        /// No bytes make a parser panic.
        #[test]
        fn never_panics(text in "(?s)[0-9A-Z ]{0,5}(: [0-9 ]{0,20})?.{0,40}") {
            if let Some(line) = Counted::parse(&text, 3, &mut Vec::new()) {
                let _ = line.handlers();
            }
            let _ = header(&text);
        }
    }
}
