/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Header cursors: each reads one header into a copy, checks it, moves the cursor behind it and returns the next
 * protocol, or -1 where the header is not there or not what it claims to be. No input makes them fault.
 *
 * Where they start, and why there
 * -------------------------------
 * In a TC program skb->data is the Ethernet header, where the device has one. netkit in L3 mode, tun, WireGuard and
 * other devices have none, and nothing in struct __sk_buff says so. The network header is where the kernel says on
 * all of them, so everything is read with bpf_skb_load_bytes_relative(BPF_HDR_START_NET), and the ethertype is
 * skb->protocol. An 802.1Q tag that the kernel took off the packet is in skb->vlan_tci; remora_network() hands it out
 * like one in the packet.
 *
 * The exception is a packet with tags *in* it (skb->protocol says so): there the network header is sometimes the
 * first tag and sometimes what follows the tags, by kernel version and sender. Such packets have an Ethernet header,
 * so it is read from there: ethertype at MAC + 12.
 *
 * On egress skb->protocol is what the sender's socket says. A process with CAP_NET_RAW can lie there, as it can pass
 * by the egress hook altogether; what must hold against it stands on the host's end, where the kernel has read the
 * Ethernet header itself.
 *
 * What it costs
 * -------------
 * A call and a copy for each header: measured, 20 ns a read where running an empty program takes 40 and reading the
 * same bytes through packet pointers nothing that can be told. So remora_parse() of packet.h reads the common packet
 * through pointers, and uses these cursors for the rest.
 *
 * The helper sees the linear part of the packet only. Where headers lie behind it (some drivers leave them in a page),
 * the cursors return -1 as for a packet that is cut short: remora_pull() and start again, as remora_parse() does.
 * Needs Linux 5.3 (bounded loops).
 */
#ifndef REMORA_CURSOR_H
#define REMORA_CURSOR_H

#include "kernel.h"

/* VLAN tags in the packet that are stepped over, and IPv6 extension headers. More are taken for malformed. */
#define REMORA_MAX_TAGS 4
#define REMORA_MAX_EXTENSIONS 8

enum remora_fragment {
	REMORA_WHOLE = 0,
	REMORA_FIRST_FRAGMENT = 1, /* has the transport header */
	REMORA_LATER_FRAGMENT = 2, /* has none */
};

struct remora_cursor {
	struct __sk_buff *skb;
	__u32 start;  /* enum bpf_hdr_start_off */
	__u32 offset; /* from there */
};

/* The outermost tag's id; `present` counts all tags, the one the kernel took off included. */
struct remora_vlan {
	__u16 id;
	__u16 present;
};

/* Copies `length` bytes at the cursor plus `ahead`; false (and zeroes) where the linear part has not as many. */
static __always_inline bool remora_peek(const struct remora_cursor *at, __u32 ahead, void *to, __u32 length)
{
	return bpf_skb_load_bytes_relative(at->skb, at->offset + ahead, to, length, at->start) == 0;
}

/* The same, and moves behind what was read. */
static __always_inline bool remora_read(struct remora_cursor *at, void *to, __u32 length)
{
	if (!remora_peek(at, 0, to, length))
		return false;
	at->offset += length;
	return true;
}

/*
 * Brings the first `reach` bytes of the packet, or all it has, into the linear part. Direct packet pointers are
 * invalid afterwards. False where there is nothing more to bring, so that trying again is of no use.
 */
static __always_inline bool remora_pull(struct __sk_buff *skb, __u32 reach)
{
	__u64 linear = (unsigned long)skb->data_end - (unsigned long)skb->data;

	if (reach > skb->len)
		reach = skb->len;
	return linear < reach && bpf_skb_pull_data(skb, reach) == 0;
}

/*
 * The Ethernet header, of a packet that has one. Where there is none, the kernel sets the MAC header to the network
 * header, so that the same bytes stand at both; behind an Ethernet header others do.
 */
static __always_inline bool remora_ethernet(struct __sk_buff *skb, struct ethhdr *ethernet)
{
	const struct remora_cursor mac = { .skb = skb, .start = BPF_HDR_START_MAC };
	const struct remora_cursor network = { .skb = skb, .start = BPF_HDR_START_NET };
	union {
		struct ethhdr header;
		__u16 words[ETH_HLEN / 2];
	} found, behind;
	__u16 differs = 0;

	if (!remora_peek(&mac, 0, &found, sizeof(found)))
		return false;
	*ethernet = found.header;
	if (!remora_peek(&network, 0, &behind, sizeof(behind)))
		return true;
	for (unsigned int i = 0; i < ETH_HLEN / 2; i++)
		differs |= found.words[i] ^ behind.words[i];
	return differs;
}

