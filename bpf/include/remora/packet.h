/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A packet in one call: what it is, and who talks to whom, for programs that decide or count by protocol or flow.
 * Both families have one form, so that one body serves both.
 *
 *	struct remora_packet packet = remora_parse(skb);
 *
 *	if (packet.malformed)
 *		return REMORA_DROP;
 *	if (packet.family)
 *		remora_flow(skb, &packet, &flow);
 *
 * Measured, where running an empty program takes 40 ns: 4 ns for a common packet; 50 to 100 where it has options, extension
 * headers, fragments or tags.
 */
#ifndef REMORA_PACKET_H
#define REMORA_PACKET_H

#include "cursor.h"
#include "params.h"

/* What a packet turned out to be. One word, so that a global function can return it. */
struct remora_packet {
	__u16 ethertype;	/* host byte order, behind all VLAN tags */
	__u16 transport_offset; /* from the network header's start; 0 where the packet is not IP */
	__u8 network_offset;	/* from the MAC header, or 0: the kernel's network header */
	__u8 family : 4;	/* enum remora_family */
	__u8 fragment : 2;	/* enum remora_fragment */
	__u8 malformed : 1;
	__u8 has_transport : 1; /* TCP, UDP, SCTP or the family's ICMP, and at least the first 4 bytes of it are there */
	__u8 protocol;		/* the transport's, behind all IPv6 extension headers */
	__u8 direct : 1;	/* all headers are linear, and the network header is at skb->data + network_offset */
	__u8 reserved : 7;
};

/* The key of a flow: no padding, every byte defined, so it can be a map's key. Fields a packet lacks are 0. */
struct remora_flow {
	union remora_address source;
	union remora_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u8 family;
	__u8 protocol;
	__u8 reserved[2];
};

union remora_packet_word {
	struct remora_packet packet;
	__u64 word;
};

_Static_assert(sizeof(struct remora_packet) == 8, "a global function returns it");
_Static_assert(sizeof(struct remora_flow) == 40, "no padding in a map's key");

/*
 * The word of a packet that has its family's common headers, `start` bytes behind skb->data: a constant, but for the
 * protocol. `header`: the length of the IP header; `icmp`: the family's ICMP.
 */
static __always_inline __u64 remora_common(__u16 ethertype, __u32 start, __u32 header, __u8 protocol, __u8 icmp)
{
	const union remora_packet_word with = { .packet = { .has_transport = 1 } };
	const union remora_packet_word carried = { .packet = { .protocol = protocol } };
	const union remora_packet_word known = {
		.packet = {
			.ethertype = ethertype,
			.transport_offset = header,
			.network_offset = start,
			.family = ethertype == ETH_P_IP ? REMORA_IPV4 : REMORA_IPV6,
			.direct = 1,
		},
	};
	__u64 word = known.word | carried.word;

	if (remora_has_ports(protocol))
		return word | with.word;
	return protocol == icmp ? word | with.word : word;
}

/*
 * The word of the common packet, read directly: IPv4 without options or IPv6 without extension headers, whole, linear,
 * untagged. 0 for any other, also for a good one: then the cursors tell. `start` is where the network header is looked for,
 * a constant: ETH_HLEN or 0.
 *
 * It needs to know whether there is an Ethernet header. There is one if the ethertype stands where it would and the
 * packet does not begin as IP of that version does; there is none if it is the other way round. Both can be true (a
 * destination MAC that begins with 4, a source of 8.0.0.0/16), and then only the kernel's own offset can tell.
 */
