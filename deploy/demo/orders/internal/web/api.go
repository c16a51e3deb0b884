package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/body"
	"github.com/tidegauge/tidegauge/deploy/demo/orders/internal/store"
)

// Limits of what users send.
const (
	maxBody      = 16 << 10 // bytes
	maxItem      = 200      // characters
	maxQuantity  = 1000
	maxKey       = 128 // bytes
	maxList      = 100
	defaultList  = 20
	keyHeader    = "Idempotency-Key"
	retrySeconds = "5"
	// statusLeft is for the metrics only, as nobody reads the answer: no failure of the server.
	// Proxies have the same number for it.
	statusLeft = 499
)

// userError is what a user did wrong. Its text names the field.
type userError struct {
	code int
	text string
}

func (e *userError) Error() string { return e.text }

func wrong(code int, format string, args ...any) error {
	return &userError{code, fmt.Sprintf(format, args...)}
}

// orderBody is the JSON of a request; nil is what it does not have.
type orderBody struct {
	item     *string
	quantity *int
}

// place stores an order. With the header Idempotency-Key a request may be sent again by
// somebody who got no answer, and there will be one order.
func (s *server) place(w http.ResponseWriter, r *http.Request) {
	n, err := newOrder(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeLimit)
	defer cancel()
	o, fresh, err := s.store.Place(ctx, n)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if fresh {
		s.metrics.placed.Inc()
		s.outbox.add(o.ID)
	}
	w.Header().Set("Location", "/api/orders/"+o.ID)
	writeJSON(w, http.StatusCreated, o)
}

func newOrder(w http.ResponseWriter, r *http.Request) (store.NewOrder, error) {
	key, err := readKey(r)
	if err != nil {
		return store.NewOrder{}, err
	}
	asked, err := readOrder(w, r)
	if err != nil {
		return store.NewOrder{}, err
	}
	item, err := checkItem(asked.item)
	if err != nil {
		return store.NewOrder{}, err
	}
	quantity, err := checkQuantity(asked.quantity)
	return store.NewOrder{Item: item, Quantity: quantity, Key: key}, err
}

func readKey(r *http.Request) (string, error) {
	values := r.Header.Values(keyHeader)
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", wrong(http.StatusBadRequest, "%s: there are %d of it", keyHeader, len(values))
	}
	printable := strings.IndexFunc(values[0], func(r rune) bool { return r <= ' ' || r > '~' }) < 0
	if values[0] == "" || len(values[0]) > maxKey || !printable {
		return "", wrong(http.StatusBadRequest, "%s: has to have 1 to %d characters of ASCII, without spaces", keyHeader, maxKey)
	}
	return values[0], nil
}

func checkItem(item *string) (string, error) {
	if item == nil {
		return "", wrong(http.StatusBadRequest, "item: is missing")
	}
	text := strings.TrimSpace(*item)
	switch n := utf8.RuneCountInString(text); {
	case n == 0:
		return "", wrong(http.StatusBadRequest, "item: is empty")
	case n > maxItem:
		return "", wrong(http.StatusBadRequest, "item: has %d characters, and may have %d", n, maxItem)
	case strings.ContainsFunc(text, unprintable):
		return "", wrong(http.StatusBadRequest, "item: has a control character, or bytes that are no UTF-8")
	case !strings.ContainsFunc(text, visible):
		return "", wrong(http.StatusBadRequest, "item: has no character that can be seen")
	}
	return text, nil
}

// unprintable is what no item is called: control characters, those that turn the direction of the
// text after them, and what encoding/json puts in the place of bytes that are no UTF-8.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError
}

// visible is what can be seen by itself. Of what cannot, an item may have some between other
// characters: some scripts and emoji need it.
func visible(r rune) bool {
	const brailleBlank = '\u2800' // It has the category of the Braille patterns with dots.
	return r != brailleBlank && !unicode.IsSpace(r) && !unicode.IsMark(r) &&
		!unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point)
}

