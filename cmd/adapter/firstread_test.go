package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// reply is one answer of an API server: a status, or an error if that is 0.
type reply int

const refusedConnection reply = 0

// replies answers with one after the other, and with the last from then on.
func replies(calls *int, all ...reply) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		now := all[min(*calls, len(all)-1)]
		*calls++
		if now == refusedConnection {
			return nil, syscall.ECONNREFUSED
		}
		body := `{"kind":"Status","message":"configmaps is forbidden"}`
		if now == http.StatusOK {
			body = `{"kind":"ConfigMap"}`
		}
		return &http.Response{
			StatusCode: int(now), Status: http.StatusText(int(now)), Request: r, Body: io.NopCloser(strings.NewReader(body)),
		}, nil
	})
}

// readOnce is how a read of that path ends: its body, or "error".
func readOnce(t *testing.T, rt http.RoundTripper, path string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://api.example.com"+path, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := rt.RoundTrip(r)
	if err != nil {
		return "error: " + err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.Status + " " + string(text)
}

func TestTheFirstReadIsTriedAgainWhileItIsRefused(t *testing.T) {
	const refusal = `{"kind":"Status","message":"configmaps is forbidden"}`
	for name, test := range map[string]struct {
		path    string
		replies []reply
		want    string
		calls   int // 0 is more than one
		least   time.Duration
		most    time.Duration
		cure    string
	}{
		"success":            {frontProxies, []reply{200}, `OK {"kind":"ConfigMap"}`, 1, 0, 0, ""},
		"below a prefix":     {"/k8s/clusters/c-1" + frontProxies, []reply{403, 200}, `OK {"kind":"ConfigMap"}`, 2, firstPause, firstPause, ""},
		"refused at first":   {frontProxies, []reply{refusedConnection, 401, 403, 500, 200}, `OK {"kind":"ConfigMap"}`, 5, 15 * firstPause, 15 * firstPause, ""},
		"not there":          {frontProxies, []reply{404}, "Not Found " + refusal, 1, 0, 0, ""},
		"never without":      {frontProxies, []reply{403}, "Forbidden " + refusal, 0, startPatience, startPatience, "bind the Role"},
		"an unknown token":   {frontProxies, []reply{401}, "Unauthorized " + refusal, 0, startPatience, startPatience, "does not take the token"},
		"nobody there":       {frontProxies, []reply{refusedConnection}, "error: connection refused", 0, startPatience, startPatience, "can the API server be reached"},
		"something else":     {"/apis/authentication.k8s.io/v1/tokenreviews", []reply{403}, "Forbidden " + refusal, 1, 0, 0, ""},
		"the library's list": {"/api/v1/namespaces/kube-system/configmaps", []reply{403}, "Forbidden " + refusal, 1, 0, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first, calls, began := newFirstRead(t.Context()), 0, time.Now()
				got := readOnce(t, first.wrap(replies(&calls, test.replies...)), test.path)
				if took := time.Since(began); got != test.want || took < test.least || took > test.most {
					t.Errorf("got %s after %v, want %s after %v to %v", got, took, test.want, test.least, test.most)
				}
				if test.calls != 0 && calls != test.calls || test.calls == 0 && (calls < 5 || calls > 20) {
					t.Errorf("it was asked %d times, want %d", calls, test.calls)
				}
				failed := errors.New("failed")
				text := first.withCure(failed).Error()
				if test.cure == "" && text != "failed" || !strings.Contains(text, test.cure) {
					t.Errorf("the error is %q, want the cure %q", text, test.cure)
				}
			})
		})
	}
}

// What comes after the start is not held up.
func TestAfterTheStartNothingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		rt := newFirstRead(t.Context()).wrap(replies(&calls, 403))
		<-time.After(startPatience)
		if got := readOnce(t, rt, frontProxies); calls != 1 || !strings.HasPrefix(got, "Forbidden") {
			t.Errorf("got %s after %d calls, want one that is refused", got, calls)
		}
	})
}

func TestTheFirstReadEndsWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		calls, began := 0, time.Now()
		first := newFirstRead(ctx)
		time.AfterFunc(time.Second, stop)
		got := readOnce(t, first.wrap(replies(&calls, 403)), frontProxies)
		if took := time.Since(began); took != time.Second || !strings.Contains(got, "context canceled while waiting for the API server: Forbidden: configmaps is forbidden") {
			t.Errorf("got %s after %v, want an error after 1s", got, took)
		}
		if failed := errors.New("failed"); first.withCure(failed).Error() != "failed" {
			t.Error("whoever stops it is told a cure")
		}
	})
}
