/* Configurations: doorward apply --confirm, its deadline, keep and undo, over
 * crash, reboot and a disk that takes nothing. Promises P1 and P8. */
#include "machine.pml"

#define NONE 0
#define OLD  1               /* the configuration in use, as a text */
#define NEW  2               /* the one that may lock the operator out; either has a door of its own */

#define WINDOW 2             /* --confirm */

byte file = OLD;             /* doorward.toml */

/* The kernel. */
byte guarded;                /* the configuration that the fence is of */

/* The disk: store.Applied. */
byte dConfirmed, dPending, dRejected;
byte dDeadline;
bool rebooted;               /* the boot id on it is not this boot's */

/* The daemon's memory, which dies with it. */
byte inUse;
byte confirmed, pending, rejected;
byte deadline;
bool dirty;                  /* Gateway.changes.applied */
bool saved;                  /* the commit of this turn went well */
bool refused;                /* the kernel did not take a configuration: again in a while */

/* The world. */
bool taken;                  /* a port of the old configuration's knock is another program's */

/* What is so, by what happened. */
byte window;                 /* for so long the new one may be in use without a word */
bool promised;               /* the disk had it that it goes back */
bool wasDue;                 /* the deadline had passed when the turn looked */
bool withdrawn;              /* the order came to nothing, which the disk does not know yet */
bool applied;                /* this daemon took the new one into use */
bool kept, keeps;            /* an operator was told that it is kept; the order for it */
bool undoes;                 /* an order to undo, to be told */

#define mayBeNew (kept || keeps || window > 0 || !promised)

#ifdef NEW_DOOR_IS_NOT_GUARDED
#define raised(c) inUse      /* Gateway.use */
#else
#define raised(c) c
#endif

inline save(c, p, d, r) {    /* Gateway.saveApplied */
	dConfirmed = c; dPending = p; dDeadline = d; dRejected = r;
	rebooted = false; dirty = false
}

inline forgetPending() {     /* Gateway.forgetPending */
#ifndef ROLLED_BACK_FILE_IS_USED_AGAIN
	rejected = pending;
#endif
	pending = NONE; deadline = 0
}

inline choose() {            /* Gateway.choose */
	alive = true;
	confirmed = dConfirmed; pending = dPending; rejected = dRejected;
#ifdef WINDOW_BEGINS_ANEW_WITH_THE_DAEMON
	deadline = (pending != NONE -> WINDOW : 0);
#else
	deadline = dDeadline;
#endif
	if
#ifdef BOOT_IS_NOT_NOTICED
	:: pending != NONE && deadline == 0 -> forgetPending()
#else
	:: pending != NONE && (rebooted || deadline == 0) -> forgetPending()
#endif
	:: else
	fi;
	if
	:: pending != NONE && file == pending -> inUse = file
	:: pending != NONE && file != pending || pending == NONE && file != rejected ->
		confirmed = file; pending = NONE; rejected = NONE; deadline = 0;
		inUse = file
	:: else -> inUse = confirmed; pending = NONE; deadline = 0
	fi;
	dirty = true;
	printf("the daemon starts with %d\n", inUse)
}

inline commit() {
	if
	:: dirty -> save(confirmed, pending, deadline, rejected);
		promised = promised && !withdrawn; withdrawn = false
	:: else
	fi;
	rebooted = false; saved = true
}

inline telling() {
	printf("  told: %d in use, %d guarded, %d waits\n", inUse, guarded, pending);
	assert(p1 || refused || guarded == inUse);           /* each door in use is guarded */
	assert(p8 || refused || guarded != NEW || mayBeNew ||
		pending == NEW && deadline == 0 && !wasDue          /* it ran out in this turn */);
	if
	:: keeps -> kept = true; keeps = false; window = 0
	:: else
	fi;
	if
	:: undoes && saved && !refused -> window = 0
	:: else
	fi;
	undoes = false; wasDue = false;
	if                       /* it was not taken into use: the operator puts the file back */
	:: inUse == OLD && !promised -> file = OLD; window = 0
	:: else
	fi;
	assert(p8 || !kept || inUse == NEW);
	ready = true
}

