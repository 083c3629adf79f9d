// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * fault: loses, damages and resets, for tests of what a pod does then. Each packet that the rules hit (all of them
 * where there are none) is dropped, or else its connection reset, or else it is corrupted, as often as the parameters
 * say.
 * ARP and IPv6 discovery are never touched, nor what is not IP or cannot be read.
 *
 * It looks at skbs: one that stands for many packets (GSO) is lost or damaged as a whole. Nothing is delayed, since
 * that needs a queue, which a program has not.
 *
 * Corruption
 * ----------
 * A corrupted packet is one that its receiver's kernel recognises as such and drops. One bit of its payload is turned
 * where a checksum stands in the packet that will tell. Often none does yet: a sender leaves it to the device
 * (CHECKSUM_PARTIAL; the field then holds the sum of the pseudo header), and whatever is turned would be covered by the
 * sum that is filled in later; between pods of one node none is ever filled in or looked at. UDP may have none, and a
 * fragment's is elsewhere. Then the IP header is damaged instead, which each kernel on the way checks for itself:
 * IPv4's checksum, IPv6's version. A transport checksum that is to be filled in is made wrong as well, in case a device
 * writes new IP headers (segmentation does). So what reaches an application is never wrong.
 *
 * Reset
 * -----
 * A TCP segment is turned into the reset that its sender would get from a peer that does not know the connection (RFC
 * 9293, 3.10.7.1), and sent back to where it came from: what comes in goes out, and what goes out comes in. Its
 * sequence number is the one that the sender has acknowledged last, so the sender takes it; the other side learns of it
 * when it sends something. No copy is made. A reset is never answered, nor what has IP options, extension headers or
 * is a fragment.
 *
 * Needs Linux 5.8 (bpf_csum_level).
 */
#include <remora/packet.h>
#include <remora/params.h>
#include <remora/random.h>
#include <remora/rule.h>
#include <remora/tcp.h>
#include <remora/tos.h>
#include <remora/verdict.h>

#define MAX_RULES 16

const volatile struct remora_rule rules[MAX_RULES] REMORA_UNIT("rule") REMORA_COUNT("rules_count")
	REMORA_HELP("which packets, the first match decides: deny is hit, allow is spared: deny tcp any 5432") = {};
const volatile __u32 rules_count = 0;
const volatile __u32 drop REMORA_UNIT("percent") REMORA_MAX("100%") REMORA_HELP("packets lost") = 0;
const volatile __u32 reset REMORA_UNIT("percent") REMORA_MAX("100%")
	REMORA_HELP("TCP segments answered with a reset, of those that are not lost") = 0;
const volatile __u32 corrupt REMORA_UNIT("percent") REMORA_MAX("100%")
	REMORA_HELP("packets damaged so that the receiver drops them, of the rest") = 0;

/* What was done, in packets as the program sees them. */
struct faults {
	__u64 hit; /* by the rules: those below are of these */
	__u64 dropped;
	__u64 reset;
	__u64 not_reset;	/* reset was asked for, and cannot be had: options, extension headers, fragments */
	__u64 corrupted_payload;
	__u64 corrupted_header; /* where no checksum would tell about the payload */
};

struct done {
	struct faults ingress;
	struct faults egress;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct done);
} done SEC(".maps");

/* See remora/rule.h. Nothing in it outlives a packet. */
struct scratch {
	struct remora_subject subject;
	struct remora_packet packet;
	struct remora_tcp tcp;
	struct remora_tcp_header header;
	union {
		struct iphdr v4;
		struct ipv6hdr v6;
	} ip;
	__be32 pseudo[10];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *scratch_of(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&scratch, &key);
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return sum + (sum >> 16);
}