static __always_inline __u64 remora_glance(struct __sk_buff *skb, __u32 start)
{
	const __u8 *data = (const __u8 *)(long)skb->data, *end = (const __u8 *)(long)skb->data_end;
	const struct iphdr *ipv4 = (const void *)(data + start);
	const struct ipv6hdr *ipv6 = (const void *)(data + start);
	__be16 protocol = (__be16)skb->protocol;
	bool framed = start == ETH_HLEN;

	if (data + start + sizeof(*ipv4) + 4 > end ||
	    (*(const __be16 *)(data + offsetof(struct ethhdr, h_proto)) == protocol) != framed)
		return 0;
	if (protocol == bpf_htons(ETH_P_IP)) {
		if ((data[0] >> 4 == 4) == framed || data[start] != 0x45 || ipv4->frag_off & bpf_htons(0x3fff))
			return 0;
		return remora_common(ETH_P_IP, start, sizeof(*ipv4), ipv4->protocol, IPPROTO_ICMP);
	}
	if (protocol == bpf_htons(ETH_P_IPV6)) {
		if ((data[0] >> 4 == 6) == framed || data[start] >> 4 != 6 ||
		    data + start + sizeof(*ipv6) + 4 > end || remora_is_extension(ipv6->nexthdr))
			return 0;
		return remora_common(ETH_P_IPV6, start, sizeof(*ipv6), ipv6->nexthdr, IPPROTO_ICMPV6);
	}
	return 0;
}

/*
 * The same word, and the verifier knows nothing of it any more: else each way on which it came about would go on as a state
 * of its own through all of the caller. Two operations, where a global function costs a call and a return.
 */
static __always_inline __u64 remora_forget(const struct __sk_buff *skb, __u64 word)
{
	__u64 any = skb->len;

	asm volatile("%0 ^= %1\n\t%0 ^= %1" : "+r"(word) : "r"(any));
	return word;
}

/*
 * Walks the headers of packets that remora_glance() leaves. A *global* function: the verifier looks at its loops once and by
 * themselves, and knows nothing of what it returns. Inlined, each way through the headers would go on as a state of its own
 * through all of the caller, which then takes ten times as long to load. It takes the context alone, since pointers to other
 * memory are refused before Linux 5.12. Weak: each object file has its copy, and they link. Call remora_parse().
 */
__attribute__((noinline, weak)) __u64 remora_walk(struct __sk_buff *skb)
{
	union remora_packet_word found = {};
	struct remora_packet *packet = &found.packet;
	enum remora_fragment fragment = REMORA_WHOLE;
	struct remora_cursor at;
	int ethertype, protocol;
	__u32 network;

	packet->malformed = 1;
	ethertype = remora_network(skb, &at, NULL);
	if (ethertype < 0)
		return found.word;
	packet->ethertype = ethertype;
	network = at.offset;
	packet->network_offset = network;
	if (ethertype == ETH_P_IP) {
		struct iphdr ip;

		packet->family = REMORA_IPV4;
		protocol = remora_ipv4(&at, &ip, &fragment);
	} else if (ethertype == ETH_P_IPV6) {
		struct ipv6hdr ip;

		packet->family = REMORA_IPV6;
		protocol = remora_ipv6(&at, &ip, &fragment);
	} else {
		packet->malformed = 0;
		return found.word;
	}
	if (protocol < 0)
		return found.word;
	packet->protocol = protocol;
	packet->fragment = fragment;
	packet->transport_offset = at.offset - network;
	if (fragment != REMORA_LATER_FRAGMENT &&
	    (remora_has_ports(protocol) ||
	     protocol == (ethertype == ETH_P_IP ? (int)IPPROTO_ICMP : (int)IPPROTO_ICMPV6))) {
		__be32 first;

		if (!remora_peek(&at, 0, &first, sizeof(first)))
			return found.word;
		packet->has_transport = 1;
	}
	packet->malformed = 0;
	return found.word;
}

/*
 * What the packet is. `malformed`: a header that it announces is cut short, contradicts itself, or stands behind more
 * extension headers or tags than are followed; then the fields tell as much as could be read. A packet that is not
 * IP has no family, and is not malformed. Direct packet pointers are invalid after this call.
 */
