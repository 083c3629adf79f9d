/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The verdicts of a program in a chain, by what they mean there.
 *
 * Any TC verdict may be returned. By default TC_ACT_UNSPEC, TC_ACT_OK and TC_ACT_PIPE go on to the next program of
 * the chain, and everything else ends it. REMORA_NEXT is the one to prefer: it also lets the programs run that stand
 * behind ours where a program is attached without a chain (-1 is TCX_NEXT too).
 */
#ifndef REMORA_VERDICT_H
#define REMORA_VERDICT_H

#include "kernel.h"

enum remora_verdict {
	REMORA_NEXT = TC_ACT_UNSPEC,
	REMORA_DROP = TC_ACT_SHOT,
};

#endif
