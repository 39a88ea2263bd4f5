// SPDX-License-Identifier: Apache-2.0
//! Sums by kind of what the kernel counts by line and CPU.

use std::collections::{BTreeMap, HashMap};

use crate::collectors::unwrapped::growth;
use crate::host::proc::Counted;

/// Lines of numbered interrupts that are followed: a machine of 256 CPUs has some thousand. And counts of all of them, of
/// four bytes each.
const MAX_LINES: usize = 8192;
const MAX_COUNTS: usize = 1 << 20;
/// All other lines: an architecture has some thirty.
const MAX_UNNUMBERED: usize = 256;
/// Kinds of numbered interrupts; all further ones are [`OTHER`].
const MAX_KINDS: usize = 200;
const OTHER: &str = "other";
/// Of a numbered interrupt that nobody handles.
const NOBODY: &str = "none";
/// Letters of a kind's name.
const MAX_NAME: usize = 64;

/// Counts of 32 bits, by line and CPU, as sums by kind that do not fall: a wrap, a CPU that goes off line and a line that
/// ends take nothing away.
#[derive(Default)]
pub(super) struct Tally {
    lines: HashMap<Box<str>, Line>,
    kinds: BTreeMap<Box<str>, Kind>,
    reading: u64,
    /// Of [`Self::lines`], those that are numbered.
    numbered: usize,
    /// Whether this reading has made room already.
    made_room: bool,
    left_out: u64,
}

struct Line {
    kind: Box<str>,
    /// What followed the counts when `kind` was made of it.
    rest: Box<str>,
    is_numbered: bool,
    /// By place, see [`place_of`].
    last: Vec<u32>,
    seen: u64,
}

/// What was counted of one kind.
#[derive(Default)]
pub(super) struct Kind {
    is_numbered: bool,
    /// By place, see [`place_of`].
    sums: Vec<u64>,
    seen: u64,
}

/// The first place is for what is counted for all CPUs together.
fn place_of(cpu: u32) -> usize {
    cpu as usize + 1
}

impl Kind {
    pub fn total(&self) -> u64 {
        self.sums.iter().sum()
    }

    /// What this CPU counted; `None`: it never did.
    pub fn of_cpu(&self, cpu: u32) -> Option<u64> {
        self.sums.get(place_of(cpu)).copied()
    }

    /// Whether no CPU counts it for itself.
    pub fn has_no_cpus(&self) -> bool {
        self.sums.len() <= 1
    }
}

impl Tally {
    /// To be called before the lines of a reading.
    pub fn begin(&mut self) {
        self.reading += 1;
        (self.left_out, self.made_room) = (0, false);
    }

    /// Takes a line.
    pub fn add(&mut self, cpus: &[u32], line: &Counted<'_>) {
        let each_cpu = line.counts.len() == cpus.len();
        if !each_cpu && (line.counts.len() != 1 || line.is_numbered()) {
            return;
        }
        if !self.follow(line, cpus.len()) {
            self.left_out += 1;
            return;
        }
        let Some(known) = self.lines.get_mut(line.name) else { return };
        if !self.kinds.contains_key(&known.kind) {
            self.kinds.insert(known.kind.clone(), Kind::default());
        }
        let Some(kind) = self.kinds.get_mut(&known.kind) else { return };
        (known.seen, kind.seen, kind.is_numbered) = (self.reading, self.reading, known.is_numbered);
        let most = if each_cpu { cpus.iter().copied().max().map_or(0, place_of) } else { 0 };
        known.last.resize(known.last.len().max(most + 1), 0);
        kind.sums.resize(kind.sums.len().max(most + 1), 0);
        for (i, &now) in line.counts.iter().enumerate() {
            let at = if each_cpu { place_of(cpus[i]) } else { 0 };
            kind.sums[at] += u64::from(growth(known.last[at], now));
            known.last[at] = now;
        }
    }

    /// To be called after the lines of a reading: kinds that are gone end, and with them their lines.
    pub fn end(&mut self) {
        self.kinds.retain(|_, kind| kind.seen == self.reading);
        self.lines.retain(|_, line| self.kinds.contains_key(&line.kind));
        self.recount();
    }

