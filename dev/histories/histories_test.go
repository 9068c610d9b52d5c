package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// recording writes a history. Each line is a millisecond later than the one before.
type recording struct {
	lines []string
	at    int
}

func (r *recording) write(format string, values ...any) {
	event := fmt.Sprintf(format, values...)
	r.lines = append(r.lines, fmt.Sprintf(`{"at_ms":%d,%s}`, r.at, event))
	r.at++
}

func begin(quantity int) *recording {
	r := &recording{}
	r.quantity(quantity)
	return r
}

func (r *recording) quantity(quantity int) {
	r.write(`"event":"drop","drop":7,"coupon":1,"quantity":%d,"once_per":"coupon"`, quantity)
}

func (r *recording) ask(op int, person string) {
	r.write(`"event":"invoked","op":%d,"coupon":1,"drop":7,"person":%q`, op, person)
}

func (r *recording) hear(op int, status string, slot int) {
	r.write(`"event":"ok","op":%d,"answer":{"status":%q,"drop":7,"slot":%d}`, op, status, slot)
}

func (r *recording) claim(op int, person, status string, slot int) {
	r.ask(op, person)
	r.hear(op, status, slot)
}

func (r *recording) soldOut(op int, person string) {
	r.ask(op, person)
	r.write(`"event":"ok","op":%d,"answer":{"status":"sold_out"}`, op)
}

func (r *recording) unknown(op int, person string) {
	r.ask(op, person)
	r.write(`"event":"unknown","op":%d,"reason":"unavailable"`, op)
}

func (r *recording) giveBack(op int, person string, again bool) {
	r.write(`"event":"revoking","op":%d,"coupon":1,"drop":7,"person":%q,"again":%t`, op, person, again)
	r.hear(op, "revoked", 0)
}

func (r *recording) rows(people ...string) {
	var rows []string
	for at, person := range people {
		if person != "" {
			rows = append(rows, fmt.Sprintf(`{"slot":%d,"person":%q}`, at+1, person))
		}
	}
	r.write(`"event":"final","drop":7,"rows":[%s]`, strings.Join(rows, ","))
}

