// SPDX-License-Identifier: Apache-2.0
//! Errors that the hardware itself reports: memory, CPUs, PCI Express.
//!
//! ## What it reports
//! Which component erred (DIMM, CPU and bank, PCI device), what kind of error, whether it was
//! corrected, at which physical address; and which process in which container lost a page to it.
//!
//! ## How
//! The kernel's own tracepoints, each by itself, so that a kernel without one has the others:
//! `mce:mce_record` (x86 machine checks), `ras:mc_event` (EDAC, the memory controller's driver),
//! `ras:aer_event` (PCI Express), `ras:non_standard_event` and `ras:extlog_mem_event` (firmware, by
//! ACPI's GHES), `ras:arm_event`, `memory_failure_event` (a page with bad memory). Who had such a page
//! is who is sent SIGBUS for it, at once or when it uses the page (`signal:signal_generate`).
//!
//! ## Signals
//! `linux.hw.error`; `linux.hw.error.source` says which of them. One fault may come by several: a
//! machine check, EDAC's decoding of it, the page that is lost, and each process that had it.
//!
//! ## Limits
//! What firmware handles without reporting it to the kernel is not seen; many machines need EDAC's driver
//! (`edac_mc`) for the DIMM's name. At most 20 records of a component at once, one more each second;
//! what was limited is a number on the next.
//!
//! ## What to do next
//! `corrected`: count them by `hw.name`. A few a month are usual; the same DIMM, address or PCI
//! device every day is a part that fails: replace it at the next occasion. `uncorrected`, `fatal`:
//! drain the node and replace the part now. PCI Express errors that are corrected: reseat the card,
//! look at the slot and its power management. A page that was lost in a container: restart it, its
//! data is gone.

mod decode;

use decode::Sense;

use crate::collectors::{
    Collector, Context, EventCollector, Events, Info, NoSettings, Optional, Unavailable, head_doc,
};
use crate::host::Clock;
use crate::probe::skeletons::ras::{
    ArmError, FirmwareError, FirmwareMemoryError, MachineCheck, MemoryError, MemorySection, PageFailure, PageVictim,
    PcieError, Record, Records, SKELETON,
};
use crate::probe::text;
use crate::signal::semconv::attr;
use crate::signal::{Event, EventDef, Hex, Key, MetricDef, Severity, Thread, Value, Workload};
use crate::workload::Workloads;

const HW_TYPE: Key = Key::new("hw.type", "Kind of the component: cpu, memory, pcie, platform");
const HW_NAME: Key = Key::new("hw.name", "The component: DIMM, PCI device, CPU, …");
const HW_ERROR_SOURCE: Key =
    Key::new("linux.hw.error.source", "Who reported it: mce, edac, aer, ghes, extlog, arm, memory_failure");
const HW_ERROR_SEVERITY: Key =
    Key::new("linux.hw.error.severity", "corrected, deferred, uncorrected, fatal, info, unknown");
const HW_ERROR_KIND: Key = Key::new("linux.hw.error.kind", "What it was, decoded");
const HW_ERROR_COUNT: Key = Key::new("linux.hw.error.count", "Errors that the report stands for");
const HW_ERROR_ADDRESS: Key = Key::new("linux.hw.error.address", "Physical address");
const HW_ERROR_STATUS: Key = Key::new("linux.hw.error.status", "The status register as it is");
const HW_ERROR_FLAGS: Key = Key::new("linux.hw.error.flags", "Names of the status bits that are set");
const HW_ERROR_REGISTERS: Key =
    Key::new("linux.hw.error.registers", "Further registers and ids of the report, as they are");
const HW_ERROR_BANK: Key = Key::new("linux.hw.error.bank", "The machine check bank");
const HW_ERROR_SOCKET: Key = Key::new("linux.hw.error.socket", "The CPU package");
const HW_ERROR_CONTROLLER: Key = Key::new("linux.hw.error.controller", "The memory controller");
const HW_ERROR_LAYERS: Key =
    Key::new("linux.hw.error.layers", "Place below the memory controller, e.g. channel and slot; -1: not known");
const HW_ERROR_GRAIN: Key = Key::new("linux.hw.error.grain", "Bytes that the address is exact to");
const HW_ERROR_SYNDROME: Key = Key::new("linux.hw.error.syndrome", "The syndrome");
const HW_ERROR_DETAIL: Key = Key::new("linux.hw.error.detail", "What the driver adds");
const HW_ERROR_SECTION: Key = Key::new("linux.hw.error.section", "Type of the firmware's section (UUID)");
const HW_ERROR_FRU: Key = Key::new("linux.hw.error.fru", "The replaceable unit (UUID), as firmware has it");
const HW_ERROR_DATA: Key = Key::new("linux.hw.error.data", "First bytes of the firmware's section, hexadecimal");
const HW_ERROR_LENGTH: Key = Key::new("linux.hw.error.length", "Bytes that the section has");
const HW_ERROR_OUTCOME: Key =
    Key::new("linux.hw.error.outcome", "What became of the page: recovered, delayed, failed, ignored");
