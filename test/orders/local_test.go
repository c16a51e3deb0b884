package orders

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
)

// TestLocal runs the script that README.md has for a first look.
func TestLocal(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip(err)
	}
	root, err := env.Root()
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	cmd := exec.Command(filepath.Join(root, "deploy", "demo", "orders", "local.sh"))
	cmd.Env = append(os.Environ(), "PORT="+port, "ADMIN_PORT="+freePort(t), "ORDERS_SQLITE="+filepath.Join(t.TempDir(), "orders.db"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said := &transcript{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		// As Ctrl-C does it.
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Error(err)
		}
		<-ended
		if t.Failed() {
			t.Log(said)
		}
	}()
	web := &process{http: "http://127.0.0.1:" + port}
	eventually(t, "the shop is open", func() error {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("local.sh ended: %v\n%s", err, said)
		default:
		}
		return web.wantStatus("/readyz", http.StatusOK)
	})
	web.place(t)
	web.wantCounts(t, 1, 1)
}

// transcript is what a program says, while it runs.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}