static __always_inline struct remora_packet remora_parse(struct __sk_buff *skb)
{
	union remora_packet_word found = { .word = remora_glance(skb, ETH_HLEN) };

	if (!found.word)
		found.word = remora_glance(skb, 0);
	if (found.word) {
		found.word = remora_forget(skb, found.word);
		return found.packet;
	}
	found.word = remora_walk(skb);
	/* Rare: headers behind the linear part. Common headers and a few long options fit into 512 bytes. */
	if (found.packet.malformed && remora_pull(skb, 512))
		found.word = remora_walk(skb);
	return found.packet;
}

/* A cursor at the packet's network header, and one at its transport header (where it has one). */
static __always_inline struct remora_cursor remora_network_of(struct __sk_buff *skb, const struct remora_packet *packet)
{
	struct remora_cursor at = {
		.skb = skb,
		.start = packet->network_offset ? BPF_HDR_START_MAC : BPF_HDR_START_NET,
		.offset = packet->network_offset,
	};

	return at;
}

static __always_inline struct remora_cursor remora_transport_of(struct __sk_buff *skb,
								const struct remora_packet *packet)
{
	struct remora_cursor at = remora_network_of(skb, packet);

	at.offset += packet->transport_offset;
	return at;
}

/* Copies bytes that stand `ahead` of skb->data; `length` is a constant, and a multiple of 4. */
static __always_inline bool remora_peek_pointer(struct __sk_buff *skb, __u32 ahead, void *to, __u32 length)
{
	/* Volatile: a value kept from an earlier reading would be 32 bits for the verifier, and no pointer any more. */
	const volatile struct __sk_buff *fresh = skb;
	const __u32 *from = (const void *)(long)fresh->data + ahead;

	if ((const void *)from + length > (const void *)(long)fresh->data_end)
		return false;
	for (__u32 i = 0; i < length / 4; i++)
		((__u32 *)to)[i] = from[i];
	return true;
}

/*
 * Copies `length` bytes of the network header, from `ahead` on: both are constants, and `length` a multiple of 4. Through
 * pointers where remora_glance() has read the packet, else by the cursor. False (and nothing defined) where the packet is
 * not as long.
 */
static __always_inline bool remora_peek_network(struct __sk_buff *skb, const struct remora_packet *packet, __u32 ahead,
						void *to, __u32 length)
{
	struct remora_cursor network;

	if (packet->direct && remora_peek_pointer(skb, packet->network_offset + ahead, to, length))
		return true;
	network = remora_network_of(skb, packet);
	return remora_peek(&network, ahead, to, length);
}

/* The same of the transport header, of a packet that has one. */
static __always_inline bool remora_peek_transport(struct __sk_buff *skb, const struct remora_packet *packet,
						  __u32 ahead, void *to, __u32 length)
{
	/* 20 or 40 where it is read through pointers; the verifier wants to see that it is not much. */
	__u32 offset = packet->network_offset + (packet->transport_offset & 0x3f);
	struct remora_cursor transport;

	if (packet->direct && remora_peek_pointer(skb, offset + ahead, to, length))
		return true;
	transport = remora_transport_of(skb, packet);
	return remora_peek(&transport, ahead, to, length);
}

/* The length that the IP header states: IPv4's includes that header, IPv6's does not. 0: a BIG TCP packet, or none. */
static __always_inline __u32 remora_stated_length(struct __sk_buff *skb, const struct remora_packet *packet)
{
	__be16 words[2];

	if (packet->family == REMORA_IPV4)
		return remora_peek_network(skb, packet, 0, words, sizeof(words)) ? bpf_ntohs(words[1]) : 0;
	return remora_peek_network(skb, packet, 4, words, sizeof(words)) ? bpf_ntohs(words[0]) : 0;
}

/* The second half of the IPv6 address that stands for an IPv4 one, ::ffff:0:0/96. The first is 0. */
static __always_inline __be64 remora_mapped(__be32 address)
{
	const union remora_address mapped = { .words = { 0, 0, bpf_htonl(0xffff), address } };

	return mapped.halves[1];
}

