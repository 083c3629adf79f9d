// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * mirror: sends a copy of the pod's packets, all or a sample, whole or the beginning, to a collector: in VXLAN or in GRE, from
 * the pod's own address. The original is neither changed nor held up.
 *
 * How: the kernel clones the packet and sends the clone out of the pod's interface (bpf_clone_redirect). There it meets
 * the pod's egress chain at once, on the same CPU, inside the call: a per-CPU marker, set around it, tells mirror's egress
 * side that this is a clone. It wraps the clone and hands it to the kernel's own neighbour resolution (bpf_redirect_neigh),
 * with which it comes by a second time, perhaps later. Then it is known by skb->tc_index, which the egress side has set and
 * no socket can, and by its destination: it leaves, with a verdict that ends the chain, and is not copied again.
 *
 *  - It stands in the pod: at the host's end (`at: host`) it copies nothing, and counts that.
 *  - The egress side is needed for copies of either direction. `directions` says whether it was asked for; and no packet is
 *    cloned on ingress before it has run once, since a clone that does not meet it would leave as it came.
 *  - Programs before mirror in the egress chain see a clone, and then what it was made into: mirror stands first.
 *  - A copy that would be larger than `mtu` is cut. TCP that leaves or arrives in large pieces (GSO, GRO) is copied in such
 *    pieces and segmented behind: the same bytes, in segments that have room for the outer headers.
 *  - IPv4 and IPv6 packets are copied, with an Ethernet header (one is made up where the device has none) and a VLAN tag.
 *    Others (ARP, two tags) are counted. A packet of a tunnel of the pod's own that is still to be segmented, or to
 *    get its checksum, cannot be wrapped again, nor can several datagrams in one that are short enough not to be cut.
 *  - ICMP errors about copies are not copied, or a collector that does not listen would be told of its own complaints.
 *  - The outer UDP checksum is 0, over IPv6 as well (RFC 6935): a VXLAN device there wants `udp6zerocsumrx`.
 *
 * Needs Linux 5.13 (BPF_F_ADJ_ROOM_ENCAP_L2_ETH).
 */
#include <remora/packet.h>
#include <remora/params.h>
#include <remora/random.h>
#include <remora/verdict.h>

enum mode { MODE_VXLAN = 1, MODE_GRE = 2 };
enum side { SIDE_INGRESS = 1, SIDE_EGRESS = 2 };

const volatile union remora_address collector REMORA_UNIT("address")
	REMORA_HELP("where copies go; without it there are none") = {};
const volatile __u32 mode REMORA_CHOICE("vxlan", "1") REMORA_CHOICE("gre", "2")
	REMORA_HELP("what copies are wrapped into: VXLAN, or GRE with Ethernet (gretap, ip6gretap)") = MODE_VXLAN;
const volatile __u32 vni REMORA_MAX("16777215") REMORA_HELP("VXLAN network identifier") = 1;
const volatile __u16 port REMORA_MIN("1") REMORA_HELP("the collector's UDP port, of VXLAN") = 4789;
const volatile __u32 sample REMORA_UNIT("percent") REMORA_MAX("100%") REMORA_HELP("how many of the packets are copied") =
	REMORA_CERTAIN;
const volatile __u32 truncate REMORA_UNIT("size") REMORA_MAX("65535")
	REMORA_HELP("bytes of a packet that are copied, Ethernet header included, at least 128; 0 is all") = 0;
const volatile __u32 mtu REMORA_MIN("576") REMORA_FROM("mtu")
	REMORA_HELP("the largest outer packet, in bytes; what does not fit is cut off") = 1500;
const volatile union remora_address source_ipv4 REMORA_UNIT("address") REMORA_FROM("ipv4")
	REMORA_HELP("the outer source, to an IPv4 collector") = {};
const volatile union remora_address source_ipv6 REMORA_UNIT("address") REMORA_FROM("ipv6")
	REMORA_HELP("the outer source, to an IPv6 collector") = {};
const volatile __u32 directions REMORA_FROM("directions") REMORA_HELP("1 is ingress, 2 is egress") = 0;

/* Packets: what was sent, and by reason what could not be. `cut` ones were sent as well. */
struct copies {
	__u64 ingress;		/* sent, of packets that arrived */
	__u64 egress;		/* sent, of packets that left */
	__u64 cut;		/* sent without what did not fit into `mtu` */
	__u64 not_sampled;
	__u64 no_collector;	/* none is set */
	__u64 no_source;	/* the pod has no address of the collector's family */
	__u64 no_egress;	/* arrived where mirror has no egress side, or before that has seen a packet */
	__u64 misplaced;	/* left the pod, and mirror's egress side stands at the host's end (`at: host`) */
	__u64 not_ip;		/* ARP and others, and more than one VLAN tag */
	__u64 own_error;	/* ICMP errors about copies */
	__u64 not_wrapped;	/* a tunnel's packet already, several datagrams in one (USO) that are not cut, or no memory */
	__u64 not_cloned;	/* the kernel's limit of nesting (devices upon devices), an empty packet, or no memory */
	__u64 lost;		/* dropped, or sent elsewhere, by a program before mirror */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct copies);
} copies SEC(".maps");

