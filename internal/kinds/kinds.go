// Package kinds is the list of the kinds of knock that this doorward has. A new
// kind is a package of its own and a line here.
package kinds

import (
	"github.com/doorward/doorward/internal/knock"
	"github.com/doorward/doorward/internal/touch"
)

// All are the kinds, in the order in which they are told. Nothing changes it but
// tests that bring a kind of their own.
var All = []knock.Kind{
	touch.Kind{},
}

// ToCome are names of kinds that are not here yet: who asks for one is told so.
var ToCome = []string{"sequence", "sealed", "fwknop"}

// Named returns the kind with that name, nil for none.
func Named(name string) knock.Kind {
	for _, k := range All {
		if k.Name() == name {
			return k
		}
	}
	return nil
}

// Names are those of All.
func Names() (names []string) {
	for _, k := range All {
		names = append(names, k.Name())
	}
	return names
}
