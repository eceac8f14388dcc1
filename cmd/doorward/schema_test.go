//go:build linux

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/doorward/doorward/internal/audit"
	"github.com/doorward/doorward/internal/control"
	"github.com/doorward/doorward/internal/sealed"
)

// objects are what commands print with --json and what the control API answers, each
// with its schema in docs/api. A new one is a line here; `make generate` writes the
// rest.
var objects = []object{
	{"status", "doorward status --json, and GET /v1/status", control.Status{}},
	{"record", "a line of doorward log --json, and of GET /v1/log", audit.Record{}},
	{"verification", "doorward log --verify --json", audit.Verification{}},
	{"reply", "doorward open, close, arm and apply with --json, and the answer to their orders", control.Reply{}},
	{"error", "an order that was not carried out, with a 4xx or 5xx status", control.Error{}},
	{"check", "doorward check --json", checkJSON{}},
	{"doctor", "doorward doctor --json", doctorJSON{}},
	{"knock", "doorward knock --json with --touch or --from", knockJSON{}},
	{"passage", "doorward knock --json with a PROFILE, and a line of doorward hold --json", passageJSON{}},
	{"accept", "doorward accept --json", acceptJSON{}},
	{"probe", "doorward probe --json", probeJSON{}},
	{"profiles", "doorward profiles --json", profilesJSON{}},
	{"explanation", "doorward explain --json, and GET /v1/explain", control.Explanation{}},
	{"diff", "doorward diff --json, and GET /v1/diff", control.Diff{}},
	{"init", "doorward init --json", initJSON{}},
	{"share", "doorward share and rotate with --json", shareJSON{}},
	{"invite", "doorward invite --json", inviteJSON{}},
	{"rescue", "doorward invite --rescue --json", rescueJSON{}},
	{"keys", "doorward keys list --json, and result of POST /v1/kinds/sealed/keys", sealed.Keys{}},
	{"keys-done", "doorward keys add, revoke, restore, lock, unlock and withdraw with --json", doneJSON{}},
	{"keys-identity", "doorward keys identity and renew with --json", identityJSON{}},
	{"version", "doorward version --json", versionJSON{}},
	{"polkit", "doorward polkit --json", polkitJSON{}},
}

// requests are the bodies that the control API takes. Those have no version: the path
// has it.
var requests = []object{
	{"open", "the body of POST /v1/open", control.OpenRequest{}},
	{"close", "the body of POST /v1/close", control.CloseRequest{}},
	{"arm", "the body of POST /v1/arm", control.ArmRequest{}},
	{"apply", "the body of POST /v1/apply", control.ApplyRequest{}},
	{"sealed-invite", "the body of POST /v1/kinds/sealed/invite", sealed.InviteArgs{}},
	{"sealed-rescue", "the body of POST /v1/kinds/sealed/rescue", sealed.RescueArgs{}},
	{"sealed-keys", "the body of POST /v1/kinds/sealed/keys", sealed.KeysArgs{}},
	{"sealed-add", "the body of POST /v1/kinds/sealed/add", sealed.AddArgs{}},
	{"sealed-key", "the body of POST /v1/kinds/sealed/lock, unlock, revoke and restore", sealed.KeyArgs{}},
	{"sealed-withdraw", "the body of POST /v1/kinds/sealed/withdraw", sealed.WithdrawArgs{}},
}

type object struct {
	name, title string
	of          any // a zero value of its type
}

const (
	module    = "github.com/doorward/doorward"
	schemaDir = "../../docs/api"
	keysFile  = schemaDir + "/v1.keys"
)

