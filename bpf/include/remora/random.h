/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Chance: a probability given as a `percent` parameter (parts per million), decided with the kernel's random numbers.
 *
 *	const volatile __u32 drop REMORA_UNIT("percent") REMORA_MAX("100%") = 0;
 *
 *	if (remora_chance(drop))
 *		return REMORA_DROP;
 *
 * 0% and 100% are certain, and the verifier removes what a parameter of 0 never reaches.
 */
#ifndef REMORA_RANDOM_H
#define REMORA_RANDOM_H

#include "kernel.h"

#define REMORA_CERTAIN 1000000U /* 100%, in parts per million */

/* How many of the 2^32 equally likely numbers that bpf_get_prandom_u32() draws from: none for 0%, all for 100%. */
static __always_inline __u64 remora_share(__u32 per_million)
{
	return per_million >= REMORA_CERTAIN ? 1ULL << 32 : ((__u64)per_million << 32) / REMORA_CERTAIN;
}

/* Decides for a number already drawn: the same number and share always decide alike. */
static __always_inline bool remora_falls(__u32 drawn, __u32 per_million)
{
	return drawn < remora_share(per_million);
}

/* True as often as `per_million` says. Draws a number only where the answer is not certain. */
static __always_inline bool remora_chance(__u32 per_million)
{
	if (!per_million)
		return false;
	if (per_million >= REMORA_CERTAIN)
		return true;
	return remora_falls(bpf_get_prandom_u32(), per_million);
}

#endif
