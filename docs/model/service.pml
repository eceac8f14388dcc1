/* A door's service, its controller, and who waits for it. Promises P4 and P9.
 *
 * ltl comes_to_rest and gets_in say what must be so in the end, if others leave
 * the service alone after a while and it starts when it is told to. That it
 * stops when it is told to is not asked: -DSTUBBORN has one that never does. */
#include "machine.pml"

mtype = { none, starts, stops, looks };

/* The service. */
bool runs;
bool isRunning[2];           /* news of it on its way to the controller */
byte news;

/* The controller (controller.go), which dies with the daemon. */
mtype busy = none;           /* what it has under way, */
bool done;                   /* which has ended */
bool well;                   /*   and how: done, or seen to run */
bool wanted, again, stale;
bool running;                /* as last seen */
bool known;                  /* it was seen, or done */
bool overtaken;              /* a start ended for somebody else's order */
#ifdef OLD_SERVICE_HAS_THE_LAST_WORD
mtype old = none;            /* what a controller whose time is over had under way */
#endif

/* The door. */
mtype state = dark;
bool waits;                  /* the visitor's knock, for the service */
bool granted;
bool retry;                  /* a stop that failed is due again */
bool repaired;               /* the service died a short while ago */
bool paused;                 /* the service, which others stopped, is to be started again */
mtype saved = dark;          /* on disk */

/* The world. */
bool observe;
bool wants;                  /* the visitor is outside */
bool asked;                  /* and knocked; once is enough, unless there was trouble since */
byte trouble = 3;            /* so often others start, stop, break or replace it, or the daemon dies */

inline becomes(r) {          /* the service manager reports every change */
	if
	:: runs != r -> runs = r; isRunning[news] = runs; news++
	:: else
	fi
}

inline do_(up) {            /* controller.do */
	busy = (up -> starts : stops); done = false; again = false
}

inline want(up) {           /* controller.setWanted */
	wanted = up;
	if
#ifdef LATEST_WISH_IS_LOST
	:: busy != none
#else
	:: busy != none -> again = true
#endif
	:: else -> do_(up)
	fi
}

inline give() {              /* Door.give */
	printf("  the visitor is let in\n");
	granted = true; wants = false; asked = false
}

inline heard() {             /* Door.ask */
	if
	:: state == open -> give()
#ifdef STOP_THAT_FAILS_KEEPS_VISITORS_OUT
	:: state == dark ->
#else
	:: state == dark || state == closing && retry ->
#endif
		state = opening; waits = true; retry = false;
#ifdef GRANTED_BEFORE_IT_RUNS
		assert(p9 || running); give();
#endif
		want(true)
	:: (state == opening || state == closing) && !(state == closing && retry) -> waits = true;
		if :: paused -> paused = false; want(true) :: else fi
#ifdef STOP_THAT_FAILS_KEEPS_VISITORS_OUT
	:: state == closing && retry -> waits = true
#endif
	:: state == failsafe
	fi
}

inline darken(to) {          /* Door.darken */
	granted = false; waits = false; retry = false; paused = false;
	asked = false;           /* nobody who wants in meets this but by trouble: they come again */
	state = to;
#ifndef DARK_DOOR_LEAVES_ITS_SERVICE
	want(false)
#endif
}

inline doorRuns() {          /* Door.Runs */
	if
	:: state == opening -> assert(p9 || running);
		state = open; retry = false; paused = false;
		if :: waits -> waits = false; give() :: else fi
#ifndef STARTED_BY_OTHERS_RUNS_ON
	:: state == dark || state == failsafe -> want(false)
#endif
	:: else
	fi
}

inline doorStopped() {       /* Door.Stopped */
	retry = false;
	if
#ifdef KNOCK_AT_A_CLOSING_DOOR_IS_FORGOTTEN
	:: state == closing -> waits = false; state = dark
#else
	:: state == closing && waits -> state = opening; want(true)
	:: state == closing && !waits -> state = dark
#endif
	:: state == open && repaired -> darken(closing)          /* it keeps dying */
	:: state == open && !repaired -> repaired = true; state = opening; want(true)
	:: else
	fi
}

