package reviewapp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPruneFails: who cannot see all that there is has not pruned. It ends with an error, in the
// words of whom it asked, and deletes nothing of what it saw.
func TestPruneFails(t *testing.T) {
	const (
		forbidden = `Error from server (Forbidden): namespaces is forbidden: User "deployer" cannot list resource "namespaces"`
		denied    = "An error occurred (AccessDenied) when calling the ListQueues operation"
		queues    = "https://sqs.eu-central-1.amazonaws.com/111122223333/orders-pr-7\thttps://sqs.eu-central-1.amazonaws.com/111122223333/orders-pr-7-dead"
	)
	says := func(text string) string { return "printf '%s\\n' '" + text + "'\n" }
	fails := func(text string) string { return "printf '%s\\n' '" + text + "' >&2\nexit 1\n" }
	for name, test := range map[string]struct {
		kubectl, aws string
		want         string // empty if all was seen
	}{
		"all can be seen":              {says("8"), says(queues), ""},
		"namespaces cannot be listed":  {fails(forbidden), says(queues), forbidden},
		"queues cannot be listed":      {says("8"), fails(denied), denied},
		"neither of them can be":       {fails(forbidden), fails(denied), forbidden},
		"the API server does not come": {fails("Unable to connect to the server"), says("None"), "Unable to connect to the server"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for tool, script := range map[string]string{"kubectl": test.kubectl, "aws": test.aws, "gh": says("OPEN")} {
				script = "#!/bin/bash\necho \"" + tool + " $*\" >> '" + filepath.Join(dir, "calls") + "'\n" + script
				if err := os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			c := reviewApp(t, []string{"PATH=" + dir + ":/usr/bin:/bin", "AWS_REGION=eu-central-1"}, "prune")
			if test.want == "" {
				if out := c.well(t); out != "pull request 7 is open\npull request 8 is open\n" {
					t.Errorf("it says %q", out)
				}
				return
			}
			if c.code != 1 || !strings.Contains(c.complaint, test.want) || c.out != "" {
				t.Errorf("it ended with %d, %q and %q, want 1 and %q", c.code, c.out, c.complaint, test.want)
			}
			calls, err := os.ReadFile(filepath.Join(dir, "calls"))
			if err != nil || strings.Contains(string(calls), "delete") || strings.Contains(string(calls), "gh ") {
				t.Errorf("it called %s: %v", calls, err)
			}
		})
	}
}
