package mutants

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Asleep writes source files that contain all of these mutants into dir, which must
// exist, and returns the path of a file for the go command's -overlay. So one build
// serves all mutants: a function that mutants change is there in its original form and
// in that of each mutant, and begins by choosing between them. No mutant is active
// until its name replaces asleep in the built program. Mutants that change anything
// but the bodies of functions are returned as alone; each needs an overlay of its own.
func Asleep(all []Mutant, dir string) (overlay string, alone []Mutant, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", nil, err
	}
	files := map[string]*source{} // by name from the module's root
	for _, m := range all {
		if files[m.File] == nil {
			text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(m.File)))
			if err != nil {
				return "", nil, fmt.Errorf("mutant %q: %w", m.Name, err)
			}
			if files[m.File], err = parse(string(text)); err != nil {
				return "", nil, err
			}
		}
		ok, err := files[m.File].take(m)
		if err != nil {
			return "", nil, err
		}
		if !ok {
			alone = append(alone, m)
		}
	}
	replace := map[string]string{}
	for name, s := range files {
		replace[name] = s.String()
		replace[path.Join(path.Dir(name), "mutant_in_force.go")] = "package " + s.file.Name.Name +
			"\n\n" + inForce
	}
	overlay, err = writeOverlay(root, dir, replace)
	return overlay, alone, err
}

// asleep is in a program at the place for the name of the active mutant.
var asleep = "no mutant" + strings.Repeat(" ", 72)

// inForce is the source that reads that name. Its value is computed at run time, so
// that the compiler does not remove any of the choices.
var inForce = fmt.Sprintf("import \"strings\"\n\nvar mutantInForce = strings.TrimSpace(%q)\n", asleep)

// writeOverlay writes texts, whose keys are paths from root, into dir, and returns the
// path of the overlay file.
func writeOverlay(root, dir string, texts map[string]string) (overlay string, err error) {
	replace := map[string]string{}
	for name, text := range texts {
		to := filepath.Join(dir, strings.ReplaceAll(name, "/", "-"))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[filepath.Join(root, filepath.FromSlash(name))] = to
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, list, 0o644)
}

// source is a file with mutants asleep in it.
type source struct {
	text    string
	file    *ast.File
	choices map[int]string // by offset, what is inserted there: a function's choices
	added   []string       // the functions as mutants have them
}

func parse(text string) (*source, error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", text, parser.SkipObjectResolution)
	return &source{text: text, file: file, choices: map[int]string{}}, err
}

// between returns the text from one position to another. The positions of a file
// set's first file begin at 1.
func (s *source) between(from, to token.Pos) string { return s.text[from-1 : to-1] }

// take adds a mutant to the source, and returns false if that is not possible, since
// the mutant changes more than the bodies of functions.
func (s *source) take(m Mutant) (bool, error) {
	text, err := m.replaced(s.text)
	if err != nil {
		return false, err
	}
	mutated, err := parse(text)
	if err != nil || len(mutated.file.Decls) != len(s.file.Decls) {
		return false, err
	}
	choices, added := map[int]string{}, []string(nil)
	for i, was := range s.file.Decls {
		is := mutated.file.Decls[i]
		if s.between(was.Pos(), was.End()) == mutated.between(is.Pos(), is.End()) {
			continue
		}
		f, ok := was.(*ast.FuncDecl)
		g, too := is.(*ast.FuncDecl)
		if !ok || !too || f.Type.TypeParams != nil || s.between(f.Pos(), f.Body.Pos()) != mutated.between(g.Pos(), g.Body.Pos()) {
			return false, nil
		}
		name := f.Name.Name + "_" + strings.ReplaceAll(m.Name, "-", "_")
		call, ok := callOf(f, name)
		if !ok {
			return false, nil
		}
		choices[int(f.Body.Lbrace)] += fmt.Sprintf("\nif mutantInForce == %q { %s }\n", m.Name, call)
		added = append(added, mutated.between(g.Pos(), g.Name.Pos())+name+mutated.between(g.Name.End(), g.End()))
	}
	for at, choice := range choices {
		s.choices[at] += choice
	}
	s.added = append(s.added, added...)
	return true, nil
}

// callOf returns the source that calls name, another form of function f, with the
// receiver and the arguments of f. It returns false if one of them has no name.
func callOf(f *ast.FuncDecl, name string) (call string, ok bool) {
	receiver, ok := names(f.Recv, "")
	if !ok {
		return "", false
	}
	args, ok := names(f.Type.Params, "...")
	if !ok {
		return "", false
	}
	call = strings.Join(append(receiver, name), ".") + "(" + strings.Join(args, ", ") + ")"
	if f.Type.Results == nil {
		return call + "; return", true
	}
	return "return " + call, true
}

// names returns the names of a list of parameters, with dots appended to that of a
// variadic one.
func names(list *ast.FieldList, dots string) (all []string, ok bool) {
	if list == nil {
		return nil, true
	}
	for _, field := range list.List {
		if len(field.Names) == 0 {
			return nil, false
		}
		for _, name := range field.Names {
			if name.Name == "_" {
				return nil, false
			}
			all = append(all, name.Name)
		}
		if _, variadic := field.Type.(*ast.Ellipsis); variadic {
			all[len(all)-1] += dots
		}
	}
	return all, true
}

// String returns the source with all mutants in it.
func (s *source) String() string {
	var b strings.Builder
	at := 0
	for _, offset := range slices.Sorted(maps.Keys(s.choices)) {
		b.WriteString(s.text[at:offset] + s.choices[offset])
		at = offset
	}
	return b.String() + s.text[at:] + "\n" + strings.Join(s.added, "\n\n") + "\n"
}