const HW_ERROR_VIRTUAL_ADDRESS: Key = Key::new("linux.hw.error.virtual_address", "Where the process had the page");

const COUNTED: &[Key] = &[HW_ERROR_SOURCE, HW_ERROR_SEVERITY, attr::LINUX_EVENT_SEVERITY];
static ERRORS: MetricDef =
    MetricDef::counter("linux.hw.errors", "{event}", "Errors that the hardware reported").by(COUNTED);
static CONTAINER_ERRORS: MetricDef =
    MetricDef::counter("linux.container.hw.errors", "{event}", "The workload's pages that bad memory took").by(COUNTED);

/// The hardware reports an error.
pub static HW_ERROR: EventDef = EventDef {
    name: "linux.hw.error",
    summary: "The hardware reported an error",
    severity: Severity::Warn,
    worst: Severity::Fatal,
    attributes: &[
        HW_ERROR_SOURCE,
        HW_ERROR_SEVERITY,
        HW_ERROR_KIND,
        HW_TYPE,
        HW_NAME,
        HW_ERROR_COUNT,
        HW_ERROR_ADDRESS,
        attr::CPU_LOGICAL_NUMBER,
        HW_ERROR_BANK,
        HW_ERROR_SOCKET,
        HW_ERROR_CONTROLLER,
        HW_ERROR_LAYERS,
        HW_ERROR_GRAIN,
        HW_ERROR_SYNDROME,
        HW_ERROR_STATUS,
        HW_ERROR_FLAGS,
        HW_ERROR_REGISTERS,
        HW_ERROR_DETAIL,
        HW_ERROR_SECTION,
        HW_ERROR_FRU,
        HW_ERROR_LENGTH,
        HW_ERROR_DATA,
        HW_ERROR_OUTCOME,
        HW_ERROR_VIRTUAL_ADDRESS,
    ],
    counter: &ERRORS,
    container_counter: Some(&CONTAINER_ERRORS),
};

/// All slots: none is needed, but one must be there.
const OPTIONAL: &[Optional] = &[
    Optional { slot: "mce", lost: "machine checks (x86)" },
    Optional { slot: "edac", lost: "memory errors by EDAC, with the DIMM's name" },
    Optional { slot: "aer", lost: "PCI Express errors" },
    Optional { slot: "ghes", lost: "firmware's reports without a decoder in the kernel" },
    Optional { slot: "extlog", lost: "memory errors by firmware's extended log (x86)" },
    Optional { slot: "arm", lost: "processor errors by firmware (arm64)" },
    Optional { slot: "page", lost: "pages that bad memory took" },
    Optional { slot: "victim", lost: "who had such a page" },
];

/// The collector.
pub struct Ras {
    clock: Clock,
    workloads: Workloads,
    page: u64,
}

impl Collector for Ras {
    const INFO: Info = Info {
        name: "ras",
        summary: "hardware errors: memory, CPU, PCI Express",
        doc: head_doc(include_str!("mod.rs")),
        object: Some(&SKELETON),
        optional: OPTIONAL,
        events: &[&HW_ERROR],
        ..Info::DEFAULT
    };
    type Config = NoSettings;

    fn new(_: NoSettings, cx: &mut Context<'_>) -> Result<Self, Unavailable> {
        let object = cx.load(SKELETON.options())?;
        // Every kernel has signals.
        if OPTIONAL.iter().all(|o| o.slot == "victim" || object.attached(o.slot).is_none()) {
            return Err(Unavailable::because(
                "this kernel has none of the tracepoints of hardware errors: CONFIG_RAS, CONFIG_X86_MCE",
            ));
        }
        Ok(Ras { clock: cx.clock.clone(), workloads: cx.workloads.clone(), page: crate::host::sys::page_size() })
    }

    fn reload(&mut self, _: NoSettings) -> anyhow::Result<()> {
        Ok(())
    }
}

impl EventCollector for Ras {
    type Records = Records;

