/* Knocks and penalties: the network, the recogniser, the door's memory, the disk.
 * A visitor who knocks rightly, or gives up half way, and an intruder who scans,
 * guesses, repeats, and sends SYNs in the visitor's name. Promises P1, P4 and P5.
 *
 *   (nothing)   the network: turns are late, nothing dies
 *   -DDISK      the intruder alone, whose penalties grow; kill -9, a disk that takes
 *               nothing, a clock that is set back; operators, and a door that leaves
 *               and comes back
 *
 * The knock is two ports in any order; a third is to be left alone. Progress and
 * penalties are each source's own (scope = "source"). */
#include "machine.pml"

#define WITHIN  1            /* within */
#ifdef DISK
#define PENALTY 1            /* penalty, for the first time */
#define LONGEST 3            /* longestPenalty */
#define WEEK    2            /* Remembered */
#define LATE    0
#else
#define PENALTY 3            /* one of those: growth is DISK's */
#define LONGEST PENALTY
#define LATE    1            /* how late a turn may come for a touch */
#endif
#define again(n) (n == 0 -> PENALTY : (n == 1 -> min(2 * PENALTY, LONGEST) : LONGEST))

#define VISITOR  0
#define INTRUDER 1

#define A 1                  /* ports, as bits */
#define B 2
#define X 4                  /* to be left alone */
#define RIGHT 3              /* A and B */

/* A touch keeps its time, and its turn may be late. So moments are kept with two
 * ticks added: 0 is none, 1 is past by a tick or more, 2 is now. */
#define moment(ticks)   (ticks + 2)
#define ahead(m, age)   (m + age > 2)            /* seen from so long ago */
#define behind(m, age)  (m > 0 && m + age < 2)
#define ticks(m)        (m > 2 -> m - 2 : 0)
#define passes(m)       if :: m > 1 -> m-- :: else fi

/* The network: touches that wait for their turn. */
byte n;
byte qSource[2], qPort[2], qAge[2];
bool listening;

/* The daemon's memory, which dies with it. */
bool mute;                   /* failsafe: it hears nobody */
byte touched[2];             /* Recogniser: a knock under way */
byte judge[2];               /* when it is judged without a further touch */
byte until[2];               /* Door: penalties */
bool dirty[2];               /* the disk has them otherwise */
#ifdef DISK
byte times[2];               /* Penalty.Times: so many in a row, 3 for more */
byte memory[2];              /* until when that counts */
byte given[2];               /* Penalty.For */
#endif
bool unsaved;                /* the disk took nothing */
byte lag;                    /* since the turn began: what was touched by then is heard in it */
#define counts(s) (ticks(memory[s]) > 0 -> times[s] : 0)
#ifdef FAILSAFE_HEARS
#define deaf false           /* Door.Mute */
#else
#define deaf mute
#endif
#ifdef DISK
bool there = true;           /* the configuration has the door */
#else
#define there true
#endif

/* The disk. */
byte dUntil[2];              /* by the wall clock, which can be set back */
#ifdef DISK
byte dTimes[2], dMemory[2], dGiven[2];
#endif

/* What is so, by what happened. */
byte gone[2];                /* the ports of a knock that was begun, */
byte time[2];                /* and how long it may still take, with one tick added */
bool right[2];               /* it is right, and has not opened yet */
bool reason[2];              /* it is wrong, and not judged yet */
byte banned[2];              /* for so long the source is penalised */
byte told[2];                /* as status said */
#ifdef DISK
byte wrongs[2];              /* so often in a row it was wrong, */
byte quiet[2];               /* for so long once more is one more, */
byte toldTimes[2];           /* and was told to be */
#endif
bool fault[2];               /* there was a wrong knock, or an operator's order, since */
bool edge[2];                /* touched so short before a penalty's end that either will do */
bool shut;                   /* status said that the door is in failsafe, */
bool vain;                   /* and somebody still met a listener */
bool warned;                 /* status said that nothing is saved */
bool stepped;                /* the clock was set back since the last start */

