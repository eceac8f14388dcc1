#!/bin/sh
# Has spin go through all states of the models in docs/model, then through those of
# each mutant, a deliberate fault in one of them, until it finds what it breaks. A
# model in which something is broken fails, and so does a mutant in which nothing is.
#
#	build/model.sh                                  models and mutants
#	build/model.sh models                           the models alone
#	build/model.sh trail MODEL [VARIANT] [MUTANT]   the story of a counterexample
. "$(dirname "$0")/lib.sh"

# A line each: model, variant ("-" for none), what is held, the formula ("-" for
# assertions alone).
models='grants FORALL P1,P2,P4,P6 -
grants - P1,P2,P4,P6 -
grants SINGLE P1,P2,P4,P6 -
penalty - P1,P4,P5 -
penalty DISK P5 -
service - P9 comes_to_rest
service - P4 gets_in
service STUBBORN P4 gets_in
apply - P1,P8 -
fence - P1,P3,P4 -
fence SINGLE P1,P2,P3,P4 -
fence PUBLISHED P1,P3,P4 -
fence BOUND P1,P3,P4 -
fence UDP P2,P4 -'

# A line each: model, variant, formula, and the mutants that break it.
mutants='grants - - LAST_CLAIM_COUNTS SECOND_KNOCK_DOES_NOT_RENEW DARK_DOOR_KEEPS_ITS_GRANTS GIVEN_FOREVER
grants - - REFUSED_CHANGE_IS_FORGOTTEN GUARDED_ANEW STRANGE_GRANTS_STAY LOSS_IS_FORGOTTEN
grants - - FLUSHED_GRANTS_ARE_NOT_GIVEN_AGAIN FLUSHED_FENCE_STAYS_DOWN FENCE_FALLS_WITH_DAEMON STORE_BEFORE_FENCE
grants - - BOOT_IS_NOT_NOTICED BOOT_ID_FIRST GRANTS_STAY_AT_A_DARK_DOOR UNKNOWN_GRANTS_ARE_NOT_ADOPTED
grants - - CLAIM_CAPS_GRANT FULL_DISK_STOPS_THE_START GRANT_LASTS_A_SECOND_LONGER TIME_IS_UP_A_SECOND_LATE
grants - - CLAIM_IS_NOT_SAVED CLAIMS_END_WITH_THE_DAEMON LOST_GRANTS_ARE_BELIEVED
grants - - LATE_GRANT_GETS_ITS_WHOLE_TIME NEIGHBOURS_TAKE_BACK_A_USED_GRANT
grants - - STORE_FIRST_THEN_FENCE NO_STORE_NO_FENCE
grants SINGLE - SPENT_GRANT_IS_GIVEN_AGAIN UNGIVEN_FOR_EVER
grants FORALL - REVOKED_COMES_BACK DEAF_WHILE_OPEN_FOR_ONE DRAWN_OUT_FOR_ANYBODY IDLE_COUNTS_FROM_THE_OPENING
penalty - - SYN_COUNTS_AS_A_TOUCH SOURCES_SHARE_A_KNOCK ANY_PORT_IS_RIGHT KNOCK_MAY_TAKE_TWICE_ITS_TIME
penalty - - PENALISED_ARE_HEARD LATE_TURN_IS_DEAF FAILSAFE_JUDGES JUDGED_BEFORE_IT_IS_HEARD
penalty - - FAILSAFE_HEARS FAILSAFE_LISTENS REPEAT_COUNTS UNFINISHED_KNOCKS_ARE_NOT_JUDGED
penalty - - PENALTY_IS_TWICE_AS_LONG TIME_IS_UP_A_SECOND_LATE
penalty DISK - PENALTY_IS_NOT_SAVED PENALTY_BEGINS_ANEW PENALTY_ENDS_WITH_THE_DAEMON CLOCK_MAKES_IT_LONGER
penalty DISK - TOLD_BEFORE_IT_IS_SAVED FULL_DISK_FORGETS STEPPED_CLOCK_STAYS_ON_DISK
penalty DISK - PENALTY_IS_NOT_REMEMBERED OPERATOR_ARMS_NOBODY DOOR_THAT_LEFT_LEAVES_ITS_PENALTIES
penalty DISK - PENALTIES_DO_NOT_GROW WRONG_AGAIN_IS_FORGOTTEN_AT_ONCE TIMES_END_WITH_THE_DAEMON
service - comes_to_rest GRANTED_BEFORE_IT_RUNS DARK_DOOR_LEAVES_ITS_SERVICE STARTED_BY_OTHERS_RUNS_ON
service - comes_to_rest OPENS_THOUGH_THE_SERVICE_FAILED CHANGE_DURING_A_START_IS_NOT_HEARD
service - comes_to_rest DEATH_OF_A_SERVICE_IS_NOT_HEARD STOP_BY_OTHERS_IS_NOT_HEARD FAILED_STOP_IS_NOT_REPEATED OLD_SERVICE_HAS_THE_LAST_WORD
service - gets_in KNOCK_AT_A_CLOSING_DOOR_IS_FORGOTTEN LATEST_WISH_IS_LOST
service STUBBORN gets_in STOP_THAT_FAILS_KEEPS_VISITORS_OUT
apply - - PENDING_IS_NOT_SAVED PENDING_IS_SAVED_AFTER_IT_IS_USED WINDOW_BEGINS_ANEW_WITH_THE_DAEMON
apply - - BOOT_IS_NOT_NOTICED ROLLED_BACK_FILE_IS_USED_AGAIN NOTHING_IS_ROLLED_BACK FAILED_ROLLBACK_IS_GIVEN_UP
apply - - TAKEN_PORT_HOLDS_THE_ROLLBACK UNDO_IS_NOT_SAVED KEEP_IS_NOT_SAVED NEW_DOOR_IS_NOT_GUARDED
apply - - SIGHUP_MAKES_PENDING_PERMANENT ROLLED_BACK_FILE_IS_RELOADED
fence - - SYN_ON_AN_ENTRY_IS_BELIEVED HANDSHAKE_IS_NOT_JUDGED_AGAIN NOTHING_IS_ASKED_AT_ARRIVAL
fence - - ENTRY_IS_A_SESSION COOKIE_IS_GOOD_FOR_EVER SESSIONS_NEED_AN_ENTRY HANDSHAKE_BEFORE_THE_SESSION
fence SINGLE - SYN_SPENDS_THE_GRANT FORGED_ACK_SPENDS_THE_GRANT RESET_SPENDS_THE_GRANT TWO_SPEND_ONE_GRANT RESETS_ARE_REFUSED
fence PUBLISHED - PUBLISHED_HANDSHAKE_IS_NOT_JUDGED COOKIES_WHERE_NOBODY_LISTENS_TO_ALL
fence BOUND - COOKIES_WHERE_NOBODY_LISTENS_TO_ALL
fence UDP - FLOWS_OUTLIVE_CLOSE FORGOTTEN_FLOW_OUTLIVES_CLOSE ANSWERS_MAKE_A_FLOW ENDED_FLOW_WEARS_OFF ENDED_FOR_EVER'

