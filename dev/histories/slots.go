package main

import "github.com/anishathalye/porcupine"

// bySlot returns, for each slot, the operations of the users who were promised it, or
// have its row at the end.
func bySlot(operations []porcupine.Operation) [][]porcupine.Operation {
	users := map[cell]map[int]bool{}
	add := func(drop, slot int64, user int) {
		of := cell{drop, slot, 0}
		if users[of] == nil {
			users[of] = map[int]bool{}
		}
		users[of][user] = true
	}
	ofUser := map[int][]porcupine.Operation{}
	var last []porcupine.Operation
	for _, operation := range operations {
		in := operation.Input.(*input)
		switch in.kind {
		case rows:
			last = append(last, operation)
			for _, found := range in.rows {
				add(in.drop, found.slot, found.user)
			}
			continue
		case full:
			// The operation concerns no user.
			continue
		case accepted, already:
			add(in.drop, in.slot, in.user)
		}
		ofUser[in.user] = append(ofUser[in.user], operation)
	}
	var all [][]porcupine.Operation
	for _, some := range users {
		var theirs []porcupine.Operation
		for user := range some {
			theirs = append(theirs, ofUser[user]...)
		}
		for _, operation := range last {
			theirs = append(theirs, onlyOf(some, operation))
		}
		all = append(all, theirs)
	}
	return all
}

// onlyOf returns the operation with only the rows of these users.
func onlyOf(users map[int]bool, operation porcupine.Operation) porcupine.Operation {
	in := *operation.Input.(*input)
	whole := in.rows
	in.rows = nil
	for _, found := range whole {
		if users[found.user] {
			in.rows = append(in.rows, found)
		}
	}
	operation.Input = &in
	return operation
}
