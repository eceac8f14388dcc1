/* One door and its grant: kernel, disk, daemon, visitor, operator, and what
 * befalls machines. Promises P1, P2, P4 and P6.
 *
 *   (nothing)   the knock opens for its source, again and again
 *   -DSINGLE    single_use: one connection spends the grant
 *   -DFORALL    scope = "door": it opens for everybody until the door is dark
 *
 * The door has no service, so that it opens at once; service.pml has the rest. */
#include "machine.pml"

#define OPENFOR 2            /* open_for */
#define OPFOR   1            /* an operator's open --for */
#define SEEN    2            /* seenEvery: presence that moved less is not saved */
#define IDLE    3            /* idle; only FORALL needs its clock, see README.md */

#if defined(SINGLE) || defined(FORALL)
#define mayBeLate false      /* those have enough states */
#else
#define mayBeLate true
#endif

#ifdef SINGLE
#define single true
#else
#define single false
#endif

/* The kernel. */
bool table;                  /* the fence stands */
byte left;                   /* the grant's timeout, 0: no grant */

/* The disk: what was synced. */
mtype dState = dark;
byte dDarkIn;                /* when the door goes dark, by the presence that was saved */
bool dForAll;
byte dClaim[4];              /* until when, on whose behalf */
bool rebooted;               /* the boot id on it is not this boot's */

#define KNOCK    0
#define OPERATOR 1
#define ADOPTED  2           /* "before the restart" */
#define PRESENCE 3           /* FORALL */

/* The daemon's memory, which dies with it. */
mtype state = dark;
byte darkIn;
bool forAll;
byte claim[4];
bool dirty[4];               /* claims that the disk has otherwise */
bool give, revoke;           /* what the turn has for the kernel; the last wish counts */
byte giveFor;
bool resync;                 /* compare with the kernel in this turn */
bool retry;                  /* the fence could not be put right: again in a while */
bool ungiven;                /* the kernel lost the grant with the table, or did not take it */
bool news;                   /* the kernel has reported a change by others */

/* The world. */
bool hurried;                /* a turn until its changes are in the kernel: no disk is asked, */
bool slow;                   /* but it came a tick late */
bool lost;                   /* this daemon has no store */
bool used;                   /* a connection has come by the grant */
bool disturbed;              /* others took the table away, and it is not back yet */
bool unsaved;                /* the disk took nothing in this turn */
bool knows;                  /* the daemon has read the kernel's grants */
bool fresh;                  /* no daemon was ready since the boot */
#ifdef FORALL                /* what presence extends is not saved each time */
#define named false
#define becomesNamed(x) skip
#else
bool named;                  /* on whose behalf the kernel lets in was told, and is on disk */
#define becomesNamed(x) named = x
#endif

/* What is owed, by what happened and not by what the daemon thinks of it. */
byte owed;                   /* for so long the visitor may come in */
byte due;                    /* asked for rightly: the kernel is to be given so much */
bool over;                   /* ended by an order or with the door */
bool asked;                  /* what is due comes from a new knock or order */
bool use;                    /* SINGLE: one connection */
bool everybody;              /* FORALL: there was a right knock since the door was dark */
bool end;                    /* that is over once it is told */

#ifdef FORALL
#define latest   max(max(claim[0], claim[1]), max(claim[2], claim[3]))
#define each(x)  x(0); x(1); x(2); x(3)
#else
#define latest   max(claim[0], max(claim[1], claim[2]))
#define each(x)  x(0); x(1); x(2)
#endif
#define granted  (latest > 0)

/* ---- the door: internal/door ---- */

inline keep(by, length) {            /* Door.give and Door.claim */
	claim[by] = length;
	give = true; revoke = false;
#ifdef LAST_CLAIM_COUNTS
	giveFor = length;
#else
	giveFor = latest;
#endif
#ifdef SECOND_KNOCK_DOES_NOT_RENEW
	give = (left == 0);
#endif
	skip
}

