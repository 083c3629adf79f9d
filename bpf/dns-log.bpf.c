// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * dns-log: the recent DNS queries over UDP that the pod sent or received, and what became of them. It looks and passes
 * on, whatever the packet is.
 *
 * A query is written into `transactions`, an array that is used as a ring, and is `pending` until an answer with its
 * addresses, ports and id passes the other way. Of the answer its header alone is read: the name is the query's.
 *
 *  - A query has one question. Its name is read up to its 255 bytes; a compressed one, which a question need not have,
 *    is not followed. What cannot be read is counted by the reason, and not written down.
 *  - A query that is sent again before an answer came is the same transaction; latency counts from the first.
 *  - Of a fragmented packet the first fragment is read, which has the question. Of an skb that stands for several
 *    datagrams (UDP_SEGMENT) the first datagram is read, and the skb counted as `segmented`.
 *  - DNS over TCP, TLS or HTTPS is not read.
 *
 * Names tell what people do. They stay in the kernel until somebody with the node's root asks, no longer than the ring
 * is; `names: false` does not keep them at all.
 */
#include <remora/flows.h>
#include <remora/verdict.h>
#include <remora/wire.h>

#define MAX_TRANSACTIONS 1024
#define MAX_PENDING 1024

const volatile __u16 port REMORA_MIN("1") REMORA_HELP("the UDP port of DNS servers") = 53;
const volatile bool names REMORA_HELP("keep the names that are asked for") = true;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_TRANSACTIONS);
	__type(key, __u32);
	__type(value, struct remora_dns_record);
} transactions SEC(".maps");

/* The last transaction's number. Under a lock: before Linux 5.12, atomic additions do not tell what they gave. */
struct last {
	struct bpf_spin_lock lock;
	__u64 sequence;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct last);
} last SEC(".maps");

struct query {
	struct remora_flow flow; /* as the query goes */
	__be16 id;
	__u16 reserved;
};

struct waiting {
	__u64 sequence;
	__u64 asked;
	__u64 question; /* a hash of name, type and class */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_PENDING);
	__type(key, struct query);
	__type(value, struct waiting);
} pending SEC(".maps");

/* Of one direction. */
struct counts {
	__u64 queries;	 /* written down */
	__u64 again;	 /* sent once more, while the first waits for its answer */
	__u64 answers;	 /* of a query that was written down; the next seven are these by response code */
	__u64 noerror;
	__u64 formerr;
	__u64 servfail;
	__u64 nxdomain;
	__u64 notimp;
	__u64 refused;
	__u64 other_rcode;
	__u64 unmatched; /* answers to what was not seen, was answered before, or is forgotten */
	__u64 segmented; /* skbs of several datagrams, of which the first alone was read */
	__u64 tcp;	 /* packets of TCP from or to the port: not read */
	/* The rest is not written down. */
	__u64 header_short;	/* less than the 12 bytes that DNS begins with */
	__u64 wrong_way;	/* a query from the port, or an answer to it */
	__u64 other_opcode;	/* NOTIFY, UPDATE, ... */
	__u64 not_one_question; /* queries with none, or several */
	__u64 question_short;	/* it ends before the name, type and class do */
	__u64 name_compressed;
	__u64 name_reserved; /* a label of a kind that is none */
	__u64 name_long;     /* more than 255 bytes */
	__u64 no_room;	     /* the pending queries did not take one more */
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

struct dns_header {
	__be16 id;
	__u8 flags;  /* answer 0x80, opcode 0x78, authoritative, truncated 0x02, recursion desired */
	__u8 result; /* rcode 0x0f */
	__be16 questions;
	__be16 answers;
	__be16 authorities;
	__be16 additionals;
};

struct udp_dns {
	struct remora_ports ports;
	__be16 length;
	__sum16 checksum;
	struct dns_header dns;
};

_Static_assert(sizeof(struct udp_dns) == 20, "as on the wire");

enum { ANSWER = 0x80, OPCODE = 0x78, TRUNCATED = 0x02, RCODE = 0x0f };

#define NAME_BYTES 255 /* on the wire, the root's 0 included */
#define NAME_LABELS 127
#define NAME_WORDS (REMORA_DNS_NAME / 8)
#define QUESTION_BYTES (NAME_BYTES + 4)

/* A packet as it is read, in place of the stack. Nothing in it outlives a packet. */
struct working {
	struct query query;
	struct udp_dns headers;
	__u32 start; /* where the question begins, as a cursor says it */
	__u32 offset;
	__u32 length;	/* of the question and what follows it, QUESTION_BYTES at most */
	__u32 end;	/* where in `rest` the name's last byte is, the root's 0 */
	__u32 stop;	/* what was wrong with the last label's length: its upper two bits */
	__u32 none;
	__u64 question; /* a hash of name, type and class */
	__u16 type;
	__u16 class;
	__u8 reserved[3];
	__u8 first; /* the question's first byte; so that those of the name are aligned */
	union {
		__u8 bytes[QUESTION_BYTES - 1];
		__u64 words[NAME_WORDS + 1];
	} rest;
	union {
		char text[REMORA_DNS_NAME];
		__u64 words[NAME_WORDS];
	} name;
};

_Static_assert(__builtin_offsetof(struct working, rest) % 8 == 0 &&
		       __builtin_offsetof(struct working, first) + 1 == __builtin_offsetof(struct working, rest),
	       "the question is read in one piece");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct working);
} scratch SEC(".maps");

