// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * conn-limit: how many TCP connections a pod has at a time and how many are opened in a second, all together and with
 * each remote address. What is too much is refused by dropping its SYN: the sender tries again by itself, and gets in
 * once there is room. Those opened from outside and those that the pod opens are counted apart, each against the same
 * limits.
 *
 * What counts
 * -----------
 * A connection is a record in `connections`, by its addresses and ports, from its first SYN until both sides have sent
 * a FIN that the other has acknowledged, or until a reset whose sequence number is the one that its receiver waits for.
 * So a SYN that is sent again, a simultaneous open and a SYN with data are one connection each. A number that counts
 * open ones is the number of its records: it goes up with a record that could be inserted and down with one that could
 * be deleted, which the kernel lets one CPU alone succeed in.
 *
 * What ends unseen must not count for ever, and memory is bounded. There is no timer (5.10 has none), so each record
 * has a ticket in the queue `tickets`: whoever brings a new SYN takes some tickets from its front, deletes the records
 * that have been silent too long, and puts the tickets of the others back at its end. A limit that is reached has more
 * of them looked at before it refuses. For how long a record may be silent depends on how far the connection is:
 * `handshake_timeout` until the opener has acknowledged the answer, `idle_timeout` then, and at most CLOSING once a
 * side is done. What the remote sends moves a connection on only where it fits with what the pod has sent: a made-up
 * ACK does not turn a half-open connection into one that may idle for an hour, and a made-up reset or FIN does not
 * hide one that goes on.
 *
 * Connections older than the program have no record, are not counted, and pass. Entered for one direction alone, the
 * program sees the connections opened there, and takes the one side's FIN for the end.
 *
 * Needs Linux 5.1 (spin locks).
 */
#include <remora/packet.h>
#include <remora/params.h>
#include <remora/rate.h>
#include <remora/tcp.h>
#include <remora/verdict.h>

#define MAX_CONNECTIONS 16384
#define MAX_TICKETS 24576 /* those of records that are gone stay until it is their turn */
#define SWEEP_ALWAYS 8	  /* tickets looked at for each new connection */
#define SWEEP_AT_LIMIT 32 /* and before one is refused */
#define SECOND 1000000000ULL
#define CLOSING (120 * SECOND)
#define DOUBTED (10 * SECOND)
#define COARSE (SECOND / 16) /* how exactly it is known when a connection was last heard of */

enum opener {
	REMOTE = 0,
	POD = 1,
};

const volatile __u32 max REMORA_MAX("16384")
	REMORA_HELP("connections open at a time, half-open ones included; 0: not limited") = 0;
const volatile __u32 max_per_remote REMORA_MAX("16384")
	REMORA_HELP("connections open at a time with one remote address; 0: not limited") = 0;
const volatile __u32 new_per_second REMORA_MAX("1000000")
	REMORA_HELP("connections opened in a second; 0: not limited") = 0;
const volatile __u32 new_per_second_per_remote REMORA_MAX("1000000")
	REMORA_HELP("connections opened in a second with one remote address; 0: not limited") = 0;
const volatile __u32 burst REMORA_MAX("1000000")
	REMORA_HELP("connections opened at once, of both limits per second; 0: as many as in a second") = 0;
const volatile __u32 opened_by REMORA_CHOICE("remote", "1") REMORA_CHOICE("pod", "2") REMORA_CHOICE("both", "3")
	REMORA_HELP("whose connections are limited: those opened from outside, those the pod opens, or both") = 3;
const volatile __u64 idle_timeout REMORA_UNIT("duration") REMORA_MIN("1s") REMORA_MAX("604800s")
	REMORA_HELP("an open connection that is silent for so long is not counted any more") = 3600 * SECOND;
const volatile __u64 handshake_timeout REMORA_UNIT("duration") REMORA_MIN("1s") REMORA_MAX("600s")
	REMORA_HELP("the same for one that is still being opened") = 30 * SECOND;

/* What has become of connections and of attempts to open one. */
struct outcomes {
	__u64 opened;
	__u64 closed;
	__u64 reset;
	__u64 expired; /* silent too long */
	__u64 refused_max;
	__u64 refused_max_per_remote;
	__u64 refused_new_per_second;
	__u64 refused_new_per_second_per_remote;
	__u64 refused_no_room; /* of the program's own tables */
};

