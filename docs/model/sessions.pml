/* Sessions and the fence: conntrack, the sessions that stood before it, and a
 * door that refuses loudly (refuse = "reject": a packet that is not let through
 * ends its session). Promise P3, and that an entry for a session admits no other. */
#include "machine.pml"

#define N 2                  /* tuples: who, from which port */

/* The kernel. */
bool table;
bool standing[N];            /* let through by the whole tuple, but for a SYN */
bool granted[N];
bool tracked[N];             /* conntrack knows it: established */

/* The machine's sockets. */
bool session[N];

/* The daemon's memory. */
bool found[N];               /* by sock_diag, before and after the fence rises */
bool known[N];               /* Gateway.standing */
bool looked;                 /* before the fence rises */

/* Sessions made between the look and the fence: for a moment nobody knows them. */
bool between[N];

/* A session's next packet, in either state of its life. */
inline packet(i) {
	if
	:: !table -> tracked[i] = false                          /* nobody asks conntrack */
	:: table && tracked[i]
	:: table && !tracked[i] && standing[i] -> tracked[i] = true      /* picked up in mid-stream */
	:: table && !tracked[i] && !standing[i] -> assert(p3 || between[i])  /* it would be cut */
	fi
}

/* A SYN. */
inline connect(i) {
	if
	:: !table -> session[i] = true; tracked[i] = false; between[i] = looked
#ifdef STANDING_ADMITS_A_SYN
	:: table && (granted[i] || standing[i]) ->
#else
	:: table && granted[i] ->
#endif
		session[i] = true; tracked[i] = true; between[i] = looked;
		assert(p1 || granted[i])
	:: else
	fi
}

active proctype People() {
	do
	:: d_step { !session[0] -> connect(0) }
	:: d_step { !session[1] -> connect(1) }
	:: d_step { session[0] -> packet(0) }
	:: d_step { session[1] -> packet(1) }
	:: d_step { session[0] -> session[0] = false; tracked[0] = false }
	:: d_step { session[1] -> session[1] = false; tracked[1] = false }
	od
}

inline find() { found[0] = session[0]; found[1] = session[1] }

inline admit() {             /* Fence.Admit */
	standing[0] = found[0]; standing[1] = found[1];
	known[0] = found[0]; known[1] = found[1]
}

active proctype Daemon() {
	do
	:: d_step { !alive -> alive = true };
	{
		skip;
rise:	skip;
#ifdef NOT_LOOKED_FOR_BEFORE
		skip;
#else
		d_step { find(); looked = true };
#endif
		d_step { looked = false; table = true; standing[0] = found[0]; standing[1] = found[1] };
#ifndef NOT_LOOKED_FOR_AFTERWARDS
		d_step { find() };
		d_step { admit() };
#endif
		d_step { between[0] = false; between[1] = false };
		do
		:: d_step { granted[0] = !granted[0] }               /* a knock, or its end */
		:: d_step { granted[1] = !granted[1] }
		:: d_step { granted[0] || granted[1] ->              /* the door goes dark */
			granted[0] = false; granted[1] = false;
#ifdef DARK_CUTS_SESSIONS
			tracked[0] = false; tracked[1] = false; standing[0] = false; standing[1] = false
#endif
			}
		:: atomic { known[0] || known[1] -> find() };        /* Gateway.letGo */
#ifdef LETS_ALL_GO
			d_step { found[0] = false; found[1] = false; admit() }
#else
			d_step { found[0] = found[0] && known[0]; found[1] = found[1] && known[1]; admit() }
#endif
		:: d_step { !table } -> goto rise
		od
	} unless { !alive }
	od
}

active proctype Tormentor() {
	do
	:: d_step { table -> table = false;                          /* nft flush ruleset */
		standing[0] = false; standing[1] = false; granted[0] = false; granted[1] = false }
	:: d_step { alive -> alive = false; looked = false; found[0] = false; found[1] = false; known[0] = false; known[1] = false }
	od
}
