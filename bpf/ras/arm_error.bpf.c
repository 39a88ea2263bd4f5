// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* arm64: what firmware says of a processor's error (UEFI 2.10, N.2.4.4), with the first of its errors. */

RECORDS(arm_error, 8 * 1024);

struct arm_section {
	u32 valid;
	u16 errors, contexts;
	u32 length;
	u8 affinity, reserved[3];
	u64 mpidr, midr;
	u32 running, psci;
};

struct arm_info {
	u8 version, length, valid[2], type, multiple[2], flags;
	u64 info, virtual_address, physical_address;
};

static __always_inline int report_arm(const void *section, u32 severity, s32 cpu)
{
	struct arm_section head = {};
	struct arm_info first = {};
	struct limit_key key = {};
	struct arm_error *r;

	bpf_probe_read_kernel(&head, sizeof(head), section);
	key.reason = head.mpidr;
	r = RESERVE(arm_error, &key, bpf_ktime_get_ns());
	if (!r)
		return 0;
	if (head.errors)
		bpf_probe_read_kernel(&first, sizeof(first), section + sizeof(head));
	r->time_ns = bpf_ktime_get_boot_ns();
	r->mpidr = head.mpidr;
	r->midr = head.midr;
	r->info = first.info;
	r->virtual_address = first.virtual_address;
	r->physical_address = first.physical_address;
	r->severity = severity;
	r->cpu = cpu;
	r->affinity = head.affinity;
	r->running = head.running;
	r->errors = head.errors;
	r->info_valid = first.valid[0] | first.valid[1] << 8;
	r->info_type = first.type;
	r->info_flags = first.flags;
	r->multiple = first.multiple[0] | first.multiple[1] << 8;
	SUBMIT(arm_error, r);
	return 0;
}
