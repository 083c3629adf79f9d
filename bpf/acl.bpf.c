// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * acl: allows or denies by prefix, protocol and ports. It keeps no state: each packet is judged by itself, so with
 * `default_action: deny` answers need a rule as well (`allow egress tcp any sport 443`).
 *
 * Rules are tried in order, the first that matches decides, `default_action` where none does. A prefix is the remote
 * side: the source on ingress, the destination on egress. One body serves both directions, over counters they share.
 *
 *  - ARP always passes, and no rule speaks of it. IPv6 neighbour and router discovery (hop limit 255) passes unless a
 *    rule that names icmpv6 denies it. So a pod with a default of deny still finds its gateway.
 *  - Other packets that are not IP match rules without prefix, protocol and ports (`deny any`), else the default.
 *  - Later fragments have no ports: a rule with ports does not match them. So what `deny tcp any 80` drops lacks its
 *    first fragment and is never put together; and with a default of deny, `allow udp any 53` lets no fragments
 *    through, since nothing says that they belong to port 53.
 *  - What cannot be read (cut short, more than 8 IPv6 extension headers) is dropped: no rule can be sure about it.
 *  - Without rules and with a default of allow, the verifier removes all of it.
 */
#include <remora/packet.h>
#include <remora/params.h>
#include <remora/prefix.h>
#include <remora/verdict.h>

#define MAX_RULES 32

const volatile struct remora_rule rules[MAX_RULES] REMORA_UNIT("rule") REMORA_COUNT("rules_count")
	REMORA_HELP("ordered rules, the first match decides: deny tcp 10.0.0.0/8 80-90; allow icmp") = {};
const volatile __u32 rules_count = 0;
const volatile __u32 default_action REMORA_CHOICE("allow", "1") REMORA_CHOICE("deny", "2")
	REMORA_HELP("what happens to a packet that no rule matches") = REMORA_ALLOW;

struct hits {
	__u64 ingress;
	__u64 egress;
};

/* Packets by what decided about them. `neighbour`: ARP, and IPv6 discovery that no rule decided about. */
struct decisions {
	struct hits rules[MAX_RULES];
	struct hits by_default;
	struct hits neighbour;
	struct hits malformed;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decisions);
} decisions SEC(".maps");

/* A packet as the rules see it. */
struct subject {
	struct remora_flow flow;
	__u32 protocol;	 /* NOT_IP where it has none */
	__u32 no_ports;	 /* 1: no rule with ports matches */
	__u32 discovery; /* 1: IPv6 neighbour or router discovery */
	__u32 reserved;
};

/*
 * Where the subject is put together, in place of the stack: the verifier keeps no account of what stands in a map, so
 * all ways through the headers come out as one, and the rules are gone through once. Nothing in it outlives a packet.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct subject);
} scratch SEC(".maps");

#define NOT_IP 256

/* 0 where the port is in the range; otherwise the sign of how far it is short of the one end or past the other. */
static __always_inline __u32 outside(__be16 port, __u32 first, __u32 last)
{
	__u32 value = bpf_ntohs(port);

	return ((value - first) | (last - value)) >> 31;
}

/*
 * All differences are gathered and tested at once: only the rule, which the verifier knows, decides about branches. So
 * each rule is a few instructions more for the verifier, instead of a few ways more through all the rules after it.
 */
static __always_inline bool matches(const volatile struct remora_rule *rule, const struct subject *subject,
				    enum remora_direction direction)
{
	const struct remora_flow *flow = &subject->flow;
	__u8 match = rule->match;
	__u64 differs;

	if (rule->direction != REMORA_BOTH && rule->direction != direction)
		return false;
	differs = match & REMORA_MATCH_PROTOCOL ? subject->protocol ^ rule->protocol : subject->discovery;
	if (match & (REMORA_MATCH_SOURCE_PORT | REMORA_MATCH_DESTINATION_PORT))
		differs |= subject->no_ports;
	if (match & REMORA_MATCH_SOURCE_PORT)
		differs |= outside(flow->source_port, rule->source_port_first, rule->source_port_last);
	if (match & REMORA_MATCH_DESTINATION_PORT)
		differs |= outside(flow->destination_port, rule->destination_port_first, rule->destination_port_last);
	differs |= remora_prefix_differs(&rule->prefix, flow->family,
					 direction == REMORA_INGRESS ? &flow->source : &flow->destination);
	return !differs;
}

static __always_inline int judge(struct __sk_buff *skb, enum remora_direction direction)
{
	struct remora_packet packet;
	struct decisions *all;
	struct subject *subject;
	struct hits *hits;
	__u32 action, i, key = 0;

	if (!rules_count && default_action == REMORA_ALLOW)
		return REMORA_NEXT;
	all = bpf_map_lookup_elem(&decisions, &key);
	subject = bpf_map_lookup_elem(&scratch, &key);
	if (!all || !subject)
		return REMORA_DROP;
	packet = remora_parse(skb);
	if (packet.malformed) {
		hits = &all->malformed;
		action = REMORA_DENY;
	} else if (packet.ethertype == ETH_P_ARP) {
		hits = &all->neighbour;
		action = REMORA_ALLOW;
	} else {
		remora_flow(skb, &packet, &subject->flow);
		subject->protocol = packet.family ? packet.protocol : NOT_IP;
		subject->no_ports = !packet.has_transport || !remora_has_ports(packet.protocol);
		subject->discovery = remora_is_neighbour_discovery(skb, &packet);
#pragma clang loop unroll(disable)
		for (i = 0; i < MAX_RULES && i < rules_count; i++)
			if (matches(&rules[i], subject, direction))
				break;
		if (i < MAX_RULES && i < rules_count) {
			hits = &all->rules[i];
			action = rules[i].action;
		} else if (subject->discovery) {
			hits = &all->neighbour;
			action = REMORA_ALLOW;
		} else {
			hits = &all->by_default;
			action = default_action;
		}
	}
	if (direction == REMORA_INGRESS)
		hits->ingress++;
	else
		hits->egress++;
	return action == REMORA_ALLOW ? REMORA_NEXT : REMORA_DROP;
}

SEC("tc/ingress")
int acl_ingress(struct __sk_buff *skb)
{
	return judge(skb, REMORA_INGRESS);
}

SEC("tc/egress")
int acl_egress(struct __sk_buff *skb)
{
	return judge(skb, REMORA_EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
