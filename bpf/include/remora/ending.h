/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How a packet ended that a program let go on: written by the stages of the chain behind it, where the program has
 *
 *	struct {
 *		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
 *		__uint(max_entries, 1);
 *		__type(key, __u32);
 *		__type(value, struct remora_ending);
 *	} ended SEC(".maps") REMORA_TOLD("ending");
 *
 * A packet stays on its CPU, and the chain is not entered for another one meanwhile, so what stands there when the program
 * runs next on this CPU is about the packet that it has let go last there; nothing stands there where that one came to the
 * chain's end. It is for the program to take it out (`ending` = 0). Where the packet ends nothing else is paid for, and
 * packets that go on pay nothing.
 *
 * A program in between that sends packets into the same chain (bpf_clone_redirect) breaks this rule: then the last of them is it.
 * What happens to a packet behind the chain, or in the chain of another place (at: host), is not told.
 */
#ifndef REMORA_ENDING_H
#define REMORA_ENDING_H

#include "params.h"

/* prologue.cpp writes it. */
struct remora_ending {
	__u32 ending;	  /* 0: none; else the verdict plus 1, of TC_ACT_OK to TC_ACT_TRAP; or one of those below */
	__s32 verdict;	  /* what the chain returned */
	char program[16]; /* the name of the program that ended it, its first 15 bytes */
};

enum remora_ending_kind {
	REMORA_ENDED_UNSPEC = 10,
	REMORA_ENDED_OTHER = 11,
	REMORA_ENDED_BROKEN = 12, /* the chain itself was broken there, see failurePolicy */
};

_Static_assert(sizeof(struct remora_ending) == 24, "the layout is shared with the chain");

#define REMORA_TOLD(what) REMORA_TAG("told=" what)

#endif
