// SPDX-License-Identifier: Apache-2.0
//! What the numbers in reports of hardware errors mean. Every number is hardware's or firmware's:
//! what is out of range has a name too.

use crate::signal::{Hex, Severity};

/// How bad it is, over all sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sense {
    Info,
    Corrected,
    /// Bad data is marked, nobody has used it yet.
    Deferred,
    /// Data is lost; the machine goes on.
    Uncorrected,
    Fatal,
    Unknown,
}

impl Sense {
    pub fn name(self) -> &'static str {
        match self {
            Sense::Info => "info",
            Sense::Corrected => "corrected",
            Sense::Deferred => "deferred",
            Sense::Uncorrected => "uncorrected",
            Sense::Fatal => "fatal",
            Sense::Unknown => "unknown",
        }
    }

    pub fn severity(self) -> Severity {
        match self {
            Sense::Info => Severity::Info,
            Sense::Corrected | Sense::Unknown => Severity::Warn,
            Sense::Deferred | Sense::Uncorrected => Severity::Error,
            Sense::Fatal => Severity::Fatal,
        }
    }

    /// `enum hw_event_mc_err_type` (include/linux/edac.h).
    pub fn of_edac(n: u32) -> Self {
        match n {
            0 => Sense::Corrected,
            1 => Sense::Uncorrected,
            2 => Sense::Deferred,
            3 => Sense::Fatal,
            4 => Sense::Info,
            _ => Sense::Unknown,
        }
    }

    /// UEFI's, as a firmware report has it (include/linux/cper.h).
    pub fn of_cper(n: u32) -> Self {
        match n {
            0 => Sense::Uncorrected,
            1 => Sense::Fatal,
            2 => Sense::Corrected,
            3 => Sense::Info,
            _ => Sense::Unknown,
        }
    }

    /// ACPI's, by which the kernel sorts firmware reports (`GHES_SEV_*` in include/acpi/ghes.h).
    pub fn of_ghes(n: u32) -> Self {
        match n {
            0 => Sense::Info,
            1 => Sense::Corrected,
            2 => Sense::Uncorrected,
            3 => Sense::Fatal,
            _ => Sense::Unknown,
        }
    }

    /// include/linux/aer.h.
    pub fn of_aer(n: u32) -> Self {
        match n {
            0 => Sense::Uncorrected,
            1 => Sense::Fatal,
            2 => Sense::Corrected,
            _ => Sense::Unknown,
        }
    }

    /// A machine check's status: Intel SDM volume 3, 17.3.2.2 and 17.6; AMD APM volume 2, 9.3.2.
    pub fn of_mce(status: u64, vendor: u32) -> Self {
        let bit = |n: u32| status >> n & 1 == 1;
        let amd = matches!(vendor, X86_VENDOR_AMD | X86_VENDOR_HYGON);
        match (bit(61), bit(57)) {
            (true, true) => Sense::Fatal,
            (false, _) if amd && bit(44) => Sense::Deferred,
            (false, _) => Sense::Corrected,
            // Neither signalled nor to be acted upon: nobody has used the data.
            (true, false) if !amd && !bit(56) && !bit(55) => Sense::Deferred,
            (true, false) => Sense::Uncorrected,
        }
    }
}

/// arch/x86/include/asm/processor.h.
const X86_VENDOR_AMD: u32 = 2;
const X86_VENDOR_HYGON: u32 = 9;