struct totals {
	struct outcomes by_remote; /* connections opened from outside */
	struct outcomes by_pod;
	__u64 malformed; /* packets dropped: it cannot be told whether they open a connection */
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

/* One side of a connection. All sequence numbers are of bytes that it sends. */
struct side {
	__u32 next;    /* what its peer waits for, as far as can be seen from here */
	__u32 fin_end; /* behind its FIN */
	__u8 heard;    /* it has sent something, so `next` is known */
	__u8 fin;
	__u8 fin_acknowledged;
	__u8 reserved;
};

enum state {
	STATE_OPENING = 1,
	STATE_OPEN = 2,
	STATE_CLOSING = 3,
	STATE_DOUBTED = 4, /* a reset that may not have been good: it is gone unless the pod goes on */
};

struct connection {
	__u64 seen; /* bpf_ktime_get_ns() of its last packet */
	struct side sides[2]; /* enum opener, as who sends */
	enum opener opened_by;
	enum state state;
	__u16 serial; /* also on its ticket */
	__u8 reserved[6];
};

/*
 * By the flow as the remote sends it. Written by several CPUs without a lock: each field is one store, and the two
 * directions of a connection write different ones.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONNECTIONS);
	__type(key, struct remora_flow);
	__type(value, struct connection);
} connections SEC(".maps");

struct remote_key {
	union remora_address address;
	enum opener opened_by;
	__u8 family;
	__u8 reserved[3];
};

/*
 * How many are open and how fast they come. A remote's account goes when nothing is open and its bucket has forgotten.
 * It is `retired` first, under the lock: who has looked it up meanwhile sees that, or another key in its place, and
 * looks again.
 */
struct account {
	struct bpf_spin_lock lock;
	__u32 open;
	struct remora_bucket opening;
	struct remote_key key;
	__u32 ticketed; /* there is a ticket for it */
	__u32 retired;	/* behind the key, so that it is written after it */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2); /* enum opener */
	__type(key, __u32);
	__type(value, struct account);
} pod SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CONNECTIONS);
	__type(key, struct remote_key);
	__type(value, struct account);
} remotes SEC(".maps");

/* Which directions the program is entered for: 1 once a packet has come by. By enum opener, as who sends it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} hears SEC(".maps");

/* A record to look at again: a connection's key, its serial in `reserved`; with protocol 0 a remote's account. */
struct ticket {
	struct remora_flow key;
};

#define serial_of(flow) (*(__u16 *)(flow)->reserved)

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, MAX_TICKETS);
	__uint(key_size, 0);
	__uint(value_size, sizeof(struct ticket));
} tickets SEC(".maps");

/*
 * What a packet is about, and what is put together for it, in place of the stack: the verifier keeps no account of what
 * stands in a map, so all ways through the headers come out as one, and functions that it looks at once by themselves
 * find it here. Nothing in it outlives a packet.
 */
struct scratch {
	struct remora_flow key; /* as the remote sends it */
	struct remora_tcp tcp;
	__u64 now;
	struct remora_flow leaving; /* whose record goes */
	struct ticket ticket;
	struct remote_key remote;
	struct account account;
	struct connection connection;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline struct scratch *scratch_of(void)
{
	__u32 key = 0;

