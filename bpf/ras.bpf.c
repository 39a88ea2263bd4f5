// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Hardware errors, by the kernel's own reports. Each tracepoint is a slot of its own: a kernel
 * without one has the others. Raw, as pointers to bytes are no arguments of tp_btf before 6.0.
 */
#include "ras/hw_error.h"

LICENSE;

#include "ras/arm_error.bpf.c"
#include "ras/page_failure.bpf.c"

RECORDS(machine_check, 8 * 1024);
RECORDS(memory_error, 16 * 1024);
RECORDS(pcie_error, 8 * 1024);
RECORDS(firmware_error, 8 * 1024);
RECORDS(firmware_memory_error, 8 * 1024);
RECORDS(page_failure, 8 * 1024);

SEC("raw_tp/mce_record")
int PROBE(mce__raw, const void *argument)
{
	const struct mce *m = mce_of(argument);
	u32 bank = BPF_CORE_READ(m, bank);
	struct limit_key key = {};
	struct machine_check *r;

	/* Each part of the machine apart: a storm of one starves no other. */
	key.reason = (u64)BPF_CORE_READ(m, socketid) << 32 | bank;
	r = RESERVE(machine_check, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->status = BPF_CORE_READ(m, status);
	r->misc = BPF_CORE_READ(m, misc);
	r->address = BPF_CORE_READ(m, addr);
	r->mcg_status = BPF_CORE_READ(m, mcgstatus);
	r->ip = BPF_CORE_READ(m, ip);
	r->syndrome = BPF_CORE_READ(m, synd);
	r->ipid = BPF_CORE_READ(m, ipid);
	r->ppin = BPF_CORE_READ(m, ppin);
	r->cpu = BPF_CORE_READ(m, extcpu);
	r->cpuid = BPF_CORE_READ(m, cpuid);
	r->socket = BPF_CORE_READ(m, socketid);
	r->apic = BPF_CORE_READ(m, apicid);
	r->microcode = BPF_CORE_READ(m, microcode);
	r->bank = bank;
	r->vendor = BPF_CORE_READ(m, cpuvendor);
	SUBMIT(machine_check, r);
	return 0;
}

SEC("raw_tp/mc_event")
int PROBE(edac__raw, u32 severity, const char *message, const char *label, int count, u8 controller, s8 top,
	  s8 middle, s8 low, u64 address, u8 grain_bits, u64 syndrome, const char *detail)
{
	u64 part = ((u64)controller << 24) | ((u8)top << 16) | ((u8)middle << 8) | (u8)low;
	struct limit_key key = {};
	struct memory_error *r;

	key.reason = part;
	r = RESERVE(memory_error, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->address = address;
	r->syndrome = syndrome;
	r->severity = severity;
	r->count = count;
	r->controller = controller;
	r->top = top;
	r->middle = middle;
	r->low = low;
	r->grain_bits = grain_bits;
	bpf_probe_read_kernel_str(r->message, sizeof(r->message), message);
	bpf_probe_read_kernel_str(r->label, sizeof(r->label), label);
	bpf_probe_read_kernel_str(r->detail, sizeof(r->detail), detail);
	SUBMIT(memory_error, r);
	return 0;
}

SEC("raw_tp/aer_event")
int PROBE(aer__raw, const char *device, u32 status, u8 severity, u8 header_valid, const void *header)
{
	char name[32] = {};
	struct limit_key key = {};
	struct pcie_error *r;
	u64 part;

	bpf_probe_read_kernel_str(name, sizeof(name), device);
	/* of 0000:00:03.0 what differs between devices */
	__builtin_memcpy(&part, &name[4], sizeof(part));
	key.reason = part;
	r = RESERVE(pcie_error, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->status = status;
	r->severity = severity;
	r->header_valid = header_valid;
	/* struct aer_header_log_regs, since 6.10 struct pcie_tlp_log: both begin with the four words */
	if (header_valid)
		bpf_probe_read_kernel(r->header, sizeof(r->header), header);
	__builtin_memcpy(r->device, name, sizeof(name));
	SUBMIT(pcie_error, r);
	return 0;
}

SEC("raw_tp/non_standard_event")
int PROBE(ghes__raw, const void *section, const void *fru, const char *fru_text, u8 severity, const u8 *data,
	  u32 length)
{
	u64 part = 0, kept = length < SECTION_BYTES ? length : SECTION_BYTES;
	struct limit_key key = {};
	struct firmware_error *r;

	bpf_probe_read_kernel(&part, sizeof(part), section);
	key.reason = part;
	r = RESERVE(firmware_error, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	bpf_probe_read_kernel(r->section, sizeof(r->section), section);
	bpf_probe_read_kernel(r->fru, sizeof(r->fru), fru);
	/* 20 bytes and a NUL: behind the field lies something else */
	bpf_probe_read_kernel_str(r->fru_text, 21, fru_text);
	r->severity = severity;
	r->length = length;
	/* The verifier wants to see the bound right before the read, whatever the compiler knows. */
	barrier_var(kept);
	if (kept <= SECTION_BYTES)
		bpf_probe_read_kernel(r->data, kept, data);
	SUBMIT(firmware_error, r);
	return 0;
}

SEC("raw_tp/extlog_mem_event")
int PROBE(extlog__raw, const void *memory, u32 sequence, const void *fru, const char *fru_text, u8 severity)
{
	struct limit_key key = {};
	struct firmware_memory_error *r;

	r = RESERVE(firmware_memory_error, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	bpf_probe_read_kernel(&r->memory, sizeof(r->memory), memory);
	bpf_probe_read_kernel_str(r->fru_text, 21, fru_text);
	r->severity = severity;
	SUBMIT(firmware_memory_error, r);
	return 0;
}

/* Since 6.12: 87880af2d24e ("RAS: Report all ARM processor CPER information to userspace"). */
SEC("raw_tp/arm_event")
int PROBE(arm__full, const void *section, u64 pei, u32 pei_length, u64 context, u32 context_length, u64 oem,
	  u32 oem_length, u8 severity, int cpu)
{
	return report_arm(section, severity, cpu);
}

SEC("raw_tp/arm_event")
int PROBE(arm__section, const void *section)
{
	return report_arm(section, SEVERITY_UNKNOWN, -1);
}

SEC("raw_tp/memory_failure_event")
int PROBE(page__raw, u64 pfn, int kind, int result)
{
	struct limit_key key = {};
	struct page_failure *r;

	r = RESERVE(page_failure, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->pfn = pfn;
	r->kind = page_kind(kind);
	r->result = result;
	SUBMIT(page_failure, r);
	return 0;
}

SEC("raw_tp/signal_generate")
int PROBE(victim__raw, int signal, const void *info, struct task_struct *task)
{
	return report_victim(signal, info, task);
}
