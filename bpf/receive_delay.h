/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet that waited: its record. */
#pragma once

#include "limit.h"
#include "net.h"

#define STACK_DEPTH 16
/* The program itself, and who called it. */
#define OWN_FRAMES 2

enum receive_stage {
	STAGE_STACK,
	STAGE_TRANSPORT,
	STAGE_USER,
	/* in TCP, behind a segment that was lost */
	STAGE_LOSS,
};

struct receive_delay {
	struct limited limited;
	u64 time_ns;
	u64 delay_ns;
	/* when the packet entered the stack */
	u64 entered_ns;
	/* of the packet; with the stages of a reader only its namespace */
	struct net_owner owner;
	struct flow flow;
	/* the reader, in the memory controller's hierarchy */
	struct cgroup_ref cgroup;
	struct thread_ref thread;
	u64 stack[STACK_DEPTH];
	s32 stack_bytes;
	enum receive_stage stage;
	u32 length_bytes;
	u32 ifindex;
	char device[16];
	/* how long it waited for a lost segment, before anybody could read it, and which that was */
	u64 blocked_ns;
	u32 lost_seq;
	u32 reserved;
};