    fn on_record(&mut self, record: Record<'_>, out: &mut Events) -> anyhow::Result<()> {
        out.emit(match record {
            Record::MachineCheck(r) => self.machine_check(r),
            Record::MemoryError(r) => self.memory(r),
            Record::PcieError(r) => self.pcie(r),
            Record::FirmwareError(r) => self.firmware(r),
            Record::FirmwareMemoryError(r) => self.firmware_memory(r),
            Record::ArmError(r) => self.arm(r),
            Record::PageFailure(r) => self.page_failure(r),
            Record::PageVictim(r) => self.page_victim(r),
        });
        Ok(())
    }
}

/// What every report has.
struct Report<'a> {
    source: &'static str,
    hw_type: &'static str,
    sense: Sense,
    kind: String,
    /// The component.
    name: &'a str,
    time_ns: u64,
}

impl Ras {
    fn event(&self, r: Report<'_>) -> Event {
        let mut e = Event::new(&HW_ERROR, self.clock.wall(r.time_ns), None, String::new());
        e.severity = r.sense.severity();
        e.message = format!("{} {} error of {}: {}", r.sense.name(), r.hw_type, r.name, r.kind);
        e.attributes
            .set(HW_ERROR_SOURCE, r.source)
            .set(HW_ERROR_SEVERITY, r.sense.name())
            .set(HW_ERROR_KIND, r.kind)
            .set(HW_TYPE, r.hw_type)
            .set(HW_NAME, r.name.to_owned());
        e
    }

    fn machine_check(&self, r: &MachineCheck) -> Event {
        let kind = decode::mca_code(r.status);
        let mut e = self.event(Report {
            source: "mce",
            hw_type: if kind.contains("memory") { "memory" } else { "cpu" },
            sense: Sense::of_mce(r.status, r.vendor),
            kind,
            name: &format!("CPU {}, bank {}", r.cpu, r.bank),
            time_ns: r.time_ns,
        });
        let registers = [
            ("misc", r.misc),
            ("mcg_status", r.mcg_status),
            ("ip", r.ip),
            ("synd", r.syndrome),
            ("ipid", r.ipid),
            ("ppin", r.ppin),
            ("cpuid", r.cpuid.into()),
            ("apic", r.apic.into()),
            ("microcode", r.microcode.into()),
        ];
        e.attributes
            .set(attr::CPU_LOGICAL_NUMBER, r.cpu)
            .set(HW_ERROR_BANK, r.bank)
            .set(HW_ERROR_SOCKET, r.socket)
            .set(HW_ERROR_STATUS, Value::address(r.status))
            .set(HW_ERROR_FLAGS, decode::bits(r.status, &decode::MCE_STATUS))
            .set(HW_ERROR_REGISTERS, registers_of(&registers));
        if r.status >> 58 & 1 == 1 {
            e.attributes.set(HW_ERROR_ADDRESS, Value::address(r.address));
        }
        e
    }

    fn memory(&self, r: &MemoryError) -> Event {
        let (label, detail) = (text(&r.label), text(&r.detail));
        let mut e = self.event(Report {
            source: "edac",
            hw_type: "memory",
            sense: Sense::of_edac(r.severity),
            kind: text(&r.message),
            name: if label.is_empty() { "an unknown DIMM" } else { &label },
            time_ns: r.time_ns,
        });
        e.attributes
            .set(HW_ERROR_COUNT, r.count)
            .set(HW_ERROR_ADDRESS, Value::address(r.address))
            .set(HW_ERROR_CONTROLLER, r.controller)
            .set(HW_ERROR_LAYERS, vec![r.top, r.middle, r.low])
            .set(HW_ERROR_GRAIN, 1_u64.checked_shl(r.grain_bits).unwrap_or(0))
            .set(HW_ERROR_SYNDROME, Value::address(r.syndrome))
            .set_some(HW_ERROR_DETAIL, Some(detail).filter(|d| !d.is_empty()));
        e
    }

    fn pcie(&self, r: &PcieError) -> Event {
        let sense = Sense::of_aer(r.severity);
        let status = u64::from(r.status);
        let flags = match sense {
            Sense::Corrected => decode::bits(status, &decode::AER_CORRECTABLE),
            _ => decode::bits(status, &decode::AER_UNCORRECTABLE),
        };
        let kind = if flags.is_empty() { format!("status {status:#x}") } else { flags.join(", ") };
        let mut e = self.event(Report {
            source: "aer",
            hw_type: "pcie",
            sense,
            kind,
            name: &text(&r.device),
            time_ns: r.time_ns,
        });
        e.attributes.set(HW_ERROR_STATUS, Value::address(status)).set(HW_ERROR_FLAGS, flags);
        if r.header_valid != 0 {
            let words = [("tlp0", r.header[0]), ("tlp1", r.header[1]), ("tlp2", r.header[2]), ("tlp3", r.header[3])];
            e.attributes.set(HW_ERROR_REGISTERS, registers_of(&words.map(|(n, w)| (n, w.into()))));
        }
        e
    }

