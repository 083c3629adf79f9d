/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The type-of-service byte, which IPv6 calls traffic class: six bits of DSCP (RFC 2474) above two of ECN (RFC 3168).
 *
 * It is read and written at the network header that remora_parse() found, whatever stands before it: tags in the
 * packet, an Ethernet header, or none. Writing goes through the kernel's helpers, which copy what a clone shares
 * (TCP keeps a clone of what it sent) and bring what is not linear into the linear part. A packet that stands for
 * many (GSO) has one header here; all its segments will have this byte.
 *
 * Checksums: IPv4's is corrected for the change (RFC 1624). It balances the byte itself, so a checksum over the whole
 * packet that a device left in the skb (CHECKSUM_COMPLETE) still holds; IPv6 has none, so there it is corrected. TCP's
 * and UDP's do not cover this byte, nor do they when a device is to fill them in.
 */
#ifndef REMORA_TOS_H
#define REMORA_TOS_H

#include "packet.h"

#define REMORA_DSCP_SHIFT 2
#define REMORA_DSCP_MASK 0xfc
#define REMORA_ECN_MASK 0x03

enum remora_ecn {
	REMORA_NOT_ECT = 0, /* the sender does not know ECN: congestion is told by a loss */
	REMORA_ECT1 = 1,
	REMORA_ECT0 = 2,
	REMORA_CE = 3, /* congestion was met on the way */
};

/* The two first bytes of the IP header, which hold it in both families; host byte order. -1: no IP, or malformed. */
static __always_inline int remora_tos_word(struct __sk_buff *skb, const struct remora_packet *packet)
{
	__be16 words[2];

	if (packet->malformed || !packet->family || !remora_peek_network(skb, packet, 0, words, sizeof(words)))
		return -1;
	return bpf_ntohs(words[0]);
}

/* How far the byte stands from the end of these two. */
static __always_inline __u32 remora_tos_shift(const struct remora_packet *packet)
{
	return packet->family == REMORA_IPV6 ? 4 : 0;
}

/* The whole byte; -1 where the packet has none. */
static __always_inline int remora_tos(struct __sk_buff *skb, const struct remora_packet *packet)
{
	int word = remora_tos_word(skb, packet);

	return word < 0 ? -1 : word >> remora_tos_shift(packet) & 0xff;
}

/* Where the network header is, from skb->data: that is what the helpers that write count from. */
static __always_inline __u32 remora_network_start(struct __sk_buff *skb, const struct remora_packet *packet)
{
	struct ethhdr ethernet;

	if (packet->direct || packet->network_offset)
		return packet->network_offset;
	return remora_ethernet(skb, &ethernet) ? ETH_HLEN : 0;
}

/*
 * Gives the byte's bits under `mask` the value `bits`. 1: changed; 0: they were so; -1: the packet has no such byte, or
 * there was no memory, and nothing is changed. Direct packet pointers are invalid afterwards; `packet` is not.
 */
static __always_inline int remora_set_tos(struct __sk_buff *skb, const struct remora_packet *packet, __u8 mask,
					  __u8 bits)
{
	__u32 shift = remora_tos_shift(packet), at, sum;
	__be16 header[6]; /* up to and with IPv4's checksum */
	__be16 before, after;

	if (packet->malformed || !packet->family || !remora_peek_network(skb, packet, 0, header, sizeof(header)))
		return -1;
	before = header[0];
	after = bpf_htons((bpf_ntohs(before) & ~(mask << shift)) | (bits & mask) << shift);
	if (after == before)
		return 0;
	header[0] = after;
	at = remora_network_start(skb, packet);
	if (packet->family == REMORA_IPV6)
		return bpf_skb_store_bytes(skb, at, header, sizeof(header[0]), BPF_F_RECOMPUTE_CSUM) ? -1 : 1;
	sum = (__u16)~header[5] + (__u16)~before + after;
	sum = (sum & 0xffff) + (sum >> 16);
	header[5] = ~(sum + (sum >> 16));
	/* Byte and checksum at once: either both are written or, without memory, neither. */
	return bpf_skb_store_bytes(skb, at, header, sizeof(header), 0) ? -1 : 1;
}

/* Tells the receiver of congestion, where the sender knows ECN. Whether the packet says so now. */
static __always_inline bool remora_mark_congestion(struct __sk_buff *skb, const struct remora_packet *packet)
{
	int tos = remora_tos(skb, packet);

	if (tos < 0 || (tos & REMORA_ECN_MASK) == REMORA_NOT_ECT)
		return false;
	return remora_set_tos(skb, packet, REMORA_ECN_MASK, REMORA_CE) >= 0;
}

#endif
