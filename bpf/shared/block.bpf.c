// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * How long requests of block devices took, by device, operation and cgroup: from when a request was made, and from
 * when its device was given it, until it was done.
 *
 * One hook, at the completion, and nothing to look up before it: the kernel keeps both moments in the request.
 * It keeps them while the queue's `iostats` are on, which is their default; when the device was given it
 * only where a part of the kernel needs that (QUEUE_FLAG_STATS): writeback throttling, which is on by default
 * for devices without bfq, kyber, bfq of later kernels. Without them there is no such time, and none is counted.
 *
 * What is a request here is one for /proc/diskstats (blk_account_io_done), so that the counts are the same.
 * It was done when all of it was: what completes in parts comes by several times. Bios that were merged
 * are one request, which is the first one's.
 *
 * A write that the device's cache is to be flushed before or after is a sequence (block/blk-flush.c). It comes by
 * twice: when its data are written (RQF_FLUSH_SEQ), which is the device's time, and at the end, with nothing left
 * to do. One without data is a wish for a flush, and comes by once, at the end. What the device is given for
 * flushes is a request of the queue's own, which serves all that wait: it has no bio, and is nobody's.
 */
#include "block.h"
#include "histogram.h"
#include "probe.h"

LICENSE;

/* Numbered as in enum req_op. */
enum io_operation {
	IO_READ,
	IO_WRITE,
	IO_FLUSH,
	IO_DISCARD,
};

/* RQF_FLUSH_SEQ and RQF_IO_STAT of this kernel: their numbers changed with 5f89154e8e9e (6.11). */
SWITCH(u32, rqf_flush_seq);
SWITCH(u32, rqf_io_stat);

/* Who, what and where. */
struct io_key {
	/* of the blkio or io controller; 0: nobody's */
	u64 cgroup;
	u32 hierarchy;
	enum io_operation operation;
	/* numbers of devices are used again for others */
	char device[32];
};

struct io_latencies {
	/* from when it was made */
	struct latencies request;
	/* from when the device was given it, the last time */
	struct latencies device;
	u64 last_ns;
};

/*
 * User space removes what is idle for minutes, and the longest idle where it fills. Memory is taken for what there
 * is: completions come at no place within the kernel's allocators.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct io_key);
	__type(value, struct io_latencies);
} block_ios SEC(".maps");

/* For those that found no room there: nobody's. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, struct io_key);
	__type(value, struct io_latencies);
} crowded_ios SEC(".maps");

/* Found no room there either. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} lost_ios SEC(".maps");

/* What of a request is to be counted; 0: there is no such moment. */
struct finished {
	u64 made_ns;
	u64 given_ns;
	enum io_operation operation;
	/* the queue's own */
	bool shared;
};

/* False: not a request that is counted, or not at its end. */
static __always_inline bool is_finished(struct finished *f, struct request *rq, u32 done_bytes)
{
	u32 op = rq->cmd_flags & REQ_OP_MASK, left = rq->__data_len, flags = rq->rq_flags;

	if (op >= REQ_OP_PASSTHROUGH || done_bytes < left)
		return false;
	f->given_ns = rq->io_start_time_ns;
	f->operation = op;
	if (op == REQ_OP_FLUSH) {
		/* It is made to be given to the device at once, so that either moment will do. */
		if (!f->given_ns)
			f->given_ns = rq->start_time_ns;
		f->shared = true;
		return f->given_ns;
	}
	/* Its moments are those of its last use, on kernels from 6.13 on. */
	if (!(flags & rqf_io_stat))
		return false;
	/* As op_stat_group() has it: what is not reading is odd. */
	if (op != REQ_OP_DISCARD)
		f->operation = op & 1;
	if (flags & rqf_flush_seq)
		return f->given_ns;
	f->made_ns = rq->start_time_ns;
	if (!left) {
		/* Done before, all bios included: request-based dm ends its requests once more. */
		if (is_null(rq->bio))
			return false;
		if (op == REQ_OP_WRITE) {
			f->given_ns = 0;
			if (!rq->nr_phys_segments)
				f->operation = IO_FLUSH;
		}
	}
	return f->made_ns || f->given_ns;
}

static __always_inline struct io_latencies *latencies_of(void *map, const struct io_key *key)
{
	static const struct io_latencies none;
	struct io_latencies *l = bpf_map_lookup_elem(map, key);

	if (l)
		return l;
	bpf_map_update_elem(map, key, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(map, key);
}

static __always_inline struct io_latencies *find(struct io_key *key)
{
	struct io_latencies *l = latencies_of(&block_ios, key);
	u32 zero = 0;
	u64 *lost;

	if (l)
		return l;
	key->cgroup = 0;
	key->hierarchy = 0;
	l = latencies_of(&crowded_ios, key);
	if (l)
		return l;
	lost = bpf_map_lookup_elem(&lost_ios, &zero);
	if (lost)
		++*lost;
	return NULL;
}

static __always_inline int completed(struct request *rq, u32 done_bytes)
{
	u64 now = bpf_ktime_get_ns();
	struct finished f = {};
	struct io_key key = {};
	struct io_latencies *l;
	struct cgroup *cgroup;

	if (!is_finished(&f, rq, done_bytes))
		return 0;
	/* Its length counts the end: none has a name without a letter. */
	if (bpf_probe_read_kernel_str(key.device, sizeof(key.device), request_disk(rq)->disk_name) <= 1)
		return 0;
	key.operation = f.operation;
	if (!f.shared && !is_null(rq->bio)) {
		cgroup = request_cgroup(rq);
		if (cgroup) {
			key.cgroup = cgroup->kn->id;
			key.hierarchy = cgroup->root->hierarchy_id;
		}
	}
	l = find(&key);
	if (!l)
		return 0;
	if (f.made_ns)
		count_latency_of_all(&l->request, between(f.made_ns, now));
	if (f.given_ns)
		count_latency_of_all(&l->device, between(f.given_ns, now));
	l->last_ns = now;
	return 0;
}

/* Since 5.16 the second argument is a blk_status_t. */
SEC("tp_btf/block_rq_complete")
int PROBE(completed__btf, struct request *rq, int error, unsigned int done_bytes)
{
	return completed(rq, done_bytes);
}
