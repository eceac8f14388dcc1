package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// What is hashed is in the form of RFC 8785. The vector is in docs/howto/audit.md, too.
func TestChained(t *testing.T) {
	at := time.Date(2026, 11, 24, 3, 0, 5, 0, time.UTC)
	login := uint32(1000)
	first := Record{ID: 7, Time: at, Door: "ssh", Event: EventGranted, Source: "192.0.2.7", By: "operator alice (uid 0)",
		Reason: "\"a\\b\" <\u0001\n\u007f\u2028é😀>", Operator: &Operator{UID: 0, LoginUID: &login, PID: 4711}}
	var ends Ends
	got, text, err := ends.Chain(first)
	if err != nil {
		t.Fatal(err)
	}
	const form = `{"by":"operator alice (uid 0)","by_login":1000,"by_pid":4711,"by_uid":0,"door":"ssh","event":"granted","id":7,"prev":{"hash":"","id":0,"other":0,"third":0},` +
		"\"reason\":\"\\\"a\\\\b\\\" <\\u0001\\n\u007f\u2028é😀>\"," + `"source":"192.0.2.7","time":"2026-11-24T03:00:05Z"}`
	if plain, err := canonical(string(text)); err != nil || string(plain) != form {
		t.Errorf("canonical: %v\n%s\nwant\n%s", err, plain, form)
	}
	// printf '%s' FORM | sha256sum
	if want := "a56f30538bfa1d4039d92af0f183e7fe7d58fd986d38c960846419d968ddf6c9"; got.Hash != want {
		t.Errorf("hash %s, want %s", got.Hash, want)
	}
	second, _, err := ends.Chain(Record{ID: 8, Time: at, Event: EventRefused})
	if err != nil {
		t.Fatal(err)
	}
	if want := "827806621e24623d0a5cc820214f81eec49ceb429eaff7330a646ee6460abb16"; second.Hash != want {
		t.Errorf("hash of the next %s, want %s", second.Hash, want)
	}
	// What was printed for people, or has been rewritten by another program, has the same
	// hash.
	var back Record
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(got, back); d != "" {
		t.Errorf("as it is read (-want +got):\n%s", d)
	}
	indented, _ := json.MarshalIndent(struct {
		API int `json:"api"`
		Record
	}{1, back}, "", "\t")
	if hash, err := hashOf(indented); err != nil || hash != got.Hash {
		t.Errorf("hash of %s: %s, %v, want %s", indented, hash, err, got.Hash)
	}
}

// canonical returns what is hashed.
func canonical(text string) ([]byte, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return nil, err
	}
	if _, err := hashOf([]byte(text)); err != nil {
		return nil, err
	}
	return appendObject(nil, b.Bytes(), 0)
}

func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: `{}`, `{"hash":"x","api":1}`: `{}`, `{ "b" : [ ] , "a" : {"hash":1,"c":[1,{"z":null,"y":true}]}}`: `{"a":{"c":[1,{"y":true,"z":null}],"hash":1},"b":[]}`,
		`{"a":"\u0041\/\u00e9\ud83d\ude00\ud800"}`: `{"a":"A/é😀` + "\ufffd" + `"}`, "{\"a\":\"\xff\"}": `{"a":"` + "\ufffd" + `"}`,
		`{"a":[{},[],"]","\\\"}",{"b":[",",":"]}],"\u00e9":"}"}`: `{"a":[{},[],"]","\\\"}",{"b":[",",":"]}],"é":"}"}`,
		`{"a":-5,"\u0062":18446744073709551615}`:                 `{"a":-5,"b":18446744073709551615}`,
	} {
		if got, err := canonical(in); err != nil || string(got) != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		``: "unexpected end of JSON input", `[]`: `not a JSON object: it begins with '['`, `7`: `not a JSON object: it begins with '7'`,
		`{"id":1,"id":2}`: `key "id" appears twice`, `{"id":1,"\u0069d":2}`: `key "id" appears twice`, `{"hash":1,"hash":2}`: `key "hash" appears twice`,
		`{"id":1.0}`: "number 1.0: a record has integers only", `{"id":1e3}`: "number 1e3: a record has integers only", `{"id":-0}`: "number -0: a record has integers only",
		`{"a":` + strings.Repeat(`[`, 20) + strings.Repeat(`]`, 20) + `}`: "objects are nested more than 16 deep: a record has three levels",
		`{"id":1} {}`: "invalid character '{' after top-level value", `{"id"`: "unexpected end of JSON input",
	} {
		if _, err := canonical(in); err == nil || err.Error() != want {
			t.Errorf("%s: error %v, want %s", in, err, want)
		}
	}
}