    fn firmware(&self, r: &FirmwareError) -> Event {
        let (section, fru) = (decode::guid(&r.section), text(&r.fru_text));
        let kind = format!("{} section", decode::section(&section));
        let mut e = self.event(Report {
            source: "ghes",
            hw_type: "platform",
            sense: Sense::of_ghes(r.severity),
            kind,
            name: if fru.is_empty() { "a part that firmware does not name" } else { &fru },
            time_ns: r.time_ns,
        });
        let kept = r.data.get(..r.length as usize).unwrap_or(&r.data);
        e.attributes
            .set(HW_ERROR_SECTION, section)
            .set(HW_ERROR_LENGTH, r.length)
            .set(HW_ERROR_DATA, Hex(kept).to_string())
            .set_some(HW_ERROR_FRU, (r.fru != [0; 16]).then(|| decode::guid(&r.fru)));
        e
    }

    fn firmware_memory(&self, r: &FirmwareMemoryError) -> Event {
        let (m, fru) = (&r.memory, text(&r.fru_text));
        let known = m.valid & decode::MEMORY_VALID_KIND != 0;
        let place = place_in_memory(m);
        let name = if fru.is_empty() { words(&place) } else { fru };
        let mut e = self.event(Report {
            source: "extlog",
            hw_type: "memory",
            sense: Sense::of_cper(r.severity),
            kind: if known { decode::memory_kind(m.kind) } else { "unknown" }.to_owned(),
            name: &name,
            time_ns: r.time_ns,
        });
        if m.valid & decode::MEMORY_VALID_ADDRESS != 0 {
            e.attributes.set(HW_ERROR_ADDRESS, Value::address(m.address));
        }
        e.attributes.set(HW_ERROR_REGISTERS, Value::figures(place));
        e
    }

    fn arm(&self, r: &ArmError) -> Event {
        let kind = if r.errors == 0 { "no error information" } else { decode::arm_kind(r.info_type) };
        let name = if r.cpu < 0 { format!("CPU with MPIDR {:#x}", r.mpidr) } else { format!("CPU {}", r.cpu) };
        let mut e = self.event(Report {
            source: "arm",
            hw_type: "cpu",
            // Before 6.12 the hook does not have it.
            sense: Sense::of_ghes(r.severity),
            kind: kind.to_owned(),
            name: &name,
            time_ns: r.time_ns,
        });
        let registers = [
            ("mpidr", r.mpidr),
            ("midr", r.midr),
            ("info", r.info),
            ("flags", r.info_flags.into()),
            ("affinity", r.affinity.into()),
            ("running", r.running.into()),
            ("multiple", r.multiple.into()),
        ];
        e.attributes
            .set(HW_ERROR_COUNT, r.errors)
            .set(HW_ERROR_REGISTERS, registers_of(&registers))
            .set_some(attr::CPU_LOGICAL_NUMBER, Some(r.cpu).filter(|c| *c >= 0));
        // Bits of the information's validation field: UEFI 2.10, N.2.4.4.1.
        if r.info_valid >> 4 & 1 == 1 {
            e.attributes.set(HW_ERROR_ADDRESS, Value::address(r.physical_address));
        }
        if r.info_valid >> 3 & 1 == 1 {
            e.attributes.set(HW_ERROR_VIRTUAL_ADDRESS, Value::address(r.virtual_address));
        }
        e
    }

    fn page_failure(&self, r: &PageFailure) -> Event {
        let (address, outcome) = (r.pfn.saturating_mul(self.page), decode::outcome(r.result));
        let mut e = self.event(Report {
            source: "memory_failure",
            hw_type: "memory",
            // Taken out of use in time: its user gets the error when it touches the page.
            sense: if outcome == "recovered" { Sense::Deferred } else { Sense::Uncorrected },
            kind: format!("{}: {outcome}", decode::page_kind(r.kind)),
            name: &format!("page {address:#x}"),
            time_ns: r.time_ns,
        });
        e.attributes.set(HW_ERROR_ADDRESS, Value::address(address)).set(HW_ERROR_OUTCOME, outcome);
        e
    }