inline doorHalted() {        /* Door.Halted */
	if
	:: (state == open || state == opening) && !paused ->
		state = opening;
		if
		:: want(true)
		:: paused = true                                     /* it was so a short while ago */
		fi
	:: (state == open || state == opening) && paused
	:: else -> doorStopped()
	fi
}

inline doorFailed() {        /* Door.Failed */
	if
#ifdef OPENS_THOUGH_THE_SERVICE_FAILED
	:: state == opening -> state = open; if :: waits -> waits = false; granted = true; wants = false; asked = false :: else fi
#else
	:: state == opening -> darken(closing)
#endif
	:: state == open
#ifdef STOP_THAT_FAILS_KEEPS_VISITORS_OUT
	:: else -> waits = false;
#else
	:: state == closing && waits -> state = opening; want(true)
	:: else ->
#endif
#ifndef FAILED_STOP_IS_NOT_REPEATED
		retry = true
#else
		skip
#endif
	fi
}

inline look() { busy = looks; done = false; stale = false }

inline sees(r) {             /* controller.update */
	known = true;
	if
	:: r -> running = true; doorRuns()
#ifdef DEATH_OF_A_SERVICE_IS_NOT_HEARD
	:: !r -> running = false
#else
	:: !r -> running = false; doorStopped()                  /* it died */
#endif
#ifdef STOP_BY_OTHERS_IS_NOT_HEARD
	:: !r -> running = false
#else
	:: !r -> running = false; doorHalted()                   /* it was stopped */
#endif
	fi
}

inline observed(r) {         /* controller.observed */
	if
#ifdef CHANGE_DURING_A_START_IS_NOT_HEARD
	:: busy != none
#else
	:: busy != none -> stale = true
#endif
	:: busy == none && known && running != r -> look()       /* it may be late */
	:: busy == none && !(known && running != r) -> sees(r)
	fi
}

inline lookAgain() {         /* the end of controller.done and of a look */
	if :: stale && busy == none -> look() :: else fi
}

/* controller.done, and what a look found: r is what was wanted, or what is so */
inline ended() {
	mtype was = busy;
	busy = none; done = false;
	if
	:: was == looks && again -> do_(wanted)
	:: was == looks && !again -> sees(well)
	:: was != looks && again && wanted != (was == starts) -> do_(wanted)
	:: was != looks && !(again && wanted != (was == starts)) ->
		again = false;
		if
		:: well && was == starts -> running = true; known = true; doorRuns()
		:: well && was == stops -> running = false; known = true; doorStopped()
		:: !well && overtaken -> overtaken = false; doorHalted()
		:: !well && !overtaken -> doorFailed()
		fi
	fi;
	lookAgain();
	overtaken = false;
	was = none
}

inline renew() {             /* guarded.reconfigure, Door.Renew: another service, another controller */
#ifdef OLD_SERVICE_HAS_THE_LAST_WORD
	old = busy;
#endif
	busy = none; done = false; well = false; wanted = false; again = false; stale = false; running = false;
	known = false; overtaken = false; paused = false;
	if :: runs = false :: runs = true fi;
	news = 1; isRunning[0] = runs; isRunning[1] = false;
	retry = false;
	if
	:: state == opening -> want(true)
	:: state == closing -> want(false)
	:: else
	fi
}

/* One turn is one step here: grants.pml has what happens within. What the daemon
 * hears of has a process each, since each is heard in the end (fairness). */
active proctype Knocks() {
	do
	:: atomic { alive && wants && !asked && state != failsafe -> asked = true; printf("a right knock\n"); heard(); saved = state }
	od
}

active proctype Results() {
	do
	:: atomic { alive && done -> printf("  %e: %d\n", busy, well); ended(); saved = state }
	od
}

