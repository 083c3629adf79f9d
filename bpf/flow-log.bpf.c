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
#include <remora/ending.h>
#include <remora/flows.h>
#include <remora/tcp.h>
#include <remora/verdict.h>
#include <remora/wire.h>

#define MAX_FLOWS 8192

enum icmp_type { ICMP_ECHOREPLY = 0, ICMP_ECHO = 8, ICMPV6_ECHO_REQUEST = 128, ICMPV6_ECHO_REPLY = 129 };

const volatile bool tcp REMORA_HELP("follow TCP: flags, the handshake's round-trip time, retransmissions") = true;

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_FLOWS);
	__type(key, struct remora_flow);
	__type(value, struct remora_flow_record);
} flows SEC(".maps");

/*
 * Locks for the records, each for those that hash to it: a record of an LRU map cannot hold one itself. They serialise
 * what is written to one record; a lock shared with another flow costs a wait of some nanoseconds. What they cannot
 * prevent: that a full map gives a record to another flow between lookup and lock, which then has a packet too many.
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

/* Of one direction: packets that are in a record, and that are in none; records that were made. */
struct counts {
	__u64 logged;
	__u64 not_ip;	 /* ARP, LLDP, ... */
	__u64 malformed; /* a header is cut short or contradicts itself */
	__u64 refused;	 /* the kernel had no room for a new record at that moment */
	__u64 created;
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

/* How the packet ended that was logged last on this CPU, where a later program dropped it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct remora_ending);
} ended SEC(".maps") REMORA_TOLD("ending");

/*
 * A packet as it is written down, in place of the stack. It stays until the next one on this CPU, since only then it is
 * known whether it has passed the rest of the chain; `logged` tells in which direction it was logged, 0 where it was not.
 */
struct working {
	struct remora_flow flow; /* as the packet goes; once it is logged, as the pod sends */
	__u64 packets;
	__u64 bytes;
	__u64 ip_bytes;
	struct remora_tcp tcp;
	__u32 is_tcp;
	__u32 segment_size; /* payload of each segment, 0 where there is but one */
	enum remora_direction logged;
	__u32 reserved;
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

/* What ICMP has in the place of ports. */
static __always_inline void icmp_ports(struct __sk_buff *skb, const struct remora_packet *packet,
				       struct remora_flow *flow)
{
	struct remora_cursor transport = remora_transport_of(skb, packet);
	struct remora_icmp icmp;

