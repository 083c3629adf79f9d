// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * acl: allows or denies by prefix, protocol and ports. It keeps no state: each packet is judged by itself, so with
 * `default_action: deny` answers need a rule as well (`allow egress tcp any sport 443`).
 *
 * With `deny_list`, packets of the node's deny list are dropped before any rule is asked. All pods of the node share the
 * list, and a change of it (`remora maps --node acl denied`) holds for the next packet. It is looked up for IP packets,
 * by their remote side, but not for neighbour and router discovery, which never comes from farther than the own link.
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
 *  - Without rules and deny list and with a default of allow, the verifier removes all of it.
 */
#include <remora/packet.h>
#include <remora/params.h>
#include <remora/prefix.h>
#include <remora/rule.h>
#include <remora/verdict.h>

#define MAX_RULES 32

const volatile struct remora_rule rules[MAX_RULES] REMORA_UNIT("rule") REMORA_COUNT("rules_count")
	REMORA_HELP("ordered rules, the first match decides: deny tcp 10.0.0.0/8 80-90; allow icmp") = {};
const volatile __u32 rules_count = 0;
const volatile __u32 default_action REMORA_CHOICE("allow", "1") REMORA_CHOICE("deny", "2")
	REMORA_HELP("what happens to a packet that no rule matches") = REMORA_ALLOW;
const volatile bool deny_list
	REMORA_HELP("drop what comes from or goes to the node's deny list, before any rule") = false;

/*
 * The deny list. The longest prefix counts a packet that it drops; memory is taken by the prefixes that are in it alone.
 * There is room for two lists of 131072 prefixes: one replaces the other without a gap.
 */
struct denied {
	__u64 packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 2 * 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct remora_prefix_key);
	__type(value, struct denied);
} denied SEC(".maps") REMORA_SCOPE("node") REMORA_WHEN("deny_list");

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
	struct hits deny_list;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decisions);
} decisions SEC(".maps");

/* Where the subject is put together, see remora/rule.h. Nothing in it outlives a packet. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct remora_subject);
} scratch SEC(".maps");

/* Whether the packet's remote side lies within a prefix of the deny list. */
static __always_inline bool is_denied(const struct remora_subject *subject, enum remora_direction direction)
{
	const struct remora_flow *flow = &subject->flow;
	struct remora_prefix_key key;
	struct denied *found;

	if (!flow->family || subject->discovery)
		return false;
	key = remora_prefix_key(flow->family, direction == REMORA_INGRESS ? &flow->source : &flow->destination);
	found = bpf_map_lookup_elem(&denied, &key);
	if (!found)
		return false;
	__sync_fetch_and_add(&found->packets, 1);
	return true;
}

static __always_inline int judge(struct __sk_buff *skb, enum remora_direction direction)
{
	struct remora_packet packet;
	struct decisions *all;
	struct remora_subject *subject;
	struct hits *hits;
	__u32 action, i, key = 0;

	if (!rules_count && default_action == REMORA_ALLOW && !deny_list)
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
		remora_subject(skb, &packet, subject);
		if (deny_list && is_denied(subject, direction)) {
			hits = &all->deny_list;
			action = REMORA_DENY;
			goto decided;
		}
#pragma clang loop unroll(disable)
		for (i = 0; i < MAX_RULES && i < rules_count; i++)
			if (remora_rule_matches(&rules[i], subject, direction))
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
decided:
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
