/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Records of hardware errors, and the kernel's types that they are read from. */
#pragma once

#include "limit.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

/* uapi: arch/x86/include/uapi/asm/mce.h; absent on other machines. */
struct mce {
	u64 status, misc, addr, mcgstatus, ip;
	u8 cpuvendor, severity, cs, bank;
	u32 cpuid, extcpu, socketid, apicid;
	u64 mcgcap, synd, ipid, ppin;
	u32 microcode;
};

/* Since 6.13: 750fd23926f1 ("x86/mce: Add wrapper for struct mce to export vendor specific info"). */
struct mce_hw_err {
	struct mce m;
};

/* Its values differ between kernels: only by bpf_core_enum_value(). */
enum mf_action_page_type {
	MF_MSG_KERNEL = 900,
	MF_MSG_KERNEL_HIGH_ORDER,
	MF_MSG_SLAB,
	MF_MSG_DIFFERENT_COMPOUND,
	MF_MSG_HUGE,
	MF_MSG_FREE_HUGE,
	MF_MSG_GET_HWPOISON,
	MF_MSG_UNMAP_FAILED,
	MF_MSG_DIRTY_SWAPCACHE,
	MF_MSG_CLEAN_SWAPCACHE,
	MF_MSG_DIRTY_MLOCKED_LRU,
	MF_MSG_CLEAN_MLOCKED_LRU,
	MF_MSG_DIRTY_UNEVICTABLE_LRU,
	MF_MSG_CLEAN_UNEVICTABLE_LRU,
	MF_MSG_DIRTY_LRU,
	MF_MSG_CLEAN_LRU,
	MF_MSG_TRUNCATED_LRU,
	MF_MSG_BUDDY,
	MF_MSG_DAX,
	MF_MSG_UNSPLIT_THP,
	MF_MSG_ALREADY_POISONED,
	MF_MSG_PFN_MAP,
};

#pragma clang attribute pop

/* The argument of mce:mce_record, whichever it is. */
static __always_inline const struct mce *mce_of(const void *argument)
{
	if (bpf_core_type_exists(struct mce_hw_err))
		return (const void *)argument + bpf_core_field_offset(struct mce_hw_err, m);
	return argument;
}

struct machine_check {
	struct limited limited;
	u64 time_ns;
	u64 status;
	u64 misc;
	u64 address;
	u64 mcg_status;
	u64 ip;
	u64 syndrome;
	u64 ipid;
	u64 ppin;
	u32 cpu;
	u32 cpuid;
	u32 socket;
	u32 apic;
	u32 microcode;
	u32 bank;
	u32 vendor;
	u32 reserved;
};

/* EDAC: a memory controller's driver. */
struct memory_error {
	struct limited limited;
	u64 time_ns;
	u64 address;
	u64 syndrome;
	u32 severity;
	u32 count;
	u32 controller;
	s32 top;
	s32 middle;
	s32 low;
	u32 grain_bits;
	u32 reserved;
	char message[64];
	char label[64];
	char detail[128];
};

struct pcie_error {
	struct limited limited;
	u64 time_ns;
	u32 status;
	u32 severity;
	u32 header_valid;
	u32 reserved;
	u32 header[4];
	char device[32];
};

#define SECTION_BYTES 128
#define SEVERITY_UNKNOWN 0xffffffff

/* A section of a firmware's report that the kernel has no decoder for. */
struct firmware_error {
	struct limited limited;
	u64 time_ns;
	u8 section[16];
	u8 fru[16];
	u32 severity;
	u32 length;
	/* fixed field of 20 bytes, not always ended by NUL (UEFI 2.10, N.2.2) */
	char fru_text[24];
	u8 data[SECTION_BYTES];
};

/* struct cper_sec_mem_err: UEFI 2.10, N.2.5; the same bytes on every kernel. */
struct memory_section {
	u64 valid;
	u64 error_status;
	u64 address;
	u64 address_mask;
	u16 node, card, module, bank, device, row, column, bit;
	u64 requestor;
	u64 responder;
	u64 target;
	u8 kind;
	u8 extended;
	u16 rank;
	u16 array_handle;
	u16 device_handle;
};

struct firmware_memory_error {
	struct limited limited;
	u64 time_ns;
	struct memory_section memory;
	u32 severity;
	u32 reserved;
	char fru_text[24];
};

/* struct cper_sec_proc_arm and its first struct cper_arm_err_info: UEFI 2.10, N.2.4.4. */
struct arm_error {
	struct limited limited;
	u64 time_ns;
	u64 mpidr;
	u64 midr;
	u64 info;
	u64 virtual_address;
	u64 physical_address;
	u32 severity;
	s32 cpu;
	u32 affinity;
	u32 running;
	u32 errors;
	u32 info_valid;
	u32 info_type;
	u32 info_flags;
	u32 multiple;
	u32 reserved;
};

/* A page that memory_failure() took out of use. */
struct page_failure {
	struct limited limited;
	u64 time_ns;
	u64 pfn;
	u32 kind;
	u32 result;
};

/* Who had such a page mapped. */
struct page_victim {
	struct limited limited;
	u64 time_ns;
	u64 address;
	/* in the memory controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	/* 0: notified, has not used the page */
	u32 used;
	u32 reserved;
};
