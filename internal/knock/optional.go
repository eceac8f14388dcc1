package knock

import (
	"io"
	"time"
)

// The interfaces here are what only some kinds can do: their Rule, or their Kind,
// has the methods, and who wants them asks for the interface.

// Penalised is a Rule of which a wrong knock costs something.
type Penalised interface {
	Rule
	// Costs is the penalty of a source's first wrong knock, 0 for none.
	Costs() time.Duration
}

// Touched is a Rule that asks for completed connections to TCP ports and for nothing
// else, so that any machine can knock. doorward share writes it down.
type Touched interface {
	Rule
	// Touches are the ports to connect to, in the order in which it is to be done.
	Touches() []uint16
	// Every is how often the gateway looks whether a knock is complete; 0: at once.
	Every() time.Duration
}

// Redrawn is a Rule whose secret can be drawn anew, and shared then. doorward rotate
// does.
type Redrawn interface {
	Touched
	// Redraw returns the rule with a secret of the same shape, and what of the knock's
	// table is another then: by the path within the table, with places in lists from 0
	// ("touch.0"), the value as TOML spells it. Only integers and strings that stood
	// there before can be replaced.
	Redraw(from Lots) (fresh Touched, edits map[string]string, err error)
}

// Drafted is a Kind of which doorward init writes a first knock.
type Drafted interface {
	Kind
	// Proposal tells of a knock of which nothing was chosen, in sentences; it goes on
	// from "a knock that nobody else has: ".
	Proposal() string
	// Choices are what can be chosen about it, in the order in which it is asked.
	Choices() []Choice
	// Draft writes the keys of the knock's table after "kind", with their comments.
	// What was chosen is by the choices' names, and not checked: a mistake in it is
	// one of the text. What was not is drawn or proposed.
	Draft(chosen map[string][]string, from Lots) (keys string, err error)
	// Write writes the keys of a rule that the kind has read, so that it reads the
	// same from them: a file that is written anew keeps the knock of the one before.
	Write(Rule) (keys string)
}

// Choice is a flag of doorward init about the knock, and the question for it.
type Choice struct {
	Name     string // of the flag
	Usage    string // of the flag, with its value's name in backquotes
	List     bool   // it has several values, else one
	Default  string // of the flag; "" for none
	Question string
	Proposal string // what an empty answer means when there is no Default: nothing is chosen
	Empty    string // what to say of an empty answer when there is no Proposal either
	With     string // the choice without which this one is none, and it without this; "" for none
}

// Lots are what a secret is drawn from at random.
type Lots struct {
	io.Reader // random bytes
	// Ports draws so many different ports in random order that nothing else here uses,
	// never one of them twice. They are none that the system gives to outgoing
	// connections. For doorward init they also have no name in /etc/services, and
	// scanners do not try them first.
	Ports func(m Medium, n int) ([]uint16, error)
}
