package fakeaws

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// queryCodec is the AWS Query protocol: a form comes in and XML goes out, see
// https://smithy.io/2.0/aws/protocols/aws-query-protocol.html. The SDK has the
// other direction only.
type queryCodec struct {
	namespace string // of the XML
}

var (
	cloudWatchQuery = queryCodec{namespace: "http://monitoring.amazonaws.com/doc/2010-08-01/"}
	stsQuery        = queryCodec{namespace: "https://sts.amazonaws.com/doc/2011-06-15/"}
)

func (queryCodec) header(h http.Header) { h.Set("Content-Type", "text/xml") }

func (queryCodec) decode(body []byte, in any) error {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return fmt.Errorf("reading form: %w", err)
	}
	root := formNode{}
	for key, values := range form {
		root.add(strings.Split(key, "."), values[0])
	}
	return fill(in, root.tree())
}

// formNode is one level of the dotted keys of a form: values and formNodes.
type formNode map[string]any

func (n formNode) add(path []string, value string) {
	if len(path) == 1 {
		if _, ok := n[path[0]]; !ok { // An empty list is sent as the list's name with no value.
			n[path[0]] = value
		}
		return
	}
	child, ok := n[path[0]].(formNode)
	if !ok {
		child = formNode{}
		n[path[0]] = child
	}
	child.add(path[1:], value)
}

// tree makes lists of the levels whose keys are member.1, member.2 and so on.
func (n formNode) tree() any {
	if members, ok := n["member"].(formNode); ok {
		list := []any{}
		for i := 1; members[strconv.Itoa(i)] != nil; i++ {
			list = append(list, subtree(members[strconv.Itoa(i)]))
		}
		return list
	}
	tree := make(map[string]any, len(n))
	for name, child := range n {
		tree[name] = subtree(child)
	}
	return tree
}

func subtree(child any) any {
	if n, ok := child.(formNode); ok {
		return n.tree()
	}
	return child
}

func (c queryCodec) encode(_ context.Context, operation string, out any) ([]byte, error) {
	var w xmlWriter
	w.open(operation+"Response", c.namespace)
	w.open(operation+"Result", "")
	w.structure(reflect.ValueOf(out).Elem())
	w.close(operation + "Result")
	w.open("ResponseMetadata", "")
	w.text("RequestId", newRequestID())
	w.close("ResponseMetadata")
	w.close(operation + "Response")
	return w.buf.Bytes(), nil
}

func (c queryCodec) encodeError(e *apiError) ([]byte, error) {
	var w xmlWriter
	w.open("ErrorResponse", c.namespace)
	w.open("Error", "")
	w.text("Type", e.blame())
	w.text("Code", e.Code)
	w.text("Message", e.Message)
	w.close("Error")
	w.text("RequestId", newRequestID())
	w.close("ErrorResponse")
	return w.buf.Bytes(), nil
}

// xmlWriter writes the elements of an answer. encoding/xml cannot: the SDK's types
// have no tags, and lists need an element of their own around the members.
type xmlWriter struct {
	buf bytes.Buffer
}

func (w *xmlWriter) open(name, namespace string) {
	w.buf.WriteString("<" + name)
	if namespace != "" {
		w.buf.WriteString(` xmlns="` + namespace + `"`)
	}
	w.buf.WriteByte('>')
}

func (w *xmlWriter) close(name string) { w.buf.WriteString("</" + name + ">") }

func (w *xmlWriter) text(name, value string) {
	w.open(name, "")
	_ = xml.EscapeText(&w.buf, []byte(value)) // A buffer takes everything.
	w.close(name)
}

func (w *xmlWriter) structure(v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() || field.Name == "ResultMetadata" {
			continue
		}
		w.member(field.Name, v.Field(i))
	}
}

func (w *xmlWriter) member(name string, v reflect.Value) {
	if v.IsZero() && v.Kind() != reflect.Float64 {
		return
	}
	if t, ok := reflect.TypeAssert[time.Time](v); ok {
		w.text(name, t.UTC().Format(time.RFC3339Nano))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		w.pointer(name, v.Elem())
	case reflect.Struct:
		w.open(name, "")
		w.structure(v)
		w.close(name)
	case reflect.Slice:
		w.open(name, "")
		for i := range v.Len() {
			w.member("member", v.Index(i))
		}
		w.close(name)
	case reflect.Float64:
		w.text(name, formatFloat(v.Float()))
	default:
		w.text(name, fmt.Sprint(v.Interface()))
	}
}

// pointer writes what a pointer that is set points to, zero values too.
func (w *xmlWriter) pointer(name string, v reflect.Value) {
	if v.IsZero() && v.Kind() != reflect.Struct {
		w.text(name, fmt.Sprint(v.Interface()))
		return
	}
	w.member(name, v)
}

func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	default:
		return strconv.FormatFloat(f, 'g', -1, 64) // NaN is "NaN" in both.
	}
}
