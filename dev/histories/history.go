package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sort"

	"github.com/anishathalye/porcupine"
)

// line is an event of a history (dev/oracle/src/event.rs). Its number is its time: a
// request is written before it is sent, and its outcome after the answer has come.
type line struct {
	AtMs     int64   `json:"at_ms"`
	Event    string  `json:"event"`
	Op       int64   `json:"op"`
	Coupon   int64   `json:"coupon"`
	Drop     int64   `json:"drop"`
	Quantity int     `json:"quantity"`
	OncePer  string  `json:"once_per"`
	Person   string  `json:"person"`
	Again    bool    `json:"again"`
	Reason   string  `json:"reason"`
	Answer   *answer `json:"answer"`
	Rows     []row   `json:"rows"`

	// Fields of a shop's requests.
	Code      string   `json:"code"`
	Reference string   `json:"reference"`
	Undo      bool     `json:"undo"`
	Outcome   string   `json:"outcome"`
	InUse     string   `json:"in_use"`
	Undone    []string `json:"undone"`

	number int64
}

type answer struct {
	Status string `json:"status"`
	Drop   int64  `json:"drop"`
	Slot   int64  `json:"slot"`
}

// UnmarshalJSON also accepts `drop_id`, which is the API's name of the field `drop`.
func (a *answer) UnmarshalJSON(text []byte) error {
	var wire struct {
		Status string `json:"status"`
		Drop   int64  `json:"drop"`
		DropID int64  `json:"drop_id"`
		Slot   int64  `json:"slot"`
	}
	if err := json.Unmarshal(text, &wire); err != nil {
		return err
	}
	*a = answer{wire.Status, wire.Drop + wire.DropID, wire.Slot}
	return nil
}

type row struct {
	Slot   int64  `json:"slot"`
	Person string `json:"person"`
}

// request is a claim or a revocation with its outcome.
type request struct {
	asked *line
	// Nil if no answer came.
	ended *line
	// The drop that it concerns; 0 if it may be one of several.
	drop int64
}

// isAnswered tells whether the outcome is known. Otherwise, the request may take effect late.
func (r *request) isAnswered() bool { return r.ended != nil && r.ended.Event != "unknown" }

// change is an operator's change of a quantity, from its request to its answer. If the answer does
// not tell whether the change was made, it may take effect at any time.
type change struct {
	from, to int64
	quantity int
}

// unit is checked as a whole: one drop, or all drops of a coupon that gives each user one slot.
type unit struct {
	name     string
	once     bool
	drops    map[int64]bool
	quantity map[int64][]*line
	changes  []*change
	requests []*request
	finals   []*line
	// Users whose promise is listed as broken, so that nothing is known of their slots.
	excused map[string]bool
	// The users' numbers in the model.
	numbers map[string]int
}

type history struct {
	lines []*line
	units []*unit
}

func read(from io.Reader) (*history, error) {
	all := &history{}
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, 256<<20)
	for scanner.Scan() {
		it := &line{number: int64(len(all.lines))}
		if err := json.Unmarshal(scanner.Bytes(), it); err != nil {
			return nil, fmt.Errorf("line %d: %w", it.number+1, err)
		}
		all.lines = append(all.lines, it)
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	all.split()
	return all, nil
}

// split assigns the events to units. A request belongs to the drop of its answer, otherwise to the
// drop that it names, otherwise to the drops of its coupon that were announced and not closed while
// it was in progress. If these are of several units, its effect is unknown in each of them.
func (h *history) split() {
	ofDrop := map[int64]*unit{}
	ofCoupon := map[int64][]int64{}
	closed := map[int64]int64{}
	for _, it := range h.lines {
		if it.Event == "closed" {
			closed[it.Drop] = it.number
		}
		if it.Event != "drop" {
			continue
		}
		of := ofDrop[it.Drop]
		if of == nil {
			siblings := ofCoupon[it.Coupon]
			if it.OncePer == "coupon" && len(siblings) > 0 {
				of = ofDrop[siblings[0]]
			} else {
				of = &unit{
					name:     fmt.Sprintf("coupon %d, drop %d", it.Coupon, it.Drop),
					once:     it.OncePer == "coupon",
					drops:    map[int64]bool{},
					quantity: map[int64][]*line{},
					excused:  map[string]bool{},
				}
				h.units = append(h.units, of)
			}
			ofDrop[it.Drop] = of
			ofCoupon[it.Coupon] = append(siblings, it.Drop)
			of.drops[it.Drop] = true
		}
		of.quantity[it.Drop] = append(of.quantity[it.Drop], it)
	}
	requests := map[int64]*request{}
	changes := map[int64]*change{}
	var inOrder []*request
	for _, it := range h.lines {
		switch it.Event {
		case "invoked", "revoking":
			requests[it.Op] = &request{asked: it}
			inOrder = append(inOrder, requests[it.Op])
		case "ok", "failed", "unknown":
			if one := requests[it.Op]; one != nil {
				one.ended = it
			}
		case "changing":
			changes[it.Op] = &change{it.number, math.MaxInt64, it.Quantity}
			for _, drop := range ofCoupon[it.Coupon] {
				of := ofDrop[drop]
				if of.once && drop != ofCoupon[it.Coupon][0] {
					continue
				}
				of.changes = append(of.changes, changes[it.Op])
			}
		case "changed":
			if one := changes[it.Op]; one != nil {
				one.to = it.number
			}
		case "final":
			if of := ofDrop[it.Drop]; of != nil {
				of.finals = append(of.finals, it)
			}
		case "broken":
			if of := ofDrop[it.Drop]; of != nil {
				of.excused[it.Person] = true
			}
		}
	}
	for _, one := range inOrder {
		one.drop = one.asked.Drop
		if one.ended != nil && one.ended.Answer != nil && one.ended.Answer.Drop != 0 {
			one.drop = one.ended.Answer.Drop
		}
		var drops []int64
		for _, drop := range ofCoupon[one.asked.Coupon] {
			isEarly := one.isAnswered() && one.ended.number < ofDrop[drop].quantity[drop][0].number
			end, isClosed := closed[drop]
			if !isEarly && (!isClosed || one.asked.number < end) {
				drops = append(drops, drop)
			}
		}
		if one.drop == 0 && len(drops) == 1 {
			one.drop = drops[0]
		}
		if of := ofDrop[one.drop]; of != nil {
			of.requests = append(of.requests, one)
			continue
		}
		for _, drop := range drops {
			if of := ofDrop[drop]; of.once {
				of.requests = append(of.requests, one)
				break
			} else {
				of.requests = append(of.requests, &request{asked: one.asked})
			}
		}
	}
}