/// Names of the bits that are set, of (bit, name).
pub fn bits(value: u64, names: &[(u32, &'static str)]) -> Vec<&'static str> {
    names.iter().filter(|(bit, _)| value >> bit & 1 == 1).map(|(_, name)| *name).collect()
}

/// IA32_MCi_STATUS: Intel SDM volume 3, 17.3.2.2; those below 57 that both vendors have.
pub const MCE_STATUS: [(u32, &str); 9] = [
    (62, "overflow"),
    (61, "uncorrected"),
    (60, "enabled"),
    (59, "misc_valid"),
    (58, "address_valid"),
    (57, "context_corrupt"),
    (56, "signalled"),
    (55, "action_required"),
    (53, "syndrome_valid"),
];

/// The architectural error code: Intel SDM volume 3, 17.9; AMD's compound codes have the same forms.
pub fn mca_code(status: u64) -> String {
    const LEVELS: [&str; 4] = ["L0", "L1", "L2", "generic"];
    const TRANSACTIONS: [&str; 4] = ["instruction", "data", "generic", "reserved"];
    const REQUESTS: [&str; 9] = [
        "generic error",
        "generic read",
        "generic write",
        "data read",
        "data write",
        "instruction fetch",
        "prefetch",
        "eviction",
        "snoop",
    ];
    const MEMORY: [&str; 5] = ["generic", "read", "write", "address or command", "scrubbing"];
    const PARTICIPANTS: [&str; 4] = ["local source", "local responder", "local observer", "generic"];
    // Bit 12 only means that corrections are filtered.
    let code = usize::try_from(status & 0xefff).unwrap_or(0);
    let level = LEVELS[code & 3];
    let transaction = TRANSACTIONS[code >> 2 & 3];
    let request = REQUESTS.get(code >> 4 & 15).copied().unwrap_or("reserved request");
    let memory = |what: &str| {
        let how = MEMORY.get(code >> 4 & 7).copied().unwrap_or("reserved");
        let channel = if code & 15 == 15 { String::new() } else { format!(", channel {}", code & 15) };
        format!("{what}: {how}{channel}")
    };
    match code {
        0x0000 => "no error".to_owned(),
        0x0001 => "unclassified".to_owned(),
        0x0002 => "microcode ROM parity".to_owned(),
        0x0003 => "external: another processor's".to_owned(),
        0x0004 => "functional redundancy check".to_owned(),
        0x0005 => "internal parity".to_owned(),
        0x0006 => "SMM handler code access".to_owned(),
        0x0400 => "internal timer".to_owned(),
        0x0e0b => "generic I/O".to_owned(),
        c if c & 0xfffc == 0x000c => format!("cache: {level}"),
        c if c & 0xfff0 == 0x0010 => format!("TLB: {transaction}, {level}"),
        c if c & 0xff80 == 0x0080 => memory("memory controller"),
        c if c & 0xff80 == 0x0280 => memory("extended memory"),
        c if c & 0xff00 == 0x0100 => format!("cache: {transaction}, {level}, {request}"),
        c if c & 0xf800 == 0x0800 => format!("bus or interconnect: {}, {request}, {level}", PARTICIPANTS[c >> 9 & 3]),
        c if c & 0xfc00 == 0x0400 => "internal unclassified".to_owned(),
        c => format!("code {c:#06x}"),
    }
}

/// PCI_ERR_COR_STATUS (uapi/linux/pci_regs.h).
pub const AER_CORRECTABLE: [(u32, &str); 8] = [
    (0, "receiver error"),
    (6, "bad TLP"),
    (7, "bad DLLP"),
    (8, "replay number rollover"),
    (12, "replay timer timeout"),
    (13, "advisory non-fatal"),
    (14, "corrected internal error"),
    (15, "header log overflow"),
];

/// PCI_ERR_UNCOR_STATUS (uapi/linux/pci_regs.h).
pub const AER_UNCORRECTABLE: [(u32, &str); 19] = [
    (0, "undefined"),
    (4, "data link protocol"),
    (5, "surprise down"),
    (12, "poisoned TLP"),
    (13, "flow control protocol"),
    (14, "completion timeout"),
    (15, "completer abort"),
    (16, "unexpected completion"),
    (17, "receiver overflow"),
    (18, "malformed TLP"),
    (19, "ECRC"),
    (20, "unsupported request"),
    (21, "ACS violation"),
    (22, "uncorrectable internal error"),
    (23, "MC blocked TLP"),
    (24, "atomic operation blocked"),
    (25, "TLP prefix blocked"),
    (26, "poisoned TLP blocked"),
    (27, "DMWr request blocked"),
];

/// Bits of cper_sec_mem_err.validation_bits that we read, with the field's name (UEFI 2.10, N.2.5).
pub const MEMORY_VALID_ADDRESS: u64 = 1 << 1;
pub const MEMORY_VALID_KIND: u64 = 1 << 14;

/// Memory error types: UEFI 2.10, N.2.5.
pub fn memory_kind(n: u8) -> &'static str {
    const KINDS: [&str; 16] = [
        "unknown",
        "no error",
        "single-bit ECC",
        "multi-bit ECC",
        "single-symbol chipkill ECC",
        "multi-symbol chipkill ECC",
        "master abort",
        "target abort",
        "parity",
        "watchdog timeout",
        "invalid address",
        "mirror broken",
        "memory sparing",
        "scrub corrected",
        "scrub uncorrected",
        "physical memory map-out",
    ];
    KINDS.get(usize::from(n)).copied().unwrap_or("unknown")
}

/// Error information types of an Arm processor section: UEFI 2.10, N.2.4.4.1.
pub fn arm_kind(n: u32) -> &'static str {
    match n {
        0 | 2 => "cache",
        1 | 4 => "TLB",
        3 | 8 => "bus",
        16 => "micro-architectural",
        _ => "unknown",
    }
}

/// A GUID as it is written: its first three parts are little-endian (UEFI 2.10, appendix A).
pub fn guid(b: &[u8; 16]) -> String {
    let [a, b1, c, d, e, f, g, h, clock @ .., n0, n1, n2, n3, n4, n5] = *b;
    format!(
        "{}-{}-{}-{}-{}",
        Hex(&[d, c, b1, a]),
        Hex(&[f, e]),
        Hex(&[h, g]),
        Hex(&clock),
        Hex(&[n0, n1, n2, n3, n4, n5])
    )
}

/// Section types of firmware reports: include/linux/cper.h.
pub fn section(guid: &str) -> &'static str {
    match guid {
        "9876ccad-47b4-4bdb-b65e-16f193c4f3db" => "processor",
        "dc3ea0b0-a144-4797-b95b-53fa242b6e1d" => "x86 processor",
        "e19e3d16-bc11-11e4-9caa-c2051d5d46b0" => "Arm processor",
        "a5bc1114-6f64-4ede-b863-3e83ed7c83b1" | "61ec04fc-48e6-d813-25c9-8daa44750b12" => "platform memory",
        "d995e954-bbc1-430f-ad91-b44dcb3c6f35" => "PCI Express",
        "c5753963-3b84-4095-bf78-eddad3f9c9dd" => "PCI bus",
        "eb5e4685-ca66-4769-b6a2-26068b001326" => "PCI device",
        "81212a96-09ed-4996-9471-8d729c8e69ed" => "firmware record",
        "5b51fef7-c79d-4434-8f1b-aa62de3e2c64" => "DMA remapping",
        _ => "vendor-defined",
    }
}

