/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Matching packets against lists of `struct remora_rule`:
 *
 *	remora_subject(skb, &packet, subject);	// in a scratch map, see below
 *	for (i = 0; i < MAX_RULES && i < rules_count; i++)
 *		if (remora_rule_matches(&rules[i], subject, REMORA_INGRESS))
 *			break;
 *
 * Put the subject into a per-CPU array of one entry rather than onto the stack: the verifier keeps no account of what
 * stands in a map, so all ways through the headers come out as one, and the rules are gone through once.
 */
#ifndef REMORA_RULE_H
#define REMORA_RULE_H

#include "packet.h"
#include "prefix.h"

/* A packet as rules see it. */
struct remora_subject {
	struct remora_flow flow;
	__u32 protocol;	 /* REMORA_NOT_IP where it has none */
	__u32 no_ports;	 /* 1: no rule with ports matches */
	__u32 discovery; /* 1: IPv6 neighbour or router discovery, which only rules that name its protocol match */
	__u32 reserved;
};

#define REMORA_NOT_IP 256

/* Of a packet that is not malformed. */
static __always_inline void remora_subject(struct __sk_buff *skb, const struct remora_packet *packet,
					   struct remora_subject *subject)
{
	remora_flow(skb, packet, &subject->flow);
	subject->protocol = packet->family ? packet->protocol : REMORA_NOT_IP;
	subject->no_ports = !packet->has_transport || !remora_has_ports(packet->protocol);
	subject->discovery = remora_is_neighbour_discovery(skb, packet);
}

/* 0 where the port is in the range; otherwise the sign of how far it is short of the one end or past the other. */
static __always_inline __u32 remora_port_outside(__be16 port, __u32 first, __u32 last)
{
	__u32 value = bpf_ntohs(port);

	return ((value - first) | (last - value)) >> 31;
}

/*
 * All differences are gathered and tested at once: only the rule, which the verifier knows, decides about branches. So
 * each rule is a few instructions more for the verifier, instead of a few ways more through all the rules after it.
 */
static __always_inline bool remora_rule_matches(const volatile struct remora_rule *rule,
						const struct remora_subject *subject, enum remora_direction direction)
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
		differs |= remora_port_outside(flow->source_port, rule->source_port_first, rule->source_port_last);
	if (match & REMORA_MATCH_DESTINATION_PORT)
		differs |= remora_port_outside(flow->destination_port, rule->destination_port_first,
					       rule->destination_port_last);
	differs |= remora_prefix_differs(&rule->prefix, flow->family,
					 direction == REMORA_INGRESS ? &flow->source : &flow->destination);
	return !differs;
}

#endif
