/*
 * One charge of one order: three workers that share a lease, a PSP with keys it forgets, answers that get lost,
 * webhooks in any order, and two crashes. docs/model.md tells what is left out and how to read a counterexample.
 *
 * -D switches.  The PSP: KEEPS_ERRORS, KEEPS_ANSWERS, KEEPS_SUCCESSES or REGISTERS_FIRST (exactly one).
 *               A mutant: one MUTANT_<name>; each breaks one line of the protocol and must be caught.
 *               A witness: one WITNESS_<name>; it claims that something wanted never happens, and must be refuted.
 *
 * Time is left out but for what the code relies on; every other pause is as long as the checker likes:
 *   T1  between what the gate goes by (the clock, or a look-up's NOT_SENT) and the request's arrival less than
 *       `window_margin` passes, so no key gets too old while a request that the gate let through is on its way;
 *   T2  between `mark_sending` and the moment a look-up can see the charge less than `look_up_lag` passes.
 */

#define WORKERS 3
#define CRASHES 2

/* Capabilities (providers/protocol.py). */
#ifdef KEEPS_ERRORS              /* simulated.py: the key keeps whatever was answered, a 5xx too */
#define LOOKS_BEFORE_RESEND false
#define REPLAYS_ERRORS true
#endif
#ifdef KEEPS_ANSWERS             /* the key keeps what was done, and a 5xx that did nothing is not kept */
#define LOOKS_BEFORE_RESEND false
#define REPLAYS_ERRORS false
#endif
#ifdef KEEPS_SUCCESSES           /* simulated.py without replays_errors: only 2xx are kept, a decline is not */
#define LOOKS_BEFORE_RESEND true
#define REPLAYS_ERRORS false
#define KEEPS_ALL false
#else
#define KEEPS_ALL true
#endif
#ifdef REGISTERS_FIRST           /* stripe.py: the object is made first, then confirmed */
#define LOOKS_BEFORE_RESEND true
#define REPLAYS_ERRORS true
#define OBJECTS 2
#define STRAYS 1                 /* requests under way, per object, whose sender no longer listens */
#else
#define OBJECTS 1
#define STRAYS 2
#endif

mtype:phase = {
    IDLE,
    HELD,                        /* claimed; next_step comes next */
    REGISTERED,                  /* the PSP answered `register`; operations.register comes next */
    FOUND,                       /* the look-up was answered; may_send_after comes next */
    GATED,                       /* the gate allows sending; mark_sending comes next, where it is needed */
    READY,                       /* marked, or marked before: the request leaves, or is on its way */
    TOLD                         /* the call ended; mismatch_of is left out, so apply or postpone come next */
}
mtype:outcome = { NOTHING, APPROVED, DECLINED, PENDING, NOT_SENT, UNKNOWN, SERVER_ERROR, NOT_FOUND }
mtype:cause = { NO_CAUSE, SILENCE, WAS_SERVER_ERROR, WAS_NOT_FOUND }
mtype:lease = {
    TAKEN,                       /* holder set; may run out at any moment, also while its holder still works: a zombie */
    WAITING,                     /* holder NULL, due after a pause of any length */
    LAGGING,                     /* holder NULL, due after look_up_lag */
    PARKED,                      /* due_at NULL: only a person, or a webhook, moves it on */
    BOOKED                       /* the row is deleted: T2 took it away */
}
mtype:status = { OPEN, SUCCEEDED, FAILED, UNRESOLVED }

/* The database. What one transaction does is one atomic step. */
mtype:lease lease = TAKEN;       /* T1 committed the operation, leased to the process of worker 0 as attempt 1 */
mtype:status status = OPEN;
mtype:cause cause = NO_CAUSE;    /* operation.cause */
bool sent = true;                /* operation.first_sent_at is set: by T1, before anything leaves */
bool closed;                     /* window_is_open has become false for that first_sent_at */
bool pending;                    /* operation.status is PENDING */
byte reference;                  /* operation.provider_reference: 0 none, else object + 1 */
byte bookings;                   /* how often T2 booked a decision */

