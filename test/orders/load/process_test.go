// Package load runs the loader, the simulator and echo of the demo as users run them: the
// program, against the stand-in of AWS.
package load

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/orders/program"
)

// patience is how long a condition may take to hold on a machine that is busy.
const patience = program.Deadline

// binary is the path of orders, built by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = program.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// start starts orders with what it finds of AWS.
func start(t *testing.T, cloud *fakeaws.Server, env []string, args ...string) *program.Process {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	variables := append([]string{
		"AWS_REGION=" + fakeaws.DefaultRegion, "AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none,
		"AWS_EC2_METADATA_DISABLED=true", "ORDERS_ADMIN_LISTEN=127.0.0.1:0", "ORDERS_LISTEN=127.0.0.1:0",
	}, env...)
	if cloud != nil {
		variables = append(variables, "AWS_ENDPOINT_URL="+cloud.URL(),
			"AWS_ACCESS_KEY_ID="+cloud.AccessKeyID(), "AWS_SECRET_ACCESS_KEY="+cloud.SecretAccessKey())
	}
	return program.Start(t, binary, variables, args...)
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v it is not so that %s", patience, what)
		}
	}
}

// get returns the status and the body of an answer.
func get(ctx context.Context, t *testing.T, url string, headers ...string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// aws starts the stand-in.
func aws(t *testing.T) *fakeaws.Server {
	t.Helper()
	s, err := fakeaws.Start(t.Context(), fakeaws.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}
