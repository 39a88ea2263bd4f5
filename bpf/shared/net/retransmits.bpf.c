// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Segments that TCP sends again: why, of which connection, and whether the loss was seen here. */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct inet_connection_sock {
	u8 icsk_ca_state : 5;
	u8 icsk_retransmits;
	u8 icsk_pending;
};

struct tcp_sock {
	u32 srtt_us;
	u32 rttvar_us;
	u32 snd_cwnd;
	u32 snd_ssthresh;
	u32 mss_cache;
	u32 packets_out;
	u32 lost_out;
	u32 total_retrans;
};

struct request_sock {
	struct sock_common __req_common;
	u8 num_retrans;
};

struct tcp_request_sock {
	u32 snt_isn;
};

#pragma clang attribute pop

/* include/net/tcp_states.h, include/net/inet_connection_sock.h, include/uapi/linux/tcp.h: unchanged since 3.10 */
#define TCP_SYN_SENT 2
#define TCP_SYN_RECV 3
#define ICSK_TIME_LOSS_PROBE 5
#define TCP_CA_LOSS 4
/*
 * How long a drop may lie back that is not of the very segment, and of that. The first is doubled
 * with each timeout in a row, as TCP does with the time it waits, which begins at a second at most
 * where nothing is known of the round trip (TCP_TIMEOUT_INIT).
 */
#define SAME_CONNECTION_NS 1000000000ULL
#define MOST_DOUBLINGS 7
#define SAME_SEGMENT_NS 300000000000ULL

/* As the collector names them. */
enum retransmit_kind {
	RETRANSMIT_RTO,
	/* further segments after an RTO, sent as acknowledgements come in */
	RETRANSMIT_LOSS_RECOVERY,
	RETRANSMIT_FAST,
	RETRANSMIT_TLP,
	RETRANSMIT_SYN,
	RETRANSMIT_SYN_ACK,
};

struct tcp_retransmit {
	struct limited limited;
	u64 time_ns;
	struct net_owner owner;
	struct flow flow;
	u64 hits;
	u64 suppressed;
	/* the last drop of this connection that was seen here; time 0: none */
	u64 drop_time_ns;
	u64 drop_location;
	u32 drop_reason;
	/* 1: of this very segment; 2: of the same direction; 3: of what came back */
	u32 drop_of;
	enum retransmit_kind kind;
	u32 seq;
	u32 end_seq;
	u32 attempt;
	u32 total;
	u32 srtt_us;
	u32 rttvar_us;
	u32 cwnd;
	u32 ssthresh;
	u32 mss_bytes;
	u32 in_flight;
	u32 lost_packets;
};

POLLED_RECORDS(tcp_retransmit, 128 * 1024);

struct retransmit_key {
	u64 cgroup;
	u32 netns;
	u32 kind;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct retransmit_key);
	__type(value, struct tally);
} retransmits SEC(".maps");

/* For those that found no room there, by kind alone. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 8);
	__type(key, u32);
	__type(value, struct tally);
} crowded_retransmits SEC(".maps");

static __always_inline u32 kind_of(const struct sock *sk, u8 state)
{
	const struct inet_connection_sock *icsk = (const void *)sk;
	u8 pending = BPF_CORE_READ(icsk, icsk_pending);

	if (state == TCP_SYN_SENT)
		return RETRANSMIT_SYN;
	if (state == TCP_SYN_RECV)
		return RETRANSMIT_SYN_ACK;
	if (pending == ICSK_TIME_LOSS_PROBE)
		return RETRANSMIT_TLP;
	/* The timer's handler takes it off before it sends (net/ipv4/tcp_timer.c). */
	if (!pending)
		return RETRANSMIT_RTO;
	return BPF_CORE_READ_BITFIELD_PROBED(icsk, icsk_ca_state) == TCP_CA_LOSS ? RETRANSMIT_LOSS_RECOVERY
										 : RETRANSMIT_FAST;
}

static __always_inline struct tally *retransmit_tally(const struct retransmit_key *key, bool *crowded)
{
	static const struct tally none;
	struct tally *t = bpf_map_lookup_elem(&retransmits, key);
	u32 kind = key->kind & 7;

	*crowded = false;
	if (t)
		return t;
	bpf_map_update_elem(&retransmits, key, &none, BPF_NOEXIST);
	t = bpf_map_lookup_elem(&retransmits, key);
	*crowded = !t;
	return t ? t : bpf_map_lookup_elem(&crowded_retransmits, &kind);
}

static __always_inline u64 farthest_ns(const struct tcp_retransmit *r, u32 how)
{
	u32 doublings = r->attempt < MOST_DOUBLINGS ? r->attempt : MOST_DOUBLINGS;

	return how == 1 ? SAME_SEGMENT_NS : SAME_CONNECTION_NS << doublings;
}

/* Whether the drop that is kept under `hash` may be why, and how near it is. */
static __always_inline void explain(struct tcp_retransmit *r, u64 hash, u64 now, u32 how)
{
	struct last_drop *last = last_drop_at(hash);
	struct last_drop seen;
	u64 age;

	if (!last || last->flow != hash)
		return;
	seen = *last;
	if (seen.flow != hash)
		return;
	age = now - seen.time_ns;
	if (how == 2 && r->end_seq != r->seq && seen.seq - r->seq < r->end_seq - r->seq)
		how = 1;
	if (age > farthest_ns(r, how))
		return;
	r->drop_time_ns = r->time_ns - age;
	r->drop_reason = seen.reason;
	r->drop_location = seen.location;
	r->drop_of = how;
}

