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