static __always_inline void remora_ipv4_addresses(struct remora_flow *flow, __be32 source, __be32 destination)
{
	flow->source.halves[0] = flow->destination.halves[0] = 0;
	flow->source.halves[1] = remora_mapped(source);
	flow->destination.halves[1] = remora_mapped(destination);
}

/* Of a packet that remora_glance() has read, where the transport header follows on the addresses. */
static __always_inline bool remora_flow_directly(struct __sk_buff *skb, const struct remora_packet *packet,
						 struct remora_flow *flow)
{
	__u32 network = packet->network_offset;
	struct {
		__be32 source;
		__be32 destination;
		struct remora_ports ports;
	} ipv4;

	if (packet->family == REMORA_IPV4) {
		if (!remora_peek_pointer(skb, network + offsetof(struct iphdr, saddr), &ipv4, sizeof(ipv4)))
			return false;
		remora_ipv4_addresses(flow, ipv4.source, ipv4.destination);
		flow->source_port = ipv4.ports.source;
		flow->destination_port = ipv4.ports.destination;
	} else {
		/* They stand in the header as they do here. */
		if (!remora_peek_pointer(skb, network + offsetof(struct ipv6hdr, saddr), flow,
					 offsetof(struct remora_flow, family)))
			return false;
	}
	if (!remora_has_ports(packet->protocol))
		flow->source_port = flow->destination_port = 0;
	return true;
}

/* The same of any other. */
static __always_inline void remora_flow_by_cursor(struct __sk_buff *skb, const struct remora_packet *packet,
						  struct remora_flow *flow)
{
	struct remora_cursor network = remora_network_of(skb, packet);
	struct remora_cursor transport = remora_transport_of(skb, packet);

	__builtin_memset(flow, 0, sizeof(*flow));
	if (packet->family == REMORA_IPV4) {
		struct {
			__be32 source;
			__be32 destination;
		} addresses;

		if (remora_peek(&network, offsetof(struct iphdr, saddr), &addresses, sizeof(addresses)))
			remora_ipv4_addresses(flow, addresses.source, addresses.destination);
	} else if (packet->family == REMORA_IPV6) {
		remora_peek(&network, offsetof(struct ipv6hdr, saddr), flow, 2 * sizeof(flow->source));
	}
	if (packet->has_transport && remora_has_ports(packet->protocol)) {
		struct remora_ports ports;

		if (remora_ports(&transport, &ports)) {
			flow->source_port = ports.source;
			flow->destination_port = ports.destination;
		}
	}
}

/* Fills in addresses, protocol and (where the packet has them) ports of an IP packet that is not malformed. */
static __always_inline void remora_flow(struct __sk_buff *skb, const struct remora_packet *packet,
					struct remora_flow *flow)
{
	if (!packet->direct || !remora_flow_directly(skb, packet, flow))
		remora_flow_by_cursor(skb, packet, flow);
	flow->family = packet->family;
	flow->protocol = packet->protocol;
	flow->reserved[0] = flow->reserved[1] = 0;
}

/* Neighbour and router discovery of IPv6 (RFC 4861), which is valid from the own link only: hop limit 255. */
static __always_inline bool remora_is_neighbour_discovery(struct __sk_buff *skb, const struct remora_packet *packet)
{
	enum { ROUTER_SOLICITATION = 133, NEIGHBOUR_ADVERTISEMENT = 136 };
	struct remora_cursor network, transport;
	struct remora_icmp icmp;
	__u8 hop_limit;

	if (packet->family != REMORA_IPV6 || packet->protocol != IPPROTO_ICMPV6 || !packet->has_transport)
		return false;
	network = remora_network_of(skb, packet);
	transport = remora_transport_of(skb, packet);
	if (!remora_icmp(&transport, &icmp) ||
	    !remora_peek(&network, offsetof(struct ipv6hdr, hop_limit), &hop_limit, sizeof(hop_limit)))
		return false;
	return hop_limit == 255 && icmp.code == 0 && icmp.type >= ROUTER_SOLICITATION &&
	       icmp.type <= NEIGHBOUR_ADVERTISEMENT;
}

#endif
