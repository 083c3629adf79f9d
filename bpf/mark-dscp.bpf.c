// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * mark-dscp: gives packets a DSCP, an skb priority and bits of the skb mark. It drops nothing.
 *
 * Rules are tried in order, the first that matches decides; its DSCP may be `keep`, which leaves the packet alone.
 * What no rule matches gets `dscp`. A prefix is the remote side: the source on ingress, the destination on egress.
 * The priority and the mark go to the packets that are given a DSCP, or to all where neither rules nor `dscp` are set.
 *
 *  - ECN bits stay. IPv6 has the DSCP in its traffic class; what stands before the IP header does not matter.
 *  - IPv6 neighbour and router discovery matches rules that name icmpv6, and nothing else.
 *  - Later fragments have no ports: a rule with ports does not match them. Mark by prefix where that matters.
 *  - What is not IP has no DSCP, but `any` matches it, and it can have a priority and a mark. What cannot be read stays.
 *  - Of the mark only the bits of `mark_mask` change: others are the CNI plugin's. Without a mask none do.
 *  - Where nothing is asked for, the verifier removes all of it.
 */
#include <remora/params.h>
#include <remora/rule.h>
#include <remora/tos.h>
#include <remora/verdict.h>

#define MAX_RULES 32

const volatile __u8 dscp REMORA_UNIT("dscp")
	REMORA_HELP("code point of what no rule matches, by name or number; keep: as it is") = REMORA_KEEP_DSCP;
const volatile struct remora_rule rules[MAX_RULES] REMORA_UNIT("dscprule") REMORA_COUNT("rules_count")
	REMORA_HELP("ordered rules, the first match decides: EF udp any 5060; AF41 tcp 10.0.0.0/8 443; keep any") = {};
const volatile __u32 rules_count = 0;
const volatile __s64 priority REMORA_MIN("-1") REMORA_MAX("4294967295")
	REMORA_HELP("skb priority to set, which queueing disciplines class by; -1: as it is") = -1;
const volatile __u32 mark REMORA_HELP("bits of the skb mark to set, of those in mark_mask") = 0;
const volatile __u32 mark_mask REMORA_HELP("bits of the skb mark that may change; 0: none") = 0;

/* Packets by what happened to them. */
struct outcomes {
	__u64 marked;	 /* have another DSCP now */
	__u64 already;	 /* had it */
	__u64 unchanged; /* no DSCP was asked for: `keep`, or no match */
	__u64 not_ip;	 /* a DSCP was asked for, and there is no place for it */
	__u64 malformed;
	__u64 failed;	 /* could not be written: no memory */
	__u64 tagged;	 /* have the priority or the mark now, whatever became of the DSCP */
};

struct hits {
	__u64 ingress;
	__u64 egress;
};

struct markings {
	struct outcomes ingress;
	struct outcomes egress;
	struct hits rules[MAX_RULES];
	struct hits by_default;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct markings);
} markings SEC(".maps");

/*
 * Where the subject is put together, see remora/rule.h; and where the verifier forgets what it learned of the packet
 * and of the rules on its way, or it would follow the rest once for each such way. Nothing in it outlives a packet.
 */
struct decision {
	struct remora_subject subject;
	__u64 packet; /* union remora_packet_word */
	__u64 wanted; /* a code point, or REMORA_KEEP_DSCP */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct decision);
} scratch SEC(".maps");

static __always_inline int mark_packet(struct __sk_buff *skb, enum remora_direction direction)
{
	const bool tags = priority >= 0 || mark_mask;
	const bool everything = !rules_count && dscp == REMORA_KEEP_DSCP;
	volatile struct decision *decision;
	struct remora_subject *subject;
	union remora_packet_word found;
	struct outcomes *outcomes;
	struct markings *all;
	struct hits *hits;
	__u32 wanted, i, key = 0;
	int changed;

	if (everything && !tags)
		return REMORA_NEXT;
	all = bpf_map_lookup_elem(&markings, &key);
	if (!all)
		return REMORA_NEXT;
	outcomes = direction == REMORA_INGRESS ? &all->ingress : &all->egress;
	hits = &all->by_default;
	found.packet = remora_parse(skb);
	if (found.packet.malformed) {
		outcomes->malformed++;
		return REMORA_NEXT;
	}
	if (rules_count) {
		decision = bpf_map_lookup_elem(&scratch, &key);
		if (!decision)
			return REMORA_NEXT;
		subject = (struct remora_subject *)&decision->subject;
		decision->packet = found.word;
		remora_subject(skb, &found.packet, subject);
		decision->wanted = subject->discovery ? REMORA_KEEP_DSCP : dscp;
#pragma clang loop unroll(disable)
		for (i = 0; i < MAX_RULES && i < rules_count; i++)
			if (remora_rule_matches(&rules[i], subject, direction))
				break;
		if (i < MAX_RULES && i < rules_count) {
			decision->wanted = rules[i].action;
			hits = &all->rules[i];
		}
		wanted = decision->wanted;
		found.word = decision->packet;
	} else {
		wanted = remora_is_neighbour_discovery(skb, &found.packet) ? REMORA_KEEP_DSCP : dscp;
	}
	if (direction == REMORA_INGRESS)
		hits->ingress++;
	else
		hits->egress++;

	if (tags && (everything || wanted != REMORA_KEEP_DSCP)) {
		if (priority >= 0)
			skb->priority = priority;
		if (mark_mask)
			skb->mark = (skb->mark & ~mark_mask) | (mark & mark_mask);
		outcomes->tagged++;
	}
	if (wanted == REMORA_KEEP_DSCP) {
		outcomes->unchanged++;
		return REMORA_NEXT;
	}
	if (!found.packet.family) {
		outcomes->not_ip++;
		return REMORA_NEXT;
	}
	changed = remora_set_tos(skb, &found.packet, REMORA_DSCP_MASK, wanted << REMORA_DSCP_SHIFT);
	if (changed > 0)
		outcomes->marked++;
	else if (changed == 0)
		outcomes->already++;
	else
		outcomes->failed++;
	return REMORA_NEXT;
}

SEC("tc/ingress")
int mark_ingress(struct __sk_buff *skb)
{
	return mark_packet(skb, REMORA_INGRESS);
}

SEC("tc/egress")
int mark_egress(struct __sk_buff *skb)
{
	return mark_packet(skb, REMORA_EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
