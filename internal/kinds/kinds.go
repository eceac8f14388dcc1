// Package kinds is the list of the kinds of knock that this doorward has. A new
// kind is a package of its own and a line here.
package kinds

import (
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/sealed"
	"github.com/doorward/doorward/internal/touch"
)

// All lists the kinds, in the order in which they are shown. Only tests change it, to
// add kinds of their own.
var All = []knock.Kind{
	sealed.Kind{},
	touch.Kind{},
}

// ToCome lists the names of kinds that are planned: a message says so to whoever asks
// for one.
var ToCome = []string{"sequence", "fwknop"}

// Named returns the kind with that name, nil for none.
func Named(name string) knock.Kind {
	for _, k := range All {
		if k.Name() == name {
			return k
		}
	}
	return nil
}

// Names returns the names of the kinds in All.
func Names() (names []string) {
	for _, k := range All {
		names = append(names, k.Name())
	}
	return names
}