/* ---- what happens on the network ---- */

inline send(s, p) {          /* a completed handshake */
	qSource[n] = s; qPort[n] = p; qAge[n] = 0; n++
}

inline touch(s, p) {
	printf("%d touches %d\n", s, p);
	vain = shut;
	send(s, p);
	if
	:: 0 < banned[s] && banned[s] <= LATE -> edge[s] = true
	:: mute || !there || banned[s] > LATE || banned[s] == 0 && reason[s]        /* not heard, or with what came before */
	:: else ->
		time[s] = (gone[s] == 0 -> WITHIN + 1 : time[s]);
		gone[s] = gone[s] | p;
		if
		:: p == X -> reason[s] = true
		:: p != X && gone[s] == RIGHT -> right[s] = true
		:: else
		fi
	fi
}

#ifndef DISK
active proctype Visitor() {
	do
	:: d_step { listening && n < 2 && !right[VISITOR] -> touch(VISITOR, A) }
	:: d_step { listening && n < 2 && !right[VISITOR] -> touch(VISITOR, B) }
	od
}
#endif

active proctype Intruder() {
	do
	:: d_step { listening && n < 2 && !right[INTRUDER] -> touch(INTRUDER, A) }
	:: d_step { listening && n < 2 && !right[INTRUDER] -> touch(INTRUDER, B) }
	:: d_step { listening && n < 2 && !right[INTRUDER] -> touch(INTRUDER, X) }
#ifdef SYN_COUNTS_AS_A_TOUCH
	:: d_step { listening && n < 2 -> printf("a forged SYN\n"); send(VISITOR, X) }
#endif                       /* else nobody answers the handshake, and nothing is heard */
	od
}

/* ---- the daemon ---- */

inline wrong(s, age) {       /* Door.Wrong */
	printf("  %d knocked wrong\n", s);
	assert(p5 || reason[s] || edge[s]);
	reason[s] = false; right[s] = false; edge[s] = false; gone[s] = 0; fault[s] = true;
	touched[s] = 0; judge[s] = 0;
#ifdef DISK                  /* about the moment in which it is forgotten either will do */
	wrongs[s] = (0 < memory[s] && memory[s] <= 2 -> times[s] : wrongs[s]);
	banned[s] = again(wrongs[s]); wrongs[s] = min(wrongs[s] + 1, 3); quiet[s] = banned[s] + WEEK;
#ifdef PENALTIES_DO_NOT_GROW
	given[s] = PENALTY;
#else
	given[s] = again(times[s]);
#endif
	times[s] = min(times[s] + 1, 3);
	until[s] = moment(given[s]); memory[s] = moment(given[s] + WEEK);
#else
	banned[s] = PENALTY - age;
#ifdef PENALTY_IS_TWICE_AS_LONG
	until[s] = moment(2 * PENALTY - age);
#else
	until[s] = moment(PENALTY - age);
#endif
#endif
#ifdef PENALTY_IS_NOT_REMEMBERED
	skip
#else
	dirty[s] = true
#endif
}

inline knock(s) {            /* Door.Knock */
	printf("  %d knocked right\n", s);
	assert(p1 || right[s] || edge[s]);
	assert(p5 || told[s] == 0 || fault[s]);
	gone[s] = (edge[s] -> gone[s] : 0); right[s] = false;
	touched[s] = 0; judge[s] = 0
}

inline look1(s, age) {       /* Recogniser.Look */
	if
	:: touched[s] > 0 && behind(judge[s], age) -> wrong(s, age); was = was | (1 << s)
	:: else
	fi
}

inline pardon1(s, age) {     /* Door.Tick */
	if
#ifdef TIME_IS_UP_A_SECOND_LATE
	:: behind(until[s], age) -> until[s] = 0; dirty[s] = true
#else
	:: until[s] > 0 && !ahead(until[s], age) -> until[s] = 0; dirty[s] = true;
#ifdef WRONG_AGAIN_IS_FORGOTTEN_AT_ONCE
		times[s] = 0; memory[s] = 0
#endif
#endif
	:: else
	fi;
#ifdef DISK
	if
	:: memory[s] > 0 && !ahead(memory[s], age) -> times[s] = 0; memory[s] = 0; given[s] = 0; dirty[s] = true
	:: else
	fi
#endif
}

