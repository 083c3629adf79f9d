// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * guard: a pod sends from the addresses and the MAC that it was given, and from no others. Its manifest says `at: host`: there
 * no packet socket of the pod gets past it. It keeps no state, and has an egress side only.
 *
 * `addresses` and `mac` are filled from the pod's interface. What passes:
 *
 *  - frames with the pod's source MAC. A device without Ethernet headers has no MAC, and none is asked for.
 *  - IPv4 and IPv6 from `addresses`, and from the prefixes of `also_allow`. IPv6 from the link-local address that is made of
 *    the MAC (EUI-64), or with `link_local: any` from each of fe80::/64.
 *  - ARP, where the sender's hardware address is the pod's and its protocol address is one of the pod's; requests with the
 *    sender 0.0.0.0 are probes and claim nothing (RFC 5227).
 *  - IPv6 neighbour discovery that claims nothing of others (RFC 4861): the target of an advertisement, and of a solicitation
 *    that looks for duplicates, is the pod's; link-layer address options hold its MAC. Hop limit 255, options that can be
 *    read to the end, eight at most; never in fragments (RFC 6980).
 *  - from the unspecified address: looking for duplicates, router solicitations, multicast listener reports (RFC 3590) and,
 *    unless `dhcp` is `deny`, what a DHCP client broadcasts.
 *
 * What never passes: router advertisements, redirects and multicast listener queries; what a DHCP server sends (from port
 * 67 or 547, to 68 or 546); protocols other than ARP and IP (bridge frames, 802.3); and what cannot be read, such as a first
 * fragment that does not reach to its ports. A frame with VLAN tags is dropped, since the addresses of the pod are not those
 * of a VLAN; with `vlan: check` what is behind the tags is judged as if there were none.
 */
#include <remora/packet.h>
#include <remora/params.h>
#include <remora/prefix.h>
#include <remora/verdict.h>

#define MAX_PREFIXES 16
#define MAX_OPTIONS 8

enum dhcp { DHCP_CLIENT = 1, DHCP_DENY = 2 };
enum link_local { LINK_LOCAL_MAC = 1, LINK_LOCAL_ANY = 2 };
enum vlan { VLAN_DROP = 1, VLAN_CHECK = 2 };

const volatile struct remora_prefix addresses[MAX_PREFIXES] REMORA_UNIT("prefix") REMORA_COUNT("addresses_count")
	REMORA_FROM("addresses") REMORA_HELP("the source addresses that are the pod's") = {};
const volatile __u32 addresses_count = 0;
const volatile __u8 mac[ETH_ALEN] REMORA_UNIT("mac") REMORA_FROM("mac")
	REMORA_HELP("the source MAC that is the pod's") = {};
const volatile struct remora_prefix also_allow[MAX_PREFIXES] REMORA_UNIT("prefix") REMORA_COUNT("also_allow_count")
	REMORA_HELP("further prefixes to send from and to speak for: of a router, of a pod that makes its own addresses") = {};
const volatile __u32 also_allow_count = 0;
const volatile __u32 link_local REMORA_CHOICE("mac", "1") REMORA_CHOICE("any", "2")
	REMORA_HELP("IPv6 link-local addresses that are the pod's: the one made of its MAC, or any") = LINK_LOCAL_MAC;
const volatile __u32 dhcp REMORA_CHOICE("client", "1") REMORA_CHOICE("deny", "2")
	REMORA_HELP("DHCP and DHCPv6: the pod may be a client, or use none of it") = DHCP_CLIENT;
const volatile __u32 vlan REMORA_CHOICE("drop", "1") REMORA_CHOICE("check", "2")
	REMORA_HELP("frames with VLAN tags: dropped, or judged by what is behind the tags") = VLAN_DROP;

