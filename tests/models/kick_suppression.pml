/*
 * Notification suppression on a split virtqueue (virtio 1.3 §2.7.7 and
 * §2.7.10): no wake-up is lost, in either direction.
 *
 * A driver and a device share the two indexes. Each is awake and working, or
 * asleep until the other notifies it. A lost wake-up is a deadlock, which SPIN
 * reports as an invalid end state: the driver may at any time wait for all
 * outstanding buffers, and then nothing else wakes the device.
 *
 *   spin -a kick_suppression.pml && cc -o pan pan.c && ./pan
 *   -DEVENT_INDEX  used_event and avail_event instead of the flags
 *   -DLEFT_ON      neither side disables notifications (with the event index,
 *                  GetUsed and Pop then advance the event)
 *   -DBUG          must fail: the device does not check again after enabling
 *                  notifications
 *   -DBUG=2        must fail: the driver does not check again
 *   -DBUG=3        must fail with -DEVENT_INDEX -DLEFT_ON: the distance that the
 *                  index moved is computed modulo the wrap, so a full turn is
 *                  lost
 *
 * expect 0:
 * expect 0: -DLEFT_ON
 * expect 0: -DEVENT_INDEX
 * expect 0: -DEVENT_INDEX -DLEFT_ON
 * expect 1: -DBUG
 * expect 1: -DBUG=2
 * expect 1: -DEVENT_INDEX -DBUG
 * expect 1: -DEVENT_INDEX -DBUG=2
 * expect 1: -DEVENT_INDEX -DLEFT_ON -DBUG=3
 *
 * Steps are atomic and in program order: SPIN explores sequential consistency,
 * which the code ensures by seq_cst for these accesses. ring_model.cc shows that
 * acquire and release are not enough.
 *
 * The indexes run modulo 4 with a ring of 2, as 2^16 with the largest ring,
 * 32768.
 */

#define SIZE 2
#define WRAP 4
#define MINUS(a, b) (((a) + WRAP - (b)) % WRAP)

/* The bugs. Not #if BUG: plain -DBUG is 1. */
#ifdef BUG
#define DEVICE_LOOKS_AGAIN (BUG != 1)
#define DRIVER_LOOKS_AGAIN (BUG != 2)
#else
#define DEVICE_LOOKS_AGAIN true
#define DRIVER_LOOKS_AGAIN true
#endif

/* In guest RAM. */
byte available_idx = 0;
byte used_idx = 0;
#ifdef EVENT_INDEX
byte avail_event = 0;
byte used_event = 0;
#else
bool avail_no_interrupt = false;
bool used_no_notify = false;
#endif

/* The kick and the call: they carry no data, and several may merge into one. */
bool kick = false;
bool call = false;

/* How far the index moved since the last check for notification, saturating at
 * WRAP; and the result of that check. */
#if BUG + 0 == 3
#define ONE_MORE(moved) moved = (moved + 1) % WRAP
#else
#define ONE_MORE(moved) moved = (moved < WRAP -> moved + 1 : moved)
#endif
#ifdef EVENT_INDEX
#define WANTS(event, flag, idx, moved) (MINUS(idx, (event) + 1) < (moved))
#define TURN_OFF(event, flag, next) event = MINUS(next, 1)
#define TURN_ON(event, flag, next) event = next
#define MOVE(event, next, is_on) \
  if \
  :: is_on -> event = next \
  :: else -> skip \
  fi
#else
#define WANTS(event, flag, idx, moved) (!(flag))
#define TURN_OFF(event, flag, next) flag = true
#define TURN_ON(event, flag, next) flag = false
#define MOVE(event, next, is_on) skip
#endif

active proctype Driver() {
  byte next_used = 0;
  byte added = 0; /* since NeedsKick */
  bool is_on = true;
  bool wants;

  do
  :: /* Add, possibly several times before NeedsKick. */
     MINUS(available_idx, next_used) < SIZE ->
     available_idx = (available_idx + 1) % WRAP;
     ONE_MORE(added)
  :: /* NeedsKick, and the kick. */
     added > 0 ->
     wants = WANTS(avail_event, used_no_notify, available_idx, added);
     added = 0;
     if
     :: wants -> kick = true
     :: else -> skip
     fi
  :: /* GetUsed until there is none; then it may wait for outstanding buffers. */
     added == 0 && available_idx != next_used ->
#ifndef LEFT_ON
     is_on = false;
     TURN_OFF(used_event, avail_no_interrupt, next_used);
#endif
     do
     :: used_idx != next_used ->
        next_used = (next_used + 1) % WRAP;
        MOVE(used_event, next_used, is_on)
     :: used_idx == next_used ->
#ifdef LEFT_ON
        break
#else
        is_on = true;
        TURN_ON(used_event, avail_no_interrupt, next_used);
        if
        :: DRIVER_LOOKS_AGAIN && used_idx != next_used ->
           is_on = false;
           TURN_OFF(used_event, avail_no_interrupt, next_used)
        :: else -> break
        fi
#endif
     od;
     if
     :: true -> skip
     :: available_idx != next_used -> atomic { call -> call = false }
     fi
  od
}

active proctype Device() {
  byte next_available = 0;
  byte pushed = 0; /* since NeedsNotification */
  bool is_on = true;
  bool wants;

  do
  :: true ->
#ifndef LEFT_ON
     is_on = false;
     TURN_OFF(avail_event, used_no_notify, next_available);
#endif
     do
     :: /* Pop and Push, of one chain. */
        available_idx != next_available ->
        next_available = (next_available + 1) % WRAP;
        MOVE(avail_event, next_available, is_on);
        used_idx = (used_idx + 1) % WRAP;
        ONE_MORE(pushed)
     :: /* NeedsNotification, and the call. */
        pushed > 0 ->
        wants = WANTS(used_event, avail_no_interrupt, used_idx, pushed);
        pushed = 0;
        if
        :: wants -> call = true
        :: else -> skip
        fi
     :: available_idx == next_available && pushed == 0 ->
#ifdef LEFT_ON
        break
#else
        is_on = true;
        TURN_ON(avail_event, used_no_notify, next_available);
        if
        :: DEVICE_LOOKS_AGAIN && available_idx != next_available ->
           is_on = false;
           TURN_OFF(avail_event, used_no_notify, next_available)
        :: else -> break
        fi
#endif
     od;
     /* Asleep. A valid end state, since there may be nothing left to do. */
end: atomic { kick -> kick = false }
  od
}