inline heard() {             /* guarded.hear, Recogniser.Hear */
	s = qSource[0]; p = qPort[0]; a = qAge[0]; was = 0;
	n--; qSource[0] = qSource[1]; qPort[0] = qPort[1]; qAge[0] = qAge[1];
	qSource[1] = 0; qPort[1] = 0; qAge[1] = 0;
#ifdef SOURCES_SHARE_A_KNOCK
	w = VISITOR;
#else
	w = s;
#endif
#ifndef LATE_TURN_IS_DEAF
	pardon1(0, a); pardon1(1, a);
#endif
	if
	:: deaf || !there -> assert(p4 || !vain)
#ifndef PENALISED_ARE_HEARD
	:: !deaf && there && until[s] > 0
	:: !deaf && there && until[s] == 0 ->
#else
	:: !deaf && there ->
#endif
		look1(0, a); look1(1, a);
		if
		:: was & (1 << w)    /* it came too late */
		:: else ->
			judge[w] = (touched[w] == 0 -> moment(WITHIN - a) : judge[w]);
#ifdef KNOCK_MAY_TAKE_TWICE_ITS_TIME
			judge[w] = (touched[w] == 0 -> moment(2 * WITHIN - a) : judge[w]);
#endif
#ifdef REPEAT_COUNTS         /* as many as the knock has */
			touched[w] = (touched[w] & p -> RIGHT : touched[w] | p);
#else
			touched[w] = touched[w] | p;
#endif
			if
#ifndef ANY_PORT_IS_RIGHT
			:: touched[w] & X -> touched[w] = 0; judge[w] = 0; wrong(s, a)
			:: touched[w] == RIGHT -> touched[w] = 0; judge[w] = 0; knock(s)
#else
			:: (touched[w] & RIGHT) == RIGHT -> knock(s)
#endif
			:: else
			fi
		fi
	fi;
	s = 0; p = 0; a = 0; w = 0; was = 0
}

inline tick() {              /* guarded.judge and tick */
	was = 0;
	if
#ifndef FAILSAFE_JUDGES
	:: deaf -> touched[0] = 0; touched[1] = 0; judge[0] = 0; judge[1] = 0
#endif
#ifndef JUDGED_BEFORE_IT_IS_HEARD
	:: !deaf && n > 0        /* more than one turn takes: they come first */
#ifndef UNFINISHED_KNOCKS_ARE_NOT_JUDGED
	:: else -> look1(0, lag); look1(1, lag)
#else
	:: else
#endif
#else
	:: else -> look1(0, 0); look1(1, 0)
#endif
	fi;
	was = 0;
	pardon1(0, 0); pardon1(1, 0)
}

inline save1(s) {
#ifdef DISK
	dUntil[s] = (dirty[s] -> until[s] : dUntil[s]);
	dGiven[s] = (dirty[s] -> given[s] : dGiven[s]);
	dTimes[s] = (dirty[s] -> times[s] : dTimes[s]);
	dMemory[s] = (dirty[s] -> memory[s] : dMemory[s]);
#endif
	dirty[s] = false
}

inline commit() {
	printf("  committed\n");
#ifndef PENALTY_IS_NOT_SAVED
	save1(0); save1(1);
#endif
	unsaved = false
}

