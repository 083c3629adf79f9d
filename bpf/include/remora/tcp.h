/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A TCP header beyond its ports: sequence numbers, flags, how long header and payload are. For programs that follow
 * connections or change segments.
 *
 *	struct remora_tcp tcp;
 *
 *	if (!remora_tcp(skb, &packet, &tcp))
 *		return REMORA_NEXT;
 *	if (remora_tcp_opens(&tcp))
 *		...
 *
 * It is read at any link layer, as remora_parse() does it.
 */
#ifndef REMORA_TCP_H
#define REMORA_TCP_H

#include "packet.h"

enum remora_tcp_flag {
	REMORA_TCP_FIN = 0x01,
	REMORA_TCP_SYN = 0x02,
	REMORA_TCP_RST = 0x04,
	REMORA_TCP_PSH = 0x08,
	REMORA_TCP_ACK = 0x10,
	REMORA_TCP_URG = 0x20,
	REMORA_TCP_ECE = 0x40,
	REMORA_TCP_CWR = 0x80,
};

/* Everything in host byte order. */
struct remora_tcp {
	__u32 sequence;
	__u32 acknowledgement; /* means something where REMORA_TCP_ACK is set */
	__u32 payload;	       /* bytes, of all segments where the skb stands for several */
	__u16 window;	       /* as sent: not scaled */
	__u8 flags;	       /* enum remora_tcp_flag */
	__u8 header;	       /* bytes, options included: 20 to 60 */
};

/* The 20 bytes as they stand in the packet. */
struct remora_tcp_header {
	__be16 source;
	__be16 destination;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 words; /* the upper four bits: header length in words */
	__u8 flags;
	__be16 window;
	__sum16 checksum;
	__be16 urgent;
};

_Static_assert(sizeof(struct remora_tcp_header) == 20, "as on the wire");

/*
 * Bytes of the IP packet as the skb has them, where its own header says 0: a BIG TCP packet. skb->len counts from the
 * link-layer header, and the cursors' offset does not tell where there is one.
 */
static __always_inline __u32 remora_network_length(struct __sk_buff *skb, const struct remora_packet *packet)
{
	struct ethhdr ethernet;
	__u32 before = packet->network_offset;

	if (!before && remora_ethernet(skb, &ethernet))
		before = ETH_HLEN;
	return skb->len - before;
}

/*
 * Reads the TCP header of what remora_parse() found. False, and nothing filled in, where it is not TCP, is a later
 * fragment, or its header is not all there or claims fewer than 20 bytes or more than the packet has: such a packet
 * is received by nobody, but for a first fragment that ends within the header, whose rest may stand in the next one
 * (what must not be slipped past drops these).
 *
 * Direct packet pointers are invalid afterwards.
 */
static __always_inline bool remora_tcp(struct __sk_buff *skb, const struct remora_packet *packet,
				       struct remora_tcp *tcp)
{
	struct remora_tcp_header header;
	__u32 headers, length;

	if (!packet->has_transport || packet->protocol != IPPROTO_TCP)
		return false;
	if (!remora_peek_transport(skb, packet, 0, &header, sizeof(header)) &&
	    !(remora_pull(skb, 512) && remora_peek_transport(skb, packet, 0, &header, sizeof(header))))
		return false;
	headers = (header.words >> 4) * 4;
	length = remora_stated_length(skb, packet);
	if (!length)
		length = remora_network_length(skb, packet);
	else if (packet->family == REMORA_IPV6)
		length += sizeof(struct ipv6hdr);
	if (headers < sizeof(header) || length > skb->len || packet->transport_offset + headers > length)
		return false;
	tcp->sequence = bpf_ntohl(header.sequence);
	tcp->acknowledgement = bpf_ntohl(header.acknowledgement);
	tcp->payload = length - packet->transport_offset - headers;
	tcp->window = bpf_ntohs(header.window);
	tcp->flags = header.flags;
	tcp->header = headers;
	return true;
}

/* The first segment of a connection. With FIN or RST beside the SYN, nobody opens one for it. */
static __always_inline bool remora_tcp_opens(const struct remora_tcp *tcp)
{
	const __u8 asked = REMORA_TCP_SYN | REMORA_TCP_ACK | REMORA_TCP_RST | REMORA_TCP_FIN;

	return (tcp->flags & asked) == REMORA_TCP_SYN;
}

/* The sequence number behind this segment: SYN and FIN take one each, beside the payload. */
static __always_inline __u32 remora_tcp_end(const struct remora_tcp *tcp)
{
	return tcp->sequence + tcp->payload + !!(tcp->flags & REMORA_TCP_SYN) + !!(tcp->flags & REMORA_TCP_FIN);
}

/* True where sequence number `a` comes behind `b`: they wrap around. */
static __always_inline bool remora_tcp_after(__u32 a, __u32 b)
{
	return (__s32)(a - b) > 0;
}

#endif
