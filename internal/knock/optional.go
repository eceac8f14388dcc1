package knock

import (
	"fmt"
	"io"
	"time"
)

// The interfaces here are for what only some kinds can do: their Rule, or their Kind,
// has the methods, and whoever needs them asserts the interface.

// Penalised is a Rule whose wrong knocks may cost something.
type Penalised interface {
	Rule
	// Costs is the penalty of a source's first wrong knock, 0 for none.
	Costs() time.Duration
}

// Touched is a Rule that asks for completed connections to TCP ports and for nothing
// else, so that any machine can knock. doorward share writes it down.
type Touched interface {
	Rule
	// Touches are the ports to connect to, in the order in which to do it.
	Touches() []uint16
	// Every is how often the gateway checks whether a knock is complete; 0: at once.
	Every() time.Duration
}

// Redrawn is a Rule whose secret can be drawn again, and then shared, as doorward
// rotate does.
type Redrawn interface {
	Touched
	// Redraw returns the rule with a new secret of the same shape, and the edits of the
	// knock's table that make it so: each new value as TOML spells it, by its path within
	// the table, with places in lists counted from 0 ("touch.0"). Only integers and
	// strings that stood there before can be replaced.
	Redraw(from Lots) (fresh Touched, edits map[string]string, err error)
}

// Drafted is a Kind of which doorward init can write a first knock.
type Drafted interface {
	Kind
	// Brief says in a few words what sets the kind apart from others.
	Brief() string
	// Proposal describes the knock that is drafted if nothing is chosen, in sentences, in
	// lines of at most 80 characters.
	Proposal() string
	// Choices are what can be chosen about it, in the order in which it is asked. No other
	// kind has one of the same name.
	Choices() []Choice
	// Draft writes the keys of the knock's table after "kind", with their comments.
	// chosen has what was chosen, by the names of the choices. It is not checked: a
	// mistake in it becomes one of the text. What was not chosen is drawn or proposed.
	Draft(chosen map[string][]string, from Lots) (keys string, err error)
	// Write writes the keys of a rule that the kind has read, so that it reads the same
	// rule from them: a file that is written again keeps the former one's knock.
	Write(Rule) (keys string)
}

// Invited is a Rule that a visitor knocks by with a profile of the gateway, which an invite
// makes: doorward invite writes it.
type Invited interface {
	Rule
	Invites()
}

// Equipped is a Rule that goes by files.
type Equipped interface {
	Rule
	// Equipment are those of its files that it cannot do without, as doorward init makes
	// them where they are missing.
	Equipment(random io.Reader) ([]Equipment, error)
	// Inspect says what is wrong with one of the files, a sentence each, and in a few words
	// what it has. With an error it cannot be read.
	Inspect(f File, text []byte, err error) (has string, problems []string)
	// Uses are the files, as they are read.
	Uses() []File
	// Maker is the command, word by word, that makes a file without which nobody can knock.
	Maker() []string
}

// Twofold warns of files that are one thing to one knock and another to another, which is
// the one that cannot use it.
func Twofold(uses []Use) (warnings []string) {
	type first struct{ as, door string }
	known := make(map[string]first) // by path
	for _, u := range uses {
		r, ok := u.Rule.(Equipped)
		if !ok {
			continue
		}
		for _, f := range r.Uses() {
			before, is := known[f.Path]
			if !is {
				known[f.Path] = first{f.As, u.Door}
			} else if before.as != f.As {
				warnings = append(warnings, fmt.Sprintf("%s is %s of door %q and %s of door %q, and the knock of the second opens nothing: give it a file of its own",
					f.Path, before.as, before.door, f.As, u.Door))
			}
		}
	}
	return warnings
}

// Brief is an Opener whose Open takes no more than a millisecond or two, whatever comes. So
// who reads datagrams opens one that comes alone, which saves the time that it takes to
// hand it over; the kernel queues what comes meanwhile.
type Brief interface {
	Opener
	Brief()
}

// Timed is a Rule of which some knocks have a time in them.
type Timed interface {
	Rule
	// Fresh is how far from the gateway's clock that may be; 0 where none has.
	Fresh() time.Duration
}

// Equipment is a file that a knock goes by, as it is made for the first time. Only its
// owner and the daemon's group may read it.
type Equipment struct {
	Path string // absolute
	Text []byte
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
	With     string // a choice that is made together with this one or not at all; "" for none
}

// Lots are what a secret is drawn from at random.
type Lots struct {
	io.Reader // random bytes
	// Ports draws n different ports, in random order, that nothing else on this machine
	// uses and that no earlier call has drawn. None of them is one that the system assigns
	// to outgoing connections. For doorward init they also have no name in /etc/services,
	// and scanners do not try them first.
	Ports func(m Medium, n int) ([]uint16, error)
}