/* What a packet turned out to be. */
enum kind {
	NOT_DNS,
	OVER_TCP,
	HEADER_SHORT,
	WRONG_WAY,
	OTHER_OPCODE,
	NOT_ONE_QUESTION,
	QUESTION_SHORT,
	NAME_COMPRESSED,
	NAME_RESERVED,
	NAME_LONG,
	IS_ANSWER,
	IS_QUERY,
};

/*
 * Finds out what the packet is; of DNS, `scratch` has the headers and the flow then. A global function for the same
 * reason as remora_walk(): the ways through the headers end here for the verifier.
 */
__attribute__((noinline)) int describe(struct __sk_buff *skb)
{
	const __be16 wanted = bpf_htons(port);
	struct remora_cursor transport;
	struct remora_packet packet;
	struct working *working;
	__u32 length, key = 0;
	struct udp_dns *udp;
	__u8 flags;

	working = bpf_map_lookup_elem(&scratch, &key);
	if (!working)
		return NOT_DNS;
	packet = remora_parse(skb);
	if (packet.malformed || !packet.has_transport ||
	    (packet.protocol != IPPROTO_UDP && packet.protocol != IPPROTO_TCP))
		return NOT_DNS;
	remora_flow(skb, &packet, &working->query.flow);
	if (working->query.flow.source_port != wanted && working->query.flow.destination_port != wanted)
		return NOT_DNS;
	if (packet.protocol == IPPROTO_TCP)
		return OVER_TCP;
	length = remora_ip_length(skb, &packet);
	remora_pull(skb, 512);
	transport = remora_transport_of(skb, &packet);
	udp = &working->headers;
	if (length < packet.transport_offset + sizeof(*udp) || !remora_peek(&transport, 0, udp, sizeof(*udp)))
		return HEADER_SHORT;
	length -= packet.transport_offset;
	if (length > bpf_ntohs(udp->length)) /* what pads the packet, or hides behind the datagram */
		length = bpf_ntohs(udp->length);
	if (length < sizeof(*udp))
		return HEADER_SHORT;
	working->start = transport.start;
	working->offset = transport.offset + sizeof(*udp);
	length -= sizeof(*udp);
	working->length = length < QUESTION_BYTES ? length : QUESTION_BYTES;
	working->query.id = udp->dns.id;
	flags = udp->dns.flags;
	if (working->query.flow.source_port != wanted && flags & ANSWER)
		return WRONG_WAY;
	if (working->query.flow.destination_port != wanted && !(flags & ANSWER))
		return WRONG_WAY;
	if (flags & OPCODE)
		return OTHER_OPCODE;
	if (flags & ANSWER)
		return IS_ANSWER;
	return udp->dns.questions == bpf_htons(1) ? IS_QUERY : NOT_ONE_QUESTION;
}

#define EACH(byte) (0x0101010101010101ULL * (byte))

/* The upper bit of each byte of `low` that is at least `least`; bytes from 0 to 127. */
static __always_inline __u64 at_least(__u64 low, __u8 least)
{
	return (low + EACH(0x80 - least)) & EACH(0x80);
}

/* Eight bytes of labels as the record has them, at once and without a branch. */
static __always_inline __u64 shown(__u64 bytes)
{
	__u64 low = bytes & EACH(0x7f), high = bytes & EACH(0x80);
	__u64 capital = at_least(low, 'A') & ~at_least(low, 'Z' + 1) & ~high;
	__u64 plain = at_least(low, '!') & ~at_least(low, '~' + 1) & ~high & at_least(low ^ EACH('.'), 1) &
		      at_least(low ^ EACH('\\'), 1);
	__u64 kept = (plain >> 7) * 0xff;

	return ((bytes | capital >> 2) & kept) | (EACH('?') & ~kept);
}