static __always_inline bool remora_is_vlan(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/*
 * Puts the cursor at the network header, behind all VLAN tags, and returns its ethertype in host byte order.
 * -1: the tags are cut short, or too many. `vlan` may be NULL.
 */
static __always_inline int remora_network(struct __sk_buff *skb, struct remora_cursor *at, struct remora_vlan *vlan)
{
	__be16 protocol = (__be16)skb->protocol;
	struct remora_vlan tags = {};

	at->skb = skb;
	at->start = BPF_HDR_START_NET;
	at->offset = 0;
	if (skb->vlan_present) {
		tags.id = skb->vlan_tci & 0x0fff;
		tags.present = 1;
	}
	if (remora_is_vlan(protocol)) {
		at->start = BPF_HDR_START_MAC;
		at->offset = ETH_HLEN;
#pragma clang loop unroll(disable)
		for (int i = 0; i < REMORA_MAX_TAGS; i++) {
			struct {
				__be16 tci;
				__be16 protocol;
			} tag;

			if (!remora_read(at, &tag, sizeof(tag)))
				return -1;
			if (!tags.present)
				tags.id = bpf_ntohs(tag.tci) & 0x0fff;
			tags.present++;
			protocol = tag.protocol;
			if (!remora_is_vlan(protocol))
				break;
		}
		if (remora_is_vlan(protocol))
			return -1;
	}
	if (vlan)
		*vlan = tags;
	return bpf_ntohs(protocol);
}

/* IPv4 with its options. Returns the protocol. */
static __always_inline int remora_ipv4(struct remora_cursor *at, struct iphdr *ip, enum remora_fragment *fragment)
{
	__u16 place;

	if (!remora_peek(at, 0, ip, sizeof(*ip)))
		return -1;
	if (ip->version != 4 || ip->ihl < 5)
		return -1;
	at->offset += ip->ihl * 4;
	place = bpf_ntohs(ip->frag_off);
	*fragment = place & 0x1fff ? REMORA_LATER_FRAGMENT : place & 0x2000 ? REMORA_FIRST_FRAGMENT : REMORA_WHOLE;
	return ip->protocol;
}

static __always_inline bool remora_is_extension(__u8 protocol)
{
	const __u64 extensions = 1ULL << IPPROTO_HOPOPTS | 1ULL << IPPROTO_ROUTING | 1ULL << IPPROTO_FRAGMENT |
				 1ULL << IPPROTO_AH | 1ULL << IPPROTO_DSTOPTS;

	return protocol < 64 && extensions >> protocol & 1;
}

/*
 * IPv6 and its extension headers (the ones the kernel itself steps over: hop-by-hop, routing, fragment,
 * authentication, destination options). Returns the transport protocol. Of a later fragment the rest of the chain is
 * not there, so it returns what its fragment header names, which may be an extension header.
 *
 * The kinds of headers are told apart by arithmetic: with branches the verifier follows each of them through all
 * further rounds, and loading takes five times as long.
 */
static __always_inline int remora_ipv6(struct remora_cursor *at, struct ipv6hdr *ip, enum remora_fragment *fragment)
{
	__u32 place = 0; /* the fragment header's offset and "more" bit */
	__u8 next;

	if (!remora_read(at, ip, sizeof(*ip)))
		return -1;
	if (ip->version != 6)
		return -1;
	next = ip->nexthdr;
#pragma clang loop unroll(disable)
	for (int i = 0; i <= REMORA_MAX_EXTENSIONS; i++) {
		/* Every extension header has at least 8 bytes. */
		struct {
			__u8 next;
			__u8 length;
			__be16 place;
		} extension;
		__u32 is_fragment, is_authentication;

		if (!remora_is_extension(next)) {
			*fragment = place & 1 ? REMORA_FIRST_FRAGMENT : REMORA_WHOLE;
			return next;
		}
		if (!remora_peek(at, 0, &extension, sizeof(extension)))
			return -1;
		is_fragment = 1ULL << IPPROTO_FRAGMENT >> next & 1;
		is_authentication = 1ULL << IPPROTO_AH >> next & 1;
		/* In units of 8 bytes, less the first; of 4, less two; a fragment header always has 8 bytes. */
		at->offset += ((extension.length & (is_fragment - 1)) + 1 + is_authentication)
			      << (3 - is_authentication);
		place |= bpf_ntohs(extension.place) & -is_fragment;
		next = extension.next;
		if (place & 0xfff8) {
			*fragment = REMORA_LATER_FRAGMENT;
			return next;
		}
	}
	return -1;
}

/* What TCP, UDP, UDP-Lite, SCTP and DCCP headers begin with. */
struct remora_ports {
	__be16 source;
	__be16 destination;
};

/* What ICMP and ICMPv6 headers begin with. */
struct remora_icmp {
	__u8 type;
	__u8 code;
	__sum16 checksum;
};

static __always_inline bool remora_has_ports(int protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP;
}

/* Ports of TCP, UDP or SCTP. Peeks: the cursor stays at the transport header. */
static __always_inline bool remora_ports(const struct remora_cursor *at, struct remora_ports *ports)
{
	return remora_peek(at, 0, ports, sizeof(*ports));
}

/* Type and code of ICMP or ICMPv6. Peeks as well. */
static __always_inline bool remora_icmp(const struct remora_cursor *at, struct remora_icmp *icmp)
{
	return remora_peek(at, 0, icmp, sizeof(*icmp));
}

#endif