/* Packets by what was decided about them, and why. */
struct packets {
	__u64 passed_ipv4;
	__u64 passed_ipv6;
	__u64 passed_arp;
	__u64 passed_discovery;
	__u64 passed_dhcp;
	__u64 dropped_mac;	 /* not the pod's source MAC */
	__u64 dropped_address;	 /* not the pod's source address */
	__u64 dropped_neighbour; /* ARP or neighbour discovery that speaks for somebody else */
	__u64 dropped_router;	 /* what only routers send */
	__u64 dropped_dhcp;	 /* what only servers send; with `dhcp: deny` a client's as well */
	__u64 dropped_vlan;
	__u64 dropped_protocol; /* neither ARP nor IP */
	__u64 dropped_malformed;
};

/* Its members by number. */
enum decision {
	PASSED_IPV4,
	PASSED_IPV6,
	PASSED_ARP,
	PASSED_DISCOVERY,
	PASSED_DHCP,
	DROPPED_MAC,
	DROPPED_ADDRESS,
	DROPPED_NEIGHBOUR,
	DROPPED_ROUTER,
	DROPPED_DHCP,
	DROPPED_VLAN,
	DROPPED_PROTOCOL,
	DROPPED_MALFORMED,
	DECISIONS,
	/* Added to a decision to pass: it holds if the subject's source is the pod's, or if what it claims is. */
	IF_SOURCE_IS_OWN = 0x100,
	IF_CLAIM_IS_OWN = 0x200,
};

_Static_assert(sizeof(struct packets) == DECISIONS * sizeof(__u64), "a member for each decision");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct packets);
} packets SEC(".maps");

/* Whom a packet says that it is from, and for whose address it would make its receivers use the pod's MAC. */
struct subject {
	union remora_address source;
	union remora_address claim;
	__u32 family;
	__u32 reserved;
};

/*
 * In place of the stack, as in acl: what stands in a map is no part of the verifier's states. Nothing in it outlives a
 * packet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct subject);
} scratch SEC(".maps");

struct arp {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));

enum {
	ARP_ETHERNET = 1,
	ARP_REQUEST = 1,
	ARP_REPLY = 2,
};

enum icmpv6_type {
	LISTENER_QUERY = 130,
	LISTENER_REPORT = 131,
	LISTENER_DONE = 132,
	ROUTER_SOLICITATION = 133,
	ROUTER_ADVERTISEMENT = 134,
	NEIGHBOUR_SOLICITATION = 135,
	NEIGHBOUR_ADVERTISEMENT = 136,
	REDIRECT = 137,
	ROUTER_RENUMBERING = 138,
	LISTENER_REPORT_2 = 143,
};

static __always_inline bool has_mac(void)
{
	return mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5];
}

static __always_inline bool is_own_mac(const __u8 *other)
{
	return !has_mac() || !((mac[0] ^ other[0]) | (mac[1] ^ other[1]) | (mac[2] ^ other[2]) | (mac[3] ^ other[3]) |
			       (mac[4] ^ other[4]) | (mac[5] ^ other[5]));
}

static __always_inline bool is_unspecified(const union remora_address *address)
{
	return !(address->halves[0] | address->halves[1]);
}

/* fe80::/64, and of it what belongs to the MAC: RFC 4291, appendix A. */
static __always_inline bool is_own_link_local(const union remora_address *address)
{
	__u64 made = (__u64)(mac[0] ^ 2) << 56 | (__u64)mac[1] << 48 | (__u64)mac[2] << 40 | 0xfffeULL << 24 |
		     (__u64)mac[3] << 16 | (__u64)mac[4] << 8 | mac[5];

	if (address->halves[0] != bpf_cpu_to_be64(0xfe80ULL << 48))
		return false;
	return link_local == LINK_LOCAL_ANY || !has_mac() || address->halves[1] == bpf_cpu_to_be64(made);
}

static __always_inline bool is_own(__u32 family, const union remora_address *address)
{
	bool own = family == REMORA_IPV6 && is_own_link_local(address);

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_PREFIXES && i < addresses_count; i++)
		own |= !remora_prefix_differs(&addresses[i], family, address);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < MAX_PREFIXES && i < also_allow_count; i++)
		own |= !remora_prefix_differs(&also_allow[i], family, address);
	return own;
}

