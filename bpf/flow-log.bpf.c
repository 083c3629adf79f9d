// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * flow-log: a record of each flow of the pod: packets and bytes in both directions, TCP flags, times, the handshake's
 * round-trip time, retransmissions. It looks and passes on, whatever the packet is.
 *
 * Both entries write to one record, see flows.h for its fields and for the key. Both directions and several CPUs
 * meet there, and sequence numbers and the handshake are compared before they are set, so it is updated under a lock.
 *
 * `flows` forgets what was not seen for the longest time when it is full. The kernel does not say how often: it is
 * what was made (`created`) less what is there.
 */
#include <remora/flows.h>
#include <remora/verdict.h>
#include <remora/wire.h>

#define MAX_FLOWS 8192

const volatile bool tcp REMORA_HELP("follow TCP: flags, the handshake's round-trip time, retransmissions") = true;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct remora_flow);
	__type(value, struct remora_flow_record);
} flows SEC(".maps");

/*
 * Locks for the records, each for those that hash to it: a record of an LRU map cannot hold one itself. They serialise
 * what is written to one record; a lock shared with another flow costs a wait of some nanoseconds.
 */
#define LOCKS 64

struct lock {
	struct bpf_spin_lock lock;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LOCKS);
	__type(key, __u32);
	__type(value, struct lock);
} locks SEC(".maps");

/* Of one direction. All but `logged` are packets that are in no record. */
struct counts {
	__u64 logged;
	__u64 not_ip;	 /* ARP, LLDP, ... */
	__u64 malformed; /* a header is cut short or contradicts itself */
	__u64 refused;	 /* there was no room for a new record, as where all of them are being made at once */
	__u64 created;	 /* records made */
};

struct both_counts {
	struct counts ingress;
	struct counts egress;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct both_counts);
} counts SEC(".maps");

/*
 * In place of the stack, so that for the verifier all ways through the headers come out as one. Nothing in it outlives
 * a packet.
 */
struct working {
	struct remora_flow flow;
	__u64 blank[sizeof(struct remora_flow_record) / 8]; /* never written: what a new record is */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct working);
} scratch SEC(".maps");

static __always_inline __u32 lock_of(const struct remora_flow *flow)
{
	__u64 mixed = flow->source.halves[1] ^ flow->destination.halves[1] ^
		      ((__u64)flow->source_port << 16 | flow->destination_port);

	return mixed * 0x9e3779b97f4a7c15ULL >> 58;
}

static __always_inline int log_packet(struct __sk_buff *skb, enum remora_direction direction)
{
	struct remora_flow_record *record;
	struct remora_flow_side *side;
	struct remora_packet packet;
	struct both_counts *both;
	struct working *working;
	struct lock *lock;
	struct counts *counted;
	__u64 now, packets, bytes;
	__u32 key = 0;

	both = bpf_map_lookup_elem(&counts, &key);
	working = bpf_map_lookup_elem(&scratch, &key);
	if (!both || !working)
		return REMORA_NEXT;
	counted = direction == REMORA_INGRESS ? &both->ingress : &both->egress;
	packet = remora_parse(skb);
	if (packet.malformed) {
		counted->malformed++;
		return REMORA_NEXT;
	}
	if (!packet.family) {
		counted->not_ip++;
		return REMORA_NEXT;
	}
	packets = remora_wire_packets(skb);
	bytes = remora_wire_bytes(skb, &packet);
	remora_flow(skb, &packet, &working->flow);
	now = bpf_ktime_get_ns();
	record = bpf_map_lookup_elem(&flows, &working->flow);
	if (!record) {
		if (bpf_map_update_elem(&flows, &working->flow, working->blank, BPF_NOEXIST) == 0)
			counted->created++;
		record = bpf_map_lookup_elem(&flows, &working->flow);
		if (!record) {
			counted->refused++;
			return REMORA_NEXT;
		}
	}
	key = lock_of(&working->flow);
	lock = bpf_map_lookup_elem(&locks, &key);
	if (!lock)
		return REMORA_NEXT;
	side = direction == REMORA_INGRESS ? &record->ingress : &record->egress;
	bpf_spin_lock(&lock->lock);
	if (!record->first_seen) {
		record->first_seen = now;
		record->initiator = direction;
	}
	if (now > record->last_seen)
		record->last_seen = now;
	side->packets += packets;
	side->bytes += bytes;
	bpf_spin_unlock(&lock->lock);
	counted->logged++;
	return REMORA_NEXT;
}

SEC("tc/ingress")
int flow_log_ingress(struct __sk_buff *skb)
{
	return log_packet(skb, REMORA_INGRESS);
}

SEC("tc/egress")
int flow_log_egress(struct __sk_buff *skb)
{
	return log_packet(skb, REMORA_EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
