package tape

import (
	"bytes"
	"testing"
)

func TestTape(t *testing.T) {
	r := New([]byte{7, 1, 2, 3, 4, 5})
	if got := r.Below(5); got != 2 {
		t.Errorf("Below(5) of byte 7 = %d, want 2", got)
	}
	if got := r.Below(1); got != 0 {
		t.Errorf("Below(1) = %d, want 0, and no byte read", got)
	}
	if got := r.Below(1 << 16); got != 0x0102 {
		t.Errorf("Below(65536) = %#x, want the next two bytes", got)
	}
	if !r.Bool() {
		t.Error("Bool of byte 3 = false, want true")
	}
	if got := Of(r, []string{"a", "b", "c"}); got != "b" {
		t.Errorf("Of three elements, byte 4 chooses %q, want the second", got)
	}
	if got := r.Bytes(3); !bytes.Equal(got, []byte{5}) || r.More() {
		t.Errorf("the rest is %v, and More() = %v, want [5] and false", got, r.More())
	}
	if r.Byte() != 0 || r.Bool() || r.Below(9) != 0 || Of(r, []int{3, 4}) != 3 || len(r.Bytes(2)) != 0 {
		t.Error("after the end, a choice is not the first possible one")
	}
}
