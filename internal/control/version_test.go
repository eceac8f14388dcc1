package control

import (
	"testing"
	"time"

	"github.com/doorward/doorward/internal/audit"
)

// Every object has the version of the API, once.
func TestVersioned(t *testing.T) {
	type none struct{}
	for _, tt := range []struct {
		give any
		want string
	}{
		{none{}, `{"api":1}`},
		{&none{}, `{"api":1}`},
		{map[string]int{"b": 2}, `{"api":1,"b":2}`},
		{struct {
			Text string `json:"text"`
		}{`{"api": <&`}, `{"api":1,"text":"{\"api\": <&"}`},
		{&Error{Message: "no"}, `{"api":1,"code":"","error":"no","hint":""}`},
		{struct {
			Text string `json:"text"`
			API  int    `json:"api"`
		}{"a", 1}, `{"text":"a","api":1}`},
		{audit.Record{ID: 7, Time: time.Unix(0, 0).UTC(), Event: "dark"}, `{"api":1,"id":7,"time":"1970-01-01T00:00:00Z","door":"","event":"dark","source":"","by":"","reason":""}`},
	} {
		got, err := Versioned(tt.give)
		if err != nil || string(got) != tt.want+"\n" {
			t.Errorf("%#v: got %s, %v, want %s", tt.give, got, err, tt.want)
		}
	}
	for _, bad := range []any{[]int{}, "text", nil, func() {}} {
		if got, err := Versioned(bad); err == nil {
			t.Errorf("%#v: got %s, want an error", bad, got)
		}
	}
}
