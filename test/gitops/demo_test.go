package gitops

import (
	"bufio"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	region   = fakeaws.DefaultRegion
	deadline = time.Minute
)

// demo are the programs of the demo as processes: web, a worker, a loader whose target
// answers with every code in turn, and a simulator.
type demo struct {
	aws    *fakeaws.Server
	admins []string // URLs of the admin ports
	dir    string
}

// runDemo starts them anew for each test; they end with it.
func runDemo(t *testing.T) *demo {
	t.Helper()
	if testing.Short() {
		t.Skip("it starts programs")
	}
	s, err := fakeaws.Start(context.WithoutCancel(t.Context()), fakeaws.Options{PublishInterval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	d := &demo{aws: s, dir: t.TempDir()}
	client := sqs.New(sqs.Options{
		Region: region, BaseEndpoint: sdk.String(s.URL()),
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKeyID(), s.SecretAccessKey(), ""),
	})
	for _, name := range []string{"orders", "orders-dead", "orders-sine"} {
		if _, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name}); err != nil {
			t.Fatal(err)
		}
	}
	var n atomic.Uint64
	codes := []int{http.StatusOK, http.StatusCreated, http.StatusBadGateway, http.StatusGatewayTimeout, 0}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		code := codes[n.Add(1)%uint64(len(codes))]
		if code == 0 {
			panic(http.ErrAbortHandler) // No answer.
		}
		w.WriteHeader(code)
	}))
	t.Cleanup(target.Close)
	sqlite := "--sqlite=" + filepath.Join(d.dir, "orders.db")
	d.run(t, "web", 2, "--listen=127.0.0.1:0", sqlite)
	d.run(t, "worker", 1, sqlite)
	loader := d.run(t, "loader", 1, "--url="+target.URL, "--rate=20")
	d.run(t, "simulator", 1, append(kubeAPI(t, d.dir),
		"--queue=orders-sine", "--period=10m", "--steps=10", "--min=10", "--max=20", "--loaders="+loader, "--publish=1s", "--web=orders/web")...)
	return d
}

// kubeAPI is an API server that has one Deployment, and the flags that lead to it.
func kubeAPI(t *testing.T, dir string) []string {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"status":{"readyReplicas":2}}`)) // Who asked may be gone.
	}))
	t.Cleanup(server.Close)
	ca, token := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "token")
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := errors.Join(os.WriteFile(ca, authority, 0o600), os.WriteFile(token, []byte("token"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return []string{"--kube-api=" + server.URL, "--kube-ca-file=" + ca, "--kube-token-file=" + token}
}

// run starts a mode and returns the URL of its admin port.
func (d *demo) run(t *testing.T, mode string, ports int, args ...string) string {
	t.Helper()
	program, err := env.Program("orders")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, append([]string{mode, "--admin-listen=127.0.0.1:0"}, args...)...)
	cmd.Env = []string{
		"AWS_ENDPOINT_URL=" + d.aws.URL(), "AWS_REGION=" + region, "AWS_EC2_METADATA_DISABLED=true", "HOME=" + d.dir,
		"AWS_ACCESS_KEY_ID=" + d.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + d.aws.SecretAccessKey(),
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("orders %s: %v: run `make build`", mode, err)
	}
	listening := make(chan [2]string, ports)
	var logs strings.Builder
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(listening)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			logs.WriteString(lines.Text() + "\n")
			var line struct{ Msg, Port, Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
				listening <- [2]string{line.Port, line.Address}
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // It may have ended.
		reading.Wait()
		_ = cmd.Wait() // It was killed.
		if t.Failed() {
			t.Logf("orders %s:\n%s", mode, logs.String())
		}
	})
	admin := ""
	for range ports {
		select {
		case port, ok := <-listening:
			if !ok {
				t.Fatalf("orders %s ended", mode)
			}
			if port[0] == "admin" {
				admin = "http://" + port[1]
			}
		case <-time.After(deadline):
			t.Fatalf("orders %s does not listen", mode)
		}
	}
	d.admins = append(d.admins, admin)
	return admin
}

// served are the metrics of all programs, and their labels. Those of a histogram have its
// suffixes.
func (d *demo) served(ctx context.Context) (map[string][]string, error) {
	all := map[string][]string{}
	for _, admin := range d.admins {
		families, err := scrape(ctx, admin+"/metrics")
		if err != nil {
			return nil, err
		}
		for name, family := range families {
			var labels []string
			for _, m := range family.GetMetric() {
				for _, l := range m.GetLabel() {
					if !slices.Contains(labels, l.GetName()) {
						labels = append(labels, l.GetName())
					}
				}
			}
			if family.GetType() == dto.MetricType_HISTOGRAM {
				all[name+"_bucket"] = append(slices.Clone(labels), "le")
				all[name+"_count"], all[name+"_sum"] = labels, labels
				continue
			}
			all[name] = labels
		}
	}
	return all, nil
}

func scrape(ctx context.Context, url string) (map[string]*dto.MetricFamily, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %d", url, resp.StatusCode)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(resp.Body)
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	until.Holds(t, what, deadline, func(context.Context) error { return check() })
}
