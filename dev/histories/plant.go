package main

// plants are faults of a system that a history can show. Each changes a recorded history, and
// reports whether the history has a place for it.
var plants = []struct {
	name  string
	plant func(*history) bool
	// Whether the history may be right all the same.
	mayBeExplained bool
}{
	{"a slot is given twice", giveTwice, false},
	{"sold_out to a holder", denyHolder, false},
	{"a return is lost", loseReturn, false},
	// A lost request of the same order may explain a use after its undo.
	{"an undo is forgotten", forgetUndo, true},
}

// certain returns the first claim with this answer that fits, among the users whose requests all
// have certain effects. With isRevoked, only users with a revocation count, otherwise only others.
func (u *unit) certain(status string, isRevoked bool, fits func(*request) bool) *request {
	doubtful, revoked := map[string]bool{}, map[string]bool{}
	for person := range u.excused {
		doubtful[person] = true
	}
	for _, one := range u.requests {
		person := one.asked.Person
		if one.ended == nil || one.ended.Event == "unknown" {
			doubtful[person] = true
		}
		if one.asked.Event == "revoking" {
			revoked[person] = true
			if one.asked.Again || one.ended == nil || one.ended.Event != "ok" {
				doubtful[person] = true
			}
		}
	}
	for _, one := range u.requests {
		person := one.asked.Person
		if doubtful[person] || revoked[person] != isRevoked || one.asked.Event != "invoked" {
			continue
		}
		if one.ended.Answer != nil && one.ended.Answer.Status == status && fits(one) {
			return one
		}
	}
	return nil
}

func every(*request) bool { return true }

func giveTwice(h *history) bool {
	for _, of := range h.units {
		first := of.certain("accepted", false, every)
		if first == nil {
			continue
		}
		second := of.certain("accepted", false, func(one *request) bool {
			return one != first && one.ended.Answer.Drop == first.ended.Answer.Drop
		})
		if second != nil {
			second.ended.Answer.Slot = first.ended.Answer.Slot
			return true
		}
	}
	return false
}

func denyHolder(h *history) bool {
	for _, of := range h.units {
		if holder := of.certain("accepted", false, every); holder != nil {
			of.answer(h, holder, &answer{Status: "sold_out"})
			return true
		}
	}
	return false
}

func loseReturn(h *history) bool {
	for _, of := range h.units {
		if gone := of.certain("accepted", true, every); gone != nil {
			given := gone.ended.Answer
			of.answer(h, gone, &answer{"already_claimed", given.Drop, given.Slot})
			return true
		}
	}
	return false
}

// answer lets the user of a request claim again at the end, with this answer.
func (u *unit) answer(h *history, like *request, with *answer) {
	asked, ended := *like.asked, *like.ended
	ended.Answer = with
	for _, it := range []*line{&asked, &ended} {
		it.number = int64(len(h.lines))
		it.AtMs = h.lines[len(h.lines)-1].AtMs
		h.lines = append(h.lines, it)
	}
	u.requests = append(u.requests, &request{asked: &asked, ended: &ended, drop: like.drop})
}

// forgetUndo lets an order use a code again after its use was undone.
func forgetUndo(h *history) bool {
	undos := map[int64]*line{}
	for _, it := range h.lines {
		if it.Event == "code_asked" && it.Undo {
			undos[it.Op] = it
		}
		undo := undos[it.Op]
		if it.Event != "code_answered" || it.Outcome != "done" || undo == nil {
			continue
		}
		end := int64(len(h.lines))
		op := end + 1
		asked := &line{Event: "code_asked", Op: op, Code: undo.Code, Reference: undo.Reference, number: end}
		answered := &line{Event: "code_answered", Op: op, Outcome: "done", number: end + 1}
		h.lines = append(h.lines, asked, answered)
		return true
	}
	return false
}
