// Package orders tests the demo application deploy/demo/orders as it runs: its own program,
// as processes, with the AWS stand-in and real databases.
package orders

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
	"github.com/tidegauge/tidegauge/test/orders/program"
	"github.com/tidegauge/tidegauge/test/until"
)

const (
	deadline = program.Deadline
	interval = 50 * time.Millisecond

	ordersQueue = "orders"
	deadQueue   = "orders-dead"
)

// binary is the path of the application that the tests run.
var binary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if err := env.CanRunPostgres(); err != nil && !testing.Short() {
		fmt.Fprintf(os.Stderr, "\nNOT TESTED HERE, orders in PostgreSQL: %v\n\n", err)
	}
	if _, err := exec.LookPath("chromium"); err != nil && !testing.Short() {
		fmt.Fprintf(os.Stderr, "\nNOT TESTED HERE, the page in a browser: %v\n\n", err)
	}
	dir, err := os.MkdirTemp("", "tidegauge-orders-")
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

// bed is the AWS stand-in with the queues, and a database.
type bed struct {
	aws    *fakeaws.Server
	client *sqs.Client
	sqlite string
	// url is that of a PostgreSQL database, in place of sqlite.
	url string
}

// newBed is a bed with an SQLite database.
func newBed(t *testing.T) *bed {
	t.Helper()
	s, err := fakeaws.Start(context.WithoutCancel(t.Context()), fakeaws.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	b := &bed{aws: s, sqlite: filepath.Join(t.TempDir(), "orders.db")}
	b.client = sqs.New(sqs.Options{
		Region: fakeaws.DefaultRegion, BaseEndpoint: aws.String(s.URL()),
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKeyID(), s.SecretAccessKey(), ""),
	})
	for _, name := range []string{ordersQueue, deadQueue} {
		if _, err := b.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name}); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// newPostgresBed is a bed with a PostgreSQL.
func newPostgresBed(t *testing.T, opts env.PostgresOptions) (*bed, *env.Postgres) {
	t.Helper()
	p := startPostgres(t, opts)
	b := newBed(t)
	b.url = p.DatabaseURL()
	return b, p
}

func startPostgres(t *testing.T, opts env.PostgresOptions) *env.Postgres {
	t.Helper()
	err := env.CanRunPostgres()
	if err == nil && opts.Space > 0 && os.Geteuid() != 0 {
		err = &env.NoPostgresError{Reason: "one that can be full needs root"}
	}
	switch {
	case err == nil:
	case os.Getenv(env.RequirePostgresVariable) != "":
		t.Fatal(err)
	default:
		t.Skip(err)
	}
	p, err := env.StartPostgres(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// process is a running mode of the application.
type process struct {
	*program.Process

	http  string // URL of the users' port
	admin string // URL of the admin port
}

// start runs a mode, and returns when it listens on its ports.
func (b *bed) start(t *testing.T, mode string, args ...string) *process {
	t.Helper()
	args = append([]string{mode, "--admin-listen", "127.0.0.1:0", "--sqlite", b.sqlite}, args...)
	p := &process{Process: program.Start(t, binary, []string{
		"AWS_ENDPOINT_URL=" + b.aws.URL(), "AWS_REGION=" + fakeaws.DefaultRegion,
		"AWS_ACCESS_KEY_ID=" + b.aws.AccessKeyID(), "AWS_SECRET_ACCESS_KEY=" + b.aws.SecretAccessKey(),
		"AWS_EC2_METADATA_DISABLED=true", "HOME=" + t.TempDir(), "DATABASE_URL=" + b.url,
	}, args...)}
	p.admin = p.URL("admin")
	if mode == "web" {
		p.http = p.URL("http")
	}
	return p
}

func (b *bed) web(t *testing.T, args ...string) *process {
	t.Helper()
	p := b.start(t, "web", append([]string{"--listen", "127.0.0.1:0"}, args...)...)
	eventually(t, "web is ready", func() error { return p.wantStatus("/readyz", http.StatusOK) })
	return p
}

func (b *bed) worker(t *testing.T, args ...string) *process {
	t.Helper()
	return b.start(t, "worker", append([]string{"--visibility", "3s", "--work", "20ms"}, args...)...)
}

// wantEnd waits for the process's end, with a code.
func (p *process) wantEnd(t *testing.T, code int) {
	t.Helper()
	if got := p.Wait(); got != code {
		t.Errorf("the process ended with %d, want %d", got, code)
	}
}

// answer is what a process said.
type answer struct {
	status int
	header http.Header
	body   string
	last   bool // its connection ends
}

// ask asks a URL on a connection of its own.
func ask(method, url, body string) (answer, error) {
	return askWith(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}, method, url, body)
}

func askWith(client *http.Client, method, url, body string) (answer, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body)) //nolint:noctx // The client has a time-out.
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text), resp.Close}, err
}