// trailOf makes a trail of records, one for each letter of a word: g for a grant by order,
// r for a refusal, v for a visit, and o and R for those from before the chain; w is a visit,
// and s a refusal, of a version that knew of two chains.
func trailOf(t interface{ Fatal(...any) }, word string) [][]byte {
	var ends Ends
	var all [][]byte
	for i, c := range word {
		r := Record{ID: uint64(i + 1), Event: EventGranted, Source: "192.0.2.7", Reason: fmt.Sprint(i)}
		if strings.ContainsRune("rRs", c) {
			r.Event = EventRefused
		}
		r.Visit = c == 'v'
		text, err := json.Marshal(r)
		switch c {
		case 'g', 'r', 'v':
			_, text, err = ends.Chain(r)
		case 'w', 's':
			text, err = chainTwo(&ends, r)
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	return all
}

// chainTwo is Chain as versions before the third chain had it.
func chainTwo(e *Ends, r Record) (text []byte, err error) {
	other, _ := r.Class().others()
	r.Prev = &Prev{Link: e[r.Class()], Other: e[other].ID}
	if text, err = json.Marshal(r); err == nil {
		r.Hash, err = hashOf(text)
		e.Extend(r)
	}
	return fmt.Appendf(text[:len(text)-1], `,"hash":"%s"}`, r.Hash), err
}

func verify(trail [][]byte, given int) (Verification, string) {
	var w Verifier
	for _, text := range trail {
		if text != nil {
			w.Add(text)
		}
	}
	v := w.End(uint64(given))
	var said []string
	for _, f := range v.Faults {
		said = append(said, f.Message)
	}
	return v, strings.Join(said, "; ")
}

// Faults are reported where they are, and only faults.
func TestVerify(t *testing.T) {
	drop := func(ids ...int) func([][]byte) {
		return func(trail [][]byte) {
			for _, id := range ids {
				trail[id-1] = nil
			}
		}
	}
	replace := func(id int, old, new string) func([][]byte) {
		return func(trail [][]byte) {
			trail[id-1] = []byte(strings.Replace(string(trail[id-1]), old, new, 1))
		}
	}
	// again changes a record, and corrects its hash.
	again := func(id int, change func(r *Record)) func([][]byte) {
		return func(trail [][]byte) {
			var r Record
			if err := json.Unmarshal(trail[id-1], &r); err != nil {
				t.Fatal(err)
			}
			change(&r)
			var ends Ends
			other, third := r.Class().others()
			ends[r.Class()], ends[other], ends[third] = r.Prev.Link, Link{ID: r.Prev.Other}, Link{ID: *r.Prev.Third}
			_, text, err := ends.Chain(r)
			if err != nil {
				t.Fatal(err)
			}
			trail[id-1] = text
		}
	}
	for _, tt := range []struct {
		what, word string
		do         func([][]byte)
		want       string
	}{
		{"nothing", "", drop(), ""},
		{"a whole trail", "gggrrgrgg", drop(), ""},
		{"one without refusals", "ggg", drop(), ""},
		{"the oldest of both are gone", "ggrrgrggrr", drop(1, 2, 3), ""},
		{"the oldest refusals are gone", "grgrgrgrgg", drop(2, 4, 6), ""},
		{"the oldest of the others are gone", "grgrgrgrgg", drop(1, 3, 5), ""},
		{"from before the chain, and then chained", "oRogrgrg", drop(), ""},
		{"from before the chain, some of them gone", "RooRogrgrg", drop(1, 2, 4), ""},
		{"a whole trail with visits", "gvvrvgrrvg", drop(), ""},
		{"one of visits alone", "vvv", drop(), ""},
		{"the oldest visits are gone", "gvrvgvrvgg", drop(2, 4, 6), ""},
		{"the oldest of all are gone", "gvrgvrgvr", drop(1, 2, 3, 5), ""},
		{"of a version with two chains, and then of three", "wsswgrvgv", drop(), ""},
		{"of three chains, and then of a version with two, and back", "gvrwsgvr", drop(), ""},
		{"one that only a version with two chains was told of", "gvwsgr", drop(2), "record 2 is missing: record 6 comes after it"},
		{"one of three chains", "gvrgvrgvr", drop(5), "record 5 is missing: record 6 comes after it"},
		{"the last visit", "gvrvgr", drop(4), "record 4 is missing: record 5 comes after it"},
		{"all visits", "gvrvgr", drop(2, 4), "record 4 is missing: record 6 comes after it"},
		{"a visit that is one no more", "gvrvgv", again(4, func(r *Record) { r.Visit = false }),
			"record 2 is missing: record 4 comes after it; record 4 says that it comes after record 1, but record 3 is between them"},
		{"the last", "grgrg", drop(5), "records from 5 on are missing: the daemon has assigned IDs up to 5"},
		{"the last ones", "grgrg", drop(4, 5), "records from 4 on are missing: the daemon has assigned IDs up to 5"},
		{"one of a chain", "ggggg", drop(3), "record 3 is missing: record 4 comes after it"},
		{"one of two chains", "grgrgrg", drop(5), "record 5 is missing: record 6 comes after it"},
		{"the last refusal", "grgrgg", drop(4), "record 4 is missing: record 5 comes after it"},
		{"all refusals", "grgrgg", drop(2, 4), "record 4 is missing: record 6 comes after it"},
		{"all of the others", "rgrgrr", drop(2, 4), "record 4 is missing: record 6 comes after it"},
		{"one of the others after refusals that are gone", "grgrgrgrgg", drop(2, 4, 5, 6), "record 5 is missing: record 7 comes after it"},
		{"the last refusal before the oldest of the others", "grgrgg", drop(1, 3, 4, 5), "record 4 is missing: record 6 comes after it"},
		{"one that refusals do not point to", "rggggrr", drop(1, 4), "record 4 is missing: record 5 comes after it"},
		{"the reason of one", "grgrg", replace(3, `"reason":"2"`, `"reason":"7"`), "record 3 was changed: its hash is "},
		{"the first's", "grgrg", replace(1, `"reason":"0"`, `"reason":"7"`), "record 1 was changed: its hash is "},
		{"one, with its hash", "grgrg", again(3, func(r *Record) { r.Source = "192.0.2.8" }),
			"record 3 is not the one that record 5 follows: it was changed together with its hash"},
		{"what one follows", "grgrg", again(5, func(r *Record) { r.Prev.ID = 0 }), "record 5 says that it follows record 0, but record 3 is between them"},
		{"one put in", "grggg", again(4, func(r *Record) { r.Prev.ID = 1 }),
			"record 4 says that it follows record 1, but record 3 is between them; record 4 is not the one that record 5 follows: it was changed together with its hash"},
		{"of another kind", "grrrg", again(3, func(r *Record) { r.Event = EventGranted }), "record 2 is missing: record 3 comes after it; " +
			"record 3 says that it comes after record 1, but record 2 is between them; record 3 is missing: record 4 comes after it"},
		{"one without hash", "grgrg", func(trail [][]byte) {
			trail[2] = []byte(`{"id":3,"event":"error","reason":"this record cannot be read: x"}`)
		},
			`record 3 has no hash, although those before it do: "this record cannot be read: x"; record 3 is missing: record 4 comes after it`},
		{"the first without hash", "gggg", func(trail [][]byte) { trail[0] = []byte(`{"id":1,"event":"error"}`) },
			"record 1 has no hash, and record 2 after it is not the first that does"},
		{"an order", "ggg", func(trail [][]byte) { slices.Reverse(trail) },
			"record 2 comes after record 3: verify a single trail, in the order of its IDs; record 1 comes after"},
		{"a line", "ggg", func(trail [][]byte) { trail[1] = []byte(`{"id":2`) },
			"what follows record 1 is not a record: unexpected end of JSON input; record 2 is missing: record 3 comes after it"},
	} {
		trail := trailOf(t, tt.word)
		tt.do(trail)
		v, got := verify(trail, len(tt.word))
		if !strings.HasPrefix(got, tt.want) || (tt.want == "") != (got == "") || v.Sound != (got == "") {
			t.Errorf("%s: sound %v, says %q, want %q", tt.what, v.Sound, got, tt.want)
		}
	}
}

// A change of any record shows, and so does its removal or a change of its place. Only
// the oldest of a chain can be removed, as it would be if there were no room for it.
func TestWhatIsDoneToATrailShows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.StringOfN(rapid.SampledFrom([]rune("grv")), 2, 20, -1).Draw(t, "trail")
		trail := trailOf(t, word)
		// The trail has no room for the oldest.
		var gone [3]int
		for i, c := range word {
			if kind := strings.IndexRune("grv", c); gone[kind] < strings.Count(word, string(c))-1 && rapid.Bool().Draw(t, "gone") && i == firstOf(trail, word, c) {
				trail[i] = nil
				gone[kind]++
			}
		}
		if _, said := verify(trail, len(word)); said != "" {
			t.Fatalf("nothing was done: %s", said)
		}
		i := rapid.SampledFrom(there(trail)).Draw(t, "which")
		switch rapid.IntRange(0, 2).Draw(t, "what") {
		case 0:
			oldest := i == firstOf(trail, word, rune(word[i])) && strings.Count(word[i:], word[i:i+1]) > 1
			trail[i] = nil
			if _, said := verify(trail, len(word)); (said == "") != oldest {
				t.Fatalf("record %d is taken out, the oldest: %v; says %q", i+1, oldest, said)
			}
		case 1:
			at := rapid.IntRange(0, len(trail[i])-1).Draw(t, "at")
			b := rapid.Byte().Draw(t, "byte")
			if trail[i][at] == b {
				return
			}
			was := string(trail[i])
			trail[i][at] = b
			// A record without a hash may be from before the chain.
			if v, said := verify(trail, len(word)); said == "" && v.Unchained == 0 {
				t.Fatalf("%s instead of %s is not noticed", trail[i], was)
			}
		case 2:
			j := rapid.SampledFrom(there(trail)).Draw(t, "with")
			trail[i], trail[j] = trail[j], trail[i]
			if _, said := verify(trail, len(word)); (said == "") != (i == j) {
				t.Fatalf("records %d and %d have changed places: %q", i+1, j+1, said)
			}
		}
	})
}

