/* What the models share. README.md says how to read them. */

mtype = { dark, opening, open, closing, failsafe };

/* The promises of docs/PROMISE.md that assertions speak of. Each is false, so that
 * assert(p1 || x) holds when x does; spin prints the expression, and the name in it. */
bool p1, p2, p3, p4, p5, p6, p8, p9;

/* A moment is kept as the number of ticks until it, so that time has no end
 * and the state space has. The clock's tick brings it nearer; 0 is now or past. */
#define nearer(t)    if :: t > 0 -> t-- :: else fi
#define min(a, b)    (a < b -> a : b)
#define max(a, b)    (a > b -> a : b)

bool alive;                  /* the daemon's process */
bool ready;                  /* it has said so since the machine booted */