static __always_inline void set_ipv4(union remora_address *address, __be32 ip)
{
	address->halves[0] = 0;
	address->words[2] = bpf_htonl(0xffff);
	address->words[3] = ip;
}

static __always_inline __u32 judge_arp(struct __sk_buff *skb, const struct remora_packet *packet,
				       struct subject *subject)
{
	struct remora_cursor network = remora_network_of(skb, packet);
	struct arp arp;

	if (!remora_peek(&network, 0, &arp, sizeof(arp)))
		return DROPPED_MALFORMED;
	if (arp.hardware != bpf_htons(ARP_ETHERNET) || arp.protocol != bpf_htons(ETH_P_IP) ||
	    arp.hardware_length != ETH_ALEN || arp.protocol_length != sizeof(arp.sender))
		return DROPPED_MALFORMED;
	if (arp.operation != bpf_htons(ARP_REQUEST) && arp.operation != bpf_htons(ARP_REPLY))
		return DROPPED_MALFORMED;
	if (!is_own_mac(arp.sender_mac))
		return DROPPED_NEIGHBOUR;
	if (!arp.sender && arp.operation == bpf_htons(ARP_REQUEST))
		return PASSED_ARP;
	subject->family = REMORA_IPV4;
	set_ipv4(&subject->claim, arp.sender);
	return PASSED_ARP | IF_CLAIM_IS_OWN;
}

static __always_inline __u32 judge_ipv4(struct __sk_buff *skb, const struct remora_packet *packet,
					struct subject *subject)
{
	struct remora_ports ports = {};
	struct iphdr ip;
	__u32 length;

	if (!remora_peek_network(skb, packet, 0, &ip, sizeof(ip)))
		return DROPPED_MALFORMED;
	/* What follows the packet in its frame would be read as its ports. Beyond 64 KiB (BIG TCP) there is no length. */
	length = bpf_ntohs(ip.tot_len);
	if (length ? length < packet->transport_offset + packet->has_transport * 8u : !skb->gso_size)
		return DROPPED_MALFORMED;
	if (packet->protocol == IPPROTO_UDP && packet->has_transport) {
		if (!remora_peek_transport(skb, packet, 0, &ports, sizeof(ports)))
			return DROPPED_MALFORMED;
		if (ports.source == bpf_htons(67) || ports.destination == bpf_htons(68))
			return DROPPED_DHCP;
		if (dhcp == DHCP_DENY && ports.destination == bpf_htons(67))
			return DROPPED_DHCP;
	}
	if (!ip.saddr && ports.source == bpf_htons(68) && ports.destination == bpf_htons(67) &&
	    ip.daddr == bpf_htonl(0xffffffff) && packet->fragment == REMORA_WHOLE)
		return PASSED_DHCP;
	subject->family = REMORA_IPV4;
	set_ipv4(&subject->source, ip.saddr);
	return PASSED_IPV4 | IF_SOURCE_IS_OWN;
}

/*
 * The options of a neighbour discovery message, from `offset` to `end` behind the packet's `start`. A global function, so
 * that the loop is verified once. Returns a decision.
 */
__attribute__((noinline)) __u32 guard_options(struct __sk_buff *skb, __u32 start, __u32 offset, __u32 end,
					      __u32 unspecified)
{
	enum { SOURCE_LINK_LAYER = 1, TARGET_LINK_LAYER = 2 };
	struct remora_cursor at = { .skb = skb, .start = start, .offset = 0 };

#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_OPTIONS; i++) {
		struct {
			__u8 type;
			__u8 length; /* in units of 8 bytes */
			__u8 mac[ETH_ALEN];
		} option;

		if (offset >= end)
			break;
		if (offset + sizeof(option) > end || !remora_peek(&at, offset, &option, sizeof(option)) || !option.length)
			return DROPPED_MALFORMED;
		if (option.type == SOURCE_LINK_LAYER && unspecified)
			return DROPPED_NEIGHBOUR;
		if ((option.type == SOURCE_LINK_LAYER || option.type == TARGET_LINK_LAYER) &&
		    (option.length != 1 || !is_own_mac(option.mac)))
			return DROPPED_NEIGHBOUR;
		offset += option.length * 8;
	}
	return offset == end ? PASSED_DISCOVERY : DROPPED_MALFORMED;
}

