package env

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// loneLimit is how long a lone Prometheus may take to listen, and to end.
const loneLimit = 30 * time.Second

// listeningOn is what Prometheus logs about its port.
var listeningOn = regexp.MustCompile(`msg="Listening on".* address=(127\.0\.0\.1:\d+)`)

// LonePrometheus runs a Prometheus that belongs to no cluster, with a configuration as YAML,
// its files in dir, and more arguments. It returns where it listens, as host:port, and what
// ends it.
func LonePrometheus(dir, config string, args ...string) (address string, stop func() error, err error) {
	binary, err := Program("prometheus")
	if err != nil {
		return "", nil, err
	}
	file := filepath.Join(dir, "prometheus.yaml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(binary, append([]string{
		"--config.file=" + file, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--scrape.discovery-reload-interval=100ms", "--web.listen-address=127.0.0.1:0",
	}, args...)...)
	cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir}
	log, err := cmd.StderrPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		kill := time.AfterFunc(loneLimit, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		return cmd.Wait()
	}
	if address, err = loggedAddress(log); err != nil {
		return "", nil, errors.Join(err, stop())
	}
	return address, stop, nil
}

// loggedAddress is where Prometheus listens, as it logs. The log is read to its end.
func loggedAddress(log io.Reader) (string, error) {
	found, said := make(chan string, 1), make(chan string, 1)
	go func() {
		var all strings.Builder
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if match := listeningOn.FindStringSubmatch(lines.Text()); match != nil {
				found <- match[1]
				_, _ = io.Copy(io.Discard, log)
				return
			}
			all.WriteString(lines.Text() + "\n")
		}
		said <- all.String()
	}()
	select {
	case address := <-found:
		return address, nil
	case all := <-said:
		return "", fmt.Errorf("prometheus ended:\n%s", all)
	case <-time.After(loneLimit):
		return "", errors.New("prometheus does not listen")
	}
}