/* `lease.attempt = held attempt`. Attempt numbers never come back, so who holds the current one says all. */
bool current[WORKERS];

/* What a worker holds in memory; a crash loses it. */
mtype:phase phase[WORKERS] = IDLE;
mtype:outcome answer[WORKERS] = NOTHING;
mtype:cause held_cause[WORKERS] = NO_CAUSE;
bool sent_before[WORKERS];       /* Operation.sent_before */
bool marked[WORKERS];            /* Operation.intent.first_sent_at is not None */
bool held_pending[WORKERS];
byte object[WORKERS];            /* Operation.intent.provider_reference, as `reference` */
byte crashes;

/* The PSP. */
mtype:outcome charge[OBJECTS] = NOTHING;
bool kept[OBJECTS];              /* the key is kept, with what was answered */
bool kept_error[OBJECTS];        /* and that was a 5xx */
bool aged[OBJECTS];              /* and the PSP's window for it is over: it may be forgotten at any moment */
bool visible;                    /* a look-up finds it: the index has caught up */
byte stray[OBJECTS];
byte charged;                    /* the PSP's own books: how often the buyer paid */
bool declined;                   /* and whether it ever declined */

#ifdef REGISTERS_FIRST
#define OBJECT_OF(w) (object[w] - 1)
#else
#define OBJECT_OF(w) 0
#endif
#define LAST (OBJECTS - 1)

/* The fence of every write: `WHERE lease.attempt = held attempt`; a booked operation has no lease row. */
#define HOLDS(w) (current[w] && lease != BOOKED)

#ifdef MUTANT_SENDING_NOT_FENCED
#define MAY_MARK(w) true
#else
#define MAY_MARK(w) HOLDS(w)
#endif
#ifdef MUTANT_BOOKING_NOT_FENCED
#define MAY_BOOK(w) true
#else
#define MAY_BOOK(w) HOLDS(w)
#endif
#ifdef MUTANT_REGISTERING_NOT_FENCED
#define MAY_REGISTER(w) true
#else
#define MAY_REGISTER(w) HOLDS(w)
#endif

/* executor.window_is_open, for what the worker knows */
#define WINDOW_IS_OPEN(w) (!marked[w] || !closed)

/* executor.next_step */
#define MUST_REGISTER(w) (OBJECTS > 1 && object[w] == 0)
#ifdef MUTANT_RESEND_OUTSIDE_WINDOW
#define GATE_WINDOW(w) true
#else
#define GATE_WINDOW(w) WINDOW_IS_OPEN(w)
#endif
#ifdef MUTANT_RESEND_WITHOUT_LOOKING
#define GATE_LOOKS false
#else
#define GATE_LOOKS LOOKS_BEFORE_RESEND
#endif
#define NEXT_IS_SEND(w) (!sent_before[w] || (!held_pending[w] && GATE_WINDOW(w) && !GATE_LOOKS \
                         && !(REPLAYS_ERRORS && held_cause[w] == WAS_SERVER_ERROR)))

/* executor.may_send_after */
#ifdef MUTANT_BELIEVE_FIRST_NOT_FOUND
#define FOUND_WINDOW(w) true
#else
#define FOUND_WINDOW(w) WINDOW_IS_OPEN(w)
#endif
#ifdef MUTANT_ONE_LOOK_UP_IS_ENOUGH
#define ASKED_TWICE(w) true
#else
#define ASKED_TWICE(w) (!LOOKS_BEFORE_RESEND || held_cause[w] == WAS_NOT_FOUND)
#endif
#define MAY_SEND_AFTER(w) (!held_pending[w] \
                           && (answer[w] == NOT_SENT || (answer[w] == NOT_FOUND && FOUND_WINDOW(w) && ASKED_TWICE(w))))

