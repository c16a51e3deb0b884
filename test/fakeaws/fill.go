package fakeaws

import (
	"encoding/base64"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// fill sets the fields of in, a pointer to an input of the SDK, from what a protocol
// carried: a tree of map[string]any, []any, string, float64, int64, bool and []byte.
// Members that the input does not have are ignored, as newer models have more.
func fill(in, tree any) error {
	return fillValue(reflect.ValueOf(in).Elem(), tree, "")
}

// fillValue sets v from x; path names it in errors.
func fillValue(v reflect.Value, x any, path string) error {
	if x == nil {
		return nil
	}
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		return fillTime(v, x, path)
	case v.Type() == reflect.TypeFor[[]byte]():
		return fillBytes(v, x, path)
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return fillValue(v.Elem(), x, path)
	case reflect.Struct:
		return fillStruct(v, x, path)
	case reflect.Slice:
		return fillSlice(v, x, path)
	case reflect.Map:
		return fillMap(v, x, path)
	default:
		return fillScalar(v, x, path)
	}
}

func wrongType(path string, x any) error { return fmt.Errorf("%s: unexpected %T", path, x) }

func fillTime(v reflect.Value, x any, path string) error {
	var t time.Time
	switch x := x.(type) {
	case float64:
		t = time.UnixMilli(int64(math.Round(x * 1000))).UTC()
	case int64:
		t = time.Unix(x, 0).UTC()
	case string:
		var err error
		if t, err = time.Parse(time.RFC3339Nano, x); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	default:
		return wrongType(path, x)
	}
	v.Set(reflect.ValueOf(t))
	return nil
}

func fillBytes(v reflect.Value, x any, path string) error {
	switch x := x.(type) {
	case []byte:
		v.SetBytes(x)
	case string:
		b, err := base64.StdEncoding.DecodeString(x)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		v.SetBytes(b)
	default:
		return wrongType(path, x)
	}
	return nil
}

func fillStruct(v reflect.Value, x any, path string) error {
	members, ok := x.(map[string]any)
	if !ok {
		return wrongType(path, x)
	}
	for name, member := range members {
		field, ok := v.Type().FieldByName(name)
		if !ok || !field.IsExported() {
			continue
		}
		if err := fillValue(v.FieldByIndex(field.Index), member, strings.TrimPrefix(path+"."+name, ".")); err != nil {
			return err
		}
	}
	return nil
}

func fillSlice(v reflect.Value, x any, path string) error {
	if x == "" {
		x = []any{} // AWS Query writes an empty list so.
	}
	list, ok := x.([]any)
	if !ok {
		return wrongType(path, x)
	}
	v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
	for i, element := range list {
		if err := fillValue(v.Index(i), element, fmt.Sprintf("%s.member.%d", path, i+1)); err != nil {
			return err
		}
	}
	return nil
}

func fillMap(v reflect.Value, x any, path string) error {
	entries, ok := x.(map[string]any)
	if !ok {
		return wrongType(path, x)
	}
	v.Set(reflect.MakeMapWithSize(v.Type(), len(entries)))
	for key, entry := range entries {
		element := reflect.New(v.Type().Elem()).Elem()
		if err := fillValue(element, entry, path+"."+key); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), element)
	}
	return nil
}

// fillScalar sets a text, a boolean or a number, which may come as text.
func fillScalar(v reflect.Value, x any, path string) error {
	if text, ok := x.(string); ok {
		if err := fillText(v, text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	given := reflect.ValueOf(x)
	switch {
	case v.Kind() == reflect.Bool && given.Kind() == reflect.Bool:
		v.SetBool(given.Bool())
	case v.CanFloat() && (given.CanFloat() || given.CanInt()):
		v.Set(given.Convert(v.Type()))
	case v.CanInt() && given.CanInt() && !v.OverflowInt(given.Int()):
		v.SetInt(given.Int())
	case v.CanInt() && given.CanFloat() && given.Float() == math.Trunc(given.Float()) && !v.OverflowInt(int64(given.Float())):
		v.SetInt(int64(given.Float())) // JSON has no integers.
	default:
		return wrongType(path, x)
	}
	return nil
}

func fillText(v reflect.Value, text string) error {
	switch {
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return err
		}
		v.SetBool(b)
	case v.CanInt():
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return err
		}
		v.SetInt(i)
	case v.CanFloat():
		f, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return err
		}
		v.SetFloat(f)
	default:
		return fmt.Errorf("unexpected text for %s", v.Type())
	}
	return nil
}

// cborTree makes a tree for fill.
func cborTree(v cbor.Value) any {
	switch v := v.(type) {
	case cbor.Map:
		tree := make(map[string]any, len(v))
		for name, member := range v {
			tree[name] = cborTree(member)
		}
		return tree
	case cbor.List:
		list := make([]any, 0, len(v))
		for _, element := range v {
			list = append(list, cborTree(element))
		}
		return list
	case *cbor.Tag: // Of the tags only times are in use, and the field says that it is one.
		return cborTree(v.Value)
	case cbor.String:
		return string(v)
	case cbor.Slice:
		return []byte(v)
	case cbor.Bool:
		return bool(v)
	case cbor.Float32:
		return float64(v)
	case cbor.Float64:
		return float64(v)
	case cbor.Uint, cbor.NegInt:
		n, err := cbor.AsInt64(v)
		if err != nil {
			f, _ := cbor.AsFloat64(v) // It takes every integer.
			return f
		}
		return n
	default:
		return nil
	}
}