/* All bits of the bytes of a word that are among the first `count`, which may be negative, or more than 8. */
static __always_inline __u64 first_bytes(__s64 count)
{
	__s64 none = count, all = 7 - count; /* their sign */

	/* The compiler shall not make branches of it. */
	asm volatile("" : "+r"(none), "+r"(all));
	none >>= 63;
	all >>= 63;
	asm volatile("" : "+r"(none), "+r"(all));
	return (((1ULL << ((count & 7) * 8)) - 1) | all) & ~none;
}

/*
 * Reads the question into `scratch`: name, type, class. Global as well, and made of a few short loops over words and
 * labels: one over bytes takes the verifier ten times as long.
 */
__attribute__((noinline)) int read_question(struct __sk_buff *skb)
{
	__u64 question = 0xcbf29ce484222325ULL; /* in the manner of FNV-1a */
	__u32 length, at, byte, stop = 0, key = 0;
	struct remora_cursor cursor;
	struct working *working;
	__u8 *rest;

	working = bpf_map_lookup_elem(&scratch, &key);
	if (!working)
		return QUESTION_SHORT;
	length = working->length;
	if (length < 5 || length > QUESTION_BYTES) /* the root's name, type and class */
		return QUESTION_SHORT;
	cursor.skb = skb;
	cursor.start = working->start;
	cursor.offset = working->offset;
	if (!remora_peek(&cursor, 0, &working->first, length))
		return QUESTION_SHORT;
	rest = working->rest.bytes;
	/* Every byte, also those of lengths, and those behind the name. */
#pragma clang loop unroll(disable)
	for (__u32 word = 0; word < NAME_WORDS; word++)
		working->name.words[word] = shown(working->rest.words[word]);
	/* From label to label. `at` is the place in `rest` of a length, and in `name` of the dot in its stead. */
	byte = working->first;
	stop = byte & 0xc0;
	at = stop ? 0 : byte;
	if (byte && !stop)
#pragma clang loop unroll(disable)
		for (__u32 label = 0; label < NAME_LABELS && at < NAME_BYTES - 1; label++) {
			byte = rest[at];
			stop = byte & 0xc0;
			if (!byte || stop)
				break;
			working->name.text[at] = '.';
			at += 1 + byte;
		}
	working->end = at;
	working->stop = stop;
	/* From here on numbers that the verifier does not know, or it would go on with each label by itself. */
	at = *(volatile __u32 *)&working->end;
	stop = *(volatile __u32 *)&working->stop;
	if (at > NAME_BYTES - 2)
		return length < QUESTION_BYTES ? QUESTION_SHORT : NAME_LONG;
	if (working->first) {
		if (at + 1 >= length)
			return QUESTION_SHORT;
		if (stop)
			return stop == 0xc0 ? NAME_COMPRESSED : NAME_RESERVED;
	}
#pragma clang loop unroll(disable)
	for (__u32 word = 0; word < NAME_WORDS; word++) {
		__u64 bytes = working->name.words[word] & first_bytes((__s64)at - word * 8);

		working->name.words[word] = bytes;
		question = (question ^ bytes) * 0x100000001b3ULL;
	}
	if (working->first)
		at++;
	else
		working->name.text[0] = '.';
	if (at + 5 > length)
		return QUESTION_SHORT;
	working->type = rest[at] << 8 | rest[at + 1];
	working->class = rest[at + 2] << 8 | rest[at + 3];
	working->question = (question ^ ((__u32)working->type << 16 | working->class)) * 0x100000001b3ULL;
	return IS_QUERY;
}

static __always_inline struct remora_dns_record *slot_of(__u64 sequence)
{
	__u32 slot = (sequence - 1) % MAX_TRANSACTIONS;

	return bpf_map_lookup_elem(&transactions, &slot);
}

