/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Parameters: how a program says what a user may set, and in which words.
 *
 * Every `const volatile` global is a parameter: its name, type and default are read from BTF. The macros below add
 * what a C type cannot say, as BTF declaration tags:
 *
 *	const volatile __u64 rate REMORA_UNIT("bitrate") REMORA_MIN("8kbit") REMORA_HELP("bits per second let through")
 *		= 10000000;
 *
 * A parameter is written before the program is loaded, and read-only from then on. So the verifier knows its value
 * and removes the branches that it rules out: test parameters early, and a pod pays only for what it uses.
 *
 * The tags
 * --------
 * tag = "remora:" key "=" value, one attribute each. The value is everything after the first "=". Tags that do not
 * start with "remora:" are somebody else's and ignored. A key not listed here, or one given twice (but "choice"),
 * makes the object invalid. A value (V) of min and max is written as a user would write the parameter's value.
 *
 *	help=TEXT	one line for `remora inspect`
 *	unit=U		how text becomes a value, see below; none: integers (decimal, 0x), bool, char[] (a string
 *			with its NUL), enum (an enumerator's name)
 *	min=V, max=V	bounds, both included; of each element, where the parameter is a list
 *	choice=NAME=V	may be repeated: then only these names are accepted; V is an integer
 *	count=GLOBAL	on an array: the global that receives the number of elements given. It is an integer,
 *			`const volatile` too, and no parameter of its own
 *	from=SOURCE	filled from the pod's interface where nobody sets it, and not for a pod's annotation to set:
 *			addresses (all it was given, a list), ipv4, ipv6 (the first of the family, the default
 *			where there is none), mac, mtu, directions (1 where the program's ingress side
 *			is in the chain, plus 2 where its egress side is)
 *	scope=S		on a map: "pod" (each pod has its own, the default) or "node" (one for all pods)
 *	told=ending	on a map: how packets ended behind the program, see ending.h
 *	when=GLOBAL	on a map: it is only made where this parameter is not 0; the program must not reach it otherwise
 *
 *	unit		C type			text				value
 *	bitrate		unsigned integer	10Mbit, 1.5Gbit, 800kbit	bits per second; k is 1000
 *	size		unsigned integer	64KiB, 1MB, 1500		bytes; k is 1000, Ki is 1024
 *	duration	unsigned integer	20ms, 1.5s, 10us, 5ns		nanoseconds
 *	percent		__u32, __u64		0.5%, 50%			parts per million; 100% is 1000000
 *	dscp		unsigned integer	EF, AF41, CS3, 0..63, keep	the 6-bit code point; 64: as it is
 *	ipv4		__be32, __u8[4]		10.1.2.3			network byte order
 *	ipv6		16 bytes		2001:db8::1			network byte order
 *	mac		__u8[6]			02:00:00:00:00:01
 *	address		union remora_address	either family			network byte order, IPv4 v4-mapped
 *	prefix		struct remora_prefix	10.0.0.0/8, 2001:db8::/32, any
 *	rule		struct remora_rule	deny tcp 10.0.0.0/8 80-90
 *	dscprule	struct remora_rule	EF udp 10.0.0.0/8 5060		action: as of dscp
 *
 * An array is a list (unless its unit takes just that array for one value, or it is char[]): elements separated by
 * ";" or "," or newlines, empty ones dropped. What a user gives replaces the whole array, the rest of it is zero.
 *
 * A rule's text, keywords in any case, each part but the action optional, in this order:
 *
 *	rule      = action [direction] [protocol] [prefix] [ports] ["sport" ports]
 *	action    = "allow" | "deny"
 *	direction = "ingress" | "egress"
 *	protocol  = "tcp" | "udp" | "sctp" | "icmp" | "icmpv6" | "proto" 0..255
 *	prefix    = address | address "/" length | "any"
 *	ports     = N | N "-" M
 *
 * The text of a `dscprule` has a DSCP or "keep" for an action.
 */
#ifndef REMORA_PARAMS_H
#define REMORA_PARAMS_H

#ifndef __VMLINUX_H__
#include <linux/types.h>
#endif

#if !defined(__bpf__) /* user space, which shares the structs only */
#define REMORA_TAG(text)
#elif __has_attribute(btf_decl_tag)
#define REMORA_TAG(text) __attribute__((btf_decl_tag("remora:" text)))
#else
#error "parameters need a compiler that knows btf_decl_tag: clang 14 or newer"
#endif

#define REMORA_UNIT(unit) REMORA_TAG("unit=" unit)
#define REMORA_MIN(value) REMORA_TAG("min=" value)
#define REMORA_MAX(value) REMORA_TAG("max=" value)
/* The value as digits, since the preprocessor is all that reads it: REMORA_CHOICE("deny", "2"). */
#define REMORA_CHOICE(name, value) REMORA_TAG("choice=" name "=" value)
#define REMORA_COUNT(global) REMORA_TAG("count=" global)
#define REMORA_HELP(text) REMORA_TAG("help=" text)
#define REMORA_FROM(source) REMORA_TAG("from=" source)
/* After a map's name: `} deny_list SEC(".maps") REMORA_SCOPE("node");` */
#define REMORA_SCOPE(scope) REMORA_TAG("scope=" scope)
#define REMORA_WHEN(parameter) REMORA_TAG("when=" parameter)

/* An address of either family, in network byte order; IPv4 as ::ffff:a.b.c.d. */
union remora_address {
	__u8 bytes[16];
	__be32 words[4];
	__be64 halves[2];
};

/* Of a packet 0 means: not IP. Of a prefix 0 means: any packet. */
enum remora_family {
	REMORA_NO_FAMILY = 0,
	REMORA_IPV4 = 4,
	REMORA_IPV6 = 6,
};

/* unit=prefix. All zero is "any", which also matches what is not IP; 0.0.0.0/0 and ::/0 are one family each. */
struct remora_prefix {
	union remora_address address; /* bits past `length` are 0 */
	__u8 length;		      /* bits of `address` that count, 0..128: an IPv4 /n is 96 + n */
	__u8 family;		      /* enum remora_family */
	__u8 reserved[6];
};

enum remora_action {
	REMORA_ALLOW = 1,
	REMORA_DENY = 2,
};

/* unit=dscp, unit=dscprule: "keep". A program that cannot do that says REMORA_MAX("63"). */
#define REMORA_KEEP_DSCP 64

enum remora_direction {
	REMORA_BOTH = 0,
	REMORA_INGRESS = 1,
	REMORA_EGRESS = 2,
};

/* What a rule asks for beyond its prefix and direction; bits of remora_rule.match. */
enum remora_match {
	REMORA_MATCH_PROTOCOL = 1,
	REMORA_MATCH_SOURCE_PORT = 2,
	REMORA_MATCH_DESTINATION_PORT = 4,
};

/* unit=rule, unit=dscprule. Ports in host byte order, first and last included; 0 to 65535 where it does not ask for them. */
struct remora_rule {
	struct remora_prefix prefix; /* the remote side: source on ingress, destination on egress */
	__u16 source_port_first;
	__u16 source_port_last;
	__u16 destination_port_first;
	__u16 destination_port_last;
	__u8 action;	/* enum remora_action; unit=dscprule: the code point, or REMORA_KEEP_DSCP */
	__u8 direction; /* enum remora_direction */
	__u8 protocol;	/* an IP protocol number, where `match` says so */
	__u8 match;	/* enum remora_match */
	__u8 reserved[4];
};

_Static_assert(sizeof(struct remora_prefix) == 24, "the layout is shared with the code that reads parameters");
_Static_assert(sizeof(struct remora_rule) == 40, "the layout is shared with the code that reads parameters");

#endif