/* `side` is 0 but while a clone is on its way from bpf_clone_redirect() to the egress side, on the same CPU. */
struct passage {
	__u32 side;
	__u32 reserved;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct passage);
} passage SEC(".maps");

/* Whether the egress side has run: 1 word, written once. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} standing SEC(".maps");

/* skb->tc_index of a wrapped copy. Sockets cannot set it; what another program sets is no copy, going elsewhere. */
#define WRAPPED 0x6d63

/* The kernel cuts no packet within its headers. */
#define LEAST 128

struct udp {
	__be16 source;
	__be16 destination;
	__be16 length;
	__sum16 checksum;
};
struct vxlan {
	__be32 flags;
	__be32 vni;
};
struct gre {
	__be16 flags;
	__be16 protocol;
};
struct tag {
	__be16 tci;
	__be16 protocol;
};

#define ETH_P_TEB 0x6558
#define VXLAN_HAS_VNI 0x08000000

static __always_inline bool is_set(const volatile union remora_address *address)
{
	return address->halves[0] | address->halves[1];
}

static __always_inline bool is_four(const volatile union remora_address *address)
{
	return !address->halves[0] && address->words[2] == bpf_htonl(0xffff);
}

static __always_inline struct copies *counters(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&copies, &key);
}

static __always_inline bool is_collector(const __be32 *words)
{
	return words[0] == collector.words[0] && words[1] == collector.words[1] && words[2] == collector.words[2] &&
	       words[3] == collector.words[3];
}

/* Whether an ICMP error is about a packet to the collector: it quotes that packet's header. */
static __always_inline bool is_own_error(struct __sk_buff *skb)
{
	struct remora_packet packet = remora_parse(skb);
	struct remora_cursor transport;
	struct remora_icmp icmp;
	__be32 quoted[4] = {};

	if (packet.malformed || !packet.has_transport)
		return false;
	transport = remora_transport_of(skb, &packet);
	if (!remora_icmp(&transport, &icmp))
		return false;
	if (packet.family == REMORA_IPV4 && packet.protocol == IPPROTO_ICMP && is_four(&collector)) {
		quoted[2] = bpf_htonl(0xffff);
		return (icmp.type == 3 || icmp.type == 11) &&
		       remora_peek(&transport, 8 + offsetof(struct iphdr, daddr), &quoted[3], sizeof(quoted[3])) &&
		       is_collector(quoted);
	}
	if (packet.family == REMORA_IPV6 && packet.protocol == IPPROTO_ICMPV6 && !is_four(&collector))
		return icmp.type >= 1 && icmp.type <= 3 &&
		       remora_peek(&transport, 8 + offsetof(struct ipv6hdr, daddr), quoted, sizeof(quoted)) &&
		       is_collector(quoted);
	return false;
}

/* Has a clone of the packet sent, if it is one to copy. Direct packet pointers are invalid afterwards. */
static __always_inline void copy(struct __sk_buff *skb, struct copies *counts, enum side side)
{
	struct passage *now;
	__u32 key = 0;
	__u64 *stands;
	long result;

	if (!is_set(&collector)) {
		counts->no_collector++;
		return;
	}
	if (!is_set(is_four(&collector) ? &source_ipv4 : &source_ipv6)) {
		counts->no_source++;
		return;
	}
	stands = bpf_map_lookup_elem(&standing, &key);
	now = bpf_map_lookup_elem(&passage, &key);
	if (!stands || !now || now->side)
		return;
	if (side == SIDE_INGRESS && (!(directions & SIDE_EGRESS) || !*(volatile __u64 *)stands)) {
		counts->no_egress++;
		return;
	}
	if (!remora_chance(sample)) {
		counts->not_sampled++;
		return;
	}
	if (side == SIDE_INGRESS && is_own_error(skb)) {
		counts->own_error++;
		return;
	}
	now->side = side;
	result = bpf_clone_redirect(skb, skb->ifindex, 0);
	if (!now->side)
		return;
	/* Where an egress program drops it, the result is NET_XMIT_DROP, which is no error. */
	if (result < 0)
		counts->not_cloned++;
	else
		counts->lost++;
	now->side = 0;
}

