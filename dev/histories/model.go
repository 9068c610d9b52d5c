package main

import (
	"cmp"
	"slices"
)

// The sequential model of a drop. A user holds a slot, waits, or has nothing; a slot has one user.
//
// If a history leaves something open, the model decides in favour of the system, and in such a way
// that no step has two outcomes, which keeps the search short:
//   - A claim without an answer may have taken a slot, at once or later, and a store that lost it
//     may have freed the slot again: the user may turn out to have a slot, and may count as one that
//     is taken.
//   - A revocation without an answer may take effect at any time: the user may or may not have the
//     slot.
//   - A user on the waiting list may have been promoted.
//   - A user whose promise is listed as broken may have anything.

type kind int

const (
	accepted kind = iota
	already
	waiting
	notHolder // the first half of `sold_out`: its user holds nothing
	full      // the second half: nothing is left
	revoked
	claimLost  // a claim without an answer
	revokeLost // a revocation without an answer
	rows       // all rows at the end
)

type input struct {
	kind  kind
	user  int
	drop  int64
	slot  int64
	again bool
	// full: the smallest quantity that the drop may have had, by drop.
	least map[int64]int
	rows  []held
}

type held struct {
	user int
	slot int64
}

// Flags of a user.
const (
	mayTake byte = 1 << iota // a claim without an answer
	mayLose                  // a revocation without an answer
	waits                    // on the waiting list
	banned                   // must not claim again
	excused                  // listed as broken
)

// cell is what a user has: a slot of a drop, or 0.
type cell struct {
	drop  int64
	slot  int64
	flags byte
}

// state is immutable.
type state struct {
	users []cell
	// Slots that were given back or revoked and not given again, without flags, in order.
	returned []cell
}

func equal(one, other any) bool {
	a, b := one.(*state), other.(*state)
	return a == b || slices.Equal(a.returned, b.returned) && slices.Equal(a.users, b.users)
}

func compare(a, b cell) int {
	return cmp.Or(cmp.Compare(a.drop, b.drop), cmp.Compare(a.slot, b.slot))
}

func (s *state) with(user int, now cell) *state {
	users := make([]cell, len(s.users))
	copy(users, s.users)
	users[user] = now
	return &state{users, s.returned}
}

func (s *state) owner(drop, slot int64) int {
	for user, it := range s.users {
		if it.slot == slot && it.drop == drop {
			return user
		}
	}
	return -1
}

// give gives a slot to a user, if no other user certainly has it.
func (s *state) give(user int, drop, slot int64) (bool, *state) {
	next := s
	if owner := s.owner(drop, slot); owner >= 0 && owner != user {
		other := s.users[owner]
		if other.flags&(mayLose|excused) == 0 {
			return false, s
		}
		other.drop, other.slot = 0, 0
		next = next.with(owner, other)
	}
	it := next.users[user]
	it.drop, it.slot = drop, slot
	it.flags &^= waits
	next = next.with(user, it)
	if at, found := slices.BinarySearchFunc(s.returned, cell{drop, slot, 0}, compare); found {
		next.returned = slices.Delete(slices.Clone(s.returned), at, at+1)
	}
	return true, next
}

func step(from, with any) (bool, any) {
	s, in := from.(*state), with.(*input)
	var it cell
	if in.kind != rows && in.kind != full {
		it = s.users[in.user]
	}
	doubtful := it.flags&(mayLose|excused) != 0
	switch in.kind {
	case accepted:
		if it.flags&banned != 0 || it.slot != 0 && !doubtful {
			return false, s
		}
		return s.give(in.user, in.drop, in.slot)
	case already:
		if it.slot == in.slot && it.drop == in.drop {
			return true, s
		}
		mayHave := it.slot == 0 && it.flags&(mayTake|waits) != 0
		if it.flags&banned != 0 || !mayHave && !doubtful {
			return false, s
		}
		return s.give(in.user, in.drop, in.slot)
	case waiting:
		if it.slot != 0 && !doubtful {
			return false, s
		}
		it.drop, it.slot = 0, 0
		it.flags |= waits
		return true, s.with(in.user, it)
	case notHolder:
		return it.slot == 0 || doubtful, s
	case full:
		return s.isFull(in), s
	case revoked:
		if it.slot != 0 {
			free := cell{it.drop, it.slot, 0}
			at, _ := slices.BinarySearchFunc(s.returned, free, compare)
			s = &state{s.users, slices.Insert(slices.Clone(s.returned), at, free)}
		}
		it.drop, it.slot = 0, 0
		it.flags &^= waits
		if !in.again {
			it.flags = it.flags&^mayTake | banned
		}
		return true, s.with(in.user, it)
	case claimLost:
		it.flags |= mayTake
		return true, s.with(in.user, it)
	case revokeLost:
		it.flags |= mayLose
		return true, s.with(in.user, it)
	case rows:
		return s.hasRows(in), s
	}
	return false, s
}

// isFull tells whether a drop may have had nothing left. A slot that was given back is free only
// once Redis knows it, which a fault may delay, and it may go to a user who waits.
func (s *state) isFull(in *input) bool {
	taken := map[int64]int{}
	for _, free := range s.returned {
		taken[free.drop]++
	}
	maybe := 0
	for _, it := range s.users {
		if it.slot != 0 {
			taken[it.drop]++
		} else if it.flags&(mayTake|excused) != 0 {
			maybe++
		} else if it.flags&waits != 0 {
			return true
		}
	}
	for drop, least := range in.least {
		if taken[drop]+maybe >= least {
			return true
		}
	}
	return false
}

// hasRows tells whether the rows at the end are those of the users who hold a slot.
func (s *state) hasRows(in *input) bool {
	missing := 0
	for _, it := range s.users {
		if it.slot != 0 && it.drop == in.drop && it.flags&(mayLose|excused) == 0 {
			missing++
		}
	}
	for _, found := range in.rows {
		it := s.users[found.user]
		doubtful := it.flags&(mayLose|excused) != 0
		if it.slot == found.slot && it.drop == in.drop {
			if !doubtful {
				missing--
			}
			continue
		}
		mayHave := it.slot == 0 && it.flags&banned == 0 && it.flags&(mayTake|waits) != 0
		owner := s.owner(in.drop, found.slot)
		isTaken := owner >= 0 && s.users[owner].flags&(mayLose|excused) == 0
		if isTaken || !mayHave && !doubtful {
			return false
		}
	}
	return missing == 0
}
