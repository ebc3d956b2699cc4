/*
 * The table of foreign mappings (src/ram/foreign_mappings.cc): a SIGBUS handler
 * searches it without a lock while a part of a mapping is removed.
 *
 * The mapping is [0, 3). The handler looks for an address that stays, and maps
 * over what it finds: it must find it at every moment, and nothing that is no
 * longer mapped. Unmapping may fail, and then all is as before. Another mapping
 * comes and goes, in whichever entry is free.
 *
 *   -DBUG    must fail: the mapping gets smaller before the part behind has an
 *            entry
 *   -DBUG=2  must fail: a search that missed a change does not begin again
 *   -DBUG=3  must fail: a search does not begin again when an entry has changed
 *            between its two loads
 *   -DBUG=4  must fail: unmapping does not wait for handlers
 *   -DBUG=5  must fail: an entry ends without a new version
 *   -DBUG=6  must fail: an entry's start is not loaded again
 *
 * expect 0:
 * expect 1: -DBUG
 * expect 1: -DBUG=2
 * expect 1: -DBUG=3
 * expect 1: -DBUG=4
 * expect 1: -DBUG=5
 * expect 1: -DBUG=6
 *
 * Steps are atomic and in program order, as the code's seq_cst atomics are.
 */

/* Not #if BUG: plain -DBUG is 1. */
#ifdef BUG
#define HAS(bug) (BUG == bug)
#else
#define HAS(bug) false
#endif

#define SLOTS 3
#define NONE 9

byte start[SLOTS] = NONE;
byte end[SLOTS] = 0;
byte version = 0;
byte users = 0;
/* Which addresses the process has mapped. [4, 5) is the other mapping. */
bool mapped[5] = false;
/* The address that stays. */
byte sought = 0;
bool begun = false;

/* Adds [first, last) to a free one, `entry`. Only one thread changes the table. */
inline Add(first, last, entry) {
  atomic {
    if
    :: start[0] == NONE -> entry = 0
    :: start[1] == NONE -> entry = 1
    :: start[2] == NONE -> entry = 2
    fi
  }
  end[entry] = last;
  start[entry] = first
}

inline Clear(entry) {
  if
  :: !HAS(5) -> version++
  :: else
  fi;
  start[entry] = NONE
}

/* Removes [first, last) of the mapping in `entry`. */
inline Remove(entry, first, last, may_fail) {
  old_start = start[entry];
  old_end = end[entry];
  behind = NONE;
  if
  :: old_start < first && last < old_end && !HAS(1) -> Add(last, old_end, behind)
  :: else
  fi;
  version++;
  if
  :: old_start == first && last < old_end -> start[entry] = last
  :: else -> end[entry] = first
  fi;
  if
  :: old_start < first && last < old_end && HAS(1) -> Add(last, old_end, behind)
  :: else
  fi;
  if
  :: HAS(4)
  :: !HAS(4) -> users == 0
  fi;
  if
  :: may_fail ->
    version++;
    start[entry] = old_start;
    end[entry] = old_end;
    if
    :: behind != NONE -> Clear(behind)
    :: else
    fi
  :: true ->
    d_step {
      unit = first;
      do
      :: unit < last -> mapped[unit] = false; unit++
      :: else -> break
      od;
      unit = 0
    }
    if
    :: start[entry] == end[entry] -> Clear(entry)
    :: else
    fi
  fi
}

/* Another mapping, which takes a free entry for a while. */
inline ComeAndGo() {
  mapped[4] = true;
  Add(4, 5, other);
  Remove(other, 4, 5, false)
}

active proctype Remover() {
  byte whole, other, behind, old_start, old_end, unit;
  byte from, to;
  /* The entry that it has, and what stays. */
  atomic {
    if
    :: whole = 0
    :: whole = 1
    :: whole = 2
    fi;
    start[whole] = 0;
    end[whole] = 3;
    mapped[0] = true;
    mapped[1] = true;
    mapped[2] = true;
    if
    :: sought = 0; from = 1; to = 2
    :: sought = 0; from = 1; to = 3
    :: sought = 2; from = 1; to = 2
    :: sought = 2; from = 0; to = 2
    fi;
    begun = true
  }
  if
  :: ComeAndGo()
  :: true
  fi;
  Remove(whole, from, to, true);
  if
  /* It failed: once more. */
  :: mapped[1] ->
    if
    :: ComeAndGo()
    :: true
    fi;
    Remove(whole, from, to, true)
  :: else
  fi;
  if
  :: ComeAndGo()
  :: true
  fi
}

active proctype Handler() {
  byte slot, seen, from, to, unit;
  bool changed;
  begun;
  users++;
again:
  seen = version;
  changed = false;
  slot = 0;
  do
  :: slot < SLOTS ->
    from = start[slot];
    to = end[slot];
    if
    :: from != NONE && from <= sought && sought < to ->
      if
      :: start[slot] == from || HAS(6) -> goto use
      :: else -> changed = !HAS(3)
      fi
    :: else
    fi;
    slot++
  :: else -> break
  od;
  if
  :: changed -> goto again
  :: !changed && seen != version && !HAS(2) -> goto again
  :: else
  fi;
  assert(false); /* not found */
use:
  skip;
  /* It maps over what it has found. */
  d_step {
    unit = from;
    do
    :: unit < to -> assert(mapped[unit]); unit++
    :: else -> break
    od
  }
  users--
}