static __always_inline __sum16 header_checksum(const __be16 *words, __u32 count)
{
	__u32 sum = 0;

#pragma clang loop unroll(full)
	for (__u32 i = 0; i < count; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

/*
 * Writes the outer headers at `offset`, where there is room. `length` is that of the outer packet, 0 where it stands for
 * several: their lengths are written when it is segmented. Returns where they end, or -1.
 */
static __always_inline int write_outer(struct __sk_buff *skb, __u32 offset, __u32 length, __u32 hash)
{
	__u8 protocol = mode == MODE_GRE ? IPPROTO_GRE : IPPROTO_UDP;

	if (is_four(&collector)) {
		union {
			struct iphdr header;
			__be16 words[sizeof(struct iphdr) / 2];
		} ip = {
			.header = {
				.version = 4,
				.ihl = 5,
				.tot_len = bpf_htons(length),
				.id = (__be16)bpf_get_prandom_u32(),
				.ttl = 64,
				.protocol = protocol,
				.saddr = source_ipv4.words[3],
				.daddr = collector.words[3],
			},
		};

		ip.header.check = header_checksum(ip.words, sizeof(ip) / 2);
		if (bpf_skb_store_bytes(skb, offset, &ip, sizeof(ip), 0))
			return -1;
		offset += sizeof(ip);
		length -= sizeof(ip);
	} else {
		struct {
			__be32 first;
			__be16 payload_length;
			__u8 next;
			__u8 hop_limit;
			__be64 source[2];
			__be64 destination[2];
		} ip = {
			.first = bpf_htonl(0x60000000),
			.payload_length = bpf_htons(length - sizeof(ip)),
			.next = protocol,
			.hop_limit = 64,
			.source = { source_ipv6.halves[0], source_ipv6.halves[1] },
			.destination = { collector.halves[0], collector.halves[1] },
		};

		if (bpf_skb_store_bytes(skb, offset, &ip, sizeof(ip), 0))
			return -1;
		offset += sizeof(ip);
		length -= sizeof(ip);
	}
	if (mode == MODE_GRE) {
		struct gre gre = { .protocol = bpf_htons(ETH_P_TEB) };

		if (bpf_skb_store_bytes(skb, offset, &gre, sizeof(gre), 0))
			return -1;
		return offset + sizeof(gre);
	}
	struct {
		struct udp udp;
		struct vxlan vxlan;
	} outer = {
		.udp = {
			/* Of the range for it, the same for a flow: RFC 7348, section 5. */
			.source = bpf_htons(0xc000 | (hash & 0x3fff)),
			.destination = bpf_htons(port),
			.length = bpf_htons(length),
		},
		.vxlan = { .flags = bpf_htonl(VXLAN_HAS_VNI), .vni = bpf_htonl(vni << 8) },
	};

	if (bpf_skb_store_bytes(skb, offset, &outer, sizeof(outer), 0))
		return -1;
	return offset + sizeof(outer);
}

/* Makes a clone into what the collector is sent. Returns a verdict. */
static __always_inline int wrap(struct __sk_buff *skb, struct copies *counts, enum side side)
{
	const __u32 outer = (is_four(&collector) ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) +
			    (mode == MODE_GRE ? sizeof(struct gre) : sizeof(struct udp) + sizeof(struct vxlan));
	const __u32 least = truncate < LEAST ? LEAST : truncate;
	__u64 flags = is_four(&collector) ? BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 : BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
	__u32 hash = bpf_get_hash_recalc(skb), behind = sizeof(struct ethhdr), wanted, most, whole;
	struct ethhdr ethernet = {}, nothing = {};
	struct tag tag = {};
	bool framed, tagged = false;
	int offset;

	framed = remora_ethernet(skb, &ethernet);
	if (!framed)
		__builtin_memset(&ethernet, 0, sizeof(ethernet));
	if (skb->vlan_present || remora_is_vlan((__be16)skb->protocol)) {
		/* Read both: the compiler would choose between their addresses, which the verifier refuses. */
		__u32 inside = *(volatile __u32 *)&skb->protocol, beside = *(volatile __u32 *)&skb->vlan_proto;

		ethernet.h_proto = skb->vlan_present ? beside : inside;
		tag.tci = bpf_htons(skb->vlan_tci);
		if (!skb->vlan_present && bpf_skb_load_bytes(skb, ETH_HLEN, &tag.tci, sizeof(tag.tci))) {
			counts->not_ip++;
			return REMORA_DROP;
		}
		if (bpf_skb_vlan_pop(skb) || skb->vlan_present) {
			counts->not_ip++;
			return REMORA_DROP;
		}
		tag.protocol = (__be16)skb->protocol;
		behind += sizeof(tag);
		tagged = true;
	} else {
		ethernet.h_proto = (__be16)skb->protocol;
	}
	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6)) {
		counts->not_ip++;
		return REMORA_DROP;
	}

	/* Lengths of the copy within: Ethernet header and tag included, which are not there yet where nothing is framed. */
	whole = skb->len + behind - (framed ? sizeof(ethernet) : 0);
	wanted = truncate && least < whole ? least : whole;
	most = mtu - outer;
	if (skb->gso_size && wanted == whole) {
		/* TCP alone can be cut into other segments; and what they are cut from must have a length. */
		struct remora_packet packet = remora_parse(skb);

		if (packet.family && packet.protocol == IPPROTO_TCP && whole + outer <= 0xffff)
			most = whole;
	}
	if (wanted > most) {
		wanted = most;
		counts->cut++;
	}
	if (wanted < whole && bpf_skb_change_tail(skb, skb->len - (whole - wanted), 0)) {
		counts->not_wrapped++;
		return REMORA_DROP;
	}

	/* Where the Ethernet header within begins is told too: from there on the kernel segments large pieces. */
	flags |= mode == MODE_GRE ? BPF_F_ADJ_ROOM_ENCAP_L4_GRE : BPF_F_ADJ_ROOM_ENCAP_L4_UDP;
	flags |= BPF_F_ADJ_ROOM_ENCAP_L2_ETH | BPF_F_ADJ_ROOM_ENCAP_L2((__u64)behind);
	if (bpf_skb_adjust_room(skb, outer + behind, BPF_ADJ_ROOM_MAC, flags)) {
		counts->not_wrapped++;
		return REMORA_DROP;
	}
	offset = write_outer(skb, framed ? ETH_HLEN : 0, wanted + outer, hash);
	if (offset < 0 || bpf_skb_store_bytes(skb, offset, &ethernet, sizeof(ethernet), 0) ||
	    (tagged && bpf_skb_store_bytes(skb, offset + sizeof(ethernet), &tag, sizeof(tag), 0))) {
		counts->not_wrapped++;
		return REMORA_DROP;
	}
	if (side == SIDE_INGRESS)
		counts->ingress++;
	else
		counts->egress++;
	if (!framed)
		return TC_ACT_OK;
	/* Not a group's: such frames are not resolved. */
	nothing.h_proto = bpf_htons(is_four(&collector) ? ETH_P_IP : ETH_P_IPV6);
	if (bpf_skb_store_bytes(skb, 0, &nothing, sizeof(nothing), 0))
		return REMORA_DROP;
	skb->tc_index = WRAPPED;
	return bpf_redirect_neigh(skb->ifindex, NULL, 0, 0);
}