static __always_inline void log_query(struct working *working, struct counts *counted, enum remora_direction direction)
{
	struct remora_dns_record *record;
	struct waiting *earlier, waiting;
	struct last *counter;
	__u32 key = 0;

	earlier = bpf_map_lookup_elem(&pending, &working->query);
	if (earlier && earlier->question == working->question) {
		record = slot_of(earlier->sequence);
		if (record && record->sequence == earlier->sequence)
			__sync_fetch_and_add(&record->queries, 1);
		counted->again++;
		return;
	}
	counter = bpf_map_lookup_elem(&last, &key);
	if (!counter)
		return;
	bpf_spin_lock(&counter->lock);
	waiting.sequence = ++counter->sequence;
	bpf_spin_unlock(&counter->lock);
	waiting.asked = bpf_ktime_get_ns();
	waiting.question = working->question;
	record = slot_of(waiting.sequence);
	if (!record)
		return;
	/* Not to be read while it is being written. */
	*(volatile __u64 *)&record->sequence = 0;
	record->asked = waiting.asked;
	record->latency = 0;
	record->flow = working->query.flow;
	record->direction = direction;
	record->queries = 1;
	record->id = bpf_ntohs(working->query.id);
	record->type = working->type;
	record->class = working->class;
	record->answers = 0;
	record->rcode = 0;
	record->answered = false;
	record->truncated = false;
	if (names)
		__builtin_memcpy(record->name, working->name.text, sizeof(record->name));
	*(volatile __u64 *)&record->sequence = waiting.sequence;
	counted->queries++;
	if (bpf_map_update_elem(&pending, &working->query, &waiting, BPF_ANY))
		counted->no_room++;
}

static __always_inline void log_answer(struct working *working, struct counts *counted)
{
	const struct dns_header *dns = &working->headers.dns;
	struct remora_dns_record *record;
	__u64 now, asked, sequence;
	struct waiting *waiting;
	__u8 rcode;

	remora_turn(&working->query.flow); /* as the query went */
	now = bpf_ktime_get_ns();
	waiting = bpf_map_lookup_elem(&pending, &working->query);
	if (!waiting) {
		counted->unmatched++;
		return;
	}
	sequence = waiting->sequence;
	asked = waiting->asked;
	/* Of two answers to a query, on two CPUs, the one that takes it away is the answer. */
	if (bpf_map_delete_elem(&pending, &working->query)) {
		counted->unmatched++;
		return;
	}
	rcode = dns->result & RCODE;
	counted->answers++;
	if (rcode == 0)
		counted->noerror++;
	else if (rcode == 1)
		counted->formerr++;
	else if (rcode == 2)
		counted->servfail++;
	else if (rcode == 3)
		counted->nxdomain++;
	else if (rcode == 4)
		counted->notimp++;
	else if (rcode == 5)
		counted->refused++;
	else
		counted->other_rcode++;
	record = slot_of(sequence);
	if (!record || record->sequence != sequence)
		return;
	record->latency = now - asked;
	record->answers = bpf_ntohs(dns->answers);
	record->rcode = rcode;
	record->truncated = dns->flags & TRUNCATED;
	*(volatile bool *)&record->answered = true;
}

static __always_inline int log_packet(struct __sk_buff *skb, enum remora_direction direction)
{
	struct both_counts *both;
	struct working *working;
	struct counts *counted;
	__u32 key = 0;
	int kind;

	kind = describe(skb);
	if (kind == NOT_DNS)
		return REMORA_NEXT;
	if (kind == IS_QUERY)
		kind = read_question(skb);
	both = bpf_map_lookup_elem(&counts, &key);
	working = bpf_map_lookup_elem(&scratch, &key);
	if (!both || !working)
		return REMORA_NEXT;
	counted = direction == REMORA_INGRESS ? &both->ingress : &both->egress;
	if (kind != OVER_TCP && remora_wire_packets(skb) > 1)
		counted->segmented++;
	switch (kind) {
	case IS_QUERY:
		log_query(working, counted, direction);
		break;
	case IS_ANSWER:
		log_answer(working, counted);
		break;
	case OVER_TCP:
		counted->tcp++;
		break;
	case HEADER_SHORT:
		counted->header_short++;
		break;
	case WRONG_WAY:
		counted->wrong_way++;
		break;
	case OTHER_OPCODE:
		counted->other_opcode++;
		break;
	case NOT_ONE_QUESTION:
		counted->not_one_question++;
		break;
	case QUESTION_SHORT:
		counted->question_short++;
		break;
	case NAME_COMPRESSED:
		counted->name_compressed++;
		break;
	case NAME_RESERVED:
		counted->name_reserved++;
		break;
	case NAME_LONG:
		counted->name_long++;
		break;
	}
	return REMORA_NEXT;
}

SEC("tc/ingress")
int dns_log_ingress(struct __sk_buff *skb)
{
	return log_packet(skb, REMORA_INGRESS);
}

SEC("tc/egress")
int dns_log_egress(struct __sk_buff *skb)
{
	return log_packet(skb, REMORA_EGRESS);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