inline seenNow() {                   /* Saved.LastSeen */
#ifdef FORALL
#ifdef IDLE_COUNTS_FROM_THE_OPENING
	darkIn = (state == dark -> IDLE : darkIn)
#else
	darkIn = IDLE
#endif
#else
	skip
#endif
}

inline heard() {                     /* Door.Knock */
#ifdef FORALL
	if
#ifdef DEAF_WHILE_OPEN_FOR_ONE
	:: state == open && !forAll -> due = IDLE
#endif
	:: state == dark || state == open && !forAll ->
		due = IDLE; asked = true; end = false;
		dirty[KNOCK] = dirty[KNOCK] || !granted;
		seenNow();
		state = open; forAll = true;
		keep(KNOCK, darkIn)
	:: else                          /* ignored, or all are in already */
	fi
#else
	if
	:: state != failsafe ->
		due = max(due, OPENFOR); asked = asked || single;
		dirty[KNOCK] = true;
		state = open;
		keep(KNOCK, OPENFOR)
	:: else
	fi
#endif
}

inline ordered() {                   /* Door.Open */
	due = max(due, OPFOR); asked = asked || single;
	dirty[OPERATOR] = true;
	seenNow();
	state = open;
	keep(OPERATOR, OPFOR)
}

#define dropClaim(by) dirty[by] = dirty[by] || claim[by] > 0; claim[by] = 0

inline drop() {                      /* Door.drop */
	each(dropClaim);
#ifndef REVOKED_COMES_BACK
	forAll = false;
#endif
	give = false; giveFor = 0
}

inline withdraw() {                  /* Door.Wrong; what an operator gave stays */
	if
#ifndef NEIGHBOURS_TAKE_BACK_A_USED_GRANT
	:: used                          /* Fence.Used */
#endif
	:: !used -> due = 0; asked = false; over = true; end = true; drop(); revoke = true
#ifdef NEIGHBOURS_TAKE_BACK_A_USED_GRANT
	:: used -> drop(); revoke = true
#endif
	fi
}

inline darken(to) {                  /* Door.darken */
	due = 0; asked = false; over = true; end = true;
	if
#ifdef DARK_DOOR_KEEPS_ITS_GRANTS
	:: granted -> drop()
#else
	:: granted -> drop(); revoke = true
#endif
	:: else
	fi;
	forAll = false; darkIn = 0;
	state = to
}

inline present() {                   /* Door.Seen: somebody is in */
	seenNow();
#ifdef FORALL
	if :: everybody && !end || asked -> due = IDLE :: else fi;
	if                               /* Door.extend; what it extends is not saved */
#ifdef DRAWN_OUT_FOR_ANYBODY
	:: forAll && claim[0] > 0 -> keep(KNOCK, IDLE)
	:: forAll && claim[1] > 0 -> keep(OPERATOR, IDLE)
	:: forAll && claim[2] > 0 -> keep(ADOPTED, IDLE)
#else
	:: forAll && granted -> keep(PRESENCE, darkIn)
#endif
	:: forAll && !granted -> dirty[PRESENCE] = true; keep(PRESENCE, darkIn)
	:: !forAll
	fi
#endif
	skip
}

/* ---- the turn: internal/gateway ---- */

inline happened() {                  /* what a kernel that did as asked owes */
	if :: over -> owed = 0; use = false; over = false :: else fi;
#ifdef FORALL
	everybody = everybody || asked;
#endif
	use = use || asked; asked = false;
	owed = max(owed, due); due = 0
}

