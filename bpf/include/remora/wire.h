/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a packet is on the wire. A program runs once per skb, and most TCP skbs stand for many packets (GSO, GRO):
 * their headers are in memory once, on the wire once per segment.
 */
#ifndef REMORA_WIRE_H
#define REMORA_WIRE_H

#include "packet.h"

static __always_inline __u32 remora_wire_packets(const struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

/* Whether remora_wire_bytes() looks into the packet; else zeroes will do for `packet`. */
static __always_inline bool remora_wire_needs_packet(const struct __sk_buff *skb)
{
	return skb->gso_segs > 1 && skb->wire_len <= skb->len;
}

/*
 * Bytes of all its frames, link-layer header included (without the tag that the device adds itself).
 *
 * skb->wire_len is just that on egress. On ingress the kernel sets it to the skb's own length without the link-layer
 * header, whatever the number of segments; so there the difference to skb->len is that header's length, and the
 * missing headers are added here. `packet` is what remora_parse() found.
 */
static __always_inline __u64 remora_wire_bytes(struct __sk_buff *skb, const struct remora_packet *packet)
{
	__u64 bytes = skb->len;
	__u32 segments = skb->gso_segs;
	__u32 headers;

	if (skb->wire_len > bytes)
		return skb->wire_len;
	if (segments <= 1 || !packet->has_transport)
		return bytes;
	headers = skb->len - skb->wire_len + packet->transport_offset;
	if (packet->network_offset)
		headers += packet->network_offset - ETH_HLEN; /* tags in the packet */
	if (packet->protocol == IPPROTO_TCP) {
		__u8 words[4]; /* the upper four bits of the first: header length in words */

		if (!remora_peek_transport(skb, packet, 12, words, sizeof(words)))
			return bytes;
		headers += (words[0] >> 4) * 4;
	} else {
		headers += 8;
	}
	return bytes + (__u64)(segments - 1) * headers;
}

/*
 * Bytes from the IP header on, as this header says: without the link-layer header, and without what pads a short frame.
 * What the header of a GSO packet says is of all its segments, with one header. 0, or 40 of IPv6, of a BIG TCP packet,
 * which cannot say it. Never more than the skb has.
 */
static __always_inline __u32 remora_ip_length(struct __sk_buff *skb, const struct remora_packet *packet)
{
	__u32 length = remora_stated_length(skb, packet) + (packet->family == REMORA_IPV6 ? sizeof(struct ipv6hdr) : 0);

	return length < skb->len ? length : skb->len;
}

#endif
