package main

import (
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// The sequential model of a code (docs/decisions/0043-using.md): one order uses it at a time, and
// an order whose use was undone never uses it again.

// codeRequest is a shop's request for an order, or the rows at the end.
type codeRequest struct {
	reference string
	undo      bool
	// Empty if no answer came: the request may have its effect at any time, or never.
	answer string
	// Whether the code has a row at the end.
	hasRow bool
	last   *line
}

// code is a state. The undone orders are sorted in one text, so that states are comparable.
type code struct {
	inUse  string
	undone string
}

func (c code) isUndone(reference string) bool {
	return slices.Contains(strings.Fields(c.undone), reference)
}

func (c code) afterUndo(reference string) code {
	if !c.isUndone(reference) {
		all := append(strings.Fields(c.undone), reference)
		slices.Sort(all)
		c.undone = strings.Join(all, " ")
	}
	if c.inUse == reference {
		c.inUse = ""
	}
	return c
}

// after returns the states in which a request with its answer may leave a code.
func (c code) after(request *codeRequest) []code {
	if request.last != nil {
		undone := slices.Clone(request.last.Undone)
		slices.Sort(undone)
		return c.only(c.inUse == request.last.InUse && c.undone == strings.Join(undone, " "))
	}
	reference := request.reference
	usedByAnother := c.inUse != "" && c.inUse != reference
	mayUse := !usedByAnother && !c.isUndone(reference)
	done := code{reference, c.undone}
	if request.undo {
		done = c.afterUndo(reference)
	}
	switch request.answer {
	case "":
		if request.undo || mayUse {
			return []code{c, done}
		}
		return []code{c}
	case "done":
		return done.only(request.undo || mayUse)
	case "used":
		if request.undo {
			return done.only(usedByAnother)
		}
		return c.only(usedByAnother && !c.isUndone(reference))
	case "undone":
		return c.only(!request.undo && c.isUndone(reference))
	case "revoked":
		// A coupon whose code is used is not revoked.
		return c.only(c.inUse == "")
	case "no_such_code":
		// The shop read the code from its row. If the row is still there, it always was.
		return c.only(!request.hasRow)
	}
	return nil
}

func (c code) only(isPossible bool) []code {
	if isPossible {
		return []code{c}
	}
	return nil
}

// codes returns the requests for each code. Times are numbers of lines.
func (h *history) codes() map[string][]porcupine.Operation {
	all := map[string][]porcupine.Operation{}
	answers := map[int64]*line{}
	hasRow := map[string]bool{}
	for _, it := range h.lines {
		switch it.Event {
		case "code_answered":
			answers[it.Op] = it
		case "code_final":
			hasRow[it.Code] = true
		}
	}
	end := int64(len(h.lines))
	for _, it := range h.lines {
		operation := porcupine.Operation{Call: it.number, Return: end}
		switch it.Event {
		case "code_asked":
			request := &codeRequest{reference: it.Reference, undo: it.Undo, hasRow: hasRow[it.Code]}
			if answer := answers[it.Op]; answer != nil {
				request.answer = answer.Outcome
				operation.Return = answer.number
			}
			operation.Input = request
		case "code_final":
			operation.Input = &codeRequest{last: it}
			operation.Return = it.number
		default:
			continue
		}
		all[it.Code] = append(all[it.Code], operation)
	}
	return all
}

// judgeCode tells whether one order of the requests for a code explains all answers.
func judgeCode(operations []porcupine.Operation) porcupine.CheckResult {
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{code{}} },
		Step: func(state, input, _ any) []any {
			var next []any
			for _, one := range state.(code).after(input.(*codeRequest)) {
				next = append(next, one)
			}
			return next
		},
		Equal: func(one, other any) bool { return one == other },
	}
	return porcupine.CheckOperationsTimeout(model.ToModel(), operations, patience)
}