/* A wrapped copy on its way to the wire: nobody's but ours goes to the collector under that index. */
static __always_inline bool is_wrapped(struct __sk_buff *skb)
{
	const struct remora_cursor network = { .skb = skb, .start = BPF_HDR_START_NET };
	__be32 destination[4] = {};

	if (skb->tc_index != WRAPPED)
		return false;
	if (is_four(&collector)) {
		destination[2] = bpf_htonl(0xffff);
		return remora_peek(&network, offsetof(struct iphdr, daddr), &destination[3], sizeof(destination[3])) &&
		       is_collector(destination);
	}
	return remora_peek(&network, offsetof(struct ipv6hdr, daddr), destination, sizeof(destination)) &&
	       is_collector(destination);
}

SEC("tc/ingress")
int mirror_ingress(struct __sk_buff *skb)
{
	struct copies *counts = counters();

	if (counts)
		copy(skb, counts, SIDE_INGRESS);
	return REMORA_NEXT;
}

SEC("tc/egress")
int mirror_egress(struct __sk_buff *skb)
{
	struct copies *counts = counters();
	struct passage *now;
	__u32 key = 0, side;
	__u64 *stands;

	now = bpf_map_lookup_elem(&passage, &key);
	stands = bpf_map_lookup_elem(&standing, &key);
	if (!counts || !now || !stands)
		return REMORA_NEXT;
	side = now->side;
	if (side) {
		now->side = 0;
		return wrap(skb, counts, side);
	}
	if (is_wrapped(skb)) {
		skb->tc_index = 0;
		return TC_ACT_OK;
	}
	/* An ingress hook: a clone would be sent back. (A pod that routes out where it came in has such packets, too.) */
	if (skb->ingress_ifindex == skb->ifindex) {
		counts->misplaced++;
		return REMORA_NEXT;
	}
	if (!*stands)
		*stands = 1;
	if (directions & SIDE_EGRESS)
		copy(skb, counts, SIDE_EGRESS);
	return REMORA_NEXT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
