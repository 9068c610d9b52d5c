// Checks histories of claims for linearizability with porcupine, a third-party checker: is there an
// order of all requests, each between its sending and its answer, in which a drop that handles them
// one after the other would have given these answers and these rows?
//
//	histories [-lease MS] [-plant] FILE…
//
// With -plant, it plants faults in each history. No history with a fault may be called right, and each fault must be found in at least one
// history (plant.go marks an exception). Exits with 1 if a history is wrong, with 2 if one cannot be read.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

// patience is the time limit of one search. A search that takes longer decides nothing.
var patience = time.Minute

// patienceForPlanted is shorter, because in almost every history the search ends soon once a fault
// is planted.
const patienceForPlanted = 5 * time.Second

// lease is the time for which an API may still answer `sold_out` after a slot has become free
// (docs/decisions/0010-micro-batches.md), plus a margin for a busy machine.
var lease = flag.Int64("lease", 300, "milliseconds for which a `sold_out` may be older than its request")

var planting = flag.Bool("plant", false, "plant faults in the histories, which must be found")

func main() {
	flag.Parse()
	worst := 0
	if *planting {
		patience = patienceForPlanted
		worst = plantInAll(flag.Args())
	} else {
		decided, drops := 0, 0
		for _, path := range flag.Args() {
			result, of, all := judgeFile(path)
			worst = max(worst, result)
			decided += of
			drops += all
		}
		fmt.Printf("%d of %d drops decided\n", decided, drops)
		// An undecided drop proves nothing.
		if 2*decided <= drops && worst == 0 {
			fmt.Fprintln(os.Stderr, "too few drops were decided")
			worst = 1
		}
	}
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "name the histories")
		worst = 2
	}
	os.Exit(worst)
}

func open(path string) *history {
	file, err := os.Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return nil
	}
	defer file.Close()
	all, err := read(file)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
		return nil
	}
	if len(all.units) == 0 {
		fmt.Fprintf(os.Stderr, "%s: no drop\n", path)
		return nil
	}
	return all
}

// plantInAll plants each fault in each history. Returns 1 if a history with a fault is called right,
// or if a fault is found in none of the histories that have a place for it, unless the fault may be
// explained. Returns 2 if a history cannot be read.
func plantInAll(paths []string) int {
	worst := 0
	places, found := map[string]int{}, map[string]int{}
	for _, path := range paths {
		for _, fault := range plants {
			all := open(path)
			if all == nil {
				return 2
			}
			if !fault.plant(all) {
				fmt.Printf("%s: %s: no place for it\n", path, fault.name)
				continue
			}
			places[fault.name]++
			switch all.judge() {
			case porcupine.Illegal:
				found[fault.name]++
				fmt.Printf("%s: %s: found\n", path, fault.name)
			case porcupine.Unknown:
				fmt.Printf("%s: %s: not decided\n", path, fault.name)
			case porcupine.Ok:
				fmt.Printf("%s: %s: NOT FOUND\n", path, fault.name)
				if !fault.mayBeExplained {
					worst = 1
				}
			}
		}
	}
	for _, fault := range plants {
		if places[fault.name] > 0 && found[fault.name] == 0 && !fault.mayBeExplained {
			fmt.Printf("%s: found in no history\n", fault.name)
			worst = 1
		}
	}
	return worst
}

// judge returns Illegal if a drop or a code is, otherwise Unknown if one is not decided.
func (h *history) judge() porcupine.CheckResult {
	worst := porcupine.Ok
	for _, operations := range h.codes() {
		if worst = worse(worst, judgeCode(operations)); worst == porcupine.Illegal {
			return worst
		}
	}
	for _, of := range h.units {
		if worst = worse(worst, judge(of, h.operations(of))); worst == porcupine.Illegal {
			return worst
		}
	}
	return worst
}

func worse(a, b porcupine.CheckResult) porcupine.CheckResult {
	if a == porcupine.Illegal || b == porcupine.Illegal {
		return porcupine.Illegal
	}
	if a == porcupine.Unknown {
		return a
	}
	return b
}

// judgeFile returns the exit code for a history, how many of its drops were decided, and how many it has.
func judgeFile(path string) (int, int, int) {
	all := open(path)
	if all == nil {
		return 2, 0, 0
	}
	worst, decided := 0, 0
	for _, of := range all.units {
		operations := all.operations(of)
		begun := time.Now()
		result := judge(of, operations)
		took := time.Since(begun).Round(time.Millisecond)
		fmt.Printf("%s: %s: %s, %d steps, %v\n", path, of.name, word(result), len(operations), took)
		if result == porcupine.Illegal {
			worst = max(worst, 1)
		}
		if result != porcupine.Unknown {
			decided++
		}
	}
	return max(worst, judgeCodes(path, all.codes())), decided, len(all.units)
}

func judgeCodes(path string, codes map[string][]porcupine.Operation) int {
	worst, requests := 0, 0
	for code, operations := range codes {
		requests += len(operations)
		if result := judgeCode(operations); result != porcupine.Ok {
			fmt.Printf("%s: code %s: %s, %d steps\n", path, code, word(result), len(operations))
			if result == porcupine.Illegal {
				worst = 1
			}
		}
	}
	fmt.Printf("%s: %d codes checked, %d steps\n", path, len(codes), requests)
	return worst
}

func word(result porcupine.CheckResult) string {
	switch result {
	case porcupine.Ok:
		return "linearizable"
	case porcupine.Illegal:
		return "NOT linearizable"
	default:
		return "not decided"
	}
}

// judge first checks, for each slot, only the requests of the users who were promised it.
// If all requests together have a valid order, so do these. With few users, the search also ends
// quickly if there is no order. Then judge checks all requests together, which decides alone unless
// a slot has no order.
func judge(of *unit, operations []porcupine.Operation) porcupine.CheckResult {
	for _, some := range bySlot(operations) {
		if search(of, some) == porcupine.Illegal {
			return porcupine.Illegal
		}
	}
	return search(of, operations)
}

func search(of *unit, operations []porcupine.Operation) porcupine.CheckResult {
	model := porcupine.Model{
		Init:  func() any { return of.begin() },
		Step:  func(state, input, _ any) (bool, any) { return step(state, input) },
		Equal: equal,
	}
	return porcupine.CheckOperationsTimeout(model, operations, patience)
}