active proctype News() {
	do
	:: atomic { alive && news > 0 -> printf("  news: %d\n", isRunning[0]);
		news--; observe = isRunning[0]; isRunning[0] = isRunning[1]; isRunning[1] = false;
		observed(observe); saved = state }
	od
}

#ifdef OLD_SERVICE_HAS_THE_LAST_WORD
active proctype Old() {
	do
	:: atomic { old == starts -> printf("  the old service has started\n"); old = none; doorRuns(); saved = state }
	:: atomic { old == stops -> printf("  the old service has stopped\n"); old = none; doorStopped(); saved = state }
	:: atomic { old == looks -> old = none }
	:: atomic { old == starts || old == stops -> printf("  the old service fails\n"); old = none; doorFailed(); saved = state }
	od
}
#endif

active proctype Timer() {
	do
	:: atomic { alive && retry -> printf("  it is stopped again\n"); retry = false; want(false); saved = state }
	:: atomic { alive && paused -> printf("  it is started again\n"); paused = false; want(true); saved = state }
	od
}

active proctype Start() {
	do
	:: atomic { !alive -> printf("the daemon starts\n");
		alive = true; news = 1; isRunning[0] = runs;         /* Watch reports how it is */
		state = (saved == open || saved == failsafe -> saved : dark) }
	od
}

/* What the door does not decide: presence, operators, the kernel's clock. */
active proctype Others() {
	do
	:: atomic { alive && (state == open || paused && !waits) && !wants -> printf("idle\n"); darken(closing); saved = state }
	:: atomic { granted -> granted = false }
	:: atomic { repaired -> repaired = false }
	:: atomic { !wants && !granted -> wants = true }
	:: atomic { !wants -> skip }                             /* nobody comes */
	:: atomic { alive && state != failsafe && trouble > 0 -> printf("no log data\n");
		trouble--; darken(failsafe); saved = state }
	od
}

active proctype Logs() {
	do
	:: atomic { alive && state == failsafe -> printf("log data is back\n"); state = dark; saved = state }
	od
}

/* Starting and stopping takes its time. */
active proctype Manager() {
	do
	:: atomic { busy == starts && !done && news < 2 -> becomes(true); done = true; well = true }
	:: atomic { busy == starts && !done && trouble > 0 -> trouble--; done = true; well = false }
	:: atomic { busy == starts && !done && trouble > 0 -> trouble--; done = true; well = false; overtaken = true }
	:: atomic { busy == starts && !done && trouble > 0 && news < 2 -> trouble--; becomes(true); done = true; well = false }
#ifndef STUBBORN
	:: atomic { busy == stops && !done && news < 2 -> becomes(false); done = true; well = true }
	:: atomic { busy == stops && !done && trouble > 0 -> trouble--; done = true; well = false }
#else
	:: atomic { busy == stops && !done && runs -> done = true; well = false }
	:: atomic { busy == stops && !done && !runs -> done = true; well = true }
#endif
	:: atomic { busy == looks && !done -> done = true; well = runs }
	:: atomic { trouble > 0 && news < 2 -> trouble--; printf("others change it\n"); becomes(!runs) }
	:: atomic { alive && trouble > 0 -> trouble--; printf("operator: apply, with another service\n");
		renew(); saved = state }
	:: atomic { alive && trouble > 0 -> trouble--; printf("kill -9\n");
		alive = false; news = 0; isRunning[0] = false; isRunning[1] = false;
		busy = none; done = false; well = false; wanted = false; again = false; stale = false;
		running = false; waits = false; retry = false; repaired = false; asked = false; state = dark;
		known = false; overtaken = false; paused = false;
#ifdef OLD_SERVICE_HAS_THE_LAST_WORD
		old = none
#endif
		}
	od
}

/* The granted visitor's grant lives in the kernel, over kill -9 too; a door that
 * is not open has none when it has come to rest. */
ltl comes_to_rest { <> [] (alive && (state == open -> runs) && (state == dark -> !runs)) }
ltl gets_in       { [] <> !wants }