// before returns the number of the first line that is at most this many milliseconds older.
func (h *history) before(it *line, ms int64) int64 {
	first := sort.Search(len(h.lines), func(at int) bool { return h.lines[at].AtMs >= it.AtMs-ms })
	return min(int64(first), it.number)
}

// least returns the smallest quantity that a drop may have had between two lines. Quantities are
// recorded only now and then, so the values before and after the lines count, too. They come from
// MySQL: while a change is in progress, Redis may have the new quantity before MySQL, or still have
// the old one. After the answer, the quantity is unknown until the next value is recorded, because
// another change may have been made in between.
func (u *unit) least(drop, from, to int64) int {
	all := u.quantity[drop]
	recorded := func(line int64) int64 {
		next := sort.Search(len(all), func(at int) bool { return all[at].number > line })
		if next == len(all) {
			return math.MaxInt64
		}
		return all[next].number
	}
	changed := math.MaxInt
	for at := len(u.changes) - 1; at >= 0; at-- {
		one := u.changes[at]
		if one.from <= to && from <= recorded(one.to) {
			from = min(from, one.from)
			changed = min(changed, one.quantity)
		}
	}
	first := sort.Search(len(all), func(at int) bool { return all[at].number > from })
	last := sort.Search(len(all), func(at int) bool { return all[at].number > to })
	least := min(changed, all[max(first-1, 0)].Quantity)
	for at := max(first-1, 0); at <= min(last, len(all)-1); at++ {
		least = min(least, all[at].Quantity)
	}
	return least
}

// begin returns the state before the first request.
func (u *unit) begin() *state {
	users := make([]cell, len(u.numbers))
	for person := range u.excused {
		if user, known := u.numbers[person]; known {
			users[user].flags = excused
		}
	}
	return &state{users: users}
}

// number returns the number of a user in the model.
func (u *unit) number(person string) int {
	user, known := u.numbers[person]
	if !known {
		user = len(u.numbers)
		u.numbers[person] = user
	}
	return user
}

// operations returns the steps of a unit. Times are numbers of lines.
func (h *history) operations(u *unit) []porcupine.Operation {
	u.numbers = map[string]int{}
	var all []porcupine.Operation
	add := func(in *input, from, to int64) {
		operation := porcupine.Operation{ClientId: 0, Input: in, Call: from, Return: to}
		all = append(all, operation)
	}
	for _, one := range u.requests {
		in := &input{user: u.number(one.asked.Person), again: one.asked.Again}
		from := one.asked.number
		isClaim := one.asked.Event == "invoked"
		if !one.isAnswered() {
			in.kind = revokeLost
			if isClaim {
				in.kind = claimLost
			}
			add(in, from, from)
			continue
		}
		if one.ended.Event == "failed" || one.ended.Answer == nil {
			continue
		}
		to := one.ended.number
		in.drop, in.slot = one.ended.Answer.Drop, one.ended.Answer.Slot
		switch one.ended.Answer.Status {
		case "accepted":
			in.kind = accepted
		case "already_claimed":
			in.kind = already
		case "waiting":
			in.kind = waiting
		case "revoked":
			in.kind = revoked
		case "sold_out":
			in.kind = notHolder
			since := h.before(one.asked, *lease)
			nothing := &input{kind: full, least: map[int64]int{}}
			for drop := range u.drops {
				if one.drop == 0 || one.drop == drop {
					nothing.least[drop] = u.least(drop, since, to)
				}
			}
			add(nothing, since, to)
		default:
			continue
		}
		add(in, from, to)
	}
	for _, last := range u.finals {
		in := &input{kind: rows, drop: last.Drop}
		for _, found := range last.Rows {
			in.rows = append(in.rows, held{u.number(found.Person), found.Slot})
		}
		add(in, last.number, last.number)
	}
	return all
}