	return bpf_map_lookup_elem(&scratch, &key);
}

static __always_inline bool per_remote(void)
{
	return max_per_remote || new_per_second_per_remote;
}

static __always_inline struct outcomes *outcomes_of(__u32 opener)
{
	__u32 key = 0;
	struct totals *all = bpf_map_lookup_elem(&totals, &key);

	return !all ? NULL : opener == POD ? &all->by_pod : &all->by_remote;
}

static __always_inline void count(__u64 *what)
{
	(*what)++;
}

/* ---- accounts ---- */

enum taking {
	TAKEN,
	AT_LIMIT,
	TOO_FAST,
	RETIRED,
};

static __always_inline __u64 key_differs(const struct remote_key *a, const struct remote_key *b)
{
	return (a->address.halves[0] ^ b->address.halves[0]) | (a->address.halves[1] ^ b->address.halves[1]) |
	       (a->family ^ b->family) | (a->opened_by ^ b->opened_by);
}

/* Counts a connection in, if limit and rate let it. `key` is NULL for the pod's own accounts, which never retire. */
static __always_inline enum taking take(struct account *account, const struct remote_key *key, __u32 limit, __u32 rate,
					__u64 now)
{
	enum taking taking = TAKEN;

	bpf_spin_lock(&account->lock);
	if (key && (account->retired || key_differs(&account->key, key)))
		taking = RETIRED;
	else if (limit && account->open >= limit)
		taking = AT_LIMIT;
	else if (rate && !remora_bucket_take(&account->opening, rate, burst ?: rate, now, 1))
		taking = TOO_FAST;
	else
		account->open++;
	bpf_spin_unlock(&account->lock);
	return taking;
}

static __always_inline void give_pod(__u32 opener, bool undo)
{
	struct account *account = bpf_map_lookup_elem(&pod, &opener);

	if (!account)
		return;
	bpf_spin_lock(&account->lock);
	if (account->open)
		account->open--;
	if (undo && new_per_second && account->opening.used >= REMORA_BILLION)
		account->opening.used -= REMORA_BILLION;
	bpf_spin_unlock(&account->lock);
}

static __always_inline void remote_key_of(struct remote_key *key, const union remora_address *address, __u8 family,
					  __u8 opener)
{
	__builtin_memset(key, 0, sizeof(*key));
	key->address = *address;
	key->family = family;
	key->opened_by = opener;
}

enum giving {
	GIVE = 0,
	GIVE_UNDO = 1, /* as though it had never been counted in */
	GIVE_LOOK = 2, /* counts nothing out, but retires what can be, for its ticket */
};

/*
 * Counts a connection out of the account of scratch->remote. Global, as the next ones: the verifier looks at them once,
 * by themselves, and they take the context and numbers alone, since pointers are refused before Linux 5.12.
 */
__attribute__((noinline)) int give_remote(struct __sk_buff *skb, __u32 giving)
{
	struct scratch *at = scratch_of();
	bool forgotten = false, ticket = false;
	const struct remote_key *key;
	struct account *account;
	struct ticket note = {};
	__u64 now;

	if (!skb || !at)
		return 0;
	key = &at->remote;
	now = bpf_ktime_get_ns();
	account = bpf_map_lookup_elem(&remotes, key);
	if (!account)
		return 0;
	bpf_spin_lock(&account->lock);
	if (!account->retired && !key_differs(&account->key, key)) {
		if (giving != GIVE_LOOK && account->open)
			account->open--;
		if (new_per_second_per_remote) {
			remora_bucket_drain(&account->opening, new_per_second_per_remote,
					    burst ?: new_per_second_per_remote, now);
			if (giving == GIVE_UNDO && account->opening.used >= REMORA_BILLION)
				account->opening.used -= REMORA_BILLION;
		}
		if (giving == GIVE_LOOK)
			account->ticketed = 0;
		if (!account->open) {
			forgotten = !new_per_second_per_remote || !account->opening.used;
			ticket = !forgotten && !account->ticketed;
			account->retired = forgotten;
			account->ticketed |= ticket;
		}
	}
	bpf_spin_unlock(&account->lock);
	if (forgotten) {
		bpf_map_delete_elem(&remotes, key);
	} else if (ticket) {
		note.key.source = key->address;
		note.key.family = key->family;
		note.key.destination_port = key->opened_by;
		bpf_map_push_elem(&tickets, &note, BPF_ANY);
	}
	return 0;
}

/* ---- connections ---- */

static __always_inline bool silent_too_long(const struct connection *connection, __u64 now)
{
	__u64 limit = idle_timeout;
	__s64 silent = now - connection->seen;

	if (connection->state == STATE_OPENING)
		limit = handshake_timeout;
	else if (connection->state == STATE_CLOSING && limit > CLOSING)
		limit = CLOSING;
	else if (connection->state == STATE_DOUBTED && limit > DOUBTED)
		limit = DOUBTED;
	return silent > (__s64)limit;
}

/* Deletes the record of scratch->leaving and counts it out. 0 where another CPU was first. */
__attribute__((noinline)) int forget(struct __sk_buff *skb, __u32 opener, __u32 giving)
{
	struct scratch *at = scratch_of();

	if (!skb || !at || bpf_map_delete_elem(&connections, &at->leaving))
		return 0;
	give_pod(opener & 1, giving == GIVE_UNDO);
	if (per_remote()) {
		remote_key_of(&at->remote, &at->leaving.source, at->leaving.family, opener & 1);
		give_remote(skb, giving);
	}
	return 1;
}

enum look {
	LOOKED_NONE, /* no ticket is left */
	LOOKED_KEPT,
	LOOKED_FREED,
};

/* Takes one ticket from the queue and does what is to be done about it. */
__attribute__((noinline)) int look(struct __sk_buff *skb)
{
	struct scratch *at = scratch_of();
	struct connection *connection;
	struct outcomes *outcomes;
	struct ticket *ticket;

	if (!skb || !at)
		return LOOKED_NONE;
	ticket = &at->ticket;
	if (bpf_map_pop_elem(&tickets, ticket))
		return LOOKED_NONE;
	if (!ticket->key.protocol) {
		remote_key_of(&at->remote, &ticket->key.source, ticket->key.family, ticket->key.destination_port);
		give_remote(skb, GIVE_LOOK);
		return LOOKED_KEPT;
	}
	at->leaving = ticket->key;
	serial_of(&at->leaving) = 0;
	connection = bpf_map_lookup_elem(&connections, &at->leaving);
	if (!connection || connection->serial != serial_of(&ticket->key))
		return LOOKED_KEPT;
	/* Without a ticket it would count for ever. */
	if (!silent_too_long(connection, at->now) && !bpf_map_push_elem(&tickets, ticket, BPF_ANY))
		return LOOKED_KEPT;
	outcomes = outcomes_of(connection->opened_by);
	if (!forget(skb, connection->opened_by, GIVE))
		return LOOKED_KEPT;
	if (outcomes)
		count(&outcomes->expired);
	return LOOKED_FREED;
}

/* Looks at up to `budget` tickets. True where that freed a connection. */
static __always_inline bool sweep(struct __sk_buff *skb, __u32 budget)
{
	__u32 freed = 0;

#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < budget; i++) {
		int looked = look(skb);

		if (looked == LOOKED_NONE)
			break;
		freed |= looked & LOOKED_FREED;
	}
	return freed;
}

