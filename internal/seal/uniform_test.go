package seal

import (
	"encoding/binary"
	"math"
	"testing"
	"testing/cryptotest"
)

// A ciphertext of ML-KEM-768 is a list of numbers below 3329 that are compressed to 10
// bits (FIPS 203, section 4.2.1), to which some of the 1024 values come more often than
// others. So none of it may be seen that is not masked: 12 numbers in each of a few hundred
// datagrams would tell that they are none of random bytes.
func TestSaltsAreNoCiphertexts(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 2)
	var preimages [1024]int
	for x := range 3329 {
		preimages[int(math.Round(float64(x)*1024/3329))%1024]++
	}
	_, peer := pairOf(t)
	often, n := 0, 0
	for range 400 {
		d := visitor(t, peer, Hybrid).Hello()
		for i := range 12 {
			at := tagSize*8 + 10*i
			number := binary.LittleEndian.Uint32(d[at/8:]) >> (at % 8) & 1023
			if n++; preimages[number] == 4 {
				often++
			}
		}
	}
	// Of random bytes 257 in 1024 are such numbers, and of a ciphertext 4 × 257 in 3329.
	p := 257. / 1024
	if off := (float64(often) - p*float64(n)) / math.Sqrt(p*(1-p)*float64(n)); math.Abs(off) > 5 {
		t.Errorf("%d of %d numbers are some that ML-KEM has often: %.1f standard deviations from what random bytes have", often, n, off)
	}
}