inline told1(s) {
	if
	:: fault[s]
	:: else -> assert(p5 || ticks(until[s]) == told[s]);     /* neither longer nor gone */
#ifdef DISK
		assert(p5 || counts(s) == toldTimes[s])
#endif
	fi;
#ifdef DISK
	assert(p5 || counts(s) == wrongs[s]);
	toldTimes[s] = counts(s);
#endif
	fault[s] = false; told[s] = ticks(until[s]);
	assert(p5 || told[s] == banned[s]);
	assert(p4 || !right[s] || n > 0 || edge[s]);
	assert(p5 || !reason[s] || n > 0 || lag == LATE || edge[s]);   /* who is wrong is penalised */
	if                       /* nothing of it is under way */
	:: edge[s] && touched[s] == 0 && n == 0 -> edge[s] = false; reason[s] = false; gone[s] = 0; time[s] = 0
	:: else
	fi
}

inline telling() {
	printf("  told: penalties of %d and %d\n", ticks(until[0]), ticks(until[1]));
	told1(0); told1(1);
	warned = unsaved; shut = mute;
#ifdef FAILSAFE_LISTENS
	listening = true
#else
	listening = there && !deaf       /* guarded.listenState */
#endif
}

inline restore1(s) {         /* Gateway.restorePenalties, Penalty.Left */
#ifdef DISK
#ifdef CLOCK_MAKES_IT_LONGER
	until[s] = (ticks(dUntil[s]) > 0 -> dUntil[s] : 0);
#else
#ifdef PENALTY_BEGINS_ANEW
	until[s] = (ticks(dUntil[s]) > 0 -> moment(dGiven[s]) : 0);
#else
#ifdef PENALTY_ENDS_WITH_THE_DAEMON
	until[s] = 0;
#else
	until[s] = (ticks(dUntil[s]) > 0 -> min(dUntil[s], moment(dGiven[s])) : 0);
#endif
#endif
#endif
	memory[s] = min(dMemory[s], moment(dGiven[s] + WEEK));
	times[s] = dTimes[s]; given[s] = dGiven[s];
#ifdef TIMES_END_WITH_THE_DAEMON
	times[s] = 0;
#endif
#ifdef STEPPED_CLOCK_STAYS_ON_DISK
	dirty[s] = (until[s] == 0 && dUntil[s] > 0);
#else
	dirty[s] = (until[s] != dUntil[s] || memory[s] != dMemory[s]);
#endif
	if                       /* it went with the door */
	:: !there -> until[s] = 0; times[s] = 0; memory[s] = 0; given[s] = 0; dirty[s] = (dMemory[s] > 0); fault[s] = true
	:: there && ticks(memory[s]) == 0 -> times[s] = 0; memory[s] = 0; given[s] = 0; dirty[s] = (dMemory[s] > 0)
	:: else
	fi;
	if                       /* what was warned of, or a clock that was set back, binds less */
	:: warned || stepped -> assert(p5 || ticks(until[s]) <= dGiven[s]); fault[s] = true
	:: else
	fi;
	banned[s] = ticks(until[s]); wrongs[s] = counts(s); quiet[s] = ticks(memory[s])
#else
	skip
#endif
}

#ifdef DISK
inline arm(s) {              /* Door.ArmSource */
	printf("operator: arm %d\n", s);
	banned[s] = 0; wrongs[s] = 0; quiet[s] = 0; fault[s] = true;
	edge[s] = (n > 0);       /* its touches, before this or after */
#ifndef OPERATOR_ARMS_NOBODY
	until[s] = 0; times[s] = 0; memory[s] = 0; given[s] = 0;
#endif
	dirty[s] = true
}

inline leave1(s) {           /* guarded.leave */
	touched[s] = 0; judge[s] = 0;
	gone[s] = 0; time[s] = 0; reason[s] = false; right[s] = false; edge[s] = false;
#ifndef DOOR_THAT_LEFT_LEAVES_ITS_PENALTIES
	dirty[s] = dirty[s] || memory[s] > 0;
#endif
	until[s] = 0; times[s] = 0; memory[s] = 0; given[s] = 0;
	banned[s] = 0; wrongs[s] = 0; quiet[s] = 0; fault[s] = true
}
#endif