# search DIR MODEL VARIANT FORMULA MUTANT runs one of them in DIR; its words are in
# DIR/out. Assertions of mutants are looked for breadth-first: the shortest story.
search() {
	cp docs/model/*.pml "$1"
	cd "$1" || exit 1
	defines=
	for name in "$3" "$5"; do
		[ "$name" = - ] || defines="$defines -D$name"
	done
	# shellcheck disable=SC2086 # defines is a list of words
	spin -a $defines "$2.pml" >spin.out 2>&1 || { cat spin.out >&2; exit 1; }
	flags="-O2 -DSAFETY -DNOREDUCE" run="-m4000000"
	if [ "$4" != - ]; then
		flags="-O1 -DNFAIR=3" run="-m1000000 -a -f -N $4"
	elif [ "$5" != - ]; then
		flags="-O1 -DSAFETY -DNOREDUCE -DBFS"
	fi
	# shellcheck disable=SC2086
	gcc -w -DMEMLIM=4000 $flags -o pan pan.c || exit 1
	# shellcheck disable=SC2086
	timeout 300 ./pan $run >out 2>&1 || true
}

# count prints the number in a line of pan's words like "  123 states, stored".
count() { sed -n 's/^ *\([0-9][0-9]*\) states, stored.*/\1/p' "$1/out" | head -n 1; }

# broken prints which promise the first error of DIR/out breaks, and after how many
# steps; nothing when there is none.
broken() {
	sed -n "s/^pan:1: assertion violated (*p\([0-9]\).*(at depth \([0-9]*\)).*/P\1 \2/p
		s/^pan:1: acceptance cycle (at depth \([0-9]*\)).*/$2 \1/p" "$1/out" | head -n 1
}

# one is a job: it prints its line of the table, and fails with it.
one() {
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	since=$(date +%s%N)
	(search "$dir" "$1" "$2" "$4" "$5") || { echo "$1 $2 $5: spin or gcc failed" >&2; exit 1; }
	seconds=$(echo "$since $(date +%s%N)" | awk '{printf "%.1f", ($2 - $1) / 1e9}')
	how=$(broken "$dir" "$4")
	variant=$2
	[ "$2" != - ] || variant=
	if [ "$5" = - ]; then
		if ! grep -q 'errors: 0' "$dir/out" || grep -Eq 'not completed|too small|out of memory' "$dir/out"; then
			printf '%s %s: broken: %s\n' "$1" "$variant" "${how:-$(cat "$dir/out")}" >&2
			exit 1
		fi
		printf '%-9s %-9s %-12s %-14s %9s states %6s s\n' "$1" "$variant" "$3" "$4" "$(count "$dir")" "$seconds"
	else
		[ -n "$how" ] || { printf '%s %s %s: nothing is broken\n' "$1" "$variant" "$5" >&2; exit 1; }
		printf '%-40s %-9s %-9s %-14s %4s steps\n' "$(echo "$5" | tr 'A-Z_' 'a-z-')" "$1" "$variant" "${how% *}" "${how#* }"
	fi
}

# all runs the jobs that it reads, a line each, on all processors.
all() { xargs -P "$(nproc)" -L 1 "$0" job; }

case ${1:-} in
job)
	shift
	one "$@"
	exit
	;;