    /// Kinds in the order of their names.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &Kind)> {
        self.kinds.iter().map(|(name, kind)| (&**name, kind))
    }

    /// Lines that found no room at the last reading.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Makes sure that a line has a place and its kind; `false`: there is no room.
    fn follow(&mut self, line: &Counted<'_>, cpus: usize) -> bool {
        let is_numbered = line.is_numbered();
        if let Some(known) = self.lines.get(line.name) {
            if *known.rest != *line.rest {
                let kind = self.kind_of(line);
                if let Some(known) = self.lines.get_mut(line.name) {
                    (known.kind, known.rest) = (kind, line.rest.into());
                }
            }
            return true;
        }
        if !self.has_room(is_numbered, cpus) && !self.made_room {
            // Those that are gone, but may come back, give way.
            let earlier = self.reading - 1;
            self.lines.retain(|_, l| l.seen >= earlier);
            self.recount();
            self.made_room = true;
        }
        if !self.has_room(is_numbered, cpus) {
            return false;
        }
        let (kind, rest) = (self.kind_of(line), line.rest.into());
        self.lines.insert(line.name.into(), Line { kind, rest, is_numbered, last: Vec::new(), seen: self.reading });
        self.numbered += usize::from(is_numbered);
        true
    }

    fn has_room(&self, is_numbered: bool, cpus: usize) -> bool {
        if is_numbered {
            self.numbered < MAX_LINES.min(MAX_COUNTS / cpus.max(1))
        } else {
            self.lines.len() - self.numbered < MAX_UNNUMBERED
        }
    }

    fn recount(&mut self) {
        self.numbered = self.lines.values().filter(|l| l.is_numbered).count();
    }

    fn kind_of(&self, line: &Counted<'_>) -> Box<str> {
        let name = kind(line);
        let many = || self.kinds.values().filter(|k| k.is_numbered).count() >= MAX_KINDS;
        if line.is_numbered() && !self.kinds.contains_key(&*name) && many() { OTHER.into() } else { name.into() }
    }
}

/// What is counted together: the architecture's interrupts by its abbreviations, others by who handles them.
fn kind(line: &Counted<'_>) -> String {
    let name = if line.is_numbered() {
        let mut all: Vec<String> = line.handlers().unwrap_or(NOBODY).split(", ").map(without_queue).collect();
        all.dedup();
        all.join(", ")
    } else if line.name.starts_with("IPI") && !line.rest.is_empty() {
        // What arm64 counts under such a number is not the same in all kernels (arch/arm64/kernel/smp.c).
        line.rest.to_owned()
    } else {
        line.name.to_owned()
    };
    name.chars().take(MAX_NAME).collect()
}