active proctype Daemon() {
	byte s, p, a, w, was;
	do
	:: d_step { !alive -> printf("the daemon starts\n");
		alive = true; restore1(0); restore1(1); warned = false; stepped = false };
	{
		goto flush;
turn:
		lag = 0;
		do
		:: d_step { n > 0 -> heard() }
		:: d_step { !mute && there -> printf("  no log data\n"); mute = true;
			gone[0] = 0; gone[1] = 0; reason[0] = false; reason[1] = false;
			right[0] = false; right[1] = false; edge[0] = false; edge[1] = false }
		:: d_step { mute && shut && n == 0 -> printf("  log data is back\n"); mute = false }
#ifdef DISK
		:: d_step { until[INTRUDER] > 0 -> arm(INTRUDER) }
		:: d_step { there -> printf("operator: apply, without the door\n");
			there = false; mute = false; leave1(0); leave1(1) }
		:: d_step { !there && !listening && n == 0 -> printf("operator: apply, with the door again\n");
			there = true }
#endif
		:: atomic { break }
		od;
flush:	skip;
		d_step { tick() };
#ifdef TOLD_BEFORE_IT_IS_SAVED
		d_step { telling() };
#endif
		if
		:: d_step { commit() }
#ifdef DISK
		:: d_step { printf("  the disk takes nothing\n"); unsaved = dirty[0] || dirty[1];
#ifdef FULL_DISK_FORGETS
			dirty[0] = false; dirty[1] = false
#endif
			}
#endif
		fi;
#ifndef TOLD_BEFORE_IT_IS_SAVED
		d_step { telling() };
#endif
		goto turn
	} unless { !alive }
	od
}

inline passes1(s) {
	if
	:: time[s] > 0 -> time[s]--;
		if :: time[s] == 0 && gone[s] > 0 && !right[s] -> reason[s] = true :: else fi
	:: else
	fi;
	nearer(banned[s]); nearer(told[s]);
	passes(judge[s]); passes(until[s]); passes(dUntil[s]);
#ifdef DISK
	passes(memory[s]); passes(dMemory[s]);
	nearer(quiet[s]);
	wrongs[s] = (quiet[s] > 0 -> wrongs[s] : 0); toldTimes[s] = (quiet[s] > 0 -> toldTimes[s] : 0)
#endif
}

#ifdef DISK
#define remembers (memory[0] != 1 && memory[1] != 1)
#else
#define remembers true
#endif

/* No turn is later than LATE for a touch, or for a moment that is due. */
active proctype Clock() {
	do
	:: d_step { (n == 0 || qAge[0] < LATE) && (!alive || judge[0] != 1 && judge[1] != 1 && until[0] != 1 && until[1] != 1 && remembers) ->
		printf("        tick\n");
		qAge[0] = (n > 0 -> qAge[0] + 1 : 0);
		qAge[1] = (n > 1 -> qAge[1] + 1 : 0);
		lag = (alive && lag < LATE -> lag + 1 : lag);
		passes1(0); passes1(1) }
	od
}

inline forget1(s) {
	touched[s] = 0; judge[s] = 0; until[s] = 0; dirty[s] = false;
#ifdef DISK
	times[s] = 0; memory[s] = 0; given[s] = 0;
#endif
	qSource[s] = 0; qPort[s] = 0; qAge[s] = 0;
	gone[s] = 0; time[s] = 0; reason[s] = false; right[s] = false; edge[s] = false
}

#ifdef DISK
inline back1(s) {
	dUntil[s] = (dUntil[s] > 0 -> moment(LONGEST + 1) : 0);
	dMemory[s] = (dMemory[s] > 0 -> moment(LONGEST + WEEK + 1) : 0)
}

active proctype Tormentor() {
	do
	:: d_step { alive -> printf("kill -9\n");
		alive = false; listening = false; shut = false; vain = false; mute = false; n = 0; unsaved = false; lag = 0;
		forget1(0); forget1(1) }
	:: d_step { !alive && !stepped && dUntil[0] + dUntil[1] > 0 -> printf("the clock is set back\n");
		stepped = true;
		back1(0); back1(1) }
	od
}
#endif
