/* The fence and the kernel's connection table: what a packet meets there, and who
 * can change it. One source, which has a grant or has none; a forger who sends in
 * its name, but does not see what is answered; a server. Promises P1 to P4.
 *
 *   (nothing)    the grant is good for any number of connections
 *   -DSINGLE     single_use, and two connections at once
 *   -DPUBLISHED  the port is forwarded to another machine, or to a container
 *   -DBOUND      the server listens on one address
 *   -DUDP        datagrams
 *
 * Entries are as in the kernel's net/netfilter/nf_conntrack_proto_tcp.c, sockets as
 * in net/ipv4/tcp_minisocks.c and syncookies.c. */
#include "machine.pml"

#ifdef SINGLE
#define N 2                  /* connections, by their source ports */
#define single true
#else
#define N 1
#define single false
#endif

bool table;                  /* the fence stands */
bool grant;                  /* the source has one */
bool promised;               /* it was told so, and has done nothing to end it */

inline said(through) {
	if :: through :: else -> printf("  it is refused\n") fi
}

#ifndef UDP

/* An entry's state. A SYN is ignored in all but the first two, and in CLOSED
 * unless it has seen the end. */
#define NONE     0
#define NEW      1           /* SYN_SENT */
#define ANSWERED 2           /* SYN_RECV */
#define LIVE     3           /* ESTABLISHED, also of a connection met in the middle */
#define CLOSING  4           /* FIN_WAIT, CLOSE_WAIT, LAST_ACK */
#define CLOSED   5           /* TIME_WAIT, CLOSE */

byte ct[N];
bool room[N];                /* it has room for a label: there was a fence when it was made */
bool letin[N];               /* its label */

/* The server's socket. */
#define LISTENER 0           /* there is no other */
#define REQUEST  1           /* the source's SYN was answered */
#define FORGED   2           /* the forger's */
#define MADE     3           /* the handshake is done, and nobody has it: accept(2), TCP_DEFER_ACCEPT */
#define FULL     4
#define WAITING  5           /* TIME_WAIT */

byte sock[N];
bool cookie[N];              /* the source has a SYN cookie that is good still */

/* The fence's sets. */
bool pending[N];             /* a SYN/ACK went there; the number that answers it is known */
bool turn;                   /* SINGLE: somebody has just had it */

/* What is so, by what happened. */
bool judged[N];              /* the answer of its handshake was let in by a grant */
bool unfenced[N];            /* a packet of it met no fence */
bool insync[N];              /* conntrack has seen all of it since its SYN */
bool earned;                 /* SINGLE: a connection */
bool found[N];               /* SINGLE: a packet has found the grant, and is to spend it */
byte who[N];                 /*   whose packet it is */

/* What a packet that is no SYN is. */
#define STRAY    0           /* the forger's: its numbers are wrong */
#define ANSWER   1           /* the source's, as the server expects it */
#define WRONG    2           /* the source's, right for conntrack and not for the server */
#define RESET    3           /* the forger's RST, after its own SYN */

#if defined(BOUND) || defined(PUBLISHED)
#define every(i) false
#else
#define every(i) (sock[i] == LISTENER)           /* socket wildcard 1 */
#endif

#if !(defined(SINGLE) || defined(PUBLISHED) || defined(BOUND)) || defined(COOKIES_WHERE_NOBODY_LISTENS_TO_ALL)
#define cookies true
#else
#define cookies false
#endif

inline forget(i) {           /* the entry goes */
	ct[i] = NONE; room[i] = false; letin[i] = false; insync[i] = false
}

inline makes(i, state) {     /* a new one, which stays if the packet gets through */
	forget(i); ct[i] = state; room[i] = table; made = true
}

inline completed(i) {
	printf("  connection %d is made\n", i);
#ifdef PUBLISHED
	assert(p1 || !table || judged[i] || unfenced[i]);
#else
	assert(p1 || !table || judged[i] || unfenced[i] && letin[i]);
#endif
	judged[i] = false; unfenced[i] = unfenced[i] || !table;
	if
	:: sock[i] = FULL
	:: sock[i] = MADE
	fi
}

/* ---- a SYN: it asks ---- */

inline asks(i) {             /* the door's chain */
	if
	:: !table -> ok = true
	:: table && grant -> ok = true;
#ifdef SYN_SPENDS_THE_GRANT
		grant = grant && !single
#endif
	:: else
	fi
}

inline arrives(i) {          /* prerouting, then input or forward */
	if
#ifdef SYN_ON_AN_ENTRY_IS_BELIEVED
	:: ct[i] >= ANSWERED -> ok = true
	:: ct[i] < ANSWERED -> asks(i)
#else
#ifdef NOTHING_IS_ASKED_AT_ARRIVAL
	:: ok = true                     /* it came to another port, and was redirected */
#else
	:: asks(i)
#endif
#endif
	fi
}

