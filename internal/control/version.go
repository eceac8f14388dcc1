package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
)

// APIVersion is the version of the JSON of this API and of the commands. Keys are added,
// never changed; docs/api has the schemas.
const APIVersion = 1

// Versioned writes an object as JSON, with the version of the API as its first key,
// "api", unless it has that as its field API. A line feed ends it.
func Versioned(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	body, object := bytes.CutPrefix(b.Bytes(), []byte("{"))
	switch {
	case !object:
		return nil, fmt.Errorf("control: internal error: a %T is no object, so that it can have no version", v)
	case hasVersion(reflect.TypeOf(v)):
		return b.Bytes(), nil
	}
	comma := ","
	if bytes.HasPrefix(body, []byte("}")) {
		comma = ""
	}
	return append(fmt.Appendf(nil, `{"api":%d%s`, APIVersion, comma), body...), nil
}

// hasVersion reports whether a type has the version as a field of its own.
func hasVersion(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return false
	}
	_, has := t.FieldByName("API")
	return has
}