/* The sum of the pseudo header, from whichever side: addresses, the transport's length and protocol. */
static __always_inline __u32 pseudo_sum(struct scratch *at, __u32 length)
{
	const struct remora_flow *flow = &at->subject.flow;

	__builtin_memset(at->pseudo, 0, sizeof(at->pseudo));
	if (at->packet.family == REMORA_IPV6) {
		__builtin_memcpy(at->pseudo, flow, 2 * sizeof(flow->source));
	} else {
		at->pseudo[0] = flow->source.words[3];
		at->pseudo[1] = flow->destination.words[3];
	}
	at->pseudo[8] = bpf_htonl(length);
	at->pseudo[9] = bpf_htonl(at->packet.protocol);
	return bpf_csum_diff(NULL, 0, at->pseudo, sizeof(at->pseudo), 0);
}

enum answer {
	ANSWERED,
	CANNOT_ANSWER,
	NO_QUESTION, /* not TCP, or a reset itself */
	BROKEN,	     /* half of it is rewritten: it must not go on */
};

/* The new IP header, from the old one's addresses. */
static __always_inline __u32 ip_header(struct scratch *at)
{
	const struct remora_flow *flow = &at->subject.flow;

	__builtin_memset(&at->ip, 0, sizeof(at->ip));
	if (at->packet.family == REMORA_IPV4) {
		at->ip.v4.version = 4;
		at->ip.v4.ihl = 5;
		at->ip.v4.tot_len = bpf_htons(sizeof(at->ip.v4) + sizeof(at->header));
		at->ip.v4.frag_off = bpf_htons(0x4000);
		at->ip.v4.ttl = 64;
		at->ip.v4.protocol = IPPROTO_TCP;
		at->ip.v4.saddr = flow->destination.words[3];
		at->ip.v4.daddr = flow->source.words[3];
		at->ip.v4.check = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)&at->ip.v4, sizeof(at->ip.v4), 0));
		return sizeof(at->ip.v4);
	}
	at->ip.v6.version = 6;
	at->ip.v6.payload_len = bpf_htons(sizeof(at->header));
	at->ip.v6.nexthdr = IPPROTO_TCP;
	at->ip.v6.hop_limit = 64;
	__builtin_memcpy(&at->ip.v6.saddr, &flow->destination, sizeof(flow->destination));
	__builtin_memcpy(&at->ip.v6.daddr, &flow->source, sizeof(flow->source));
	return sizeof(at->ip.v6);
}

/*
 * Makes a segment its own answer. A global function, as `spoil` below: the verifier looks at it once, by itself, and
 * what it is about stands in the scratch map.
 */