/* An assumption: the other machine answers no SYN on an entry from before the fence.
 * Such an entry has no room for the label by which a published port is told from what
 * is forwarded to others, and the SYN/ACK would not be noted. */
#ifdef PUBLISHED
#define noted(i) (!table || room[i])
#else
#define noted(i) true
#endif

inline answered(i) {         /* the SYN/ACK, at output or forward; conntrack is in step again */
	ct[i] = ANSWERED; pending[i] = pending[i] || table
}

inline syn(i, forged) {
	ok = false; made = false;
	if
	:: ct[i] == NONE || ct[i] == CLOSED -> makes(i, NEW)
	:: ct[i] != NONE
	fi;
	arrives(i);
	said(ok);
	assert(p4 || ok || forged || !promised);
	unfenced[i] = unfenced[i] || !table;
	if
	:: !ok -> if :: made -> forget(i) :: else fi
	:: ok && (sock[i] == LISTENER || sock[i] == WAITING) && noted(i) ->
		judged[i] = false; unfenced[i] = !table;
		if
		:: sock[i] = (forged -> FORGED : REQUEST)
		:: cookies -> sock[i] = LISTENER; cookie[i] = cookie[i] || !forged
		fi;
		answered(i);
		insync[i] = (sock[i] == REQUEST)
	:: ok && sock[i] == FORGED && !forged ->
		/* It is answered with the forger's numbers, and the source resets that. */
#ifdef RESETS_ARE_REFUSED
		assert(p4 || !promised || !single)
#else
		sock[i] = LISTENER; ct[i] = CLOSED; insync[i] = false
#endif
	:: ok && !((sock[i] == LISTENER || sock[i] == WAITING) && noted(i) || sock[i] == FORGED && !forged)
	fi;
	made = false; ok = false
}

/* ---- what is no SYN: it answers, or is of a session ---- */

/* seen: its entry is seen. A packet that is INVALID to conntrack has none. */
#ifdef FORGED_ACK_SPENDS_THE_GRANT
#define answering(i, p) (p != RESET && !(seen && letin[i]) && sock[i] != FULL)
#else
#ifdef RESET_SPENDS_THE_GRANT
#define answering(i, p) (seen && pending[i])
#else
#define answering(i, p) (seen && pending[i] && p == ANSWER)      /* flags, tuple and number */
#endif
#endif

#ifdef SESSIONS_NEED_AN_ENTRY
#define session(i) (sock[i] == FULL && seen && letin[i])
#else
#ifdef HANDSHAKE_BEFORE_THE_SESSION
#define session(i) (sock[i] == FULL && !answering(i, p))
#else
#define session(i) (sock[i] == FULL)
#endif
#endif

#ifdef COOKIE_IS_GOOD_FOR_EVER
#define passed(i) (seen && letin[i])
#else
#define passed(i) (seen && letin[i] && !every(i))
#endif

inline midstream(i, p) {     /* input, or forward */
	if
	:: !table -> ok = true
#ifdef NOTHING_IS_ASKED_AT_ARRIVAL
	:: table -> ok = true
#endif
#ifdef SYN_ON_AN_ENTRY_IS_BELIEVED
	:: table && seen && ct[i] >= ANSWERED -> ok = true
#endif
#ifdef ENTRY_IS_A_SESSION
	:: table && seen && letin[i] -> ok = true
#endif
	:: else ->
		if
#ifdef PUBLISHED
		:: answering(i, p) -> handshake(i, p)
		:: !answering(i, p) -> ok = seen         /* what is not seen is not translated */
#else
		:: p == RESET && !answering(i, p) -> ok = true
		:: p == RESET && answering(i, p) -> handshake(i, p)
		:: p != RESET && session(i) -> ok = true
		:: p != RESET && !session(i) && answering(i, p) -> handshake(i, p)
		:: p != RESET && !session(i) && !answering(i, p) && passed(i) -> ok = true
		:: p != RESET && !session(i) && !answering(i, p) && !passed(i) -> stray(i)
#endif
		fi
	fi
}

inline stray(i) {            /* the door's chain, for what comes out of nothing */
	if
	:: grant && !single -> ok = true; judged[i] = true
	:: else
	fi
}

inline handshake(i, p) {     /* the door's chain for the answer of a handshake */
	if
#if defined(HANDSHAKE_IS_NOT_JUDGED_AGAIN) || defined(PUBLISHED_HANDSHAKE_IS_NOT_JUDGED)
	:: true -> ok = true; pending[i] = false
#else
	:: grant && single -> found[i] = true; who[i] = p
	:: grant && !single -> entered(i, p)
#endif
	:: else
	fi
}

