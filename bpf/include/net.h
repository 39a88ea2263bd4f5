/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packets and sockets: what the network probes read of them, and their owners. Nothing here looks
 * at the running task: a softirq works for whomever it interrupts.
 */
#pragma once

#include "netdev.h"

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define AF_NETLINK 16
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define TCP_TIME_WAIT 6
#define TCP_CLOSE 7
#define TCP_NEW_SYN_RECV 12
#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_RST 0x04
/* include/uapi/linux/if_packet.h */
#define PACKET_HOST 0
#define PACKET_OUTGOING 4

#define network_order(v) __builtin_bswap16(v)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct in6_addr {
	union {
		u8 u6_addr8[16];
	} in6_u;
};

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};

struct super_block {
	unsigned long s_magic;
};

struct inode {
	unsigned long i_ino;
	struct super_block *i_sb;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

/* The pointer is there since 5.15 (8520e224f547) and where that was taken back to 5.10. */
struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_common __sk_common;
	struct socket *sk_socket;
	struct sock_cgroup_data sk_cgrp_data;
	u16 sk_protocol;
};

struct sk_buff {
	struct net_device *dev;
	struct sock *sk;
	s64 tstamp;
	char cb[48];
	unsigned int len;
	u16 queue_mapping;
	u8 pkt_type : 3;
	__be16 protocol;
	u16 transport_header;
	u16 network_header;
	u16 mac_header;
	unsigned int end;
	unsigned char *head;
};

struct skb_shared_info {
	unsigned short gso_size;
	unsigned short gso_segs;
};

#pragma clang attribute pop

/* Ends of a packet or connection; IPv4 addresses are mapped into IPv6's (::ffff:a.b.c.d). */
struct flow {
	u32 source[4];
	u32 destination[4];
	u16 source_port;
	u16 destination_port;
	/* 4, 6, or 0: no IP packet */
	u8 version;
	u8 protocol;
	u8 tcp_flags;
	u8 reserved;
};

#define MAPPED_PREFIX 0xffff0000U

/* What is read of a packet's headers at once: 40 bytes of IPv6 and 16 of TCP; a multiple of 8. */
#define HEADER_BYTES 56

struct headers {
	u32 words[HEADER_BYTES / 4];
};

/* The part of the headers that `flow` has no place for. */
struct segment {
	u32 seq;
	/* bytes behind the headers, as the IP header has it */
	u32 payload;
};

static __always_inline void read_transport(struct flow *flow, struct segment *segment, const u32 *words)
{
	u32 ports = words[0];

	if (flow->protocol == IPPROTO_TCP || flow->protocol == IPPROTO_UDP) {
		flow->source_port = network_order((u16)ports);
		flow->destination_port = network_order((u16)(ports >> 16));
	}
	if (flow->protocol == IPPROTO_TCP) {
		u32 header = (words[3] & 0xf0) >> 2;

		segment->seq = __builtin_bswap32(words[1]);
		flow->tcp_flags = words[3] >> 8;
		segment->payload = segment->payload > header ? segment->payload - header : 0;
	}
}

/* Packets that it is on the wire; a large one is cut on its way out, or was joined on its way in. */
static __always_inline u32 packets_of(const struct sk_buff *skb)
{
	const struct skb_shared_info *shared = (const void *)(skb->head + skb->end);
	u32 packets = BPF_CORE_READ(shared, gso_segs);

	return packets ? packets : 1;
}

/* Where the headers say what follows: the protocol of IPv4 (RFC 791), the next header of IPv6 (RFC 8200). */
#define IPV4_PROTOCOL_AT 9
#define IPV6_NEXT_HEADER_AT 6

#define IPV6_HEADER_BYTES 40
/* More of them than anybody sends. */
#define EXTENSIONS 4