__attribute__((noinline)) int answer(struct __sk_buff *skb)
{
	struct scratch *at = scratch_of();
	struct remora_tcp_header *header;
	struct remora_tcp *tcp;
	__u32 start, length, ip;
	__be16 checksum;
	bool partial;
	struct {
		__u8 destination[ETH_ALEN];
		__u8 source[ETH_ALEN];
	} macs;

	if (!skb || !at)
		return CANNOT_ANSWER;
	tcp = &at->tcp;
	if (at->packet.protocol != IPPROTO_TCP)
		return NO_QUESTION;
	ip = at->packet.family == REMORA_IPV6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	if (at->packet.fragment != REMORA_WHOLE || at->packet.transport_offset != ip ||
	    !remora_tcp(skb, &at->packet, tcp))
		return CANNOT_ANSWER;
	if (tcp->flags & REMORA_TCP_RST)
		return NO_QUESTION;
	start = remora_network_start(skb, &at->packet);
	length = tcp->header + tcp->payload;
	if (bpf_skb_load_bytes(skb, start + ip + offsetof(struct remora_tcp_header, checksum), &checksum,
			       sizeof(checksum)) ||
	    bpf_skb_change_tail(skb, start + ip + sizeof(*header), 0))
		return CANNOT_ANSWER;
	partial = checksum == fold(pseudo_sum(at, length));

	header = &at->header;
	__builtin_memset(header, 0, sizeof(*header));
	header->source = at->subject.flow.destination_port;
	header->destination = at->subject.flow.source_port;
	header->words = sizeof(*header) / 4 << 4;
	header->flags = REMORA_TCP_RST;
	if (tcp->flags & REMORA_TCP_ACK) {
		header->sequence = bpf_htonl(tcp->acknowledgement);
	} else {
		header->acknowledgement = bpf_htonl(remora_tcp_end(tcp));
		header->flags |= REMORA_TCP_ACK;
	}
	/* Who was to fill in the old one's checksum will fill in this one's. */
	header->checksum = fold(pseudo_sum(at, sizeof(*header)));
	if (!partial) {
		__u32 seed = header->checksum;

		header->checksum = 0;
		header->checksum = ~fold(bpf_csum_diff(NULL, 0, (__be32 *)header, sizeof(*header), seed));
	}
	if (bpf_skb_store_bytes(skb, start + ip, header, sizeof(*header), BPF_F_RECOMPUTE_CSUM))
		return BROKEN;
	if (ip_header(at) == sizeof(at->ip.v4) ?
		    bpf_skb_store_bytes(skb, start, &at->ip.v4, sizeof(at->ip.v4), BPF_F_RECOMPUTE_CSUM) :
		    bpf_skb_store_bytes(skb, start, &at->ip.v6, sizeof(at->ip.v6), BPF_F_RECOMPUTE_CSUM))
		return BROKEN;
	if (start < ETH_HLEN)
		return ANSWERED;
	if (bpf_skb_load_bytes(skb, 0, &macs, sizeof(macs)) ||
	    bpf_skb_store_bytes(skb, 0, macs.source, ETH_ALEN, 0) ||
	    bpf_skb_store_bytes(skb, ETH_ALEN, macs.destination, ETH_ALEN, 0))
		return BROKEN;
	return ANSWERED;
}

/* Turns one bit of the byte at this place. */
static __always_inline bool turn(struct __sk_buff *skb, __u32 place, __u8 bits)
{
	__u8 byte;

	if (bpf_skb_load_bytes(skb, place, &byte, sizeof(byte)))
		return false;
	byte ^= bits;
	return !bpf_skb_store_bytes(skb, place, &byte, sizeof(byte), BPF_F_RECOMPUTE_CSUM);
}

enum spoiled {
	SPOILED_NOTHING,
	SPOILED_PAYLOAD,
	SPOILED_HEADER,
};

/* Damages a packet so that its receiver sees it. */
__attribute__((noinline)) int spoil(struct __sk_buff *skb)
{
	struct scratch *at = scratch_of();
	__u32 start, transport, drawn = bpf_get_prandom_u32();
	__u32 headers = 0, field = 0; /* of the transport: how long, and where its checksum is */
	__u32 payload = 0, length;
	bool complete = false;
	__be16 checksum = 0;

	if (!skb || !at)
		return SPOILED_NOTHING;
	start = remora_network_start(skb, &at->packet);
	transport = start + at->packet.transport_offset;
	if (at->packet.fragment == REMORA_WHOLE && at->packet.has_transport) {
		struct remora_cursor network = remora_network_of(skb, &at->packet);
		bool v6 = at->packet.family == REMORA_IPV6;
		__be16 said;

		if (at->packet.protocol == IPPROTO_TCP && remora_tcp(skb, &at->packet, &at->tcp)) {
			headers = at->tcp.header;
			field = offsetof(struct remora_tcp_header, checksum);
		} else if (at->packet.protocol == IPPROTO_UDP) {
			headers = 8;
			field = 6;
		} else if (at->packet.protocol == IPPROTO_ICMP || at->packet.protocol == IPPROTO_ICMPV6) {
			headers = 8;
			field = 2;
		}
		if (headers &&
		    remora_peek(&network, v6 ? offsetof(struct ipv6hdr, payload_len) : offsetof(struct iphdr, tot_len),
				&said, sizeof(said)) &&
		    !bpf_skb_load_bytes(skb, transport + field, &checksum, sizeof(checksum))) {
			length = bpf_ntohs(said) + (v6 ? sizeof(struct ipv6hdr) : 0) - at->packet.transport_offset;
			complete = checksum && checksum != fold(pseudo_sum(at, length)) && !skb->gso_segs;
			if (complete && length > headers && length <= skb->len)
				payload = length - headers;
		}
	}
	if (payload) {
		/* A device has said that the checksum is right: the receiver is to look for itself. */
		bpf_csum_level(skb, BPF_CSUM_LEVEL_RESET);
		return turn(skb, transport + headers + drawn % payload, 1 << (drawn >> 29)) ? SPOILED_PAYLOAD :
											     SPOILED_NOTHING;
	}
	/* A wrong transport checksum alone would do where it is final, and where it is yet to be. */
	if (checksum)
		turn(skb, transport + field, 1 << (drawn >> 29));
	/* One bit of IPv4's checksum, or of IPv6's version. */
	if (at->packet.family == REMORA_IPV4)
		start += offsetof(struct iphdr, check);
	return turn(skb, start, at->packet.family == REMORA_IPV4 ? 1 << (drawn & 7) : 0x10 << (drawn & 3)) ?
		       SPOILED_HEADER :
		       SPOILED_NOTHING;
}

