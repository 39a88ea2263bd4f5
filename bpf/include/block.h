/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Requests of block devices: what the probes read of them, and what kernels changed. */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* enum req_op, include/linux/blk_types.h: the same from 5.10 on. */
#define REQ_OP_MASK 0xff
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
/* The first of those that a driver, or a program by ioctl, makes for itself (passthrough). */
#define REQ_OP_PASSTHROUGH 32

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct gendisk {
	char disk_name[32];
};

struct request_queue {
	struct gendisk *disk;
};

struct blkcg {
	struct cgroup_subsys_state css;
};

struct blkcg_gq {
	struct blkcg *blkcg;
};

struct bio {
	struct blkcg_gq *bi_blkg;
};

struct request {
	struct request_queue *q;
	unsigned int cmd_flags;
	unsigned int rq_flags;
	/* bytes that are not done yet */
	unsigned int __data_len;
	struct bio *bio;
	u64 start_time_ns;
	u64 io_start_time_ns;
	unsigned short nr_phys_segments;
};

/* Before 5.17: f3fa33acca9f ("block: remove the ->rq_disk field in struct request"). */
struct request___disk {
	struct gendisk *rq_disk;
};

#pragma clang attribute pop

/* The request's device; NULL for a queue without one, such as that of a controller. */
static __always_inline struct gendisk *request_disk(struct request *rq)
{
	struct request___disk *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

/* Whose the request is, which is its first bio's; NULL where the kernel has no cgroups for I/O. */
static __always_inline struct cgroup *request_cgroup(struct request *rq)
{
	struct bio *bio = rq->bio;

	if (!bpf_core_field_exists(bio->bi_blkg))
		return NULL;
	return bio->bi_blkg->blkcg->css.cgroup;
}
