// Package body reads the JSON bodies of requests, and refuses what can be understood in two
// ways. encoding/json alone takes "ITEM" for "item", and of two of them the last.
package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"unicode/utf8"
)

// maxShown is how many characters of a body an error shows at most.
const maxShown = 100

// FieldError says what is wrong with a field.
type FieldError struct {
	Name string
	text string
}

func (e *FieldError) Error() string { return short(e.Name) + ": " + e.text }

// Errors of a body as a whole.
var (
	errNoObject = errors.New("body: is no JSON object")
	errMore     = errors.New("body: there is more after the JSON object")
	errBroken   = errors.New("body: ends before its end")
)

// Read reads a body of up to limit bytes. fields has a pointer for each name that its object may
// have: to a pointer, which stays nil when the object does not have it. An error is of type
// *http.MaxBytesError for a body that is longer, and otherwise says what is wrong in words that
// the sender may read.
func Read(w http.ResponseWriter, r *http.Request, limit int64, fields map[string]any) error {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return large
	}
	if err != nil {
		return errBroken
	}
	return parse(text, fields)
}

func parse(text []byte, fields map[string]any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if begin, err := d.Token(); err != nil || begin != json.Delim('{') {
		return errNoObject
	}
	seen := map[string]bool{}
	for d.More() {
		if err := field(d, fields, seen); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil { // The end of the object.
		return errNoObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errMore
	}
	return nil
}

// field reads one field of an object.
func field(d *json.Decoder, fields map[string]any, seen map[string]bool) error {
	token, err := d.Token()
	name, ok := token.(string)
	if err != nil || !ok {
		return errNoObject
	}
	into, known := fields[name]
	switch {
	case !known:
		return &FieldError{name, "there is no such field"}
	case seen[name]:
		return &FieldError{name, "is there twice"}
	}
	seen[name] = true
	err = d.Decode(into)
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &FieldError{name, fmt.Sprintf("has to be %s, and is: %s", called(kind.Type), short(kind.Value))}
	}
	if err != nil {
		return errNoObject
	}
	return nil
}

// called is what a type is called by those who know no Go.
func called(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	default:
		return "a " + t.String()
	}
}

// short cuts what a sender made up.
func short(text string) string {
	if utf8.RuneCountInString(text) <= maxShown {
		return text
	}
	return string([]rune(text)[:maxShown]) + "…"
}