/* IPv6's extension headers, RFC 8200 and 4302. */
enum {
	EXTENSION_HOP_BY_HOP = 0,
	EXTENSION_ROUTING = 43,
	EXTENSION_FRAGMENT = 44,
	EXTENSION_AUTHENTICATION = 51,
	EXTENSION_DESTINATION = 60,
};

static __always_inline bool is_extension(u8 header)
{
	return header == EXTENSION_HOP_BY_HOP || header == EXTENSION_ROUTING || header == EXTENSION_FRAGMENT ||
	       header == EXTENSION_AUTHENTICATION || header == EXTENSION_DESTINATION;
}

/* Where the transport header is, and which; 0: there is none, as in a later fragment. */
static __always_inline u32 skip_extensions(const void *ipv6, u8 *header)
{
	u32 at = IPV6_HEADER_BYTES;

	for (u32 i = 0; i < EXTENSIONS && is_extension(*header); i++) {
		u8 head[4], this = *header;

		if (bpf_probe_read_kernel(head, sizeof(head), ipv6 + at))
			return 0;
		*header = head[0];
		/* The offset in a fragment has 13 bits, three flags follow. */
		if (this == EXTENSION_FRAGMENT && (head[2] || head[3] & 0xf8))
			return 0;
		if (this == EXTENSION_FRAGMENT)
			at += 8;
		else if (this == EXTENSION_AUTHENTICATION)
			at += (head[1] + 2) * 4;
		else
			at += (head[1] + 1) * 8;
	}
	return is_extension(*header) ? 0 : at;
}

/* The transport of an IP packet, by a read of one byte where there is no extension; 0: no IP packet. */
static __always_inline u8 transport_of(const struct sk_buff *skb)
{
	u16 protocol = network_order(skb->protocol);
	u32 at = protocol == ETH_P_IP ? IPV4_PROTOCOL_AT : IPV6_NEXT_HEADER_AT;
	u8 transport = 0;

	if (protocol == ETH_P_IP || protocol == ETH_P_IPV6)
		bpf_probe_read_kernel(&transport, 1, skb->head + skb->network_header + at);
	if (protocol == ETH_P_IPV6)
		skip_extensions(skb->head + skb->network_header, &transport);
	return transport;
}

/* Reads the IP and transport headers. */
static __always_inline void read_packet(struct flow *flow, struct segment *segment, const struct sk_buff *skb)
{
	void *at = skb->head + skb->network_header;
	u16 protocol = network_order(skb->protocol);
	struct headers h;
	u32 length;

	if ((protocol != ETH_P_IP && protocol != ETH_P_IPV6) || bpf_probe_read_kernel(&h, sizeof(h), at))
		return;
	if (protocol == ETH_P_IP && (h.words[0] & 0xf0) == 0x40) {
		length = (h.words[0] & 0xf) * 4;
		flow->version = 4;
		flow->protocol = h.words[2] >> 8;
		flow->source[2] = flow->destination[2] = MAPPED_PREFIX;
		flow->source[3] = h.words[3];
		flow->destination[3] = h.words[4];
		segment->payload = network_order((u16)(h.words[0] >> 16)) - length;
		/* Later fragments have no ports. */
		if ((h.words[1] >> 16) & network_order(0x1fff))
			return;
		if (length != 20 && bpf_probe_read_kernel(&h.words[5], 16, at + length))
			return;
		read_transport(flow, segment, &h.words[5]);
	} else if (protocol == ETH_P_IPV6 && (h.words[0] & 0xf0) == 0x60) {
		flow->version = 6;
		flow->protocol = h.words[1] >> 16;
		segment->payload = network_order((u16)h.words[1]);
		__builtin_memcpy(flow->source, &h.words[2], 16);
		__builtin_memcpy(flow->destination, &h.words[6], 16);
		length = skip_extensions(at, &flow->protocol);
		if (!length)
			return;
		segment->payload -= length - IPV6_HEADER_BYTES;
		if (length != IPV6_HEADER_BYTES && bpf_probe_read_kernel(&h.words[10], 16, at + length))
			return;
		read_transport(flow, segment, &h.words[10]);
	}
}