/*
 * Back to where the packet came from. What egress sees at the host's end of a pair comes in there, on the device that
 * it has last come in on; what it sees in the pod has come in nowhere, or elsewhere.
 */
static __always_inline int back(struct __sk_buff *skb, enum remora_direction direction)
{
	bool came_in = direction == REMORA_INGRESS || skb->ingress_ifindex == skb->ifindex;

	return bpf_redirect(skb->ifindex, came_in ? 0 : BPF_F_INGRESS);
}

static __always_inline int fault(struct __sk_buff *skb, enum remora_direction direction)
{
	struct scratch *at = scratch_of();
	struct faults *faults;
	struct done *all;
	__u32 i, key = 0;

	if (!drop && !reset && !corrupt)
		return REMORA_NEXT;
	all = bpf_map_lookup_elem(&done, &key);
	if (!all || !at)
		return REMORA_NEXT;
	faults = direction == REMORA_INGRESS ? &all->ingress : &all->egress;
	at->packet = remora_parse(skb);
	if (!at->packet.family || at->packet.malformed)
		return REMORA_NEXT;
	remora_subject(skb, &at->packet, &at->subject);
	if (at->subject.discovery)
		return REMORA_NEXT;
	if (rules_count) {
#pragma clang loop unroll(disable)
		for (i = 0; i < MAX_RULES && i < rules_count; i++)
			if (remora_rule_matches(&rules[i], &at->subject, direction))
				break;
		if (i >= MAX_RULES || i >= rules_count || rules[i].action != REMORA_DENY)
			return REMORA_NEXT;
	}
	faults->hit++;
	if (remora_chance(drop)) {
		faults->dropped++;
		return REMORA_DROP;
	}
	if (remora_chance(reset)) {
		switch (answer(skb)) {
		case ANSWERED:
			faults->reset++;
			return back(skb, direction);
		case CANNOT_ANSWER:
			faults->not_reset++;
			break;
		case BROKEN:
			faults->not_reset++;
			return REMORA_DROP;
		}
	}
	if (remora_chance(corrupt)) {
		int spoiled = spoil(skb);

		if (spoiled == SPOILED_PAYLOAD)
			faults->corrupted_payload++;
		else if (spoiled == SPOILED_HEADER)
			faults->corrupted_header++;
	}
	return REMORA_NEXT;
}

SEC("tc/ingress")
int fault_ingress(struct __sk_buff *skb)
{
	return fault(skb, REMORA_INGRESS);
}

SEC("tc/egress")
int fault_egress(struct __sk_buff *skb)
{
	return fault(skb, REMORA_EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
