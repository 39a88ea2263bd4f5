// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One dropped packet: its owner; counted, and reported or suppressed. */

#define DROP_STACK_DEPTH 32
/* The program itself, and who called it. */
#define OWN_FRAMES 2
#define TRAP_BYTES 32
#define ETH_HLEN 14
/* What a reason is, by its number (src/collectors/drop_reason.rs fills it in). */
#define REASONS 512
/* not said yet: as a loss for retransmits, but neither counted nor reported */
#define REASON_UNKNOWN 0
#define REASON_NORMAL 1
/* depends on the packet */
#define REASON_INSPECT 2
/* the same, and a segment without data or without a socket is no loss */
#define REASON_VAGUE 3
/* classified by user space */
#define REASON_IGNORED 4
/* no packet of a network: Unix sockets */
#define REASON_LOCAL 5
#define REASON_LOSS 6
/* Kernels before 5.17 give no reason: c504e5c2f964 ("net: skb: introduce kfree_skb_reason()"). */
#define REASON_NONE 0

/* What one drop is. */
#define DROP_LOSS 0
#define DROP_NORMAL 1
#define DROP_IGNORED 2

/* Drops are wanted for themselves, not only as what a retransmit may be due to. */
SWITCH(u32, report_drops);

struct drop_key {
	u64 location;
	u64 cgroup;
	u32 netns;
	u32 reason;
	/* DROP_… */
	u32 kind;
	u32 hardware;
};

struct packet_drop {
	struct limited limited;
	u64 time_ns;
	u64 location;
	struct net_owner owner;
	struct flow flow;
	u64 hits;
	u64 suppressed;
	u64 stack[DROP_STACK_DEPTH];
	s32 stack_bytes;
	u32 reason;
	u32 hardware;
	u32 length_bytes;
	u32 ifindex;
	u16 ether_type;
	u16 queue;
	char device[16];
	char trap[TRAP_BYTES];
	char trap_group[TRAP_BYTES];
};

POLLED_RECORDS(packet_drop, 256 * 1024);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, REASONS);
	__type(key, u32);
	__type(value, u32);
} reason_classes SEC(".maps");

/*
 * By what user space reads the counters. It removes one that is idle for minutes, and those that are
 * idle the longest where the map fills.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 2048);
	__type(key, struct drop_key);
	__type(value, struct tally);
} drops SEC(".maps");

/* For groups that found no room there: by reason and kind, reason << CROWDED_SHIFT | kind. */
#define CROWDED_SHIFT 2

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, REASONS << CROWDED_SHIFT);
	__type(key, u32);
	__type(value, struct tally);
} crowded_drops SEC(".maps");

/*
 * Whether its Ethernet header names a group. What is on its way out has a pkt_type as if it were for
 * this host: a bridge or tunnel without members drops each multicast that its own addresses cause.
 */
static __always_inline bool is_for_group(const struct sk_buff *skb)
{
	u16 mac = BPF_CORE_READ(skb, mac_header), network = BPF_CORE_READ(skb, network_header);
	u8 first = 0;

	if (mac == (u16)~0U || network < mac + ETH_HLEN)
		return false;
	bpf_probe_read_kernel(&first, sizeof(first), BPF_CORE_READ(skb, head) + mac);
	return first & 1;
}

static __always_inline u32 kind_of_drop(u32 class, const struct sk_buff *skb, const struct net_owner *owner,
					 const struct flow *flow, const struct segment *segment)
{
	u8 pkt_type;

	if (class == REASON_LOSS || class == REASON_UNKNOWN)
		return DROP_LOSS;
	if (class != REASON_INSPECT && class != REASON_VAGUE)
		return class == REASON_IGNORED ? DROP_IGNORED : DROP_NORMAL;
	pkt_type = BPF_CORE_READ_BITFIELD_PROBED(skb, pkt_type);
	/* Multicast and broadcast that nobody here listens to; what a tap or a bridge sees of others. */
	if ((pkt_type != PACKET_HOST && pkt_type != PACKET_OUTGOING) || is_for_group(skb))
		return DROP_NORMAL;
	if (class == REASON_INSPECT)
		return DROP_LOSS;
	/* Unwanted kinds of frames, and what the kernel answers by itself: no protocol of a socket. */
	if (flow->protocol != IPPROTO_TCP)
		return flow->protocol == IPPROTO_UDP ? DROP_LOSS : DROP_NORMAL;
	/* The receive queue of a socket that is closed; late segments of a connection that is over. */
	if (owner->family && (owner->state == TCP_CLOSE || owner->state == TCP_TIME_WAIT))
		return DROP_NORMAL;
	if (flow->tcp_flags & TCP_FLAG_SYN)
		return DROP_LOSS;
	if (!owner->family || !segment->payload || (flow->tcp_flags & TCP_FLAG_RST))
		return DROP_NORMAL;
	return DROP_LOSS;
}