func checkQuantity(quantity *int) (int, error) {
	switch {
	case quantity == nil:
		return 0, wrong(http.StatusBadRequest, "quantity: is missing")
	case *quantity < 1 || *quantity > maxQuantity:
		return 0, wrong(http.StatusBadRequest, "quantity: is %d, and has to be 1 to %d", *quantity, maxQuantity)
	}
	return *quantity, nil
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	limit, after, err := listQuery(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeLimit)
	defer cancel()
	orders, err := s.store.List(ctx, after, limit)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	answer := struct {
		Orders []store.Order `json:"orders"`
		// After is for the next page, if there may be one.
		After string `json:"after,omitempty"`
	}{Orders: orders}
	if len(orders) == limit {
		answer.After = orders[limit-1].ID
	}
	writeJSON(w, http.StatusOK, answer)
}

func listQuery(r *http.Request) (limit int, after string, err error) {
	query := r.URL.Query()
	limit = defaultList
	if text := query.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > maxList {
			return 0, "", wrong(http.StatusBadRequest, "limit: has to be 1 to %d", maxList)
		}
	}
	after = query.Get("after")
	if after != "" && !store.ValidID(after) {
		return 0, "", wrong(http.StatusBadRequest, "after: is not the ID of an order")
	}
	return limit, after, nil
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	s.one(w, r, s.store.Get)
}

// change sets the quantity of an order that is not processed yet.
func (s *server) change(w http.ResponseWriter, r *http.Request) {
	asked, err := readOrder(w, r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if asked.item != nil {
		s.fail(w, r, wrong(http.StatusBadRequest, "item: cannot be changed"))
		return
	}
	quantity, err := checkQuantity(asked.quantity)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.one(w, r, func(ctx context.Context, id string) (store.Order, error) { return s.store.Change(ctx, id, quantity) })
}

// one answers with the order of the path.
func (s *server) one(w http.ResponseWriter, r *http.Request, find func(ctx context.Context, id string) (store.Order, error)) {
	id := r.PathValue("id")
	if !store.ValidID(id) {
		s.fail(w, r, store.ErrNotFound)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), storeLimit)
	defer cancel()
	o, err := find(ctx, id)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, o)
}

// fail answers why a request failed.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var user *userError
	switch {
	case errors.As(err, &user):
		writeError(w, user.code, user.text)
	case errors.Is(err, store.ErrNotFound):
		writeError(w, http.StatusNotFound, "id: there is no such order")
	case errors.Is(err, store.ErrProcessed):
		writeError(w, http.StatusConflict, "id: the order is processed and cannot be changed")
	case errors.Is(err, store.ErrKeyReused):
		writeError(w, http.StatusUnprocessableEntity, keyHeader+": was used for another order")
	case r.Context().Err() != nil:
		writeError(w, statusLeft, "the client went away")
	default:
		// It is the database, as what users send was looked at before. They learn no more.
		slog.Error("the database failed", "method", r.Method, "error", err)
		w.Header().Set("Retry-After", retrySeconds)
		writeError(w, http.StatusServiceUnavailable, "orders cannot be stored or read now: try again")
	}
}

// readOrder reads a body, and nothing that it should not have.
func readOrder(w http.ResponseWriter, r *http.Request) (orderBody, error) {
	var asked orderBody
	if err := checkType(r.Header.Get("Content-Type")); err != nil {
		return asked, err
	}
	err := body.Read(w, r, maxBody, map[string]any{"item": &asked.item, "quantity": &asked.quantity})
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return asked, wrong(http.StatusRequestEntityTooLarge, "body: is longer than %d bytes", large.Limit)
	}
	if err != nil {
		return asked, wrong(http.StatusBadRequest, "%s", err)
	}
	return asked, nil
}

// checkType wants JSON, which is in UTF-8. That a body has to say so keeps the forms of other
// sites out, too.
func checkType(contentType string) error {
	media, parameters, err := mime.ParseMediaType(contentType)
	charset, has := parameters["charset"]
	if err != nil || media != "application/json" || has && !strings.EqualFold(charset, "utf-8") {
		return wrong(http.StatusUnsupportedMediaType, "Content-Type: has to be application/json, in UTF-8")
	}
	return nil
}

func writeError(w http.ResponseWriter, code int, text string) {
	writeJSON(w, code, map[string]string{"error": text})
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