/* T1: somebody the gate let through has not reached the PSP yet. T2: somebody marked has not. */
#define MARKED_ON_THE_WAY ((phase[0] == READY || phase[1] == READY || phase[2] == READY) || stray[0] > 0 || stray[LAST] > 0)
#define GATED_ON_THE_WAY (MARKED_ON_THE_WAY || phase[0] == GATED || phase[1] == GATED || phase[2] == GATED \
                          || GOES_BY(0) || GOES_BY(1) || GOES_BY(2))
#define GOES_BY(w) (phase[w] == FOUND && answer[w] == NOT_SENT)
#ifdef MUTANT_NO_MARGIN
#define KEY_MAY_AGE true
#else
#define KEY_MAY_AGE ((closed || !sent) && !GATED_ON_THE_WAY)
#endif
#ifdef MUTANT_NO_LAG
#define LAG_IS_OVER true
#else
#define LAG_IS_OVER (!MARKED_ON_THE_WAY && (charge[0] == NOTHING || visible))
#endif

/* Witnesses: each says "never" about something the model must be able to do. */
#ifdef WITNESS_WEBHOOK_BEFORE_THE_ANSWER
#define WITNESS_WEBHOOK(happens) assert(!(happens))
#else
#define WITNESS_WEBHOOK(happens) skip
#endif
#ifdef WITNESS_ZOMBIE_IS_FENCED
#define WITNESS_FENCED(happens) assert(!(happens))
#else
#define WITNESS_FENCED(happens) skip
#endif
#ifdef WITNESS_CHARGED_BUT_UNRESOLVED
#define WITNESS_PARKED(happens) assert(!(happens))
#else
#define WITNESS_PARKED(happens) skip
#endif
#ifdef WITNESS_SENT_AGAIN
#define WITNESS_AGAIN(happens) assert(!(happens))
#else
#define WITNESS_AGAIN(happens) skip
#endif
#ifdef WITNESS_KEY_FORGOTTEN_AFTER_THE_CHARGE
#define WITNESS_FORGOTTEN(happens) assert(!(happens))
#else
#define WITNESS_FORGOTTEN(happens) skip
#endif
#ifdef WITNESS_BOOKED_AFTER_TWO_CRASHES
#define WITNESS_CRASHED(happens) assert(!(happens))
#else
#define WITNESS_CRASHED(happens) skip
#endif

inline forget(w) {               /* the worker is done with it, or died */
    phase[w] = IDLE; answer[w] = NOTHING; held_cause[w] = NO_CAUSE; current[w] = false;
    sent_before[w] = false; marked[w] = false; held_pending[w] = false; object[w] = 0
}

/* ---- the PSP ---- */

inline take_money() {
    charged++;
    assert(charged == 1);        /* never charged twice */
    assert(status != FAILED)     /* never FAILED while charged */
}

inline decide(o, what) {         /* the PSP's final word on an object */
    charge[o] = what;
    if
    :: what == APPROVED -> take_money()
    :: else -> declined = true
    fi
}

#ifdef MUTANT_NEW_KEY_PER_ATTEMPT
#define KNOWS_KEY(o) false
#else
#define KNOWS_KEY(o) kept[o]
#endif
#ifdef REGISTERS_FIRST           /* the object itself is confirmed once, key or no key */
#define REFUSES_AGAIN(o) (charge[o] == APPROVED || charge[o] == PENDING)
#else
#define REFUSES_AGAIN(o) false
#endif

/* A request arrives. `heard` is what the PSP answers. */
inline arrive(o, heard) {
    if
    :: KNOWS_KEY(o) && kept_error[o] -> heard = SERVER_ERROR     /* the stored 5xx again */
    :: KNOWS_KEY(o) && !kept_error[o] -> heard = charge[o]       /* the same key: the same charge, as it stands now */
    :: !KNOWS_KEY(o) && REFUSES_AGAIN(o) -> heard = UNKNOWN
    :: !KNOWS_KEY(o) && !REFUSES_AGAIN(o) ->                     /* never seen, or forgotten: done (again) */
        if
        :: decide(o, APPROVED); heard = APPROVED; kept[o] = true
        :: decide(o, DECLINED); heard = DECLINED; kept[o] = KEEPS_ALL
        :: charge[o] = PENDING; heard = PENDING; kept[o] = true
        :: decide(o, APPROVED); heard = SERVER_ERROR; kept[o] = KEEPS_ALL; kept_error[o] = REPLAYS_ERRORS
        :: heard = SERVER_ERROR; kept[o] = REPLAYS_ERRORS; kept_error[o] = REPLAYS_ERRORS
        fi
    fi
}

