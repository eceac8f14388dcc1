package gateway

import (
	"fmt"
	"hash/maphash"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/doorward/doorward/internal/door"
)

// digest returns the same number for two trips that nothing can tell apart any more. It
// is a hash of what gateway, machine and oracle hold, with all times relative to now. It
// goes through the fields of all packages by reflection, so that no state of theirs is
// forgotten; the fields that are left out by name decide nothing.
func (t *trip) digest() uint64 {
	d := &digest{t: t, wall: t.clock().Round(0), seen: map[unsafe.Pointer]int{}}
	d.value(reflect.ValueOf(t.model).Elem())
	d.value(reflect.ValueOf(t.oracle).Elem())
	d.value(reflect.ValueOf(t.left))
	d.text = append(d.text, fmt.Sprint(t.g != nil, t.flushed, t.full != nil)...)
	if t.waits != nil {
		d.text = append(d.text, "waits for "+t.waits.file...)
	}
	if t.g != nil {
		d.value(reflect.ValueOf(t.g).Elem())
		for _, guarded := range t.g.doors {
			d.granted(guarded.door)
		}
	}
	return maphash.Bytes(digestSeed, d.text)
}

var digestSeed = maphash.MakeSeed()

type digest struct {
	t    *trip
	wall time.Time
	text []byte
	seen map[unsafe.Pointer]int
}

// leftOut are the fields that decide nothing: what is only reported, what never changes,
// what a step leaves behind, and pointers to the owner. They are left out by name alone, so
// a field with such a name must decide nothing in any package.
var leftOut = strings.Fields(`now base wall files trail points crashAt ways choices m gw g conf config text opts
	started warnings repairs refusals oddities Reason reason Since Opened Time rule rules ctx cancel
	newer events touches sums store statusCache metricsCache measured work looks replies By stalls gaps gapLogged
	hash differs ID Ended guesses countingSince recalled metered endedGrants darkBy callers sessionTable readAloud`)

var (
	timeType  = reflect.TypeFor[time.Time]()
	hooksType = reflect.TypeFor[hooks]()
	tallyType = reflect.TypeFor[tally]()
)

func (d *digest) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		d.fields(v)
	case reflect.Pointer:
		if v.IsNil() {
			d.text = append(d.text, '0')
			return
		}
		if n, ok := d.seen[v.UnsafePointer()]; ok {
			d.text = strconv.AppendInt(append(d.text, '^'), int64(n), 10)
			return
		}
		d.seen[v.UnsafePointer()] = len(d.seen)
		d.value(v.Elem())
	case reflect.Interface:
		if !v.IsNil() {
			d.value(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		d.text = append(d.text, '[')
		for i := range v.Len() {
			d.value(v.Index(i))
			d.text = append(d.text, ',')
		}
	case reflect.Map:
		d.entries(v)
	case reflect.Bool:
		d.text = strconv.AppendBool(d.text, v.Bool())
	case reflect.String:
		d.text = append(d.text, v.String()...)
	case reflect.Func, reflect.Chan, reflect.UnsafePointer, reflect.Uintptr:
	case reflect.Float64:
	default:
		if v.CanInt() {
			d.text = strconv.AppendInt(d.text, v.Int(), 10)
		} else {
			d.text = strconv.AppendUint(d.text, v.Uint(), 10)
		}
	}
}

// granted writes who has a grant at a door. How the door stores that decides nothing.
func (d *digest) granted(of *door.Door) {
	now := d.t.clock()
	for _, c := range of.View(now).Grants {
		since, _ := of.GrantedSince(c.Source, c.By)
		d.value(reflect.ValueOf([]time.Time{c.Until, since}))
		d.text = append(d.text, c.Source.String()+c.By...)
	}
}

// penalties writes a door's penalties, in force and remembered, in sorted order.
func (d *digest) penalties(v reflect.Value) {
	before := d.text
	var all []string
	for it := v.FieldByName("of").MapRange(); it.Next(); {
		d.text = nil
		n := int(it.Value().Int())
		part := v.FieldByName("all").FieldByName("parts").Index(n / 256).Elem()
		d.value(part.Index(n % 256))
		all = append(all, string(d.text))
	}
	slices.Sort(all)
	d.text = append(before, strings.Join(all, ";")...)
}

func (d *digest) fields(v reflect.Value) {
	typ := v.Type()
	switch {
	case typ == timeType:
		d.time(v)
		return
	case typ == hooksType, typ == tallyType:
		return
	case typ.String() == "door.grantTable":
		return // see granted
	case typ.String() == "door.penalties":
		d.penalties(v)
		return
	}
	if typ.PkgPath() != "" && !strings.Contains(typ.PkgPath(), "doorward") && typ.PkgPath() != "container/list" &&
		typ.PkgPath() != "net/netip" {
		return
	}
	d.text = append(d.text, '{')
	for i := range v.NumField() {
		if f := typ.Field(i); !slices.Contains(leftOut, f.Name) {
			d.text = append(append(d.text, f.Name...), ':')
			d.value(v.Field(i))
			d.text = append(d.text, ' ')
		}
	}
	d.text = append(d.text, '}')
}

// entries writes a map's entries in sorted order.
func (d *digest) entries(v reflect.Value) {
	before := d.text
	var all []string
	for it := v.MapRange(); it.Next(); {
		d.text = nil
		d.value(it.Key())
		d.text = append(d.text, '=')
		d.value(it.Value())
		all = append(all, string(d.text))
	}
	slices.Sort(all)
	d.text = append(before, strings.Join(all, ";")...)
}

// time writes a time relative to now: by the monotonic clock if it has a
// reading of it, by the wall clock otherwise.
func (d *digest) time(v reflect.Value) {
	raw := rawTime{wall: v.Field(0).Uint(), ext: v.Field(1).Int()}
	at := *(*time.Time)(unsafe.Pointer(&raw))
	if at.IsZero() {
		d.text = append(d.text, '-')
		return
	}
	left, clock := at.Sub(d.t.now), 'm'
	if raw.wall>>63 == 0 {
		left, clock = at.Sub(d.wall), 'w'
	}
	d.text = strconv.AppendInt(append(d.text, byte(clock)), int64(left), 10)
}