func there(trail [][]byte) (ids []int) {
	for i, text := range trail {
		if text != nil {
			ids = append(ids, i)
		}
	}
	return ids
}

func firstOf(trail [][]byte, word string, kind rune) int {
	for i, c := range word {
		if c == kind && trail[i] != nil {
			return i
		}
	}
	return -1
}

// Records that the trail drops while it is read are not faults, and only the first faults
// are kept.
func TestVerifySkipsAndCounts(t *testing.T) {
	trail := trailOf(t, "grgrgrgrgr")
	var w Verifier
	w.Add(trail[0])
	w.Add(trail[1])
	w.Skip(6)
	for _, text := range trail[6:] {
		w.Add(text)
	}
	if v := w.End(10); !v.Sound || v.Records != 6 || v.First != 1 || v.Last != 10 || v.Decided.ID != 9 || v.Refusals.ID != 10 {
		t.Errorf("got %+v, want that it is sound", v)
	}
	w = Verifier{}
	for range 1000 {
		w.Add([]byte("x"))
	}
	if v := w.End(0); v.Sound || len(v.Faults) != maxFaults || v.FaultsTotal != 1000 {
		t.Errorf("%d of %d faults are listed, want %d of 1000", len(v.Faults), v.FaultsTotal, maxFaults)
	}
}

// Refusals that are dropped while a trail is verified, which strangers can cause whenever
// they like, do not hide that a decision is missing.
func TestVerifyGoesOnWithTheOtherChain(t *testing.T) {
	trail := trailOf(t, "grgrgrgrgr") // refusals up to 6 are gone once 2 has been read
	of := func(ids ...int) (v Verification) {
		var w Verifier
		w.Add(trail[0])
		w.Add(trail[1])
		w.Skip(6)
		for _, id := range ids {
			w.Add(trail[id-1])
		}
		return w.End(10)
	}
	if v := of(3, 5, 7, 8, 9, 10); !v.Sound || v.Records != 8 {
		t.Errorf("got %+v, want that it is sound", v)
	}
	for _, gone := range [][]int{{3, 5, 7, 8, 10}, {3, 5, 7, 9, 10}, {3, 5, 8, 9, 10}} {
		if v := of(gone...); v.Sound {
			t.Errorf("with %v alone got %+v, want that one is missing", gone, v)
		}
	}
}