/* ---- the database: 030_apply_outcomes.sql and 040_operations.sql ---- */

inline book(what) {              /* T2: the lease row is deleted, so nobody books after this */
    bookings++;
    assert(bookings == 1);       /* booked at most once */
    WITNESS_CRASHED(crashes == CRASHES);
    lease = BOOKED; cause = NO_CAUSE; pending = false;
    if
    :: what == APPROVED -> assert(charged >= 1); status = SUCCEEDED       /* booked success => the PSP charged */
    :: what == DECLINED -> assert(charged == 0); status = FAILED          /* never FAILED while charged */
    fi
}

inline apply_outcomes(w, what) {
    if
    :: MAY_BOOK(w) -> book(what)
    :: else -> WITNESS_FENCED(answer[w] == APPROVED)
    fi;
    forget(w)
}

inline claim_operations(w) {     /* who held it before can no longer write; memory begins with what the row says */
#ifndef MUTANT_ATTEMPT_NOT_RAISED
    current[0] = false; current[1] = false; current[2] = false;
#endif
    current[w] = true;
    lease = TAKEN;
    phase[w] = HELD; held_cause[w] = cause; held_pending[w] = pending;
    sent_before[w] = sent; marked[w] = sent; object[w] = reference
}

/* inbox.Inbox._book: a stored event that decides is booked like an answer, by whoever takes the lease for it, and it may
   take it before its time has come. What a look-up found is forgotten then: the lag has not passed for the next one. */
inline claim_named(w, what) {
    WITNESS_WEBHOOK((phase[0] == TOLD && answer[0] == APPROVED) || (phase[1] == TOLD && answer[1] == APPROVED));
#ifndef MUTANT_WEBHOOK_KEEPS_NOT_FOUND
    cause = NO_CAUSE;
#endif
    claim_operations(w);
    answer[w] = what; phase[w] = TOLD;
    held_cause[w] = NO_CAUSE; marked[w] = false; held_pending[w] = false; sent_before[w] = true; object[w] = 0
}

inline mark_sending(w) {         /* skipped where first_sent_at is set and no cause stands: is_marked in _send, which
                                  * skips it in the first attempt only; a later one looks at the lease once more */
    if
    :: marked[w] && held_cause[w] == NO_CAUSE -> phase[w] = READY
    :: !(marked[w] && held_cause[w] == NO_CAUSE) && MAY_MARK(w) ->
#ifndef MUTANT_SENT_AT_NOT_COMMITTED
        sent = true;
#endif
#ifndef MUTANT_CAUSE_SURVIVES_SENDING
        cause = NO_CAUSE;
#endif
        phase[w] = READY
    :: !(marked[w] && held_cause[w] == NO_CAUSE) && !MAY_MARK(w) -> forget(w)    /* another worker took it over */
    fi;
    held_cause[w] = NO_CAUSE; marked[w] = false; held_pending[w] = false     /* not needed any more */
}

inline reschedule_operations(w) { /* _postpone; fenced by the attempt, and by a holder that is still set */
    if
    :: HOLDS(w) && lease == TAKEN ->
        if
        :: answer[w] == PENDING -> pending = true; cause = NO_CAUSE
        :: answer[w] == NOT_FOUND -> cause = WAS_NOT_FOUND
        :: answer[w] == SERVER_ERROR -> cause = WAS_SERVER_ERROR
        :: else -> cause = SILENCE
        fi;
#ifdef MUTANT_SENT_AT_FORGOTTEN
        sent = false; closed = false;
#else
        if                       /* not was_sent: nothing has ever left, so no window has begun */
        :: !sent_before[w] -> sent = false; closed = false
        :: else
        fi;
#endif
        status = OPEN;
        if                       /* the budget may be spent at any attempt, so every budget is checked at once */
        :: !pending -> lease = PARKED; status = UNRESOLVED; WITNESS_PARKED(charged > 0)
        :: answer[w] == NOT_FOUND -> lease = LAGGING
        :: answer[w] != NOT_FOUND -> lease = WAITING
        fi
    :: else -> skip              /* fenced */
    fi;
    forget(w)
}