enum admission {
	ADMITTED,
	KNOWN,
	AT_MAX,
	AT_MAX_PER_REMOTE,
	NEW_TOO_FAST,
	NEW_TOO_FAST_PER_REMOTE,
	NO_ROOM,
};

static __always_inline enum taking take_remote(struct scratch *at)
{
	const struct remote_key *key = &at->remote;
	enum taking taking = RETIRED;

	/* An account that is retired is deleted in the next moment. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < 3 && taking == RETIRED; i++) {
		struct account *account = bpf_map_lookup_elem(&remotes, key);

		if (!account) {
			at->account.key = *key;
			bpf_map_update_elem(&remotes, key, &at->account, BPF_NOEXIST);
			account = bpf_map_lookup_elem(&remotes, key);
			if (!account)
				continue;
		}
		taking = take(account, key, max_per_remote, new_per_second_per_remote, at->now);
	}
	return taking;
}

/* Counts the connection of scratch->key in and makes its record, or does nothing and says why. */
__attribute__((noinline)) int admit(struct __sk_buff *skb, __u32 opener)
{
	struct scratch *at = scratch_of();
	struct connection *new;
	struct account *account;
	struct side *own;
	enum taking taking;

	opener = !!opener;
	account = bpf_map_lookup_elem(&pod, &opener);
	if (!skb || !at || !account)
		return NO_ROOM;
	if (per_remote()) {
		remote_key_of(&at->remote, &at->key.source, at->key.family, opener);
		taking = take_remote(at);
		if (taking != TAKEN)
			return taking == AT_LIMIT ? AT_MAX_PER_REMOTE :
			       taking == TOO_FAST ? NEW_TOO_FAST_PER_REMOTE :
						    NO_ROOM;
	}
	taking = take(account, NULL, max, new_per_second, at->now);
	if (taking != TAKEN) {
		if (per_remote())
			give_remote(skb, GIVE_UNDO);
		return taking == AT_LIMIT ? AT_MAX : NEW_TOO_FAST;
	}
	new = &at->connection;
	__builtin_memset(new, 0, sizeof(*new));
	new->seen = at->now;
	new->opened_by = opener;
	new->state = STATE_OPENING;
	new->serial = bpf_get_prandom_u32();
	own = opener ? &new->sides[POD] : &new->sides[REMOTE];
	own->next = remora_tcp_end(&at->tcp);
	own->heard = 1;
	if (bpf_map_update_elem(&connections, &at->key, new, BPF_NOEXIST)) {
		give_pod(opener, true);
		if (per_remote())
			give_remote(skb, GIVE_UNDO);
		/* Another CPU has recorded the same SYN in this moment. */
		return bpf_map_lookup_elem(&connections, &at->key) ? KNOWN : NO_ROOM;
	}
	at->ticket.key = at->key;
	serial_of(&at->ticket.key) = new->serial;
	if (bpf_map_push_elem(&tickets, &at->ticket, BPF_ANY)) {
		at->leaving = at->key;
		forget(skb, opener, GIVE_UNDO);
		return NO_ROOM;
	}
	return ADMITTED;
}

/* A SYN without a record. */
static __always_inline int open(struct __sk_buff *skb, enum opener opener)
{
	struct outcomes *outcomes = outcomes_of(opener);
	int admission;

	if (!outcomes)
		return REMORA_DROP;
	sweep(skb, SWEEP_ALWAYS);
	admission = admit(skb, opener);
	if (admission != ADMITTED && admission != KNOWN && sweep(skb, SWEEP_AT_LIMIT))
		admission = admit(skb, opener);
	switch (admission) {
	case ADMITTED:
		count(&outcomes->opened);
		return REMORA_NEXT;
	case KNOWN:
		return REMORA_NEXT;
	case AT_MAX:
		count(&outcomes->refused_max);
		break;
	case AT_MAX_PER_REMOTE:
		count(&outcomes->refused_max_per_remote);
		break;
	case NEW_TOO_FAST:
		count(&outcomes->refused_new_per_second);
		break;
	case NEW_TOO_FAST_PER_REMOTE:
		count(&outcomes->refused_new_per_second_per_remote);
		break;
	default:
		count(&outcomes->refused_no_room);
	}
	return REMORA_DROP;
}

enum end {
	GOES_ON,
	IS_CLOSED,
	IS_RESET,
};

/*
 * A reset is good where its sequence number is just what the receiver waits for (RFC 5961), or where it refuses a SYN.
 * Any other may be old, made up, or good for reasons that cannot be seen from here. The receiver answers those that
 * are near with an ACK: then the connection goes on.
 */
static __always_inline enum end reset(struct connection *connection, const struct remora_tcp *tcp, __u32 from,
				      __u64 now)
{
	const struct side *own = &connection->sides[from & 1], *other = &connection->sides[(from ^ 1) & 1];

	if (own->heard && tcp->sequence == own->next)
		return IS_RESET;
	if (connection->state == STATE_OPENING) {
		if (from != connection->opened_by && tcp->flags & REMORA_TCP_ACK && other->heard &&
		    tcp->acknowledgement == other->next)
			return IS_RESET;
		return GOES_ON;
	}
	if (from == POD || tcp->sequence - own->next < 1 << 20) {
		connection->state = STATE_DOUBTED;
		connection->seen = now;
	}
	return GOES_ON;
}

/* What a packet, sent by `from`, makes of its connection. */
static __always_inline enum end follow(struct connection *connection, const struct remora_tcp *tcp, __u32 from,
				       bool one_sided, __u64 now)
{
	struct side *own = &connection->sides[from & 1], *other = &connection->sides[(from ^ 1) & 1];
	__u32 end = remora_tcp_end(tcp);
	__u8 flags = tcp->flags;

	if (flags & REMORA_TCP_RST)
		return reset(connection, tcp, from, now);
	if (now - connection->seen > COARSE)
		connection->seen = now;
	if (flags & REMORA_TCP_SYN) {
		/* What the pod opens or answers anew begins anew; the remote's word alone does not set it back. */
		if (from == POD && connection->state != STATE_OPENING) {
			connection->state = STATE_OPENING;
			own->fin = other->fin = own->fin_acknowledged = other->fin_acknowledged = 0;
			if (flags & REMORA_TCP_ACK)
				other->next = tcp->acknowledgement;
		}
		if (connection->state == STATE_OPENING) {
			own->next = end;
			own->heard = 1;
		}
		return GOES_ON;
	}
	if (!own->heard) {
		own->next = end;
		own->heard = 1;
	} else if (!remora_tcp_after(tcp->sequence, own->next) && remora_tcp_after(end, own->next)) {
		own->next = end;
	}
	if (flags & REMORA_TCP_ACK) {
		if (from == POD && other->heard && remora_tcp_after(tcp->acknowledgement, other->next))
			other->next = tcp->acknowledgement;
		if (other->fin && !remora_tcp_after(other->fin_end, tcp->acknowledgement)) {
			other->fin_acknowledged = 1;
			connection->state = STATE_CLOSING;
		}
		if (connection->state == STATE_OPENING && from == connection->opened_by &&
		    (one_sided || (other->heard && other->next - tcp->acknowledgement < 65536)))
			connection->state = STATE_OPEN;
	}
	if (connection->state == STATE_DOUBTED && from == POD)
		connection->state = own->fin_acknowledged || other->fin_acknowledged ? STATE_CLOSING : STATE_OPEN;
	if (flags & REMORA_TCP_FIN) {
		own->fin_end = end;
		own->fin = 1;
		if (one_sided)
			return IS_CLOSED;
		if (from == POD)
			connection->state = STATE_CLOSING;
	}
	return own->fin_acknowledged && other->fin_acknowledged ? IS_CLOSED : GOES_ON;
}

/* The record of scratch->key goes. */
static __always_inline void leave(struct __sk_buff *skb, struct scratch *at, __u32 opener, enum end end)
{
	struct outcomes *outcomes = outcomes_of(opener);

	at->leaving = at->key;
	if (forget(skb, opener, GIVE) && outcomes)
		count(end == IS_CLOSED ? &outcomes->closed :
		      end == IS_RESET  ? &outcomes->reset :
					 &outcomes->expired);
}

/* Fills in what the packet is about. False: nothing that could be counted. */
static __always_inline bool read(struct __sk_buff *skb, const struct remora_packet *packet, struct scratch *at,
				 __u32 from)
{
	if (!remora_tcp(skb, packet, &at->tcp))
		return false;
	remora_flow(skb, packet, &at->key);
	if (from == POD) {
		union remora_address address = at->key.source;
		__be16 port = at->key.source_port;

		at->key.source = at->key.destination;
		at->key.source_port = at->key.destination_port;
		at->key.destination = address;
		at->key.destination_port = port;
	}
	at->now = bpf_ktime_get_ns();
	return true;
}

static __always_inline int limit(struct __sk_buff *skb, __u32 from)
{
	struct scratch *at = scratch_of();
	__u32 zero = 0, other = from ^ 1, *heard;
	struct connection *connection;
	struct remora_packet packet;
	bool one_sided;
	enum end end;

	if (!max && !max_per_remote && !new_per_second && !new_per_second_per_remote)
		return REMORA_NEXT;
	packet = remora_parse(skb);
	if (!packet.malformed && (packet.protocol != IPPROTO_TCP || !packet.has_transport))
		return REMORA_NEXT;
	if (packet.malformed || !at || !read(skb, &packet, at, from)) {
		struct totals *all = bpf_map_lookup_elem(&totals, &zero);

		if (all)
			all->malformed++;
		return REMORA_DROP;
	}
	heard = bpf_map_lookup_elem(&hears, &from);
	if (heard && !*heard)
		*heard = 1;
	heard = bpf_map_lookup_elem(&hears, &other);
	one_sided = heard && !*heard;
	connection = bpf_map_lookup_elem(&connections, &at->key);
	if (connection && remora_tcp_opens(&at->tcp) && silent_too_long(connection, at->now)) {
		leave(skb, at, connection->opened_by, GOES_ON);
		connection = NULL;
	}
	if (!connection) {
		if (!remora_tcp_opens(&at->tcp) || !(opened_by & 1 << from))
			return REMORA_NEXT;
		return open(skb, from);
	}
	end = follow(connection, &at->tcp, from, one_sided, at->now);
	if (end != GOES_ON)
		leave(skb, at, connection->opened_by, end);
	return REMORA_NEXT;
}

SEC("tc/ingress")
int conn_limit_ingress(struct __sk_buff *skb)
{
	return limit(skb, REMOTE);
}

SEC("tc/egress")
int conn_limit_egress(struct __sk_buff *skb)
{
	return limit(skb, POD);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