active proctype Daemon() {
	do
	:: d_step { !alive -> choose() };
	{
		d_step { guarded = inUse };                          /* raise */
		goto flush;
turn:
		if
		:: d_step { pending == NONE && inUse == OLD -> printf("operator: apply --confirm\n");
			file = NEW; promised = false };
#ifndef PENDING_IS_SAVED_AFTER_IT_IS_USED
			if
#ifdef PENDING_IS_NOT_SAVED
			:: skip
#else
			:: d_step { save(confirmed, NEW, WINDOW, NONE); promised = true; window = WINDOW }
#endif
			:: d_step { printf("  nothing was changed: the disk takes nothing\n"); file = OLD }; goto flush
			fi;
#endif
			if
			:: d_step { printf("  the kernel has the new one\n"); guarded = raised(NEW); inUse = NEW; applied = true }
			:: d_step { printf("  nothing was changed: the kernel takes nothing\n") };
				if
				:: d_step { save(confirmed, pending, deadline, rejected); promised = false }
				:: d_step { dirty = true; withdrawn = true }         /* the disk takes nothing */
				fi;
				goto flush
			fi;
#ifdef PENDING_IS_SAVED_AFTER_IT_IS_USED
			d_step { save(confirmed, NEW, WINDOW, NONE); promised = true; window = WINDOW };
#endif
#ifdef PENDING_IS_NOT_SAVED
			d_step { pending = NEW; deadline = WINDOW; rejected = NONE; promised = true; window = WINDOW }
#else
			d_step { pending = NEW; deadline = dDeadline; rejected = NONE }
#endif
		:: d_step { pending != NONE -> printf("operator: apply --keep\n") };
			if
			:: d_step {
#ifndef KEEP_IS_NOT_SAVED
				save(pending, NONE, 0, NONE);
#endif
				keeps = true; confirmed = pending; pending = NONE; deadline = 0 }
			:: d_step { printf("  the disk takes nothing\n") }
			fi
		:: d_step { pending != NONE -> printf("operator: apply --undo\n"); undoes = true };
			goto back
		/* SIGHUP, and apply without --force, change nothing where this may not be. */
#ifdef SIGHUP_MAKES_PENDING_PERMANENT
		:: d_step { pending != NONE -> printf("SIGHUP\n");
			confirmed = pending; pending = NONE; deadline = 0; dirty = true }
#endif
#ifdef ROLLED_BACK_FILE_IS_RELOADED
		:: d_step { pending == NONE && file == rejected && inUse == OLD -> printf("SIGHUP\n");
			guarded = raised(file); inUse = file; confirmed = file; rejected = NONE; dirty = true }
#endif
		:: skip              /* something else */
		fi;
tick:	wasDue = (pending != NONE && deadline == 0);
		if                   /* Gateway.checkApplied */
#ifndef NOTHING_IS_ROLLED_BACK
		:: atomic { pending != NONE && deadline == 0 -> goto back }
#endif
		:: else -> goto flush
		fi;
back:	skip;                /* Gateway.undo */
#ifdef TAKEN_PORT_HOLDS_THE_ROLLBACK
		if
		:: atomic { taken -> undoes = false; goto flush }
		:: else
		fi;
#endif
		if
		:: d_step { printf("  rolled back\n");
			guarded = raised(confirmed); inUse = confirmed; refused = false; applied = false;
			forgetPending();
#ifndef UNDO_IS_NOT_SAVED
			dirty = true
#endif
			}
		:: d_step { printf("  the kernel takes nothing\n"); refused = true; undoes = false;
#ifdef FAILED_ROLLBACK_IS_GIVEN_UP
			forgetPending(); refused = false
#endif
			}
		fi;
flush:	skip;
		if
		:: d_step { commit() }
		:: d_step { saved = false }                          /* the disk takes nothing */
		fi;
		d_step { telling() };
		goto turn
	} unless { !alive }
	od
}

/* The daemon is in time for what is due. */
active proctype Clock() {
	do
	:: d_step { !alive || pending == NONE || deadline > 0 || refused ->
		printf("        tick\n");
		nearer(window); nearer(deadline); nearer(dDeadline) }
	od
}

active proctype Tormentor() {
	do
	:: d_step { alive -> printf("kill -9\n");
		/* Whatever dies, the disk knows what to go back to. */
		assert(p8 || !applied || dPending == NEW || dConfirmed == NEW);
		applied = false;
		alive = false; saved = false; refused = false; dirty = false;
		inUse = NONE; confirmed = NONE; pending = NONE; rejected = NONE; deadline = 0;
		kept = kept || keeps && dConfirmed == NEW; keeps = false; undoes = false; wasDue = false; withdrawn = false }
	:: d_step { !alive -> printf("a reboot\n");
		guarded = NONE; rebooted = true; ready = false; window = 0 }
	:: d_step { !taken -> taken = true }
	od
}