trail)
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
	line=$(echo "$mutants" | awk -v m="$2" -v x="${4:-${3:-}}" '$1 == m { for (i = 4; i <= NF; i++) if ($i == x) print $1, $2, $3, x }' | head -n 1)
	[ -n "$line" ] || line="$2 ${3:--} - -"
	# shellcheck disable=SC2086
	set -- $line
	(search "$dir" "$1" "$2" "$3" "$4")
	[ -e "$dir/$1.pml.trail" ] || { cat "$dir/out"; exit 0; }
	defines=
	for name in "$2" "$4"; do
		[ "$name" = - ] || defines="$defines -D$name"
	done
	# shellcheck disable=SC2086
	(cd "$dir" && spin -T -g -t $defines "$1.pml" | grep -v '^Never claim')
	exit
	;;
esac

# Every fault that the models know is in the list above.
names=$(awk '/^#ifn?def/ {print $2}' docs/model/*.pml | sort -u)
for name in $names; do
	case " $(echo "$models $mutants" | tr '\n' ' ') " in
	*" $name "*) ;;
	*) echo "model.sh: nobody asks for $name of docs/model" >&2; exit 1 ;;
	esac
done

# Every fault of the code is in it, too, or listed as left out: by its name, or with the
# whole package that it is in, as `internal/sandbox/...`.
faults=$(awk '$1 == "mutant" {print $2 ":" $4}' internal/mutants/mutants.txt)
known=$(echo "$mutants" | tr '\nA-Z_' ' a-z-')
left_out=$(sed -n '/^## What is left out/,$p' docs/model/README.md)
for fault in $faults; do
	name=${fault%%:*} dir=$(dirname "${fault#*:}")
	case " $known " in
	*" $name "*) continue ;;
	esac
	case "$left_out" in
	*"\`$name\`"* | *"\`$dir/...\`"*) ;;
	*) echo "model.sh: $name of internal/mutants is in no model, nor left out in docs/model" >&2; exit 1 ;;
	esac
done

step "models: model, variant, promises, formula"
echo "$models" | awk '{print $0, "-"}' | all
[ "${1:-}" = models ] && exit
step "mutants: fault, model, variant, what it breaks, after how many steps"
echo "$mutants" | awk '{for (i = 4; i <= NF; i++) print $1, $2, "-", $3, $i}' | all
step "done: $(echo "$mutants" | awk '{n += NF - 3} END {print n}') mutants, each noticed"