inline change() {                    /* Fence.Change: one transaction, or nothing of it */
	if
	:: !give && !revoke ->
		if :: retry :: else -> happened() fi
	:: (give || revoke) && table -> printf("  the fence is changed\n");
		used = used && left > 0;
#ifdef GIVEN_FOREVER
		left = (give -> 7 : 0);
#else
#ifdef GRANT_LASTS_A_SECOND_LONGER
		left = (give && giveFor > 0 -> giveFor + 1 : 0);
#else
		left = (give -> giveFor : 0);        /* what is left by now: fence.Grant.Until */
#endif
#endif
#ifndef UNGIVEN_FOR_EVER
		ungiven = false;
#endif
		happened()
	:: give || revoke -> printf("  the fence takes no change\n");
		resync = true;
#ifndef REFUSED_CHANGE_IS_FORGOTTEN
		ungiven = ungiven || give
#endif
	fi;
	give = false; revoke = false; giveFor = 0
}

inline raise() {                     /* Gateway.raise */
	printf("  the fence is raised\n");
#ifdef GUARDED_ANEW
	left = 0;
#endif
	table = true; disturbed = false
}

inline compare() {                   /* Gateway.compare, beside the turns there */
	if
	:: granted && ungiven -> left = latest
	:: granted && !ungiven && left == 0 -> drop()        /* Door.Ended */
	:: granted && !ungiven && left > 0
#ifndef STRANGE_GRANTS_STAY
	:: !granted && left > 0 -> left = 0
	:: !granted && left == 0
#else
	:: !granted
#endif
	fi;
	retry = false; ungiven = false;
	happened()
}

#ifdef CLAIM_IS_NOT_SAVED
#define save(by) dClaim[by] = (dirty[by] && claim[by] == 0 -> 0 : dClaim[by]); dirty[by] = false
#else
#define save(by) dClaim[by] = (dirty[by] -> claim[by] : dClaim[by]); dirty[by] = false
#endif

inline commit() {                    /* Store.Commit */
	printf("  committed\n");
	each(save);
	if                               /* worthSaving */
	:: dState != state || dForAll != forAll || darkIn >= dDarkIn + SEEN ->
		dState = state; dForAll = forAll; dDarkIn = darkIn
	:: else
	fi;
#ifdef FORALL
	everybody = everybody || asked;  /* it opened, and the disk knows */
#endif
	rebooted = false
}

inline told() {                      /* replies, and what status says between two turns */
	if :: unsaved -> printf("  the disk takes nothing\n") :: else fi;
	printf("  told: %e, its grant lasts %d; the kernel's %d; owed %d\n", state, latest, left, owed);
	if
	:: retry || disturbed            /* status says that the fence is down */
	:: else ->
		assert(p4 || due == 0);      /* what was asked for rightly is given */
		assert(p2 || left == owed || single && !use);
		assert(p6 || left == latest || single && !use);
		assert(p6 || state == open || left == 0);
		if                           /* what is not saved, a restart forgets */
		:: !unsaved -> everybody = everybody && !end; end = false
		:: else
		fi
	fi;
	assert(p6 || !fresh || state != open);
	assert(p1 || !disturbed || news || retry);      /* it is put right at the news */
	if :: single && !use && latest == 0 -> owed = left :: else fi;
	becomesNamed(!unsaved && !retry);
	fresh = false; ready = true; unsaved = false;
#ifdef LOSS_IS_FORGOTTEN
	ungiven = false;
#endif
	skip
}

inline load() {                      /* Gateway.openStore, and the doors of Gateway.begin */
	printf("  the store is read\n");
	if
#ifndef BOOT_IS_NOT_NOTICED
	:: rebooted                      /* dark */
#endif
	:: else -> state = dState; darkIn = dDarkIn; forAll = dForAll
	fi
}

#ifdef LOST_GRANTS_ARE_BELIEVED
#define joined(by) (left > 0 -> min(left, dClaim[by]) : dClaim[by])
#else
#ifdef CLAIMS_END_WITH_THE_DAEMON
#define joined(by) 0
#else
#define joined(by) min(left, dClaim[by])
#endif
#endif
#define restoreClaim(by) \
	claim[by] = (state == open -> joined(by) : 0); \
	dirty[by] = (claim[by] < dClaim[by])

