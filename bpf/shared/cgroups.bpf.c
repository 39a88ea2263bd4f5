// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Lives of cgroups: each mkdir, rename and rmdir in every hierarchy, in order,
 * so that a container is known before its first process runs and still known
 * after its last one has gone.
 */
#include "probe.h"

LICENSE;

/* TRACE_CGROUP_PATH_LEN of kernel/cgroup/cgroup.c. */
#define PATH_LEN 1024

enum cgroup_event {
	CGROUP_MADE = 1,
	CGROUP_RENAMED,
	CGROUP_REMOVED,
};

struct cgroup_change {
	struct cgroup_ref cgroup;
	enum cgroup_event event;
	u32 reserved;
	/* below the hierarchy's root; empty for CGROUP_REMOVED */
	u8 path[PATH_LEN];
};

/*
 * One ring for all, as order matters: a removal must not overtake its making.
 * On v1 a container is some 20 changes, so this holds two dozen containers that
 * start before the reader runs once. Unlimited, as each change counts: after a loss all is read anew.
 */
UNLIMITED_RECORDS(cgroup_change, 512 * 1024);

static __always_inline int report(struct cgroup *cgroup, const char *path, enum cgroup_event event)
{
	struct cgroup_change *r = RESERVE_UNLIMITED(cgroup_change);

	if (!r)
		return 0;
	cgroup_ref_of(&r->cgroup, cgroup);
	r->event = event;
	if (path)
		bpf_probe_read_kernel_str(r->path, sizeof(r->path), path);
	SUBMIT(cgroup_change, r);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int PROBE(mkdir__btf, struct cgroup *cgroup, const char *path)
{
	return report(cgroup, path, CGROUP_MADE);
}

SEC("raw_tp/cgroup_mkdir")
int PROBE(mkdir__raw, struct cgroup *cgroup, const char *path)
{
	return report(cgroup, path, CGROUP_MADE);
}

SEC("tp_btf/cgroup_rename")
int PROBE(rename__btf, struct cgroup *cgroup, const char *path)
{
	return report(cgroup, path, CGROUP_RENAMED);
}

SEC("raw_tp/cgroup_rename")
int PROBE(rename__raw, struct cgroup *cgroup, const char *path)
{
	return report(cgroup, path, CGROUP_RENAMED);
}

SEC("tp_btf/cgroup_rmdir")
int PROBE(rmdir__btf, struct cgroup *cgroup)
{
	return report(cgroup, NULL, CGROUP_REMOVED);
}

SEC("raw_tp/cgroup_rmdir")
int PROBE(rmdir__raw, struct cgroup *cgroup)
{
	return report(cgroup, NULL, CGROUP_REMOVED);
}