/* Router and neighbour solicitations, and advertisements: `type` is one of these three. */
static __always_inline __u32 judge_discovery(struct __sk_buff *skb, const struct remora_packet *packet,
					     struct subject *subject, const struct ipv6hdr *ip,
					     const struct remora_icmp *icmp)
{
	struct remora_cursor transport = remora_transport_of(skb, packet);
	const union remora_address *group = (const void *)&ip->daddr;
	bool unspecified = is_unspecified(&subject->source);
	__u32 end = transport.offset + sizeof(*ip) + bpf_ntohs(ip->payload_len) - packet->transport_offset;
	__u32 behind = transport.offset + 8, options, conditions = 0;

	if (packet->fragment != REMORA_WHOLE || ip->hop_limit != 255 || icmp->code)
		return DROPPED_MALFORMED;
	if (icmp->type != ROUTER_SOLICITATION) {
		if (!remora_peek(&transport, 8, &subject->claim, sizeof(subject->claim)))
			return DROPPED_MALFORMED;
		behind += sizeof(subject->claim);
	}
	if (behind > end)
		return DROPPED_MALFORMED;
	options = guard_options(skb, transport.start, behind, end, unspecified);
	if (options != PASSED_DISCOVERY)
		return options;
	if (!unspecified)
		conditions = IF_SOURCE_IS_OWN;
	else if (icmp->type == NEIGHBOUR_ADVERTISEMENT)
		return DROPPED_ADDRESS;
	if (icmp->type == NEIGHBOUR_ADVERTISEMENT)
		conditions |= IF_CLAIM_IS_OWN;
	if (icmp->type == NEIGHBOUR_SOLICITATION && unspecified) {
		/* To the group of the address that is looked for: ff02::1:ffxx:xxxx. */
		if (group->words[0] != bpf_htonl(0xff020000) || group->words[1] || group->words[2] != bpf_htonl(1) ||
		    group->words[3] != (subject->claim.words[3] | bpf_htonl(0xff000000)))
			return DROPPED_MALFORMED;
		conditions |= IF_CLAIM_IS_OWN;
	}
	return PASSED_DISCOVERY | conditions;
}

static __always_inline __u32 judge_ipv6(struct __sk_buff *skb, const struct remora_packet *packet,
					struct subject *subject)
{
	struct remora_cursor transport = remora_transport_of(skb, packet);
	struct ipv6hdr ip;
	__u32 length;