inline join() {                      /* Gateway.restoreGrants, and compare for what it does not know */
	printf("  grants are joined\n");
	knows = true; hurried = true; everybody = everybody && forAll;
	each(restoreClaim);
	if
	:: state != open -> over = true;
#ifndef GRANTS_STAY_AT_A_DARK_DOOR
		revoke = (left > 0)
#else
		claim[ADOPTED] = left; dirty[ADOPTED] = true
#endif
#ifndef CLAIM_CAPS_GRANT
	:: state == open && left > latest ->
#else
	:: state == open && left > 0 && !granted ->
#endif
		assert(p6 || !named);        /* else it is known whose word it was */
#ifndef UNKNOWN_GRANTS_ARE_NOT_ADOPTED
		claim[ADOPTED] = left; dirty[ADOPTED] = true
#else
		skip
#endif
	:: else
	fi;
	becomesNamed(false)
}

/* Between any two of its steps the daemon can die. */
active proctype Daemon() {
	do
	:: d_step { !alive -> printf("the daemon starts\n"); alive = true };
	{
#ifdef FULL_DISK_STOPS_THE_START
		if :: skip :: assert(p1 || false) fi;    /* it ends, and guards nothing */
#endif
#ifdef NO_STORE_NO_FENCE
		if :: skip :: assert(p1 || table) fi;
#endif
#ifdef STORE_FIRST_THEN_FENCE
		assert(p1 || table);                     /* while a disk takes its time */
#endif
#ifdef BOOT_ID_FIRST
		if :: rebooted = false :: skip fi;
#endif
		d_step { raise(); news = false };        /* from the configuration alone */
		if
		:: d_step { load() }
#ifndef FORALL
		:: d_step { printf("  there is no store\n"); lost = true }
#endif
		fi;
		d_step { join() };
		goto flush;
turn:
		atomic { hurried = true; slow = false; becomesNamed(false) };
		do                           /* whatever waits is one turn's */
		:: d_step { printf("a right knock\n"); heard() }
		:: d_step { state != failsafe -> printf("operator: open\n"); ordered() }
		:: d_step { granted -> printf("operator: close --source\n");
			due = 0; asked = false; over = true; end = true; drop(); revoke = true }
		:: d_step { state == open -> printf("operator: close\n"); darken(dark) }
#if !defined(SINGLE) && !defined(FORALL)
		:: d_step { claim[KNOCK] > 0 && claim[OPERATOR] == 0 && claim[ADOPTED] == 0 -> printf("a wrong knock\n");
			withdraw() }
#endif
		:: atomic { state == open -> printf("a look: somebody is in\n"); present() }
#ifdef FORALL
		:: d_step { state == open && darkIn == 0 -> printf("a look: nobody was in for long\n"); darken(dark) }
#else
		:: d_step { state == open && !granted -> printf("a look: nobody was in for long\n"); darken(dark) }
#endif
		:: d_step { state != failsafe -> printf("a look: no log data\n"); darken(failsafe) }
		:: d_step { state == failsafe -> printf("a look: log data is back\n"); state = dark }
		:: d_step { news -> printf("news of the table\n"); news = false;
#ifndef FLUSHED_FENCE_STAYS_DOWN
			resync = true
#endif
		}
		:: d_step { !resync -> printf("upkeep\n"); resync = true }
		:: atomic { break }
		od;
flush:	skip;
#ifdef STORE_BEFORE_FENCE
		hurried = false;
		if :: d_step { !lost -> commit() } :: unsaved = true fi;
#endif
		if
		:: d_step { change() }
#ifndef FORALL                       /* the two without it have refusals */
		:: d_step { give || revoke -> printf("  the fence takes no change\n");
			resync = true;
#ifndef REFUSED_CHANGE_IS_FORGOTTEN
			ungiven = ungiven || give;
#endif
			give = false; revoke = false; giveFor = 0 }
#endif
		fi;
		if
		:: resync || retry ->        /* reconcile; a retry has its own time */
			resync = false;
			if
			:: d_step { !table -> raise();
#ifdef SPENT_GRANT_IS_GIVEN_AGAIN
				ungiven = granted }
#else
#ifdef FLUSHED_GRANTS_ARE_NOT_GIVEN_AGAIN
				}
#else
				ungiven = ungiven || granted && !single }