inline entered(i, p) {
	ok = true; judged[i] = true; pending[i] = false;
	letin[i] = letin[i] || seen && room[i];
	assert(p4 || p == ANSWER || p == WRONG)
}

inline taken(i, p) {         /* by the server, what got through */
	if
	:: p == ANSWER && (sock[i] == REQUEST || sock[i] == LISTENER && cookie[i]) -> completed(i)
	:: p == ANSWER && sock[i] == MADE -> sock[i] = FULL
	:: p == RESET -> ct[i] = (ct[i] == NONE -> NONE : CLOSED); sock[i] = LISTENER
	:: else
	fi
}

inline refused(i, p) {
#ifdef PUBLISHED
	assert(p3 || p != ANSWER || sock[i] != FULL || !seen);
	assert(p3 || p != ANSWER || sock[i] != MADE || !seen);
#else
	assert(p3 || p != ANSWER || sock[i] != FULL);
	assert(p3 || p != ANSWER || sock[i] != MADE || !insync[i] || !room[i] || unfenced[i]);
#endif
	assert(p4 || p != ANSWER || sock[i] != REQUEST || !insync[i] || unfenced[i] || !promised);
	if :: made -> forget(i) :: else fi
}

inline packet(i, p) {
	seen = true; made = false; ok = false;
	if
	:: ct[i] == NONE && p != RESET -> makes(i, LIVE)
	:: ct[i] == NEW && p != RESET || ct[i] != NONE && p == STRAY || ct[i] == NONE && p == RESET -> seen = false
	:: p != STRAY && p != RESET && ct[i] == ANSWERED -> ct[i] = LIVE
	:: p != STRAY && ct[i] > ANSWERED || ct[i] != NONE && p == RESET
	:: p != STRAY && ct[i] > NEW && !insync[i] -> seen = false
	fi;
	unfenced[i] = unfenced[i] || !table;
	midstream(i, p);
	said(ok || found[i]);
	if
	:: found[i]
	:: !found[i] && ok -> taken(i, p)
	:: !found[i] && !ok -> refused(i, p)
	fi;
	seen = false; made = false; ok = false
}

/* SINGLE: whoever found the grant takes the turn, and the grant away. Two can have
 * found it, on two processors. */
inline spend(i) {
	found[i] = false; seen = (ct[i] != NONE); ok = false; made = false;
	if
#ifdef TWO_SPEND_ONE_GRANT
	:: true ->
#else
	:: !turn ->
#endif
		printf("  %d spends the grant\n", i);
		turn = true; grant = false; promised = false;
		assert(p2 || earned); earned = false;
		entered(i, who[i]);
		taken(i, who[i])
	:: else -> refused(i, who[i])
	fi;
	who[i] = STRAY; seen = false; ok = false
}

/* ---- who does what ---- */

#ifdef SINGLE
#define none(x) (!x[0] && !x[1])
#define each(x) x(0); x(1)
#else
#define none(x) (!x[0])
#define each(x) x(0)
#endif

/* The source, honest or not, and its connections. */
active [N] proctype Source() {
	bool ok, made, seen;
	do
	:: atomic { sock[_pid] != FULL && sock[_pid] != MADE && !found[_pid] -> printf("SYN %d\n", _pid); syn(_pid, false) }
	:: atomic { !found[_pid] && (sock[_pid] == REQUEST || sock[_pid] == MADE || sock[_pid] == FULL || cookie[_pid]) ->
		printf("packet %d\n", _pid); packet(_pid, ANSWER) }
	:: atomic { sock[_pid] == REQUEST && ct[_pid] == ANSWERED && insync[_pid] && !found[_pid] ->
		printf("packet %d, with a wrong number\n", _pid); packet(_pid, WRONG) }
#ifdef SINGLE
	:: atomic { found[_pid] -> spend(_pid) }
#endif
	od
}

active proctype Forger() {
	bool ok, made, seen;
	byte i;
	do
#ifdef SINGLE
	:: i = 1 - i
#endif
	:: atomic { printf("forged SYN %d\n", i); syn(i, true) }
	:: atomic { !found[i] -> printf("forged packet %d\n", i); packet(i, STRAY) }
	:: atomic { sock[i] == FORGED && !found[i] -> printf("forged RST %d\n", i); packet(i, RESET) }
	od
}

/* FINs, RSTs and data that conntrack takes and the socket does not, and the other
 * way round; timeouts; conntrack -F. */