func (p *process) wantStatus(path string, want int) error {
	got, err := ask(http.MethodGet, p.http+path, "")
	if err == nil && got.status != want {
		err = fmt.Errorf("%s answers %d, want %d", path, got.status, want)
	}
	return err
}

// place places an order that has to be stored, and returns its ID.
func (p *process) place(t *testing.T) string {
	t.Helper()
	a, err := ask(http.MethodPost, p.http+"/api/orders", `{"item":"tea","quantity":1}`)
	if err != nil || a.status != http.StatusCreated {
		t.Fatalf("placing: %d %s %v", a.status, a.body, err)
	}
	return idOf(t, a)
}

func idOf(t *testing.T, a answer) string {
	t.Helper()
	var order struct{ ID string }
	if err := json.Unmarshal([]byte(a.body), &order); err != nil || order.ID == "" {
		t.Fatalf("the order is %s", a.body)
	}
	return order.ID
}

// counts are the orders that there are, and those of them that are processed.
func (p *process) counts() (all, processed int, err error) {
	after := ""
	for {
		a, err := ask(http.MethodGet, p.http+"/api/orders?limit=100&after="+after, "")
		if err != nil || a.status != http.StatusOK {
			return 0, 0, fmt.Errorf("listing: %d %s: %w", a.status, a.body, err)
		}
		var list struct {
			Orders []struct{ Processed *time.Time }
			After  string
		}
		if err := json.Unmarshal([]byte(a.body), &list); err != nil {
			return 0, 0, err
		}
		for _, o := range list.Orders {
			all++
			if o.Processed != nil {
				processed++
			}
		}
		if after = list.After; after == "" {
			return all, processed, nil
		}
	}
}

// wantCounts waits until so many orders are there and processed.
func (p *process) wantCounts(t *testing.T, all, processed int) {
	t.Helper()
	eventually(t, "orders", func() error {
		gotAll, gotProcessed, err := p.counts()
		if err == nil && (gotAll != all || gotProcessed != processed) {
			err = fmt.Errorf("there are %d orders and %d are processed, want %d and %d", gotAll, gotProcessed, all, processed)
		}
		return err
	})
}

// metric is the sum of a metric's samples whose names and labels start so.
func (p *process) metric(start string) (float64, error) {
	a, err := ask(http.MethodGet, p.admin+"/metrics", "")
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(a.body) {
		if !strings.HasPrefix(line, start) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(strings.TrimSpace(line), ' ')+1:len(line)-1], 64)
		if err != nil {
			return 0, err
		}
		sum, found = sum+value, true
	}
	if !found {
		return 0, fmt.Errorf("no metric %s", start)
	}
	return sum, nil
}

// sum is that of a metric over processes.
func sum(start string, processes ...*process) (float64, error) {
	total := 0.0
	for _, p := range processes {
		v, err := p.metric(start)
		if err != nil {
			return 0, err
		}
		total += v
	}
	return total, nil
}

// wantSum waits until a metric has a value over processes.
func wantSum(t *testing.T, want float64, start string, processes ...*process) {
	t.Helper()
	eventually(t, start, func() error {
		got, err := sum(start, processes...)
		if err == nil && got != want {
			err = fmt.Errorf("is %v, want %v", got, want)
		}
		return err
	})
}

func (b *bed) queueURL(name string) *string {
	return aws.String(b.aws.URL() + "/" + fakeaws.DefaultAccount + "/" + name)
}

func (b *bed) send(t *testing.T, body string) {
	t.Helper()
	if _, err := b.client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: b.queueURL(ordersQueue), MessageBody: &body}); err != nil {
		t.Fatal(err)
	}
}

// depth is how many messages a queue has, visible or not.
func (b *bed) depth(name string) (int, error) {
	out, err := b.client.GetQueueAttributes(context.Background(), &sqs.GetQueueAttributesInput{
		QueueUrl: b.queueURL(name), AttributeNames: []types.QueueAttributeName{"All"},
	})
	if err != nil {
		return 0, err
	}
	visible, _ := strconv.Atoi(out.Attributes["ApproximateNumberOfMessages"])
	hidden, _ := strconv.Atoi(out.Attributes["ApproximateNumberOfMessagesNotVisible"])
	return visible + hidden, nil
}

func (b *bed) wantDepth(t *testing.T, name string, want int) {
	t.Helper()
	eventually(t, "queue "+name, func() error {
		got, err := b.depth(name)
		if err == nil && got != want {
			err = fmt.Errorf("has %d messages, want %d", got, want)
		}
		return err
	})
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() error) {
	t.Helper()
	until.Holds(t, what, deadline, func(context.Context) error { return holds() })
}

// output runs the program to its end.
func output(t *testing.T, variables []string, args ...string) (code int, said string) {
	t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, variables...)
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), all.String()
}