/// In the order of page_kind() in bpf/ras/page_failure.bpf.c; names of action_page_types (mm/memory-failure.c).
const PAGE_KINDS: [&str; 23] = [
    "unknown page",
    "reserved kernel page",
    "high-order kernel page",
    "kernel slab page",
    "different compound page after locking",
    "huge page",
    "free huge page",
    "get hwpoison page",
    "unmapping failed page",
    "dirty swapcache page",
    "clean swapcache page",
    "dirty mlocked LRU page",
    "clean mlocked LRU page",
    "dirty unevictable LRU page",
    "clean unevictable LRU page",
    "dirty LRU page",
    "clean LRU page",
    "already truncated LRU page",
    "free buddy page",
    "dax page",
    "unsplit thp",
    "already poisoned page",
    "non struct page pfn",
];

pub fn page_kind(n: u32) -> &'static str {
    PAGE_KINDS.get(n as usize).copied().unwrap_or(PAGE_KINDS[0])
}

/// `enum mf_result` (mm/memory-failure.c), unchanged since 4.2.
pub fn outcome(n: u32) -> &'static str {
    ["ignored", "failed", "delayed", "recovered"].get(n as usize).copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A corrected read error of a memory controller, as mce-inject's documentation has it, and the
    /// other senses.
    #[test]
    fn machine_checks() {
        let status = 0x9c00_0040_0001_0090;
        assert_eq!(Sense::of_mce(status, 0), Sense::Corrected);
        assert_eq!(mca_code(status), "memory controller: read, channel 0");
        assert_eq!(bits(status, &MCE_STATUS), ["enabled", "misc_valid", "address_valid"]);
        assert_eq!(Sense::of_mce(0xbd80_0000_0010_0134, 0), Sense::Uncorrected);
        assert_eq!(mca_code(0xbd80_0000_0010_0134), "cache: data, L0, data read");
        assert_eq!(Sense::of_mce(0xbe00_0000_0080_0400, 0), Sense::Fatal);
        assert_eq!(mca_code(0xbe00_0000_0080_0400), "internal timer");
        assert_eq!(Sense::of_mce(0x9c00_1000_0001_0090, X86_VENDOR_AMD), Sense::Deferred);
    }

    /// No status makes the decoder panic.
    #[test]
    fn every_code_has_a_name() {
        for code in 0..=0xffff {
            assert!(!mca_code(code).is_empty());
        }
        for n in 0..=255 {
            let names = [memory_kind(n), arm_kind(n.into()), page_kind(n.into()), outcome(n.into())];
            assert!(names.iter().all(|n| !n.is_empty()));
        }
    }

    /// GUID_INIT(0x61ec04fc, 0x48e6, 0xd813, …) in memory.
    #[test]
    fn guids_are_written_as_the_specification_does() {
        let bytes = [0xfc, 4, 0xec, 0x61, 0xe6, 0x48, 0x13, 0xd8, 0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12];
        assert_eq!(guid(&bytes), "61ec04fc-48e6-d813-25c9-8daa44750b12");
        assert_eq!(section(&guid(&bytes)), "platform memory");
        assert_eq!(section("no"), "vendor-defined");
    }
}