/* ---- a worker: executor.py ---- */

inline next_step(w) {
    if
    :: MUST_REGISTER(w) ->
        if
        :: object[w] = 1; phase[w] = REGISTERED
        :: object[w] = OBJECTS; phase[w] = REGISTERED            /* the creating key was forgotten: a second object */
        :: sent_before[w] = false; answer[w] = NOT_SENT; phase[w] = TOLD   /* no answer; no money moves by `register` */
        fi
    :: !MUST_REGISTER(w) && NEXT_IS_SEND(w) -> phase[w] = GATED
    :: else -> look_up(w)
    fi
}

inline look_up(w) {              /* the answer is what the PSP knew when it was asked; it may be heard much later */
    phase[w] = FOUND;
    if
    :: answer[w] = UNKNOWN
#ifdef REGISTERS_FIRST
    :: charge[OBJECT_OF(w)] == NOTHING -> answer[w] = NOT_SENT   /* by id: the object is there, nothing was charged */
    :: charge[OBJECT_OF(w)] != NOTHING -> answer[w] = charge[OBJECT_OF(w)]
#else
    :: !visible -> answer[w] = NOT_FOUND                      /* never arrived, or the search lags */
    :: visible -> answer[w] = charge[0]
#endif
    fi
}

inline store_reference(w) {      /* operations.register */
    if
    :: MAY_REGISTER(w) -> reference = object[w]; phase[w] = GATED
    :: else -> forget(w)
    fi
}

inline hear_look_up(w) {
    if
    :: MAY_SEND_AFTER(w) -> phase[w] = GATED; answer[w] = NOTHING
#ifdef MUTANT_NOT_FOUND_IS_FAILED
    :: !MAY_SEND_AFTER(w) && answer[w] == NOT_FOUND -> answer[w] = DECLINED; phase[w] = TOLD
#endif
    :: else -> sent_before[w] = true; phase[w] = TOLD;
        held_cause[w] = NO_CAUSE; marked[w] = false; held_pending[w] = false; object[w] = 0
    fi
}

inline send(w) {
    WITNESS_AGAIN(sent_before[w]);
    if
    :: answer[w] = NOT_SENT                                      /* the connection was refused */
    :: arrive(OBJECT_OF(w), answer[w])                           /* answered in time */
    :: arrive(OBJECT_OF(w), answer[w]); answer[w] = UNKNOWN      /* done; the answer is lost or too late */
    :: answer[w] = UNKNOWN                                       /* the request is lost */
    :: stray[OBJECT_OF(w)] < STRAYS -> stray[OBJECT_OF(w)]++; answer[w] = UNKNOWN   /* slow: it arrives after the deadline */
    fi;
    phase[w] = TOLD; object[w] = 0;
    sent_before[w] = sent_before[w] || answer[w] != NOT_SENT     /* was_sent */
}

inline settle(w) {
    if
    :: answer[w] == APPROVED || answer[w] == DECLINED -> apply_outcomes(w, answer[w])
#ifdef MUTANT_FAIL_ON_TIMEOUT
    :: answer[w] == UNKNOWN -> apply_outcomes(w, DECLINED)
#endif
#ifdef MUTANT_FAIL_BY_AGE
    :: answer[w] != APPROVED && answer[w] != DECLINED -> apply_outcomes(w, DECLINED)
#endif
    :: else -> reschedule_operations(w)
    fi
}

