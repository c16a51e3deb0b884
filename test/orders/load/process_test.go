// Package load runs the loader, the simulator and echo of the demo as users run them: the
// program, against the stand-in of AWS.
package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// patience is how long a condition may take to hold on a machine that is busy.
const patience = 60 * time.Second

// program is the path of orders, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "orders")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "orders")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "..", "..", "deploy", "demo", "orders")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building orders: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// process is one that runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	done chan struct{}
	err  error

	mu     sync.Mutex
	log    strings.Builder
	listen map[string]string // addresses by what they are for
}

// start starts orders with what it finds of AWS.
func start(t *testing.T, cloud *fakeaws.Server, env []string, args ...string) *process {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	p := &process{t: t, cmd: exec.Command(program, args...), done: make(chan struct{}), listen: map[string]string{}}
	p.cmd.Env = append([]string{
		"AWS_REGION=" + fakeaws.DefaultRegion, "AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none,
		"AWS_EC2_METADATA_DISABLED=true", "ORDERS_ADMIN_LISTEN=127.0.0.1:0", "ORDERS_LISTEN=127.0.0.1:0",
	}, env...)
	if cloud != nil {
		p.cmd.Env = append(p.cmd.Env, "AWS_ENDPOINT_URL="+cloud.URL(),
			"AWS_ACCESS_KEY_ID="+cloud.AccessKeyID(), "AWS_SECRET_ACCESS_KEY="+cloud.SecretAccessKey())
	}
	p.cmd.Stdout = &p.out
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.read(stderr)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // It may have ended.
		<-p.done
		if t.Failed() {
			t.Logf("orders %s:\n%s", strings.Join(args, " "), p.text())
		}
	})
	return p
}

func (p *process) read(stderr io.Reader) {
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		var line struct{ Msg, Port, Address string }
		_ = json.Unmarshal(lines.Bytes(), &line) // That of a wrong command line is no JSON.
		p.mu.Lock()
		p.log.WriteString(lines.Text() + "\n")
		if line.Msg == "listening" {
			p.listen[line.Port] = "http://" + line.Address
		}
		p.mu.Unlock()
	}
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// url is where it listens for something.
func (p *process) url(what string) string {
	p.t.Helper()
	var u string
	eventually(p.t, "orders listens for "+what, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		u = p.listen[what]
		return u != ""
	})
	return u
}

// wait waits for the end and returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("it has not ended:\n%s", p.text())
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends it as Kubernetes does, and returns the exit code.
func (p *process) stop() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return p.wait()
}

// kill ends it at once.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	p.wait()
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