static __always_inline void explain_by_drops(struct tcp_retransmit *r)
{
	u64 now = bpf_ktime_get_ns();
	struct flow *f = &r->flow;

	explain(r, flow_hash(f->source, f->destination, f->source_port, f->destination_port), now, 2);
	if (!r->drop_of)
		explain(r, flow_hash(f->destination, f->source, f->destination_port, f->source_port), now, 3);
}

/* Segments that an skb of the send queue is, as the kernel counts them (tcp_skb_pcount). */
static __always_inline u32 segments_of(const struct tcp_sock *tp, const struct tcp_skb_cb *cb)
{
	u32 segments = BPF_CORE_READ(cb, tcp_gso_segs);
	u32 length, mss;

	if (segments)
		return segments;
	length = BPF_CORE_READ(cb, end_seq) - BPF_CORE_READ(cb, seq);
	mss = BPF_CORE_READ(tp, mss_cache);
	return mss && length > mss ? (length + mss - 1) / mss : 1;
}

/* Counts, and returns a record if this one is reported. */
static __always_inline struct tcp_retransmit *retransmitted(struct net_owner *owner, u32 kind, u32 segments)
{
	struct retransmit_key key = { .cgroup = owner->cgroup.id, .netns = owner->netns, .kind = kind };
	struct limit_key limit = { .cgroup = owner->cgroup, .reason = kind, .netns = owner->netns };
	struct tcp_retransmit *r;
	bool crowded;
	struct tally *t = retransmit_tally(&key, &crowded);

	/* A tally that is not of this owner alone leaves the choice to the limit. */
	if (!t || !(tally_hit(t, segments) || crowded))
		return NULL;
	if (UNWANTED(tcp_retransmit, &owner->cgroup)) {
		COUNT_FILTERED(tcp_retransmit, tally_suppress(t));
		return NULL;
	}
	r = RESERVE_TALLIED(tcp_retransmit, &limit, t->last_ns, t, crowded);
	if (!r)
		return NULL;
	r->time_ns = bpf_ktime_get_boot_ns();
	r->owner = *owner;
	r->kind = kind;
	r->hits = t->hits;
	r->suppressed = crowded ? 0 : tally_report(t);
	return r;
}

static __always_inline int segment_again(struct sock *sk, const struct sk_buff *skb)
{
	const struct inet_connection_sock *icsk = (const void *)sk;
	const struct tcp_skb_cb *cb = tcp_cb(skb);
	const struct tcp_sock *tp = (const void *)sk;
	struct net_owner owner = {};
	struct tcp_retransmit *r;

	owner_of(&owner, sk);
	r = retransmitted(&owner, kind_of(sk, owner.state), segments_of(tp, cb));
	if (!r)
		return 0;
	r->owner.socket = socket_inode(sk);
	read_connection(&r->flow, (void *)sk);
	r->seq = BPF_CORE_READ(cb, seq);
	r->end_seq = BPF_CORE_READ(cb, end_seq);
	r->attempt = BPF_CORE_READ(icsk, icsk_retransmits);
	r->total = BPF_CORE_READ(tp, total_retrans);
	/* Kept in eighths of a microsecond, and the variance in quarters (tcp_rtt_estimator). */
	r->srtt_us = BPF_CORE_READ(tp, srtt_us) >> 3;
	r->rttvar_us = BPF_CORE_READ(tp, rttvar_us) >> 2;
	r->cwnd = BPF_CORE_READ(tp, snd_cwnd);
	r->ssthresh = BPF_CORE_READ(tp, snd_ssthresh);
	r->mss_bytes = BPF_CORE_READ(tp, mss_cache);
	r->in_flight = BPF_CORE_READ(tp, packets_out);
	r->lost_packets = BPF_CORE_READ(tp, lost_out);
	explain_by_drops(r);
	SUBMIT(tcp_retransmit, r);
	return 0;
}

/* Kernels after 6.12 also report what could not be sent. */
SEC("tp_btf/tcp_retransmit_skb")
int PROBE(segment__error, struct sock *sk, struct sk_buff *skb, int error)
{
	return error ? 0 : segment_again(sk, skb);
}

SEC("tp_btf/tcp_retransmit_skb")
int PROBE(segment__btf, struct sock *sk, struct sk_buff *skb)
{
	return segment_again(sk, skb);
}

/* The connection is half open: its ends are the request's, its owner the listener. */
SEC("tp_btf/tcp_retransmit_synack")
int PROBE(synack__btf, struct sock *sk, struct request_sock *request)
{
	struct net_owner owner = {};
	struct tcp_retransmit *r;

	owner_of(&owner, sk);
	owner.state = TCP_NEW_SYN_RECV;
	r = retransmitted(&owner, RETRANSMIT_SYN_ACK, 1);
	if (!r)
		return 0;
	r->owner.socket = socket_inode(sk);
	read_connection(&r->flow, &request->__req_common);
	r->seq = BPF_CORE_READ((struct tcp_request_sock *)request, snt_isn);
	r->end_seq = r->seq + 1;
	r->attempt = BPF_CORE_READ(request, num_retrans) + 1;
	explain_by_drops(r);
	SUBMIT(tcp_retransmit, r);
	return 0;
}
