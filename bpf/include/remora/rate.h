/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Token buckets: how much of something may pass in a second, and how much at once. What it is (bits, packets, new
 * connections) is the caller's business; here it is "units".
 *
 *	struct {
 *		struct bpf_spin_lock lock;	// at the top of a map's value: the kernel looks for it only there
 *		struct remora_bucket bits;
 *	} *state = bpf_map_lookup_elem(...);
 *	__u64 now = bpf_ktime_get_ns();		// before the lock: under it no helper may be called
 *	bool conforms;
 *
 *	bpf_spin_lock(&state->lock);
 *	remora_bucket_drain(&state->bits, rate, burst, now);
 *	conforms = remora_bucket_has(&state->bits, amount);
 *	if (conforms)
 *		remora_bucket_charge(&state->bits, amount);
 *	bpf_spin_unlock(&state->lock);
 *
 * or remora_bucket_take() for these three steps where one bucket decides.
 *
 * The arithmetic, and why it is exact
 * -----------------------------------
 * The bucket holds what has been *used* of its burst: 0 is a full bucket, so a map's zeroes are a good beginning. It
 * is counted in billionths of a unit: a nanosecond at R units a second gives back exactly R billionths, so nothing is
 * ever rounded, at any rate and however often it is asked. In any time of t nanoseconds no more than
 * burst + rate * t / 10^9 units conform (what is charged without asking aside).
 *
 * All CPUs use one bucket under one lock, which is held for some ten instructions; a lock decides about several
 * buckets at once, so that a packet which one of them refuses costs none of them anything. Two CPUs may read the clock
 * in one order and take the lock in the other: then no time has passed for the second.
 *
 * A caller may charge more than there is: that is a debt, which is paid back at the rate before anything conforms
 * again. So one large thing (an skb of 64 KiB that stands for 45 packets) can pass a small burst, and the rate in
 * the long run holds all the same.
 *
 * 64 bits of billionths are 18 * 10^9 units: a burst is at most REMORA_MAX_BURST, which leaves room for a debt.
 * A bucket that is kept while rate and burst change (a program's maps outlive an `apply`) keeps what is used, but not
 * more than the new burst: a debt that was small at the old rate could silence the new one for hours.
 *
 * Needs Linux 5.1 (spin locks). rate must not be 0.
 */
#ifndef REMORA_RATE_H
#define REMORA_RATE_H

#include "kernel.h"

#define REMORA_BILLION 1000000000ULL
/* In units. As bits it is 1 GB. */
#define REMORA_MAX_BURST 8000000000ULL

/* In billionths of a unit, but for `updated`. */
struct remora_bucket {
	__u64 updated; /* bpf_ktime_get_ns() */
	__u64 used;
	__u64 capacity;
};

/*
 * Gives back what the time since the last call is worth. Comes first in each decision. The division is there so that
 * the product cannot overflow: where it is done, it is no more than `used`.
 */
static __always_inline void remora_bucket_drain(struct remora_bucket *bucket, __u64 rate, __u64 burst, __u64 now)
{
	__u64 capacity = burst * REMORA_BILLION;
	__u64 elapsed = now - bucket->updated;

	if (bucket->capacity != capacity) {
		bucket->capacity = capacity;
		if (bucket->used > capacity)
			bucket->used = capacity;
	}
	if ((__s64)elapsed <= 0)
		return;
	bucket->updated = now;
	if (elapsed > bucket->used / rate)
		bucket->used = 0;
	else
		bucket->used -= elapsed * rate;
}

/* Whether `amount` units fit into what is left. Of what is larger than the burst: whether the bucket is full. */
static __always_inline bool remora_bucket_has(const struct remora_bucket *bucket, __u64 amount)
{
	__u64 wanted = amount * REMORA_BILLION;

	if (wanted > bucket->capacity)
		return bucket->used == 0;
	return bucket->used <= bucket->capacity - wanted;
}

/* Takes `amount` units, whether they are there or not. */
static __always_inline void remora_bucket_charge(struct remora_bucket *bucket, __u64 amount)
{
	bucket->used += amount * REMORA_BILLION;
}

/* Drains, and takes `amount` if it is there: whether it was. Under the caller's lock. */
static __always_inline bool remora_bucket_take(struct remora_bucket *bucket, __u64 rate, __u64 burst, __u64 now,
					       __u64 amount)
{
	remora_bucket_drain(bucket, rate, burst, now);
	if (!remora_bucket_has(bucket, amount))
		return false;
	remora_bucket_charge(bucket, amount);
	return true;
}

#endif
