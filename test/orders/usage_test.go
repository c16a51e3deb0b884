package orders

import (
	"strings"
	"testing"
)

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	aws := []string{"AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true"}
	const secret = "hunter2"
	tests := []struct {
		name      string
		args      []string
		variables []string
		code      int
		want      string
	}{
		{"no mode", nil, nil, 2, "web, worker"},
		{"unknown mode", []string{"wbe"}, nil, 2, "web, worker"},
		{"unknown flag", []string{"web", "--colour"}, nil, 2, "colour"},
		{"argument", []string{"worker", "now"}, nil, 2, `"now"`},
		{"no duration", []string{"web", "--drain", "soon"}, nil, 2, "drain"},
		{"variable", []string{"worker"}, []string{"ORDERS_CONCURRENCY=many"}, 2, "ORDERS_CONCURRENCY"},
		{"concurrency", []string{"worker", "--concurrency", "0"}, nil, 2, "--concurrency: is 0"},
		{"visibility", []string{"worker", "--visibility", "1s"}, nil, 2, "--visibility: is 1s"},
		{"dead letters", []string{"worker", "--dead-letter-queue", "orders"}, nil, 2, "--dead-letter-queue"},
		{"in flight", []string{"web"}, []string{"ORDERS_MAX_IN_FLIGHT=0"}, 2, "--max-in-flight: is 0"},
		{"token", []string{"web", "--token-cost", "1h"}, nil, 2, "--token-cost"},
		{"drain", []string{"web", "--drain=-1s"}, nil, 2, "--drain: is -1s"},
		{"help", []string{"web", "--help"}, nil, 0, "-drain-idle"},
		{"no region", []string{"web"}, []string{"AWS_EC2_METADATA_DISABLED=true"}, 1, "AWS_REGION"},
		{"port", []string{"web", "--listen", "127.0.0.1:http-ish"}, aws, 1, "http port"},
		{"admin port", []string{"worker", "--admin-listen", "nowhere"}, aws, 1, "admin port"},
		{"database", []string{"worker"}, append([]string{"DATABASE_URL=postgres://u:" + secret + "@[::1/orders"}, aws...), 1, "DATABASE_URL"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, said := output(t, append([]string{"ORDERS_SQLITE=" + t.TempDir() + "/orders.db"}, test.variables...), test.args...)
			if code != test.code || !strings.Contains(said, test.want) {
				t.Errorf("it ends with %d and says %q, want %d and %q", code, said, test.code, test.want)
			}
			if strings.Contains(said, secret) {
				t.Errorf("it says the password: %q", said)
			}
		})
	}
}