func (r *recording) verdict(t *testing.T) porcupine.CheckResult {
	t.Helper()
	all, err := read(strings.NewReader(strings.Join(r.lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	worst := porcupine.Ok
	for _, of := range all.units {
		if result := judge(of, all.operations(of)); result != porcupine.Ok {
			worst = result
		}
	}
	return worst
}

// healthy returns a correct history of a drop that has one slot at first, and then two. It has a
// claim without an answer, a return and a waiting user. The tests append the other events.
func healthy() *recording {
	r := begin(1)
	r.ask(1, "a")
	r.ask(2, "b")
	r.hear(2, "accepted", 1) // b asked later and was first
	r.write(`"event":"ok","op":1,"answer":{"status":"sold_out"}`)
	r.claim(3, "b", "already_claimed", 1)
	r.quantity(2)
	r.at += 1000
	r.unknown(4, "c")
	r.soldOut(5, "a") // c may have the last slot
	r.claim(6, "c", "already_claimed", 2)
	r.giveBack(7, "b", true)
	r.at += 1000
	r.claim(8, "d", "accepted", 1)
	r.claim(9, "b", "waiting", 0)
	return r
}

func TestHealthyHistoriesPass(t *testing.T) {
	histories := map[string]func(*recording){
		"rows":             func(r *recording) { r.rows("d", "c") },
		"promoted":         func(r *recording) { r.giveBack(10, "c", false); r.rows("d", "b") },
		"not promoted yet": func(r *recording) { r.giveBack(10, "c", false); r.rows("d") },
		"a lease, 0.3 s":   func(r *recording) { r.giveBack(10, "b", false); r.giveBack(11, "d", false); r.soldOut(12, "e") },
		"a quantity is lowered in Redis first": func(r *recording) {
			r.giveBack(9, "b", false)
			r.quantity(4)
			r.quantity(4)
			r.at += 1000
			r.write(`"event":"changing","op":10,"coupon":1,"quantity":2`)
			r.soldOut(11, "e")
			r.quantity(4)
			r.write(`"event":"changed","op":10`)
			r.quantity(2)
		},
		"a lowered quantity that is raised again before it is recorded": func(r *recording) {
			r.giveBack(9, "b", false)
			r.quantity(4)
			r.quantity(4)
			r.at += 1000
			r.write(`"event":"changing","op":10,"coupon":1,"quantity":2`)
			r.write(`"event":"changed","op":10`)
			r.at += 1000
			r.soldOut(11, "e")
			r.at += 1000
			r.write(`"event":"changing","op":12,"coupon":1,"quantity":4`)
			r.write(`"event":"changed","op":12`)
			r.quantity(4)
		},
		"a raise that Redis gets late": func(r *recording) {
			r.giveBack(9, "b", false)
			r.write(`"event":"changing","op":10,"coupon":1,"quantity":4`)
			r.quantity(4)
			r.quantity(4)
			r.at += 1000
			r.soldOut(11, "e")
		},
		"a revocation without answer": func(r *recording) {
			r.write(`"event":"revoking","op":10,"coupon":1,"drop":7,"person":"c","again":false`)
			r.rows("d")
		},
		"listed as broken": func(r *recording) {
			r.write(`"event":"broken","drop":7,"person":"c","slot":2`)
			r.rows("d", "b")
		},
	}
	for name, more := range histories {
		r := healthy()
		more(r)
		if result := r.verdict(t); result != porcupine.Ok {
			t.Errorf("%s: %s", name, word(result))
		}
	}
}

func TestPlantedFaultsAreFound(t *testing.T) {
	faults := map[string]func(*recording){
		"a slot is given twice":            func(r *recording) { r.claim(10, "e", "accepted", 1) },
		"a retry names another slot":       func(r *recording) { r.claim(10, "d", "already_claimed", 2) },
		"sold_out to a holder":             func(r *recording) { r.soldOut(10, "d") },
		"a promise from nothing":           func(r *recording) { r.claim(10, "e", "already_claimed", 2) },
		"a return is lost":                 func(r *recording) { r.giveBack(10, "c", false); r.claim(11, "c", "already_claimed", 2) },
		"the row of a return stays":        func(r *recording) { r.giveBack(10, "c", false); r.rows("d", "c") },
		"a promise has no row":             func(r *recording) { r.rows("d") },
		"a row belongs to nobody":          func(r *recording) { r.giveBack(10, "c", false); r.rows("d", "e") },
		"a second slot":                    func(r *recording) { r.giveBack(10, "c", true); r.claim(11, "d", "accepted", 2) },
		"a revoked user is admitted again": func(r *recording) { r.giveBack(10, "c", false); r.claim(11, "c", "accepted", 2) },
		"a lowered quantity counts before it was asked": func(r *recording) {
			r.giveBack(9, "b", false)
			r.quantity(4)
			r.quantity(4)
			r.at += 1000
			r.soldOut(10, "e")
			r.write(`"event":"changing","op":11,"coupon":1,"quantity":2`)
			r.write(`"event":"changed","op":11`)
		},
		"a lowered quantity counts after a larger one was recorded": func(r *recording) {
			r.giveBack(9, "b", false)
			r.quantity(4)
			r.write(`"event":"changing","op":10,"coupon":1,"quantity":2`)
			r.write(`"event":"changed","op":10`)
			r.quantity(4)
			r.quantity(4)
			r.at += 1000
			r.soldOut(11, "e")
		},
		"a raise is not given out": func(r *recording) {
			r.giveBack(10, "b", false)
			r.quantity(3)
			r.quantity(3)
			r.at += 1000
			r.soldOut(11, "e")
		},
	}
	for name, fault := range faults {
		r := healthy()
		fault(r)
		if result := r.verdict(t); result != porcupine.Illegal {
			t.Errorf("%s: %s", name, word(result))
		}
	}
}

// Two days of one slot each. Each user may have one on both.
func TestRequestsBelongToTheDayOfTheirTime(t *testing.T) {
	for _, one := range []struct {
		rest     string
		expected porcupine.CheckResult
	}{
		{`w unknown; 2; closed; b 2; rows a; rows b`, porcupine.Ok},
		{`w unknown; 2; closed; w 2; rows a; rows w`, porcupine.Ok},
		{`2; w unknown; closed; w 2; rows a; rows w`, porcupine.Ok},
		{`2; closed; a sold_out; b 2; rows a; rows b`, porcupine.Illegal},
		{`2; a sold_out; closed; b 2; rows a; rows b`, porcupine.Ok},
		{`2; closed; b 2; a sold_out; rows a; rows b`, porcupine.Ok},
		{`2; closed; b 2; b sold_out; rows a; rows b`, porcupine.Illegal},
		{`a sold_out; 2; closed; b 2; rows a; rows b`, porcupine.Illegal},
	} {
		r := &recording{}
		ended := 0
		for op, part := range strings.Split(`1; a 1; `+one.rest, "; ") {
			switch words := strings.Fields(part); words[0] {
			case "1", "2":
				r.write(`"event":"drop","drop":%s,"coupon":1,"quantity":1,"once_per":"drop"`, part)
			case "closed":
				r.write(`"event":"closed","drop":1`)
				// The answers of the day before are older than a lease.
				r.at += 1000
			case "rows":
				ended++
				r.write(`"event":"final","drop":%d,"rows":[{"slot":1,"person":%q}]`, ended, words[1])
			default:
				r.write(`"event":"invoked","op":%d,"coupon":1,"person":%q`, op, words[0])
				switch words[1] {
				case "unknown":
					r.write(`"event":"unknown","op":%d,"reason":""`, op)
				case "sold_out":
					r.write(`"event":"ok","op":%d,"answer":{"status":"sold_out"}`, op)
				default:
					r.write(`"event":"ok","op":%d,"answer":{"status":"accepted","drop":%s,"slot":1}`, op, words[1])
				}
			}
		}
		if verdict := r.verdict(t); verdict != one.expected {
			t.Errorf("%s: %s", one.rest, word(verdict))
		}
	}
}

// The history of a crowd with many concurrent requests is decided within the time limit.
func TestCrowdIsDecided(t *testing.T) {
	r := begin(100)
	for op := range 2000 {
		r.ask(op, fmt.Sprintf("u-%d", op))
		if before := op - 64; before >= 0 {
			if before < 100 {
				r.hear(before, "accepted", 100-before)
			} else {
				r.write(`"event":"ok","op":%d,"answer":{"status":"sold_out"}`, before)
			}
		}
	}
	if result := r.verdict(t); result != porcupine.Ok {
		t.Error(word(result))
	}
}

func (r *recording) shop(op int, verb, reference, outcome string) {
	undo := verb == "undo"
	r.write(`"event":"code_asked","op":%d,"code":"7-1","reference":%q,"undo":%t`, op, reference, undo)
	if outcome != "" {
		r.write(`"event":"code_answered","op":%d,"outcome":%q`, op, outcome)
	}
}

func (r *recording) ofCodes(t *testing.T) porcupine.CheckResult {
	t.Helper()
	all, err := read(strings.NewReader(strings.Join(r.lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return judgeCode(all.codes()["7-1"])
}

func TestAnswersAboutCodesNeedAnOrderThatExplainsThem(t *testing.T) {
	type request struct{ verb, reference, outcome string }
	right, wrong := porcupine.Ok, porcupine.Illegal
	for _, c := range []struct {
		requests []request
		last     string
		want     porcupine.CheckResult
	}{
		{[]request{{"use", "a", "done"}, {"use", "a", "done"}}, `"in_use":"a","undone":[]`, right},
		{[]request{{"use", "a", "done"}, {"use", "b", "done"}}, "", wrong},
		{[]request{{"use", "a", "done"}, {"use", "b", "used"}, {"undo", "a", "done"}, {"use", "b", "done"}}, `"in_use":"b","undone":["a"]`, right},
		{[]request{{"undo", "a", "done"}, {"use", "a", "done"}}, "", wrong},
		{[]request{{"undo", "a", "done"}, {"use", "a", "undone"}, {"use", "b", "done"}}, `"in_use":"b","undone":["a"]`, right},
		{[]request{{"use", "b", "done"}, {"undo", "a", "used"}, {"undo", "b", "done"}, {"use", "a", "done"}}, "", wrong},
		{[]request{{"use", "a", ""}, {"use", "b", "done"}}, `"in_use":"b","undone":[]`, right},
		{[]request{{"use", "a", ""}, {"use", "b", "used"}, {"use", "b", "done"}}, "", wrong},
		{[]request{{"use", "a", "done"}, {"use", "a", "revoked"}}, "", wrong},
		{[]request{{"use", "a", "no_such_code"}, {"use", "b", "done"}}, "", right},
		{[]request{{"use", "a", "no_such_code"}, {"use", "b", "done"}}, `"in_use":"b","undone":[]`, wrong},
		{[]request{{"use", "a", "done"}}, `"in_use":null,"undone":[]`, wrong},
		{[]request{{"use", "a", "done"}, {"undo", "a", "done"}}, `"in_use":"a","undone":[]`, wrong},
		{[]request{{"use", "a", ""}}, `"in_use":"b","undone":[]`, wrong},
	} {
		r := &recording{}
		for at, one := range c.requests {
			r.shop(at+1, one.verb, one.reference, one.outcome)
		}
		if c.last != "" {
			r.write(`"event":"code_final","code":"7-1",%s`, c.last)
		}
		if got := r.ofCodes(t); got != c.want {
			t.Errorf("%v %s: %s", c.requests, c.last, word(got))
		}
	}
}