inline ages(i) {
	if
	:: ct[i] >= ANSWERED -> ct[i] = CLOSING; insync[i] = false
	:: ct[i] >= NEW -> ct[i] = CLOSED; insync[i] = false
	:: forget(i)
	:: sock[i] == FULL -> sock[i] = WAITING
	:: sock[i] != LISTENER -> sock[i] = LISTENER; insync[i] = false
	:: cookie[i] -> cookie[i] = false
	:: pending[i] && sock[i] != REQUEST && sock[i] != FORGED && !cookie[i] -> pending[i] = false
	fi
}

active proctype World() {
	do
	:: atomic { ages(0) }
#ifdef SINGLE
	:: atomic { ages(1) }
	:: d_step { turn && none(found) -> turn = false }
#endif
	:: d_step { table && !turn -> printf("a right knock\n"); grant = true; promised = true; earned = true }
	:: d_step { grant -> printf("the grant ends\n"); grant = false; promised = false }
	:: d_step { !table -> printf("the fence rises\n"); table = true }
#ifndef SINGLE
	:: d_step { table -> printf("nft flush ruleset\n"); table = false; grant = false; promised = false;
		pending[0] = false; unfenced[0] = true }
#endif
	od
}

#else

/* A datagram's entry is the flow: it has no handshake that could be judged. */
#define NONE    0
#define BEGUN   1            /* by the source, */
#define TWOWAY  2            /*   and answered */
#define SERVERS 3            /* by the server, out of its guarded port, */
#define BOTH    4            /*   and answered */

byte ct;
bool room, letin;

/* The fence's sets. */
bool known;                  /* the flow was let in, and answered */
bool ended;                  /* it was ended */

/* What is so, by what happened. */
bool closed;                 /* an operator was told that the door is closed, */
bool anew;                   /* and nothing opened it since the order */
bool met;                    /* a door let the flow in: the server may go on sending */
bool running;                /* and nobody has closed it since */

#define established (ct == TWOWAY || ct == SERVERS || ct == BOTH)

inline door() {
	if
	:: grant ->
		ok = true; letin = room; running = true;
		known = known || ended;
#ifndef ENDED_FOR_EVER
		ended = false;
#endif
		promised = promised && !single; grant = grant && !single
	:: else
	fi
}

inline datagram() {          /* by the source, or in its name */
	if :: ct == NONE -> ct = BEGUN; room = table; made = true :: else fi;
	if
	:: !table -> ok = true
	:: table && letin -> ok = true; known = known || established
#ifndef ANSWERS_MAKE_A_FLOW
	:: table && !letin && established && ended -> door()
	:: table && !letin && established && !ended ->
#else
	:: table && !letin && established ->
#endif
		ok = true; letin = known && room
	:: table && !letin && !established -> door()
	fi;
	said(ok);
	assert(p2 || !ok || !table || running || !closed || !met);
	assert(p4 || ok || !promised);
	assert(p4 || ok || !running || !established);
	if
	:: ok -> if :: ct == SERVERS -> ct = BOTH :: else fi
	:: !ok && made -> ct = NONE
	:: else
	fi;
	ok = false; made = false
}

active proctype World() {
	bool ok, made;
	do
	:: atomic { printf("a datagram\n"); datagram() }
	:: d_step { ct == NONE -> printf("the server begins\n"); ct = SERVERS; room = table }
	:: d_step { ct == BEGUN -> printf("the server answers\n"); ct = TWOWAY;
		if :: letin && table -> known = true; met = true :: else fi }
	:: d_step { ct != NONE -> printf("conntrack forgets\n"); ct = NONE; letin = false; room = false }
	:: d_step { ct == NONE -> printf("a day of silence\n"); known = false; ended = false; met = false; running = false }
#ifdef ENDED_FLOW_WEARS_OFF
	:: d_step { ended -> printf("a day in which only the server sends\n"); ended = false }
#endif
	:: d_step { table -> printf("a right knock\n"); grant = true; promised = true; closed = false; anew = true }
	:: d_step { grant -> printf("the grant ends\n"); grant = false; promised = false }
	:: d_step { !table -> printf("the fence rises\n"); table = true }
	:: d_step { table -> printf("nft flush ruleset\n"); table = false; grant = false; promised = false; closed = false; anew = true;
		known = false; ended = false; met = false; running = false }
	od
}

active proctype Operator() {
	bool end;
	do
	:: d_step { table -> printf("operator: close\n"); grant = false; promised = false; anew = false; running = false };
#ifndef FLOWS_OUTLIVE_CLOSE
		d_step {
			end = table && letin; running = false;
			if
			:: end -> ended = true; known = false; met = true
#ifndef FORGOTTEN_FLOW_OUTLIVES_CLOSE
			:: !end && table && known -> ended = true; known = false
#endif
			:: else
			fi };
		d_step { if :: end -> ct = NONE; letin = false; room = false; running = false :: else fi };
#endif
		d_step { closed = !anew; end = false }
	od
}

#endif
