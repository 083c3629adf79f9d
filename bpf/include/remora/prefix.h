/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Matching addresses against `struct remora_prefix` parameters, and against the prefixes of an LPM trie. */
#ifndef REMORA_PREFIX_H
#define REMORA_PREFIX_H

#include "kernel.h"
#include "params.h"

/*
 * The bits in which an address differs from a prefix, any of them; 0 where it lies within. `family` is the packet's:
 * a packet that is not IP lies only within "any". No branch depends on the packet, so that a list of prefixes costs the
 * verifier no more than its length.
 */
static __always_inline __u64 remora_prefix_differs(const volatile struct remora_prefix *prefix, __u8 family,
						   const union remora_address *address)
{
	__u8 wanted = prefix->family;
	__u32 length = prefix->length;
	__u64 high, low;

	if (!wanted)
		return 0;
	/* A shift by 64 is undefined, so the ends have their own cases. */
	high = length >= 64 ? ~0ULL : ~(~0ULL >> length);
	low = length >= 128 ? ~0ULL : length <= 64 ? 0 : ~(~0ULL >> (length - 64));
	return (wanted ^ family) | ((address->halves[0] ^ prefix->address.halves[0]) & bpf_cpu_to_be64(high)) |
	       ((address->halves[1] ^ prefix->address.halves[1]) & bpf_cpu_to_be64(low));
}

/*
 * The key of an LPM trie of prefixes, of both families in one. `remora maps --node` reads and writes such keys as text.
 * The family comes first, so that no prefix of the one matches an address of the other, 0.0.0.0/0 and ::/0 included.
 */
struct remora_prefix_key {
	__u32 length;	    /* bits that count of what follows: those of `family` to `address`, an IPv4 /n is 128 + n */
	__u8 family;	    /* enum remora_family */
	__u8 reserved[3];
	union remora_address address; /* bits past `length` are 0 */
};

_Static_assert(sizeof(struct remora_prefix_key) == 24, "the layout is shared with the code that writes such keys");

/* What to look an address up with. */
static __always_inline struct remora_prefix_key remora_prefix_key(__u8 family, const union remora_address *address)
{
	struct remora_prefix_key key = {
		.length = 8 * (sizeof(key) - sizeof(key.length)),
		.family = family,
		.address = *address,
	};

	return key;
}

#endif
