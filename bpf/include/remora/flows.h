/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The records that flow-log and dns-log keep in their maps, and user space reads by BTF.
 *
 * Times are CLOCK_MONOTONIC, in nanoseconds: a span between two of them is exact, and user space knows the same clock.
 * A flow's key is always written as the pod sends: `source` is the pod's side, whichever direction a packet has. So
 * both directions of a connection are one record. Addresses and ports are in network byte order.
 */
#ifndef REMORA_FLOWS_H
#define REMORA_FLOWS_H

#include "packet.h"

/* How a direction's sequence numbers are known. */
enum remora_followed {
	REMORA_NOT_FOLLOWED = 0,
	REMORA_FROM_MIDDLE = 1, /* its SYN was not seen */
	REMORA_FROM_SYN = 2,
};

/* One direction of a flow. */
struct remora_flow_side {
	__u64 packets; /* on the wire: each segment of a GSO packet */
	__u64 bytes;   /* of all their frames, link-layer headers included */
	__u64 ip_bytes;		/* the same from the IP header on */
	__u64 retransmissions;	/* packets of TCP that begin below what was seen: sent again, or out of order */
	__u32 initial_sequence; /* of the last SYN */
	__u32 next_sequence;	/* behind the highest byte seen */
	__u64 dropped;		/* of `packets`, those that a later program of the chain has dropped */
	__u8 tcp_flags;		/* all that were seen, as in the header: 1 FIN, 2 SYN, 4 RST, 8 PSH, 16 ACK, ... */
	__u8 followed;		/* enum remora_followed */
	__u8 reserved[6];
};

/*
 * The value of flow-log's `flows`, whose key is struct remora_flow. Of ICMP, type * 256 + code stands in the place of
 * the destination's port: destination_port where the pod sent it, source_port where the pod received it. An echo reply
 * belongs to the record of its request. Later fragments have no ports: all of a protocol between two addresses are one
 * record with ports 0.
 */
struct remora_flow_record {
	enum remora_direction initiator; /* the direction of the last new connection's SYN, else of the first packet */
	__u32 reserved;
	__u64 first_seen;
	__u64 last_seen;
	__u64 connections; /* SYNs with a new initial sequence number */
	/*
	 * The handshake, 0 where not measured: also where one of the two was sent more than once, since then nobody
	 * knows which was answered. Where the pod connects, the first is the network's and the remote side's time, and
	 * the second the pod's own; where the pod accepts, it is the other way round.
	 */
	__u64 syn_to_synack;
	__u64 synack_to_ack;
	__u64 syn_seen;	   /* the SYN that waits for its answer, else 0 */
	__u64 synack_seen; /* the SYN/ACK that waits for its answer, else 0 */
	char dropped_by[16]; /* the program that dropped a packet last, its name's first 15 bytes */
	struct remora_flow_side ingress; /* towards the pod */
	struct remora_flow_side egress;
};

_Static_assert(sizeof(struct remora_flow_side) == 56, "no padding");
_Static_assert(sizeof(struct remora_flow_record) == 192, "no padding");

/* Room for the 253 characters of a name that fills its 255 bytes on the wire, and for NULs. */
#define REMORA_DNS_NAME 256

/*
 * The value of dns-log's `transactions`, an array that is used as a ring: sequence number N is in slot
 * (N - 1) % max_entries. A record is written when the query passes, and completed when its answer does.
 */
struct remora_dns_record {
	__u64 sequence; /* 1, 2, ...; 0: empty, or being written */
	__u64 asked;	/* when the query was first seen */
	__u64 latency;	/* from then to the answer, ns; where `answered` */
	struct remora_flow flow; /* as the query goes: `destination` is the server */
	enum remora_direction direction; /* of the query: REMORA_EGRESS where the pod asks */
	__u32 queries;	/* how often this query was seen: more than once where the asker sent it again */
	__u16 id;	/* these in host byte order */
	__u16 type;	/* 1 A, 28 AAAA, ... */
	__u16 class;	/* 1 IN */
	__u16 answers;	/* resource records in the answer section, as the answer's header says */
	__u8 rcode;	/* 0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, ...; the header's 4 bits */
	bool answered;
	bool truncated; /* the answer says that it is: the asker will come again over TCP */
	__u8 reserved[5];
	/*
	 * In lower case, dots between labels and none at the end; "." is the root. Any byte of a label that is not
	 * printable ASCII, and a dot or backslash inside a label, is "?". Ends with a NUL.
	 */
	char name[REMORA_DNS_NAME];
};

_Static_assert(sizeof(struct remora_dns_record) == 344, "no padding");

/* The same flow as the other end sends it. */
static __always_inline void remora_turn(struct remora_flow *flow)
{
	union remora_address address = flow->source;
	__be16 port = flow->source_port;

	flow->source = flow->destination;
	flow->destination = address;
	flow->source_port = flow->destination_port;
	flow->destination_port = port;
}

#endif
