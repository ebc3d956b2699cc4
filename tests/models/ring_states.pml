/*
 * Rings that a front end enables, disables and stops while the guest's driver
 * uses them (vhost-user, "Ring states"; VhostUserRings and VirtioDeviceBase).
 *
 * Three threads: the driver makes chains available and kicks; the session takes
 * kicks, and messages about ring 0; the worker handles the chains of both
 * rings. Ring 1 runs all the time: a stop of ring 0 must not cost it a kick.
 *
 *   - After the reply to GET_VRING_BASE or ENABLE 0 the device does not touch
 *     the ring.
 *   - The base told is that of the first chain not returned.
 *   - A chain is not handled again once it was returned.
 *   - In the end all chains of ring 1 were returned, and those of ring 0 if it is
 *     enabled and has a kick.
 *
 * expect 0:
 * expect 1: -DBUG=1   a stop does not wait for the worker
 * expect 1: -DBUG=2   ENABLE 1 forgets a kick of the disabled ring
 * expect 1: -DBUG=3   the base is taken before the worker has left
 * expect 1: -DBUG=4   the base is the ring's available index
 * expect 1: -DBUG=5   after a stop the worker is not asked again: it had turned
 *                     away because of the stop
 * expect 1: -DBUG=6   a kick that is readable already is not seen when its
 *                     eventfd is set
 * expect 1: -DBUG=7   the ring resumes at 0
 *
 * What the lock protects is atomic here. Kicks are never suppressed: that is
 * kick_suppression.pml. Indexes do not wrap around.
 */

#ifndef BUG
#define BUG 0
#endif

#define RINGS 2
#define MESSAGES 4
/* Chains that the driver makes available in each ring. */
#define CHAINS_0 2
#define CHAINS_1 1

/* In guest RAM. */
byte available_idx[RINGS];
byte used_idx[RINGS];

/* The kicks' eventfds. The session never reads them, so they stay readable;
 * epoll tells it of a write, and of a readable one that is added. */
bool readable[RINGS];
bool polled[RINGS];
bool edge[RINGS];

/* The session's. */
bool is_enabled[RINGS];
bool is_started[RINGS];
byte base[RINGS];
/* The front end was told that the ring does nothing. */
bool is_quiet[RINGS];

/* The device's, under its lock. */
bool set_up[RINGS];
byte next_available[RINGS];
byte next_used[RINGS];
bool kicked[RINGS];
bool work = false; /* the worker is to run */
bool handling = false;
byte stopping = 0;

inline Notify(r) {
  kicked[r] = true;
  work = true
}

/* SetUp: enabled, with a kick. */
inline SetUp(r) {
  if
  :: is_enabled[r] && polled[r] && !set_up[r] ->
     is_quiet[r] = false;
     atomic {
       next_used[r] = (BUG == 7 -> 0 : base[r]);
       next_available[r] = next_used[r];
       set_up[r] = true
     }
     if
     :: is_started[r] && BUG != 2 -> Notify(r)
     :: else -> skip
     fi
  :: else -> skip
  fi
}

/* StopQueue: after the chain in hand. */
inline TakeDown(r) {
  if
  :: set_up[r] ->
     atomic {
       early = next_used[r];
       if
       :: handling && BUG != 1 ->
          stopping++;
          !handling; /* meanwhile others run */
          stopping--
       :: else -> skip
       fi;
       base[r] = next_used[r];
       if
       :: BUG == 3 -> base[r] = early
       :: BUG == 4 -> base[r] = available_idx[r]
       :: else -> skip
       fi;
       set_up[r] = false
     }
     if
     :: BUG != 5 -> work = true
     :: else -> skip
     fi
  :: else -> skip
  fi;
  is_quiet[r] = true;
  assert(base[r] == used_idx[r])
}

inline SetKick(r) {
  atomic {
    polled[r] = true;
    edge[r] = (BUG == 6 -> false : readable[r])
  }
}

inline Enable(r) {
  is_enabled[r] = true;
  SetUp(r)
}

inline Kicked(r) {
  edge[r] = false;
  is_started[r] = true;
  if
  :: set_up[r] -> Notify(r)
  :: else -> SetUp(r)
  fi
}

active proctype Session() {
  byte messages = 0;
  byte early;

  SetKick(1);
  Enable(1);
end:
  do
  :: edge[0] -> Kicked(0)
  :: edge[1] -> Kicked(1)
  :: messages < MESSAGES ->
     messages++;
     if
     :: /* SET_VRING_KICK */
        SetKick(0)
     :: /* SET_VRING_ENABLE 1 */
        Enable(0)
     :: /* SET_VRING_ENABLE 0 */
        is_enabled[0] = false;
        TakeDown(0)
     :: /* GET_VRING_BASE */
        TakeDown(0);
        is_started[0] = false;
        atomic {
          polled[0] = false;
          edge[0] = false
        }
     fi
  od
}

active proctype Driver() {
  do
  :: available_idx[0] < CHAINS_0 ->
     available_idx[0]++;
     atomic {
       readable[0] = true;
       edge[0] = polled[0]
     }
  :: available_idx[1] < CHAINS_1 ->
     available_idx[1]++;
     atomic {
       readable[1] = true;
       edge[1] = polled[1]
     }
  :: available_idx[0] == CHAINS_0 && available_idx[1] == CHAINS_1 -> break
  od;
  /* Nothing is left to do. */
  timeout ->
  assert(used_idx[0] == CHAINS_0 || !is_enabled[0] || !polled[0]);
  assert(used_idx[1] == CHAINS_1)
}

active proctype Worker() {
  bool has_more;
  bool todo[RINGS];
  byte handled;
  byte r;

end:
  do
  :: atomic { work -> work = false };
     atomic {
       if
       :: stopping > 0 -> goto away
       :: else -> handling = true
       fi
     };
     has_more = false;
     atomic {
       todo[0] = kicked[0];
       todo[1] = kicked[1];
       kicked[0] = false;
       kicked[1] = false
     }
     r = 0;
     do
     :: r < RINGS && todo[r] && set_up[r] ->
        handled = 0;
        do
        :: assert(!is_quiet[r]);
           if
           :: available_idx[r] <= next_available[r] -> break
           :: else -> skip
           fi;
           /* Pop, HandleChain, Push. */
           next_available[r]++;
           assert(next_available[r] > used_idx[r]);
           assert(!is_quiet[r]);
           atomic {
             next_used[r]++;
             used_idx[r] = next_used[r]
           }
           handled++;
           if
           :: stopping > 0 || handled == CHAINS_0 ->
              kicked[r] = true;
              has_more = true;
              break
           :: else -> skip
           fi
        od;
        r++
     :: r < RINGS && !(todo[r] && set_up[r]) -> r++
     :: r == RINGS -> break
     od;
     r = 0;
     handling = false;
     if
     :: has_more -> work = true
     :: else -> skip
     fi;
away:
     skip
  od
}
