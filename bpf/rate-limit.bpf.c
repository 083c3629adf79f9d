// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * rate-limit: lets through so many bits and so many packets a second, with bursts. Each direction has buckets of its
 * own; a packet has to fit into both, and is charged to both or to none.
 *
 * What counts is the packet on the wire: each segment of a GSO packet, headers included. Of such a packet only the first
 * segment has to fit; the others are charged as well, as a debt that is paid before anything else passes. So a burst
 * below the 64 KiB of a GSO packet does not starve a bulk stream in favour of small packets, and the rate holds. In any
 * time t no more than burst + rate * t passes, and one GSO packet. remora/rate.h has the arithmetic.
 *
 * The burst, where none is given, is what the rate carries in 250 ms. There is no queue here, so a TCP sender learns of
 * the rate by losses alone, and over short round trips even its smallest window is more than a rate below some 100
 * Mbit/s: it sends until nothing passes, and again when its timer has run out, after 200 ms. What the bucket cannot take
 * up meanwhile is lost to the rate: measured with a burst of 100 ms, TCP reaches half of it. Below 5 Mbit/s a GSO packet
 * of 64 KiB may be a debt of more than 200 ms, and the next timer is one of 500 ms; so there it is up to that.
 * To drop some packets at random before the bucket is empty costs more, as part of the burst is then not used up before
 * that timer runs: 93% instead of 97% of a gigabit.
 * Sending at the rate in the first place would take a queue that minds departure times (fq), and a pod's device has none.
 *
 * `mode: ecn` treats the bucket as a queue of that length would be treated: while more than half of the burst is used,
 * packets of ECN-capable senders are marked, so that they slow down before anything has to be dropped. What does not
 * fit is dropped, whoever sent it: who ignores the marks does not get more than the rate.
 *
 * Without a rate of either kind, the verifier removes all of it.
 */
#include <remora/params.h>
#include <remora/rate.h>
#include <remora/tos.h>
#include <remora/verdict.h>
#include <remora/wire.h>

enum {
	LEAST_BURST = 10000,	  /* bytes: a packet of any device, and then some */
	SLOW_BURST = 162500,	  /* bytes: 250 ms of 5.2 Mbit/s, 500 ms of 2.6 */
	LEAST_PACKET_BURST = 128, /* a GSO packet of 64 KiB has 45 segments of 1448 bytes */
};

enum mode {
	MODE_DROP = 1,
	MODE_ECN = 2,
};

const volatile __u64 rate REMORA_UNIT("bitrate") REMORA_MAX("1000Gbit")
	REMORA_HELP("bits per second on the wire, link header included; 0: any number") = 0;
const volatile __u64 packet_rate REMORA_MAX("1000000000")
	REMORA_HELP("packets per second on the wire; 0: any number") = 0;
const volatile __u64 burst REMORA_UNIT("size") REMORA_MAX("1GB")
	REMORA_HELP("bytes at once; 0: what the rate carries in 250 ms, below 5Mbit in up to 500 ms") = 0;
const volatile __u64 packet_burst REMORA_MAX("1000000000")
	REMORA_HELP("packets at once; 0: what the packet rate carries in 250 ms, at least 128") = 0;
const volatile __u32 mode REMORA_CHOICE("drop", "1") REMORA_CHOICE("ecn", "2")
	REMORA_HELP("ecn: mark packets of ECN-capable senders once half of the burst is used, before any is dropped") =
		MODE_DROP;

/* `bits` and `packets` count billionths, see remora/rate.h. */
struct limit {
	struct bpf_spin_lock lock;
	__u32 reserved;
	struct remora_bucket bits;
	struct remora_bucket packets;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct limit);
} limit SEC(".maps");

/* On the wire. */
struct counter {
	__u64 packets;
	__u64 bytes;
};

/* Marked ones have passed, too. Dropped: by the bucket that had no room; where neither had, by that of bits. */
struct verdicts {
	struct counter conformed;
	struct counter marked;
	struct counter dropped_by_rate;
	struct counter dropped_by_packet_rate;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct verdicts);
} verdicts SEC(".maps");

static __always_inline __u64 bits_at_once(void)
{
	__u64 value = burst * 8;

	if (!value)
		value = rate / 2 < SLOW_BURST * 8 ? rate / 2 : rate / 4 > SLOW_BURST * 8 ? rate / 4 : SLOW_BURST * 8;
	if (value < LEAST_BURST * 8 && !burst)
		value = LEAST_BURST * 8;
	return value < REMORA_MAX_BURST ? value : REMORA_MAX_BURST;
}

static __always_inline __u64 packets_at_once(void)
{
	if (packet_burst)
		return packet_burst;
	return packet_rate / 4 < LEAST_PACKET_BURST ? LEAST_PACKET_BURST : packet_rate / 4;
}

static __always_inline bool half_used(const struct remora_bucket *bucket)
{
	return bucket->used > bucket->capacity / 2;
}

static __always_inline bool mark(struct __sk_buff *skb)
{
	const struct remora_packet packet = remora_parse(skb);

	return remora_mark_congestion(skb, &packet);
}

SEC("tc")
int rate_limit(struct __sk_buff *skb)
{
	__u64 bits_burst = bits_at_once();
	__u64 packets_burst = packets_at_once();
	bool has_bits = true, has_packets = true, congested = false;
	struct remora_packet packet = {};
	struct counter *counter;
	struct verdicts *all;
	struct limit *state;
	__u64 packets, bytes, first, now;
	__u32 key = 0;

	if (!rate && !packet_rate)
		return REMORA_NEXT;
	state = bpf_map_lookup_elem(&limit, &key);
	all = bpf_map_lookup_elem(&verdicts, &key);
	if (!state || !all)
		return REMORA_DROP;
	if (remora_wire_needs_packet(skb))
		packet = remora_parse(skb);
	packets = remora_wire_packets(skb);
	bytes = remora_wire_bytes(skb, &packet);
	first = packets > 1 ? bytes / packets : bytes;
	now = bpf_ktime_get_ns();

	bpf_spin_lock(&state->lock);
	if (rate) {
		remora_bucket_drain(&state->bits, rate, bits_burst, now);
		has_bits = remora_bucket_has(&state->bits, first * 8);
	}
	if (packet_rate) {
		remora_bucket_drain(&state->packets, packet_rate, packets_burst, now);
		has_packets = remora_bucket_has(&state->packets, 1);
	}
	if (has_bits && has_packets) {
		if (rate) {
			remora_bucket_charge(&state->bits, bytes * 8);
			congested = half_used(&state->bits);
		}
		if (packet_rate) {
			remora_bucket_charge(&state->packets, packets);
			congested |= half_used(&state->packets);
		}
	}
	bpf_spin_unlock(&state->lock);

	if (!has_bits)
		counter = &all->dropped_by_rate;
	else if (!has_packets)
		counter = &all->dropped_by_packet_rate;
	else if (mode == MODE_ECN && congested && mark(skb))
		counter = &all->marked;
	else
		counter = &all->conformed;
	counter->packets += packets;
	counter->bytes += bytes;
	return has_bits && has_packets ? REMORA_NEXT : REMORA_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