/* The ends of a connected socket, as its own packets have them. `sk`: by probe reads. */
static __always_inline void read_connection(struct flow *flow, const struct sock_common *sk)
{
	flow->protocol = IPPROTO_TCP;
	flow->source_port = BPF_CORE_READ(sk, skc_num);
	flow->destination_port = network_order(BPF_CORE_READ(sk, skc_dport));
	if (BPF_CORE_READ(sk, skc_family) == AF_INET6 && bpf_core_field_exists(sk->skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&flow->source, sk, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&flow->destination, sk, skc_v6_daddr);
		flow->version = flow->destination[0] || flow->destination[1] || flow->destination[2] != MAPPED_PREFIX ? 6 : 4;
		return;
	}
	flow->version = 4;
	flow->source[2] = flow->destination[2] = MAPPED_PREFIX;
	flow->source[3] = BPF_CORE_READ(sk, skc_rcv_saddr);
	flow->destination[3] = BPF_CORE_READ(sk, skc_daddr);
}

/* A number for one direction of a connection. */
static __always_inline u64 flow_hash(const u32 *source, const u32 *destination, u16 source_port, u16 destination_port)
{
	u64 s = ((u64)(source[0] ^ source[2]) << 32 | (source[1] ^ source[3])) + source_port;
	u64 d = ((u64)(destination[0] ^ destination[2]) << 32 | (destination[1] ^ destination[3])) + destination_port;
	u64 h = s * 0x9e3779b97f4a7c15ULL ^ ((u64)source_port << 16 | destination_port);

	h = (h ^ h >> 32) + d;
	h *= 0xd6e8feb86659fd93ULL;
	return h ^ h >> 32;
}

/* Sockets of half-open and of closed connections are smaller: they have no owner. */
static __always_inline bool is_full(u8 state)
{
	return state != TCP_TIME_WAIT && state != TCP_NEW_SYN_RECV;
}

/* The owner of a packet or connection. */
struct net_owner {
	/* of the socket, in the unified hierarchy; id 0: not known, or another hierarchy's say */
	struct cgroup_ref cgroup;
	/* inode of the socket's file; 0: no process holds it */
	u64 socket;
	u32 netns;
	u8 state;
	u8 family;
	u16 reserved;
};

/*
 * Whether the unified tree has the controllers. Where v1 has them (a hybrid node), runtimes may put
 * containers into its hierarchies only, and the socket's cgroup is whatever their starter is in.
 */
static __always_inline bool has_controllers(const struct cgroup_root *unified)
{
	u32 wanted = 0;

	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, cpu_cgrp_id))
		wanted |= 1U << bpf_core_enum_value(enum cgroup_subsys_id, cpu_cgrp_id);
	if (bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		wanted |= 1U << bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	return unified->subsys_mask & wanted;
}

/* `sk` is an argument of a tp_btf, fentry or fexit program, or was found from one without a probe read. */
static __always_inline void owner_of(struct net_owner *owner, struct sock *sk)
{
	owner->family = sk->__sk_common.skc_family;
	owner->state = sk->__sk_common.skc_state;
	owner->netns = sk->__sk_common.skc_net.net->ns.inum;
	if (is_full(owner->state) && bpf_core_field_exists(sk->sk_cgrp_data.cgroup)) {
		struct cgroup *cgroup = sk->sk_cgrp_data.cgroup;

		if (has_controllers(cgroup->root))
			owner->cgroup.id = cgroup->kn->id;
	}
}

/* Apart, as only records need it. */
static __always_inline u64 socket_inode(struct sock *sk)
{
	struct socket *socket = BPF_CORE_READ(sk, sk_socket);

	return socket ? BPF_CORE_READ(socket, file, f_inode, i_ino) : 0;
}