/// A handler's name without the number of its queue, of which a device has one for each CPU: `nvme0q12`, `eth0-TxRx-3`,
/// `mlx5_comp7@pci:0000:3b:00.0`, `virtio4-req.1`, `mpt3sas0-msix12`. The number of a device stays.
fn without_queue(name: &str) -> String {
    let (head, device) = name.split_at(name.find('@').unwrap_or(name.len()));
    let stem = head.trim_end_matches(|c: char| c.is_ascii_digit());
    let before = |end: &str, fits: fn(char) -> bool| stem.strip_suffix(end).is_some_and(|s| s.ends_with(fits));
    let is_queue = stem.len() < head.len()
        && !stem.is_empty()
        && (!device.is_empty()
            || stem.ends_with(['-', '_'])
            || stem.ends_with("msix")
            || before(".", |c| c.is_ascii_alphabetic())
            || before("q", |c| c.is_ascii_digit()));
    if is_queue { format!("{}{device}", stem.trim_end_matches(['-', '_', '.'])) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(name: &'a str, counts: &'a [u32], rest: &'a str) -> Counted<'a> {
        Counted { name, counts, rest }
    }

    fn read(tally: &mut Tally, cpus: &[u32], lines: &[Counted<'_>]) {
        tally.begin();
        lines.iter().for_each(|line| tally.add(cpus, line));
        tally.end();
    }

    fn totals(tally: &Tally) -> Vec<(&str, u64)> {
        tally.kinds().map(|(name, kind)| (name, kind.total())).collect()
    }

    /// The queues of a device are one kind, devices are not.
    #[test]
    fn kinds_of_handlers() {
        for (name, expected) in [
            ("nvme0q12", "nvme0q"),
            ("nvme1q0", "nvme1q"),
            ("eth0-TxRx-3", "eth0-TxRx"),
            ("mlx5_comp7@pci:0000:3b:00.0", "mlx5_comp@pci:0000:3b:00.0"),
            ("virtio4-req.1", "virtio4-req"),
            ("iwlwifi:queue_1", "iwlwifi:queue"),
            ("mpt3sas0-msix12", "mpt3sas0-msix"),
            ("eth0", "eth0"),
            ("enp3s0", "enp3s0"),
            ("ttyS0", "ttyS0"),
            ("i8042", "i8042"),
            ("xhci_hcd:usb1", "xhci_hcd:usb1"),
            ("0000:00:14.0", "0000:00:14.0"),
            ("ahci[0000:00:17.0]", "ahci[0000:00:17.0]"),
            ("12", "12"),
        ] {
            assert_eq!(without_queue(name), expected);
        }
        let of = |name, rest| kind(&Counted { name, counts: &[], rest });
        assert_eq!(of("16", "IO-APIC  16-fasteoi   a-1, a-2, b"), "a, b");
        assert_eq!((of("24", "IO-APIC  5-edge"), of("LOC", "Local timer interrupts")), ("none".into(), "LOC".into()));
        assert_eq!(of("IPI0", "Rescheduling interrupts"), "Rescheduling interrupts");
        assert_eq!(of("7", &format!("x  {}", "é".repeat(99))).chars().count(), MAX_NAME);
    }

    /// Interrupts of one handler are added up, and each count wraps for itself.
    #[test]
    fn sums() {
        let mut tally = Tally::default();
        let (one, two) = ("PCI-MSI 1-edge   nvme0q1", "PCI-MSI 2-edge   nvme0q2");
        read(&mut tally, &[0, 1], &[line("24", &[1, u32::MAX], one), line("25", &[5, 0], two)]);
        assert_eq!(totals(&tally), [("nvme0q", 6 + u64::from(u32::MAX))]);
        read(&mut tally, &[0, 1], &[line("24", &[3, 9], one), line("25", &[5, 1], two)]);
        assert_eq!(totals(&tally), [("nvme0q", 6 + 2 + (1 << 32) + 9 + 1)]);
        assert_eq!(tally.kinds().next().unwrap().1.of_cpu(0), Some(8));
    }

    /// A CPU that goes off line takes nothing away, and counts on from where it was; CPUs are those of the header.
    #[test]
    fn cpus_that_come_and_go() {
        let mut tally = Tally::default();
        read(&mut tally, &[0, 9, 20], &[line("LOC", &[100, 50, 7], "")]);
        read(&mut tally, &[0, 20], &[line("LOC", &[101, 8], "")]);
        assert_eq!(totals(&tally), [("LOC", 101 + 50 + 8)]);
        read(&mut tally, &[0, 9, 20], &[line("LOC", &[102, 51, 9], "")]);
        assert_eq!(totals(&tally), [("LOC", 102 + 51 + 9)]);
        let loc = tally.kinds().next().unwrap().1;
        assert_eq!((loc.of_cpu(9), loc.of_cpu(20), loc.of_cpu(21)), (Some(51), Some(9), None));
    }

    /// A line that ends while its kind lives, and comes back with the same count or anew, is not counted twice; a kind
    /// that is gone ends.
    #[test]
    fn lines_that_come_and_go() {
        let mut tally = Tally::default();
        let (a, b) = ("x 1-edge   eth0-0", "x 2-edge   eth0-1");
        read(&mut tally, &[0], &[line("24", &[10], a), line("25", &[20], b)]);
        read(&mut tally, &[0], &[line("25", &[21], b)]);
        assert_eq!(totals(&tally), [("eth0", 31)]);
        read(&mut tally, &[0], &[line("24", &[11], a), line("25", &[3], b)]);
        assert_eq!(totals(&tally), [("eth0", 35)]);
        // Nobody handles it for a while: the same interrupt, and its count goes on.
        read(&mut tally, &[0], &[line("24", &[12], "x 1-edge"), line("25", &[3], b)]);
        assert_eq!(totals(&tally), [("eth0", 35), ("none", 1)]);
        read(&mut tally, &[0], &[line("26", &[4], "x 3-edge   eth1")]);
        assert_eq!((totals(&tally), tally.lines.len()), (vec![("eth1", 4)], 1));
    }

    /// What is counted for all CPUs together has no CPU; lines without counts, or with too few, are none.
    #[test]
    fn lines_of_no_cpu() {
        let mut tally = Tally::default();
        let lines = [
            line("ERR", &[3], ""),
            line("FIQ", &[], "usb_fiq"),
            line("7", &[1], "IO-APIC  7-edge  x"),
            line("LOC", &[1, 2], ""),
        ];
        read(&mut tally, &[0, 1, 2], &lines);
        assert_eq!(totals(&tally), [("ERR", 3)]);
        assert!(tally.kinds().all(|(_, kind)| kind.has_no_cpus()));
    }

    /// Thousands of interrupts on 256 CPUs: what is kept is bounded, what is left out is counted, and the architecture's
    /// own are there all the same.
    #[test]
    fn is_bounded() {
        let cpus: Vec<u32> = (0..256).collect();
        let counts = vec![1; 256];
        let mut tally = Tally::default();
        for _ in 0..2 {
            tally.begin();
            for i in 0..5000 {
                let (name, rest) = (i.to_string(), format!("PCI-MSI {i}-edge   dev{}-q", i % 300));
                tally.add(&cpus, &line(&name, &counts, &rest));
            }
            tally.add(&cpus, &line("LOC", &counts, ""));
            tally.end();
            assert_eq!((tally.left_out(), tally.lines.len()), (5000 - 4096, 4097));
        }
        let all = totals(&tally);
        assert_eq!(all.len(), MAX_KINDS + 2);
        assert_eq!(all.iter().map(|(_, n)| n).sum::<u64>(), 4097 * 256);
        assert!(all.contains(&("LOC", 256)) && all.iter().any(|(name, n)| *name == OTHER && *n > 1000 * 256));
    }
}
