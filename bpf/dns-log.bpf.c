// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * dns-log: the recent DNS queries over UDP that the pod sent or received, and what became of them. It looks and passes
 * on, whatever the packet is.
 */
#include <remora/flows.h>
#include <remora/verdict.h>

#define MAX_TRANSACTIONS 1024

const volatile __u16 port REMORA_MIN("1") REMORA_HELP("the UDP port of DNS servers") = 53;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_TRANSACTIONS);
	__type(key, __u32);
	__type(value, struct remora_dns_record);
} transactions SEC(".maps");

static __always_inline int log_packet(struct __sk_buff *skb, enum remora_direction direction)
{
	struct remora_packet packet = remora_parse(skb);
	struct remora_dns_record *record;
	__u32 key = 0;

	record = bpf_map_lookup_elem(&transactions, &key);
	if (!record || packet.malformed)
		return REMORA_NEXT;
	record->direction = direction;
	return REMORA_NEXT;
}

SEC("tc/ingress")
int dns_log_ingress(struct __sk_buff *skb)
{
	return log_packet(skb, REMORA_INGRESS);
}

SEC("tc/egress")
int dns_log_egress(struct __sk_buff *skb)
{
	return log_packet(skb, REMORA_EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
