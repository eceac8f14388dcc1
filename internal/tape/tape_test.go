package tape

import (
	"bytes"
	"testing"
)

func TestTape(t *testing.T) {
	r := New([]byte{7, 1, 2, 3, 4, 5})
	if got := r.Below(5); got != 2 {
		t.Errorf("7 below 5 is %d, want 2", got)
	}
	if got := r.Below(1); got != 0 {
		t.Errorf("below 1 is %d, want 0 without a byte", got)
	}
	if got := r.Below(1 << 16); got != 0x0102 {
		t.Errorf("below 65536 is %#x, want the next two bytes", got)
	}
	if !r.Bool() {
		t.Error("3 is false")
	}
	if got := Of(r, []string{"a", "b", "c"}); got != "b" {
		t.Errorf("4 of three is %q, want the second", got)
	}
	if got := r.Bytes(3); !bytes.Equal(got, []byte{5}) || r.More() {
		t.Errorf("the rest is %v and more %v, want 5 and nothing", got, r.More())
	}
	if r.Byte() != 0 || r.Bool() || r.Below(9) != 0 || Of(r, []int{3, 4}) != 3 || len(r.Bytes(2)) != 0 {
		t.Error("after the end a choice is not the first one")
	}
}
