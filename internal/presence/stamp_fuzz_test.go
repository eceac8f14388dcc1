//go:build linux

package presence

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// isoForm matches stamps of RFC 3339, also with the comma and the short zone of ISO 8601.
var isoForm = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)([.,]\d+)?(?:Z|([+-])(\d\d):?(\d\d))$`)

// protocolStampForm matches stamps of RFC 5424, with the same groups.
var protocolStampForm = regexp.MustCompile(
	`^<(?:[0-9]|[1-9][0-9]|1[0-8][0-9]|19[01])>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?(?:Z|([+-])(\d\d):(\d\d))$`)

// FuzzStamp checks that a stamp without a year becomes the instant that a search through
// all years and all offsets finds, and that one with a year is read as written.
func FuzzStamp(f *testing.F) {
	seeds := 0
	for i := range zones {
		for _, line := range []string{
			"Nov 24 07:50:01 h", "Nov  2 07:50:01 h", "Feb 29 12:00:00 h", "Oct 25 02:30:00 h", "Mar 29 02:30:00 h",
			"Nov 24 07:50:01.123 h", "Oct 25 02:30:00.999999999 h", "<38>1 2026-11-24T07:50:01.123456+01:00 h", "<191>1 2026-11-24T07:50:01Z h",
			"<192>1 2026-11-24T07:50:01Z h", "<38>1 2026-11-24T07:50:01.1234567Z h", "<38>1 2026-11-24T07:50:01-0330 h", "<38>1 - h",
			"Jan  1 00:00:03 h", "Dec 31 23:59:59 h", "Apr 24 00:30:00 h", "Feb 30 00:00:00 h", "Nov 02  7:50:01 h", "2026-11-24T07:50:01+01:00 h",
			"2026-11-24T07:50:01.5Z h", "2026-11-24T07:50:01-0330 h", "2026-11-24T7:50:01Z h", "2026-11-24T07:50:01+24:00 h", "x",
		} {
			seeds++
			f.Add(line, eight.Unix()+int64(i)*86400*40, uint8(i))
		}
	}
	for i, zone := range zones { // now, and the limits of what counts as ahead
		for _, away := range []time.Duration{0, -1, 1, 3600, 86399, 86400, 86401, -86400 * 364, -86400 * 365} {
			ref := eight.AddDate(0, i, 7*i).In(location(f, zone))
			f.Add(ref.Add(away*time.Second).Format(time.Stamp)+" h", ref.Unix(), uint8(i))
		}
	}
	// Between the two instants of a time that occurs twice in Berlin (see TestCutStamp), and
	// after them.
	for _, minutes := range []int{-35, -25, 25, 35} {
		f.Add("Oct 25 02:30:00 h", time.Date(2026, 10, 25, 1, minutes, 0, 0, time.UTC).Unix(), uint8(1))
	}
	f.Add("Feb 29 12:00:00 h", time.Date(2103, 6, 1, 0, 0, 0, 0, time.UTC).Unix(), uint8(0))
	f.Add("Apr  5 01:45:00 h", time.Date(2026, 4, 4, 15, 40, 0, 0, time.UTC).Unix(), uint8(4))
	if seeds < 100 {
		f.Fatalf("only %d seeds", seeds)
	}
	f.Fuzz(func(t *testing.T, line string, now int64, zone uint8) {
		// From 1990 to 2190, all offsets are whole quarters of an hour.
		const from, to = 631152000, 6942672000
		ref := time.Unix(from+((now-from)%(to-from)+(to-from))%(to-from), 0).In(location(t, zones[int(zone)%len(zones)]))
		got, rest, ok := cutStamp(line, ref)
		if !ok {
			if bsd, is := readBSD(line); is {
				if want, any := search(bsd, ref); any {
					t.Fatalf("cutStamp(%q) at %s has no result, want %s", line, ref, want)
				}
			}
			return
		}
		head, whole := strings.CutSuffix(line, rest)
		if !whole || rest == "" || rest[0] != ' ' || got.Location() != ref.Location() {
			t.Fatalf("cutStamp(%q) leaves %q and is in %s", line, rest, got.Location())
		}
		if !got.yearless {
			iso := isoForm
			if strings.HasPrefix(head, "<") {
				iso = protocolStampForm
			}
			m := iso.FindStringSubmatch(head)
			if m == nil {
				t.Fatalf("cutStamp(%q) takes %q for a stamp", line, head)
			}
			hours, _ := strconv.Atoi("0" + m[4])
			minutes, _ := strconv.Atoi("0" + m[5])
			east := time.Duration(hours)*time.Hour + time.Duration(minutes)*time.Minute
			if m[3] == "-" {
				east = -east
			}
			if again := got.UTC().Add(east).Format("2006-01-02T15:04:05"); again != m[1] || hours > 23 || minutes > 59 {
				t.Fatalf("cutStamp(%q) = %s, which is %s there", line, got, again)
			}
			return
		}
		wall, is := readBSD(line)
		want, any := search(wall, ref)
		if !is || !any || !got.Equal(want.Add(wall.fraction)) {
			t.Fatalf("cutStamp(%q) at %s = %s, want %s (%v, %v)", line, ref, got, want, is, any)
		}
	})
}

// wallTime is what a stamp without a year says.
type wallTime struct {
	month                     time.Month
	day, hour, minute, second int
	fraction                  time.Duration
}

// fractionForm matches what may follow a stamp's seconds, up to its space.
var fractionForm = regexp.MustCompile(`^(?:\.([0-9]{1,9}))? `)

// readBSD reads "Nov  2 07:50:01 " by its columns.
func readBSD(line string) (w wallTime, ok bool) {
	if len(line) < 16 || line[3] != ' ' || line[6] != ' ' || line[9] != ':' || line[12] != ':' {
		return w, false
	}
	f := fractionForm.FindStringSubmatch(line[15:])
	if f == nil {
		return w, false
	}
	nanos, _ := strconv.Atoi((f[1] + "000000000")[:9])
	w.fraction = time.Duration(nanos)
	for m := time.January; m <= time.December; m++ {
		if strings.EqualFold(line[:3], m.String()[:3]) {
			w.month = m
		}
	}
	two := func(at int, pad bool) int {
		tens, ones := line[at], line[at+1]
		if pad && tens == ' ' {
			tens = '0'
		}
		if tens < '0' || tens > '9' || ones < '0' || ones > '9' {
			return 99
		}
		return int(tens-'0')*10 + int(ones-'0')
	}
	w.day, w.hour, w.minute, w.second = two(4, true), two(7, false), two(10, false), two(13, false)
	return w, w.month > 0 && w.day > 0 && w.day <= 31 && w.hour < 24 && w.minute < 60 && w.second < 60
}

// search looks through the years, and through all offsets that a zone can have, for
// instants at which the clock shows w. It takes the latest year in which w is not more than
// a day ahead, and if w occurs twice in it, the last instant that is not in the future, or
// else the first. There is no result if the clock skipped w after that.
func search(w wallTime, ref time.Time) (best time.Time, ok bool) {
	for year := ref.Year() + 1; year >= ref.Year()-8; year-- {
		var passings []time.Time // the instants, in order
		for quarter := 16 * 4; quarter >= -16*4; quarter-- {
			at := time.Date(year, w.month, w.day, w.hour, w.minute, w.second, 0, time.FixedZone("", quarter*15*60)).In(ref.Location())
			if at.Year() == year && (wallTime{at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), w.fraction}) == w {
				passings = append(passings, at)
			}
		}
		if len(passings) == 0 {
			// time.Date reads a skipped time by one of the offsets around it.
			near := time.Date(year, w.month, w.day, w.hour, w.minute, w.second, 0, ref.Location())
			there := time.Date(year, w.month, w.day, 0, 0, 0, 0, time.UTC).Day() == w.day
			switch away := near.Sub(ref.Add(24 * time.Hour)); {
			case !there || away > 24*time.Hour:
				continue
			case away < -24*time.Hour:
				return best, false
			}
			_, before := near.Add(-24 * time.Hour).Zone()
			if time.Date(year, w.month, w.day, w.hour, w.minute, w.second, 0, time.FixedZone("", before)).After(ref.Add(24 * time.Hour)) {
				continue
			}
			return best, false
		}
		if passings[0].Sub(ref) > 24*time.Hour {
			continue
		}
		best = passings[0]
		for _, p := range passings {
			if !p.After(ref) {
				best = p
			}
		}
		return best, true
	}
	return best, false
}