inline crash(w) {                /* kill -9: what it knew is gone, its lease stays, its request may still arrive */
    crashes++;
    if
    :: true
    :: phase[w] == READY && stray[OBJECT_OF(w)] < STRAYS -> stray[OBJECT_OF(w)]++
    fi;
    forget(w)
}

#ifdef MUTANT_LEASE_NEVER_RUNS_OUT
#define RUNS_OUT false
#else
#define RUNS_OUT (lease == TAKEN)
#endif
#define MAY_CLAIM (lease == WAITING || RUNS_OUT)
#define MAY_CLAIM_NAMED (lease == WAITING || lease == LAGGING || lease == PARKED || RUNS_OUT)
/* Idle workers are alike: the first of them claims, which leaves out only mirror images. */
#define IS_FIRST_IDLE(w) (phase[w] == IDLE && (w == 0 || phase[0] != IDLE) && (w < 2 || phase[1] != IDLE))

#define ALL_IDLE (phase[0] == IDLE && phase[1] == IDLE && phase[2] == IDLE)

proctype worker(byte me) {
    do
    :: atomic { IS_FIRST_IDLE(me) && MAY_CLAIM -> claim_operations(me) }
    /* Webhooks: worked off late, often or never, in any order; a decline may be an old one. */
    :: atomic { IS_FIRST_IDLE(me) && MAY_CLAIM_NAMED && charged > 0 -> claim_named(me, APPROVED) }
    :: atomic { IS_FIRST_IDLE(me) && MAY_CLAIM_NAMED && declined -> claim_named(me, DECLINED) }
    :: atomic { phase[me] == HELD -> next_step(me) }
    :: atomic { phase[me] == REGISTERED -> store_reference(me) }
    :: atomic { phase[me] == FOUND -> hear_look_up(me) }
    :: atomic { phase[me] == GATED -> mark_sending(me) }
    :: atomic { phase[me] == READY -> send(me) }
    :: atomic { phase[me] == TOLD -> settle(me) }
    :: atomic { phase[me] != IDLE && crashes < CRASHES -> crash(me) }
    /* The only ends there may be: decided, or unresolved and waiting for a person. Else "invalid end state". */
    :: atomic { ALL_IDLE && (lease == BOOKED || lease == PARKED) -> break }
    od
}

/* ---- the rest of the world: time, the network and the PSP's own doings ---- */

#define OF_THE_PSP(o) \
    :: atomic { stray[o] > 0 -> stray[o]--; arrive(o, unheard); unheard = NOTHING }     /* what was slow arrives */ \
    :: atomic { charge[o] == PENDING -> decide(o, APPROVED) }                           /* it decides later */ \
    :: atomic { charge[o] == PENDING -> decide(o, DECLINED) } \
    :: atomic { kept[o] && !aged[o] && KEY_MAY_AGE -> aged[o] = true }                  /* its window passes */ \
    :: atomic { aged[o] -> WITNESS_FORGOTTEN(charged > 0); aged[o] = false; kept[o] = false; kept_error[o] = false }    /* it forgets the key */

proctype world() {
    mtype:outcome unheard;
end:
    do
    :: atomic { sent && !closed -> closed = true }
    :: atomic { lease == LAGGING && LAG_IS_OVER -> lease = WAITING }
    OF_THE_PSP(0)
#ifdef REGISTERS_FIRST           /* asked for by id, which sees every earlier write */
    OF_THE_PSP(1)
#else
    :: atomic { charge[0] != NOTHING && !visible -> visible = true }     /* its index catches up */
#endif
#ifdef MUTANT_WEBHOOK_NOT_FENCED
    :: atomic { charged > 0 -> book(APPROVED) }
#endif
    od
}

init {
    atomic {
        /* T1 has just committed, first_sent_at too: next_step says SEND without a look at the clock, _send finds it
           marked. So T1 and T2 count from that commit: a process that is frozen for a day right there is left out. */
        current[0] = true; marked[0] = true;
#ifdef REGISTERS_FIRST
        phase[0] = HELD;
#else
        phase[0] = READY; marked[0] = false;
#endif
        run worker(0); run worker(1); run worker(2); run world()
    }
}