#endif
#endif
			:: table
#ifndef FORALL
			:: goto broken
#endif
			fi;
			if
			:: d_step { table -> compare() }
#ifndef FORALL
			:: goto broken
#else
			:: !table -> goto broken
#endif
			fi
		:: !resync
		fi;
		goto save;
broken:	skip;
		d_step { printf("  the fence cannot be put right\n"); retry = true };
save:
		hurried = false;
#ifndef STORE_BEFORE_FENCE
		if :: d_step { !lost -> commit() } :: unsaved = true fi;
#endif
		d_step { told() };
		goto turn
	} unless { !alive }
	od
}

#ifdef TIME_IS_UP_A_SECOND_LATE     /* hadLeft: the kernel's, before the tick */
#define nearerClaim(by) if :: claim[by] > (hadLeft > 0) -> claim[by]-- :: else fi; nearer(dClaim[by])
#else
#define nearerClaim(by) nearer(claim[by]); nearer(dClaim[by])
#endif

active proctype Clock() {
#ifdef TIME_IS_UP_A_SECOND_LATE
	byte hadLeft;
#endif
	do
	:: d_step { !hurried || mayBeLate && !slow -> printf("        tick\n");
		/* No disk stands between a knock and its door. */
		assert(p4 || due == 0 || retry || disturbed || hurried);
		slow = hurried;
#ifndef LATE_GRANT_GETS_ITS_WHOLE_TIME
		nearer(giveFor);
#endif
		nearer(owed); nearer(due); nearer(darkIn); nearer(dDarkIn);
#ifdef TIME_IS_UP_A_SECOND_LATE
		hadLeft = left;
#endif
#ifdef GIVEN_FOREVER
		left = (alive && !granted -> 0 : left);
#else
		nearer(left);
#endif
		used = used && left > 0;
		each(nearerClaim) }
	od
}

/* Anybody tries to connect at any moment. */
active proctype Prober() {
	do
	:: d_step { ready -> assert(p1 || table || disturbed); assert(p1 || left <= owed) }
#if !defined(SINGLE) && !defined(FORALL)
	:: d_step { left > 0 && !used -> printf("the visitor connects\n"); used = true }
#endif
#ifdef SINGLE
	:: d_step { left > 0 -> printf("the visitor connects\n"); left = 0;
		assert(p1 || use); use = false }
#endif
	od
}

#define forget(by) claim[by] = 0; dirty[by] = false

active proctype Tormentor() {
	do
	:: d_step { alive -> printf("kill -9\n");
		alive = false; hurried = false; slow = false; lost = false; knows = false;
		state = dark; darkIn = 0; forAll = false;
		each(forget);
		give = false; revoke = false; giveFor = 0;
		resync = false; retry = false; ungiven = false; news = false; unsaved = false;
		due = 0; asked = false; over = false; end = false; owed = min(owed, left);      /* the kernel is the truth */
#ifdef FENCE_FALLS_WITH_DAEMON
		table = false; left = 0;
#endif
		}
	:: d_step { !alive -> printf("a reboot\n");
		table = false; left = 0; owed = 0; use = false; everybody = false;
		rebooted = true; fresh = true; ready = false; disturbed = false;
		becomesNamed(false) }
	:: d_step { table -> printf("nft flush ruleset\n");
		table = false; left = 0; disturbed = true; news = alive; use = false;
		owed = (knows -> owed : 0) }                        /* else nobody knows it any more */
	od
}
