package body

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRead(t *testing.T) {
	long := strings.Repeat("9", 4000)
	tests := []struct{ body, want string }{
		{`{"item":"tea","quantity":2,"rate":0.5}`, ""},
		{` { "quantity" : 2 , "item" : "tea", "rate" : 5e-1 } ` + "\n", ""},
		{`{"\u0069tem":"tea","quantity":2,"rate":0.5}`, ""},
		{`{"Item":"tea"}`, "Item: there is no such field"},
		{`{"item":"tea","ITEM":"coffee"}`, "ITEM: there is no such field"},
		{`{"item":"tea","quantity":1,"item":"coffee"}`, "item: is there twice"},
		{`{"item":"tea","item":"tea"}`, "item: is there twice"},
		{`{"item":null,"item":"tea"}`, "item: is there twice"},
		{`{"quantity":1,"\u0071uantity":2}`, "quantity: is there twice"},
		{`{"":1}`, ": there is no such field"},
		{`{"` + strings.Repeat("é", 4000) + `":1}`, strings.Repeat("é", 100) + "…: there is no such field"},
		{`{"item":7}`, "item: has to be a text, and is: number"},
		{`{"item":["tea"]}`, "item: has to be a text, and is: array"},
		{`{"quantity":1.5}`, "quantity: has to be a whole number, and is: number 1.5"},
		{`{"quantity":` + long + `}`, "quantity: has to be a whole number, and is: number " + long[:93] + "…"},
		{`{"rate":1e` + long + `}`, "rate: has to be a number, and is: number 1e" + long[:91] + "…"},
		{`{"quantity":"` + long + `"}`, "quantity: has to be a whole number, and is: string"},
		{``, "body: is no JSON object"},
		{`null`, "body: is no JSON object"},
		{`[]`, "body: is no JSON object"},
		{`"item"`, "body: is no JSON object"},
		{`{"item":"tea"`, "body: is no JSON object"},
		{`{"item":"tea",}`, "body: is no JSON object"},
		{`{"item" "tea"}`, "body: is no JSON object"},
		{`{"item":"tea" "quantity":2}`, "body: is no JSON object"},
		{`{item:"tea"}`, "body: is no JSON object"},
		{`{1:"tea"}`, "body: is no JSON object"},
		{`{"item":tea}`, "body: is no JSON object"},
		{`{"item":"tea"}{"quantity":2}`, "body: there is more after the JSON object"},
		{`{"item":"tea"}}`, "body: there is more after the JSON object"},
		{`{"item":"tea"} x`, "body: there is more after the JSON object"},
	}
	for _, test := range tests {
		var (
			item     *string
			quantity *int
			rate     *float64
		)
		got := ""
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(test.body))
		err := Read(httptest.NewRecorder(), r, 10_000, map[string]any{"item": &item, "quantity": &quantity, "rate": &rate})
		if err != nil {
			got = err.Error()
		}
		if got != test.want {
			t.Errorf("%.60s\ngot  %q\nwant %q", test.body, got, test.want)
		}
		if err == nil && (*item != "tea" || *quantity != 2 || *rate != 0.5) {
			t.Errorf("%s is read as %q, %d and %v", test.body, *item, *quantity, *rate)
		}
	}
}

func TestReadWithoutFields(t *testing.T) {
	var item *string
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader("{}"))
	if err := Read(httptest.NewRecorder(), r, 10, map[string]any{"item": &item}); err != nil || item != nil {
		t.Errorf("%v, %v, want nothing", item, err)
	}
}

func TestReadIsLimited(t *testing.T) {
	for _, text := range []string{strings.Repeat(" ", 11), "{}" + strings.Repeat(" ", 9), "[" + strings.Repeat("[", 10)} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(text))
		err := Read(httptest.NewRecorder(), r, 10, nil)
		if large, ok := errors.AsType[*http.MaxBytesError](err); !ok || large.Limit != 10 {
			t.Errorf("%q: error is %v, want that it is longer than 10 bytes", text, err)
		}
	}
}

func TestReadOfABrokenConnection(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", io.MultiReader(strings.NewReader("{"), iotest.ErrReader(errors.New("read 10.0.0.9: reset"))))
	if err := Read(httptest.NewRecorder(), r, 10, nil); err == nil || err.Error() != "body: ends before its end" {
		t.Errorf("error is %v, want that the body has no end, and no address", err)
	}
}