// TestSchemas holds docs/api to the types. UPDATE_GOLDEN=1, which `make generate` sets,
// writes the schemas; but what docs/api/v1.keys has once is a promise to scripts, to
// which keys are added and from which none goes.
func TestSchemas(t *testing.T) {
	files, keys := schemas(t)
	before, err := os.ReadFile(keysFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	promised := slices.Collect(strings.FieldsFuncSeq(string(before), func(r rune) bool { return r == '\n' }))
	for _, key := range promised {
		if !slices.Contains(keys, key) {
			t.Errorf("%q of %s is gone, or is something else now: keys are added, never changed", key, keysFile)
		}
	}
	all := slices.Concat(promised, keys)
	slices.Sort(all)
	files[path.Base(keysFile)] = strings.Join(slices.Compact(all), "\n") + "\n"
	if os.Getenv("UPDATE_GOLDEN") != "" {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(schemaDir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	committed := map[string]string{}
	entries, err := os.ReadDir(schemaDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(schemaDir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		committed[e.Name()] = string(text)
	}
	if d := gocmp.Diff(files, committed); d != "" {
		t.Errorf("docs/api is not as the types are: make generate\n(-types +committed):\n%s", d)
	}
}

// schemas are the files of docs/api by their names, and the keys of what is printed and
// answered, as v1.keys has them.
func schemas(t *testing.T) (files map[string]string, keys []string) {
	t.Helper()
	files = map[string]string{}
	w := walker{comments: map[string]map[string]string{}, values: map[string]map[string]string{}, seen: map[string]bool{}}
	write := func(o object, name string, s *jsonschema.Schema) {
		s.Schema = "https://json-schema.org/draft/2020-12/schema"
		s.ID, s.Title = "urn:doorward:v1:"+name, o.title
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(s); err != nil {
			t.Fatal(err)
		}
		files[name+".schema.json"] = b.String()
		listKeys(name, s, &keys)
	}
	for _, o := range objects {
		write(o, o.name, w.versioned(o.of))
	}
	for _, o := range requests {
		s := w.of(reflect.TypeOf(o.of))
		s.Required, s.AdditionalProperties = nil, &jsonschema.Schema{Not: &jsonschema.Schema{}}
		write(o, o.name+"-request", s)
	}
	if w.err != nil {
		t.Fatal(w.err)
	}
	w.wantAll(t)
	return files, keys
}

// wantAll holds the list to the types that commands print, which are called so.
func (w *walker) wantAll(t *testing.T) {
	t.Helper()
	n := 0
	for at := range w.comments["cmd/doorward"] {
		if name, _, _ := strings.Cut(at, "."); strings.HasSuffix(name, "JSON") {
			if n++; !w.seen[name] {
				t.Errorf("%s is printed and has no schema: it is a line in objects", name)
				w.seen[name] = true
			}
		}
	}
	if n == 0 {
		t.Error("no type is called ...JSON: the test sees none of them")
	}
}

// listKeys appends the keys of a schema and what they are: "status.doors[].name string".
// One that may be left out has a "?".
func listKeys(at string, s *jsonschema.Schema, keys *[]string) {
	note := func(key string, of *jsonschema.Schema) {
		*keys = append(*keys, key+" "+cmp.Or(of.Type, strings.Join(of.Types, "|")))
	}
	for _, name := range s.PropertyOrder {
		of, key := s.Properties[name], at+"."+name
		if slices.Contains(s.Required, name) || len(s.Required) == 0 {
			note(key, of)
		} else {
			note(key+"?", of)
		}
		for of.Items != nil {
			key, of = key+"[]", of.Items
			note(key, of)
		}
		listKeys(key, of, keys)
	}
}

// walker makes schemas of types as encoding/json writes them, with their fields'
// comments. The library's own way from types to schemas knows neither comments nor that
// keys may be added, and takes every list for one that may be null, which ours are not.
type walker struct {
	comments map[string]map[string]string // by package, then "Type.Field"
	values   map[string]map[string]string // of constants, by package, then name
	seen     map[string]bool              // types that have a schema, or are in one
	err      error
}

// versioned is the schema of an object that has the version of the API, in a field or
// before all others (control.Versioned).
func (w *walker) versioned(v any) *jsonschema.Schema {
	s := w.of(reflect.TypeOf(v))
	api := any(control.APIVersion)
	if s.Properties["api"] == nil {
		s.PropertyOrder = append([]string{"api"}, s.PropertyOrder...)
		s.Required = append([]string{"api"}, s.Required...)
	}
	s.Properties["api"] = &jsonschema.Schema{Type: "integer", Const: &api, Description: "the version of this object; keys are added, never changed"}
	return s
}

func (w *walker) of(t reflect.Type) *jsonschema.Schema {
	if t == reflect.TypeFor[json.RawMessage]() { // whose keys are not the API's
		return &jsonschema.Schema{Type: "object"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		s := w.of(t.Elem())
		s.Type, s.Types = "", []string{s.Type, "null"}
		return s
	case reflect.Slice:
		return &jsonschema.Schema{Type: "array", Items: w.of(t.Elem())}
	case reflect.Map:
		return &jsonschema.Schema{Type: "object", AdditionalProperties: w.of(t.Elem())}
	case reflect.String:
		return &jsonschema.Schema{Type: "string"}
	case reflect.Bool:
		return &jsonschema.Schema{Type: "boolean"}
	case reflect.Float64:
		return &jsonschema.Schema{Type: "number"}
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return &jsonschema.Schema{Type: "string", Format: "date-time"}
		}
		w.seen[t.Name()] = true
		s := &jsonschema.Schema{Type: "object", Properties: map[string]*jsonschema.Schema{}}
		w.fields(s, t, true)
		return s
	}
	if zero := reflect.New(t).Elem(); zero.CanInt() || zero.CanUint() {
		s := &jsonschema.Schema{Type: "integer"}
		if zero.CanUint() {
			s.Minimum = new(float64)
		}
		return s
	}
	w.err = fmt.Errorf("%s: what does JSON make of it?", t)
	return &jsonschema.Schema{}
}

// fields adds a struct's fields to a schema. Those of an embedded one are the struct's,
// and there only if it is.
func (w *walker) fields(s *jsonschema.Schema, t reflect.Type, there bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
			continue
		case f.Anonymous && name == "" && f.Type.Kind() == reflect.Pointer:
			w.fields(s, f.Type.Elem(), false)
			continue
		case f.Anonymous && name == "":
			w.fields(s, f.Type, there)
			continue
		case name == "":
			w.err = fmt.Errorf("%s.%s has no name in JSON", t, f.Name)
		}
		of := w.of(f.Type)
		omit := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		if omit && len(of.Types) > 0 { // it is left out where it would be null
			of.Type, of.Types = of.Types[0], nil
		}
		if text := w.comment(t, f.Name); text != "" {
			of.Description = text
		}
		s.Properties[name] = of
		s.PropertyOrder = append(s.PropertyOrder, name)
		if there && !omit {
			s.Required = append(s.Required, name)
		}
	}
}

// constants stands in a comment for the values of constants.
var constants = regexp.MustCompile(`one of the (\w+) constants`)

// comment is what the source says of a field.
func (w *walker) comment(t reflect.Type, field string) string {
	dir := strings.TrimPrefix(t.PkgPath(), module+"/")
	if w.comments[dir] == nil {
		w.comments[dir], w.values[dir] = map[string]string{}, map[string]string{}
		w.read(dir)
	}
	return constants.ReplaceAllStringFunc(w.comments[dir][t.Name()+"."+field], func(text string) string {
		prefix := constants.FindStringSubmatch(text)[1]
		var all []string
		for name, value := range w.values[dir] {
			if strings.HasPrefix(name, prefix) {
				all = append(all, value)
			}
		}
		if len(all) == 0 {
			w.err = fmt.Errorf("%s.%s: %q: there are none", t, field, text)
		}
		slices.Sort(all)
		return "one of " + strings.Join(all, ", ")
	})
}

// read reads the comments of all fields of a package's structs, and its constants that
// are strings.
func (w *walker) read(dir string) {
	names, err := filepath.Glob(filepath.Join("../..", dir, "*.go"))
	if err != nil || len(names) == 0 {
		w.err = fmt.Errorf("no sources in %q: %v", dir, err)
		return
	}
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			w.err = err
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch spec := n.(type) {
			case *ast.FuncDecl:
				return false
			case *ast.TypeSpec:
				w.readFields(dir, spec)
			case *ast.ValueSpec:
				for i, value := range spec.Values {
					if text, ok := value.(*ast.BasicLit); ok && text.Kind == token.STRING {
						w.values[dir][spec.Names[i].Name] = text.Value
					}
				}
			}
			return true
		})
	}
}

func (w *walker) readFields(dir string, spec *ast.TypeSpec) {
	of, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range of.Fields.List {
		text := strings.Join(strings.Fields(f.Doc.Text()+" "+f.Comment.Text()), " ")
		for _, name := range f.Names {
			w.comments[dir][spec.Name.Name+"."+name.Name] = text
		}
	}
}
