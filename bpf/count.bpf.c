// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * count: packets, wire packets and wire bytes by protocol. It looks and passes on, whatever the packet is.
 *
 * One function serves both directions, so each direction has its own `totals`.
 */
#include <remora/packet.h>
#include <remora/verdict.h>
#include <remora/wire.h>

/* `packets` are runs of the program, one per skb; `wire_*` count each segment of a GSO packet. */
struct counter {
	__u64 packets;
	__u64 wire_packets;
	__u64 wire_bytes;
};

/* Later fragments count by the protocol their headers name; what cannot be read is the family's `other`. */
struct totals {
	struct counter ipv4_tcp;
	struct counter ipv4_udp;
	struct counter ipv4_icmp;
	struct counter ipv4_other;
	struct counter ipv6_tcp;
	struct counter ipv6_udp;
	struct counter ipv6_icmp;
	struct counter ipv6_other;
	struct counter arp;
	struct counter other;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

static __always_inline struct counter *counter_of(struct totals *all, const struct remora_packet *packet)
{
	__u8 protocol = packet->protocol;

	if (packet->family == REMORA_IPV4)
		return protocol == IPPROTO_TCP	? &all->ipv4_tcp :
		       protocol == IPPROTO_UDP	? &all->ipv4_udp :
		       protocol == IPPROTO_ICMP ? &all->ipv4_icmp :
						  &all->ipv4_other;
	if (packet->family == REMORA_IPV6)
		return protocol == IPPROTO_TCP	  ? &all->ipv6_tcp :
		       protocol == IPPROTO_UDP	  ? &all->ipv6_udp :
		       protocol == IPPROTO_ICMPV6 ? &all->ipv6_icmp :
						    &all->ipv6_other;
	return packet->ethertype == ETH_P_ARP ? &all->arp : &all->other;
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	/* A malformed packet counts too, by as much as could be read of it. */
	struct remora_packet packet = remora_parse(skb);
	__u64 wire_packets = remora_wire_packets(skb);
	__u64 wire_bytes = remora_wire_bytes(skb, &packet);
	struct counter *counter;
	struct totals *all;
	__u32 key = 0;

	all = bpf_map_lookup_elem(&totals, &key);
	if (!all)
		return REMORA_NEXT;
	counter = counter_of(all, &packet);
	counter->packets++;
	counter->wire_packets += wire_packets;
	counter->wire_bytes += wire_bytes;
	return REMORA_NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
