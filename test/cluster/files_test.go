package cluster

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/repo"
)

// checks are which files get which check, by patterns of their paths in the folder.
var checks = []struct{ pattern, check string }{
	{"eksctl/*.yaml", "eksctl's JSON schema (TestEksctlSchema); versions, images, logs, identities (TestEksctl…)"},
	{"cloudformation/*.yaml", "AWS' CloudFormation validator (TestTemplates); who reaches whom, names (TestLoadBalancer, TestKarpenter…)"},
	{"cdk/*/*.ts", "compiled, unit tests, synthesised, cdk-nag, the result validated (TestCDK…)"},
	{"cdk/package*.json", "npm ci, no registry's host (TestCDKLock)"},
	{"cdk/tsconfig.json", "compiled with (TestCDK)"},
	{"cdk/cdk.json", "synthesised with (TestCDK)"},
	{"cdk/.npmrc", "npm ci with (TestCDK)"},
	{"cdk/.gitignore", "what the tests make is in it (TestCDKLock)"},
	{"nodes/cluster-autoscaler/values.yaml", "flags that it knows (TestClusterAutoscaler)"},
	{"nodes/karpenter/values.yaml", "values that its chart has, rendered (TestKarpenterValues)"},
	{"nodes/karpenter/ec2nodeclass.yaml", "applied on a real API server with Karpenter's CRDs (TestApplies)"},
	{"nodes/karpenter/nodepool.yaml", "applied on a real API server with Karpenter's CRDs (TestApplies)"},
	{"nodes/headroom.yaml", "applied on a real API server (TestApplies)"},
	{"delete.sh", "run against programs that record what they are told (TestDelete…)"},
}

// files are all that the repository keeps in the folder, by their path in it.
func files(t *testing.T) []string {
	t.Helper()
	var all []string
	root := repo.Path(t, folder)
	err := filepath.WalkDir(root, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{"node_modules", "dist", "cdk.out"}, entry.Name()):
			return filepath.SkipDir
		case entry.IsDir():
			return nil
		}
		name, err := filepath.Rel(root, file)
		all = append(all, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestEveryFileIsChecked shows that no file was forgotten, and says which check each got.
func TestEveryFileIsChecked(t *testing.T) {
	used := map[string]bool{}
	for _, file := range files(t) {
		var got []string
		for _, c := range checks {
			if ok, err := filepath.Match(c.pattern, file); err != nil {
				t.Fatal(err)
			} else if ok {
				got = append(got, c.check)
				used[c.pattern] = true
			}
		}
		if len(got) != 1 {
			t.Errorf("%s has %d checks: say in checks which one it gets", file, len(got))
			continue
		}
		t.Logf("%-38s %s", file, got[0])
	}
	for _, c := range checks {
		if !used[c.pattern] {
			t.Errorf("there is no file %s", c.pattern)
		}
	}
}

// bad are what no file has.
var bad = []struct{ what, pattern, allowed string }{
	{what: "an image or a release that changes by itself", pattern: `(?i)[:@"' ]latest\b`, allowed: `With "latest" all nodes`},
	{what: "an API version that was removed, or a form of old", pattern: `v1beta1|v1beta2|v1alpha1\b|extensions/v1|kubernetes\.io/ingress\.class|aws-auth|AmazonLinux2\b|amazon-linux-2/|bootstrap\.sh|karpenter\.sh/provisioner|\bProvisioner\b`},
	{what: "a secret", pattern: `AKIA[0-9A-Z]{16}|ASIA[0-9A-Z]{16}|-----BEGIN|(?i)(password|secret_?access_?key|auth_?token)["']?\s*[:=]\s*\S`},
	{what: "a registry's host", pattern: `registry\.npmjs\.org|registry\.yarnpkg|pypi\.org|npm\.pkg\.github`},
	{what: "another account than the example's", pattern: `\b(?:\d{12})\b`, allowed: account},
	{what: "a path of a machine", pattern: `/home/|/root/|/tmp/|/work/`},
}

func TestNothingBad(t *testing.T) {
	for _, b := range bad {
		pattern := regexp.MustCompile(b.pattern)
		for _, file := range files(t) {
			for i, line := range strings.Split(repo.Text(t, folder+"/"+file), "\n") {
				if b.allowed != "" {
					line = strings.ReplaceAll(line, b.allowed, "")
				}
				if hit := pattern.FindString(line); hit != "" {
					t.Errorf("%s:%d has %s: %s", file, i+1, b.what, hit)
				}
			}
		}
	}
}

// TestWildcardsAreExplained shows that beside each wildcard in an action or a resource is why:
// in a comment above it, or in a reason that cdk-nag is given.
func TestWildcardsAreExplained(t *testing.T) {
	// On the line of the key, or an item of the list below it.
	wildcard := regexp.MustCompile(`(Resource|Action|NotAction|NotResource): .*\*|^\s*- .*[a-z0-9]:.*\*|^\s*- ["']?\*`)
	for _, line := range []string{"Action: s3:*", "  - ec2:*", `- "ec2:Describe*"`, "- '*'", "- !Sub arn:${AWS::Partition}:ec2:::image/*", `Resource: ["*"]`} {
		if !wildcard.MatchString(line) {
			t.Errorf("%s is not taken for a wildcard", line)
		}
	}
	seen := 0
	for _, pattern := range []string{"eksctl/*.yaml", "cloudformation/*.yaml"} {
		for _, file := range repo.Glob(t, folder+"/"+pattern) {
			lines := strings.Split(repo.Text(t, file), "\n")
			for i, line := range lines {
				if !wildcard.MatchString(line) || strings.HasPrefix(strings.TrimSpace(line), "#") {
					continue
				}
				seen++
				if !explained(lines[:i]) {
					t.Errorf("%s:%d: nothing says why: %s", file, i+1, strings.TrimSpace(line))
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("only %d wildcards were found: the pattern is wrong", seen)
	}
}

// explained reports whether a comment is above, past the other lines of its list and of its statement.
func explained(above []string) bool {
	for _, line := range slices.Backward(above) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			return true
		case strings.HasPrefix(line, "- Effect:"), strings.HasPrefix(line, "- Sid:"), strings.HasPrefix(line, "Statement:"):
			return false
		}
	}
	return false
}