static __always_inline struct tally *tally_of(const struct drop_key *key, bool *crowded)
{
	static const struct tally none;
	struct tally *t = bpf_map_lookup_elem(&drops, key);
	u32 reason = key->reason;

	*crowded = false;
	if (t)
		return t;
	bpf_map_update_elem(&drops, key, &none, BPF_NOEXIST);
	t = bpf_map_lookup_elem(&drops, key);
	if (t)
		return t;
	*crowded = true;
	/* Reasons of subsystems have a number in the upper half. */
	if (reason >= REASONS)
		reason = 0;
	reason = reason << CROWDED_SHIFT | key->kind;
	return bpf_map_lookup_elem(&crowded_drops, &reason);
}

/* What one drop is, however it was learnt of. */
struct drop {
	struct sk_buff *skb;
	struct sock *sk;
	const char *trap;
	const char *trap_group;
	u64 location;
	u32 reason;
	u32 hardware;
};

static __always_inline void describe_drop(struct packet_drop *r, const struct drop *d, const struct net_device *dev)
{
	r->time_ns = bpf_ktime_get_boot_ns();
	r->location = d->location;
	r->reason = d->reason;
	r->hardware = d->hardware;
	r->length_bytes = d->skb->len;
	r->ether_type = network_order(d->skb->protocol);
	r->queue = d->skb->queue_mapping;
	if (dev) {
		r->ifindex = BPF_CORE_READ(dev, ifindex);
		BPF_CORE_READ_STR_INTO(&r->device, dev, name);
	}
	if (d->hardware) {
		bpf_probe_read_kernel_str(r->trap, sizeof(r->trap), d->trap);
		bpf_probe_read_kernel_str(r->trap_group, sizeof(r->trap_group), d->trap_group);
	}
}

/* `crowded`: the tally is not of this owner alone, so that only the limit decides. */
static __always_inline void report_drop(void *ctx, const struct drop *d, const struct net_owner *owner,
					const struct net_device *dev, struct tally *t, bool crowded)
{
	struct limit_key limit = { .cgroup = owner->cgroup, .netns = owner->netns };
	struct segment segment;
	struct packet_drop *r;

	/* Only here: a drop that is only counted costs no lookup in the filter. */
	if (UNWANTED(packet_drop, &owner->cgroup)) {
		COUNT_FILTERED(packet_drop, tally_suppress(t));
		return;
	}
	/* The upper bits of a kernel address are all the same. */
	limit.reason = (u64)d->reason << 48 ^ d->location;
	r = RESERVE_TALLIED(packet_drop, &limit, t->last_ns, t, crowded);
	if (!r)
		return;
	describe_drop(r, d, dev);
	r->owner = *owner;
	read_packet(&r->flow, &segment, d->skb);
	if (d->sk)
		r->owner.socket = socket_inode(d->sk);
	r->stack_bytes = bpf_get_stack(ctx, r->stack, sizeof(r->stack), OWN_FRAMES);
	r->hits = t->hits;
	r->suppressed = crowded ? 0 : tally_report(t);
	SUBMIT(packet_drop, r);
}

static __always_inline int dropped(void *ctx, const struct drop *d)
{
	struct net_owner owner = {};
	struct segment segment = {};
	struct drop_key key = {};
	struct flow flow = {};
	u32 class_at = d->reason < REASONS ? d->reason : REASONS - 1;
	u32 *class = bpf_map_lookup_elem(&reason_classes, &class_at);
	struct net_device *dev = d->skb->dev;
	struct tally *t;
	u8 transport;
	bool crowded;

	if (!class || *class == REASON_LOCAL)
		return 0;
	if (d->sk) {
		owner_of(&owner, d->sk);
		if (owner.family == AF_UNIX || owner.family == AF_NETLINK)
			return 0;
	}
	/* A queued packet's `dev` may be something else; its socket's namespace is right. */
	if (!owner.netns && dev)
		owner.netns = dev->nd_net.net->ns.inum;
	/* Neither of a device nor of a network's socket: messages between processes. */
	if (!owner.netns)
		return 0;
	transport = transport_of(d->skb);
	/* All of the headers, and the clock, only for whom they matter: this is the way of a storm. */
	if (transport == IPPROTO_TCP || *class == REASON_VAGUE)
		read_packet(&flow, &segment, d->skb);
	key.kind = kind_of_drop(*class, d->skb, &owner, &flow, &segment);
	if (transport == IPPROTO_TCP && key.kind != DROP_NORMAL)
		remember_drop(&flow, segment.seq, d->reason, d->location, bpf_ktime_get_ns());
	if (!report_drops || *class == REASON_UNKNOWN)
		return 0;
	key.location = d->location;
	key.reason = d->reason;
	key.netns = owner.netns;
	key.cgroup = owner.cgroup.id;
	key.hardware = d->hardware;
	t = tally_of(&key, &crowded);
	if (t && (tally_hit(t, packets_of(d->skb)) || crowded) && key.kind == DROP_LOSS)
		report_drop(ctx, d, &owner, dev, t, crowded);
	return 0;
}