	if (!remora_peek_network(skb, packet, 0, &ip, sizeof(ip)))
		return DROPPED_MALFORMED;
	length = bpf_ntohs(ip.payload_len);
	if (length ? length + sizeof(ip) < packet->transport_offset + packet->has_transport * 8u :
		     !skb->gso_size && packet->protocol != IPPROTO_NONE)
		return DROPPED_MALFORMED;
	subject->family = REMORA_IPV6;
	__builtin_memcpy(&subject->source, &ip.saddr, sizeof(subject->source));
	if (packet->protocol == IPPROTO_UDP && packet->has_transport) {
		struct remora_ports ports;

		if (!remora_peek_transport(skb, packet, 0, &ports, sizeof(ports)))
			return DROPPED_MALFORMED;
		if (ports.source == bpf_htons(547) || ports.destination == bpf_htons(546))
			return DROPPED_DHCP;
		if (dhcp == DHCP_DENY && ports.destination == bpf_htons(547))
			return DROPPED_DHCP;
	} else if (packet->protocol == IPPROTO_ICMPV6 && packet->has_transport) {
		struct remora_icmp icmp;

		if (!remora_icmp(&transport, &icmp))
			return DROPPED_MALFORMED;
		switch (icmp.type) {
		case LISTENER_QUERY:
		case ROUTER_ADVERTISEMENT:
		case REDIRECT:
		case ROUTER_RENUMBERING:
			return DROPPED_ROUTER;
		case ROUTER_SOLICITATION:
		case NEIGHBOUR_SOLICITATION:
		case NEIGHBOUR_ADVERTISEMENT:
			return judge_discovery(skb, packet, subject, &ip, &icmp);
		case LISTENER_REPORT:
		case LISTENER_DONE:
		case LISTENER_REPORT_2:
			if (is_unspecified(&subject->source))
				return PASSED_IPV6;
		}
	}
	return PASSED_IPV6 | IF_SOURCE_IS_OWN;
}

/* Of a device that has a MAC. */
static __always_inline bool peek_ethernet(struct __sk_buff *skb, const struct remora_packet *packet,
					  struct ethhdr *ethernet)
{
	const struct remora_cursor start = { .skb = skb, .start = BPF_HDR_START_MAC };

	if (packet->direct && packet->network_offset) {
		const struct ethhdr *found = (const void *)(long)skb->data;

		if ((const void *)(found + 1) <= (const void *)(long)skb->data_end) {
			*ethernet = *found;
			return true;
		}
	}
	return remora_peek(&start, 0, ethernet, sizeof(*ethernet));
}

/*
 * What the packet itself tells: a decision, and on what it depends. The subject is put into `scratch`.
 */
static __always_inline __u32 judge(struct __sk_buff *skb)
{
	struct remora_packet packet;
	struct subject *subject;
	__u32 key = 0;

	subject = bpf_map_lookup_elem(&scratch, &key);
	if (!subject)
		return DROPPED_MALFORMED;
	packet = remora_parse(skb);
	if (has_mac()) {
		struct ethhdr ethernet;

		if (!peek_ethernet(skb, &packet, &ethernet))
			return DROPPED_MALFORMED;
		if (!is_own_mac(ethernet.h_source))
			return DROPPED_MAC;
	}
	if (vlan == VLAN_DROP && (skb->vlan_present || remora_is_vlan((__be16)skb->protocol)))
		return DROPPED_VLAN;
	if (packet.malformed)
		return DROPPED_MALFORMED;
	if (packet.family == REMORA_IPV4)
		return judge_ipv4(skb, &packet, subject);
	if (packet.family == REMORA_IPV6)
		return judge_ipv6(skb, &packet, subject);
	return packet.ethertype == ETH_P_ARP ? judge_arp(skb, &packet, subject) : DROPPED_PROTOCOL;
}

SEC("tc/egress")
int guard(struct __sk_buff *skb)
{
	struct subject *subject;
	struct packets *counts;
	__u32 judged, decision, key = 0;

	/* So that what depends on the number of prefixes is verified once, whatever the packet. */
	judged = remora_forget(skb, judge(skb));
	decision = judged & 0xff;
	subject = bpf_map_lookup_elem(&scratch, &key);
	counts = bpf_map_lookup_elem(&packets, &key);
	if (!subject || !counts)
		return REMORA_DROP;
	if (judged & IF_SOURCE_IS_OWN && !is_own(subject->family, &subject->source))
		decision = DROPPED_ADDRESS;
	else if (judged & IF_CLAIM_IS_OWN && !is_own(subject->family, &subject->claim))
		decision = DROPPED_NEIGHBOUR;
	if (decision >= DECISIONS)
		return REMORA_DROP;
	((__u64 *)counts)[decision]++;
	return decision <= PASSED_DHCP ? REMORA_NEXT : REMORA_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
