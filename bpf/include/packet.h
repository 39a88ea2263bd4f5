/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Headers of packets: ends, transport, what TCP says in them.
 */
#pragma once

#include "net.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct tcp_skb_cb {
	u32 seq;
	u32 end_seq;
	u16 tcp_gso_segs;
};

#pragma clang attribute pop

/* What TCP keeps with a packet of its own: by probe reads. */
static __always_inline const struct tcp_skb_cb *tcp_cb(const struct sk_buff *skb)
{
	return (const void *)skb + bpf_core_field_offset(skb->cb);
}

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