    fn page_victim(&self, r: &PageVictim) -> Event {
        let victim = Thread::from(r.thread);
        let workload = self.workloads.of_process(victim.pid, r.cgroup.into());
        let of_workload = Workload::message_suffix(workload.as_ref());
        let mut e = self.event(Report {
            source: "memory_failure",
            hw_type: "memory",
            sense: Sense::Uncorrected,
            kind: if r.used != 0 { "lost page used: SIGBUS" } else { "page lost: SIGBUS in advance" }.to_owned(),
            name: &format!("{} (pid {}){of_workload}", victim.comm, victim.pid),
            time_ns: r.time_ns,
        });
        e.message = format!("{}{of_workload} lost a page to bad memory and got SIGBUS", victim.comm);
        e.workload = workload;
        e.thread = Some(victim);
        e.attributes.set(HW_ERROR_VIRTUAL_ADDRESS, Value::address(r.address));
        e
    }
}

/// Registers and ids, hexadecimal; those that are zero say nothing.
fn registers_of(all: &[(&'static str, u64)]) -> Value {
    let some = all.iter().filter(|(_, v)| *v != 0);
    Value::Map(some.map(|(n, v)| ((*n).into(), Value::address(*v))).collect())
}

/// Where in the memory, as far as firmware says: (name, number).
fn place_in_memory(m: &MemorySection) -> Vec<(&'static str, u64)> {
    let all = [
        (3, "node", m.node),
        (4, "card", m.card),
        (5, "module", m.module),
        (15, "rank", m.rank),
        (6, "bank", m.bank),
        (7, "device", m.device),
        (8, "row", m.row),
        (9, "column", m.column),
        (10, "bit", m.bit),
        (17, "module_handle", m.device_handle),
    ];
    all.into_iter().filter(|(bit, ..)| m.valid >> bit & 1 == 1).map(|(_, n, v)| (n, v.into())).collect()
}

fn words(place: &[(&'static str, u64)]) -> String {
    if place.is_empty() {
        return "an unknown DIMM".to_owned();
    }
    place.iter().map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::FromZeros as _;

    use crate::collectors::testing::Rig;

    /// Of a firmware's place only what it says is valid.
    #[test]
    fn places_are_named_as_far_as_known() {
        let m = MemorySection { valid: 1 << 3 | 1 << 5, node: 1, card: 9, module: 2, ..zeroed() };
        assert_eq!(words(&place_in_memory(&m)), "node 1, module 2");
        assert_eq!(words(&place_in_memory(&zeroed())), "an unknown DIMM");
    }

    fn zeroed() -> MemorySection {
        MemorySection::new_zeroed()
    }

    /// A corrected machine check, by the machine's registers.
    #[test]
    fn a_machine_check() {
        let rig = Rig::new().unwrap();
        let mut c = rig.run(&crate::collectors::events::<Ras>(), "").unwrap();
        // Valid, address valid, a memory read of channel 1.
        let status = 1 << 63 | 1 << 58 | 0x91;
        let r = MachineCheck { cpu: 3, bank: 7, status, address: 0x1000, ..MachineCheck::new_zeroed() };
        let e = c.record("machine_check", &r).unwrap().pop().unwrap();
        assert_eq!((e.def.name, e.severity), ("linux.hw.error", Severity::Warn));
        let text = |key: Key| e.attributes.get(key.name).and_then(Value::as_str);
        assert_eq!((text(HW_TYPE), text(HW_NAME)), (Some("memory"), Some("CPU 3, bank 7")));
        assert_eq!(text(HW_ERROR_SEVERITY), Some("corrected"));
    }

    /// Who had the page that bad memory took.
    #[test]
    fn owner_of_the_page() {
        let rig = Rig::new().unwrap();
        let cgroup = rig.cgroup("/a.service").unwrap();
        let mut c = rig.run(&crate::collectors::events::<Ras>(), "").unwrap();
        let mut r = PageVictim::new_zeroed();
        (r.cgroup.id, r.thread.tgid, r.used) = (cgroup.id, 42, 1);
        r.thread.comm[..2].copy_from_slice(b"db");
        let e = c.record("page_victim", &r).unwrap().pop().unwrap();
        assert_eq!(e.message, "db of a.service lost a page to bad memory and got SIGBUS");
        assert_eq!(e.workload.map(|w| w.cgroup.clone()).as_deref(), Some("/a.service"));
    }

    /// A kernel without any of the tracepoints has no such errors to show.
    #[test]
    fn without_tracepoints_it_is_unavailable() {
        let rig = Rig::new().unwrap();
        OPTIONAL.iter().for_each(|o| rig.kernel().refuse(&SKELETON, o.slot, "no such tracepoint"));
        let e = rig.run(&crate::collectors::events::<Ras>(), "").err().unwrap();
        assert!(e.to_string().contains("CONFIG_RAS"), "{e}");
    }
}