	remora_icmp(&transport, &icmp);
	if (packet->family == REMORA_IPV4 ? icmp.type == ICMP_ECHOREPLY : icmp.type == ICMPV6_ECHO_REPLY) {
		/* As if it were sent back. */
		flow->source_port = bpf_htons((packet->family == REMORA_IPV4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST) << 8);
	} else {
		flow->destination_port = bpf_htons(icmp.type << 8 | icmp.code);
	}
}

/* What describe() returns. */
enum kind { NOT_IP = 0, MALFORMED = 1, DESCRIBED = 2 };

/*
 * Writes down in `scratch` what the packet is. A global function for the same reason as remora_walk(): the ways through
 * the headers end here for the verifier, and do not go on through all that follows.
 */
__attribute__((noinline)) int describe(struct __sk_buff *skb)
{
	__u64 packets, bytes, around;
	struct remora_packet packet;
	struct working *working;
	__u32 total, key = 0;

	working = bpf_map_lookup_elem(&scratch, &key);
	if (!working)
		return MALFORMED;
	packet = remora_parse(skb);
	if (packet.malformed)
		return MALFORMED;
	if (!packet.family)
		return NOT_IP;
	remora_flow(skb, &packet, &working->flow);
	if (packet.has_transport && !remora_has_ports(packet.protocol))
		icmp_ports(skb, &packet, &working->flow);
	working->is_tcp = tcp && remora_tcp(skb, &packet, &working->tcp);
	working->segment_size = skb->gso_size;
	total = working->is_tcp ? packet.transport_offset + working->tcp.header + working->tcp.payload :
				  remora_ip_length(skb, &packet);
	packets = remora_wire_packets(skb);
	bytes = remora_wire_bytes(skb, &packet);
	/* What is around the IP packet: a link-layer header for each segment, or that and the padding of a short one. */
	around = (skb->len - total) * packets;
	working->packets = packets;
	working->bytes = bytes;
	working->ip_bytes = around < bytes ? bytes - around : 0;
	return DESCRIBED;
}

/* The handshake and the sequence numbers. `size` is the payload of each segment, or 0 where there is but one. */
static __always_inline void follow(struct remora_flow_record *record, enum remora_direction direction,
				   const struct remora_tcp *tcp, __u32 size, __u64 now)
{
	struct remora_flow_side *side = direction == REMORA_INGRESS ? &record->ingress : &record->egress;
	struct remora_flow_side *other = direction == REMORA_INGRESS ? &record->egress : &record->ingress;
	__u32 end = remora_tcp_end(tcp);

	side->tcp_flags |= tcp->flags;
	if (tcp->flags & REMORA_TCP_RST)
		return;
	if (tcp->flags & REMORA_TCP_SYN) {
		bool again = side->followed == REMORA_FROM_SYN && side->initial_sequence == tcp->sequence;

		if (!again) {
			side->followed = REMORA_FROM_SYN;
			side->initial_sequence = tcp->sequence;
			side->next_sequence = tcp->sequence;
		}
		if (tcp->flags & REMORA_TCP_ACK) {
			if (record->syn_seen && !again)
				record->syn_to_synack = now - record->syn_seen;
			record->syn_seen = 0;
			record->synack_seen = again ? 0 : now;
		} else {
			if (!again) {
				record->connections++;
				record->initiator = direction;
				record->syn_to_synack = record->synack_to_ack = 0;
				other->followed = REMORA_NOT_FOLLOWED;
			}
			record->syn_seen = again ? 0 : now;
			record->synack_seen = 0;
		}
	} else if (record->synack_seen && record->initiator == direction && tcp->flags & REMORA_TCP_ACK) {
		record->synack_to_ack = now - record->synack_seen;
		record->synack_seen = 0;
	}
	if (end == tcp->sequence)
		return;
	if (!side->followed) {
		side->followed = REMORA_FROM_MIDDLE;
		side->next_sequence = tcp->sequence;
	}
	if (remora_tcp_after(side->next_sequence, tcp->sequence)) {
		/* Of a GSO packet, those segments that begin below. */
		__u32 below = side->next_sequence - tcp->sequence;

		if (below > end - tcp->sequence)
			below = end - tcp->sequence;
		side->retransmissions += size ? (below + size - 1) / size : 1;
	}
	if (remora_tcp_after(end, side->next_sequence))
		side->next_sequence = end;
}

/* What became of the packet that was logged last on this CPU. */
static __always_inline void settle(struct working *working)
{
	enum remora_direction direction = working->logged;
	struct remora_flow_record *record;
	struct remora_flow_side *side;
	struct remora_ending *ending;
	struct lock *lock;
	__u32 key = 0;

	working->logged = REMORA_BOTH;
	ending = bpf_map_lookup_elem(&ended, &key);
	if (!ending || !ending->ending)
		return;
	ending->ending = 0;
	if (!direction || ending->verdict != TC_ACT_SHOT)
		return;
	record = bpf_map_lookup_elem(&flows, &working->flow);
	key = lock_of(&working->flow);
	lock = bpf_map_lookup_elem(&locks, &key);
	if (!record || !lock)
		return;
	side = direction == REMORA_INGRESS ? &record->ingress : &record->egress;
	bpf_spin_lock(&lock->lock);
	side->dropped += working->packets;
	__builtin_memcpy(record->dropped_by, ending->program, sizeof(record->dropped_by));
	bpf_spin_unlock(&lock->lock);
}

static __always_inline int log_packet(struct __sk_buff *skb, enum remora_direction direction)
{
	struct remora_flow_record *record;
	struct remora_flow_side *side;
	struct both_counts *both;
	struct working *working;
	struct counts *counted;
	struct lock *lock;
	__u32 key = 0;
	__u64 now;
	int kind;

	working = bpf_map_lookup_elem(&scratch, &key);
	if (!working)
		return REMORA_NEXT;
	settle(working);
	kind = describe(skb);
	both = bpf_map_lookup_elem(&counts, &key);
	if (!both)
		return REMORA_NEXT;
	counted = direction == REMORA_INGRESS ? &both->ingress : &both->egress;
	if (kind != DESCRIBED) {
		if (kind == NOT_IP)
			counted->not_ip++;
		else
			counted->malformed++;
		return REMORA_NEXT;
	}
	if (direction == REMORA_INGRESS)
		remora_turn(&working->flow); /* as the pod sends it */
	now = bpf_ktime_get_ns();
	record = bpf_map_lookup_elem(&flows, &working->flow);
	if (!record) {
		if (bpf_map_update_elem(&flows, &working->flow, working->blank, BPF_NOEXIST) == 0)
			counted->created++;
		record = bpf_map_lookup_elem(&flows, &working->flow);
	}
	key = lock_of(&working->flow);
	lock = bpf_map_lookup_elem(&locks, &key);
	if (!record || !lock) {
		counted->refused++;
		return REMORA_NEXT;
	}
	side = direction == REMORA_INGRESS ? &record->ingress : &record->egress;
	bpf_spin_lock(&lock->lock);
	if (!record->first_seen) {
		record->first_seen = now;
		record->initiator = direction;
	}
	if (now > record->last_seen)
		record->last_seen = now;
	side->packets += working->packets;
	side->bytes += working->bytes;
	side->ip_bytes += working->ip_bytes;
	if (working->is_tcp)
		follow(record, direction, &working->tcp, working->segment_size, now);
	bpf_spin_unlock(&lock->lock);
	working->logged = direction;
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
