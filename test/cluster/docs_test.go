package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidegauge/tidegauge/test/repo"
)

// TestNodesPage shows that the figures of the page are those of the files, and that its sums are
// right.
func TestNodesPage(t *testing.T) {
	page := repo.Text(t, "docs/nodes.md")
	a, v := clusterAutoscaler(t), decode[karpenterValues](t, "values.yaml", repo.Text(t, folder+"/nodes/karpenter/values.yaml"))
	pool := object(t, applied[1], "NodePool")
	after := fmt.Sprint(at(t, pool.Object, "spec", "disruption", "consolidateAfter"))
	want := []string{
		"| `settings.batchIdleDuration` | " + v.Settings.BatchIdleDuration + " |",
		"| `settings.batchMaxDuration` | " + v.Settings.BatchMaxDuration + " |",
		"| `disruption.consolidateAfter` | " + after + " |",
		"| `terminationGracePeriod` | " + fmt.Sprint(at(t, pool.Object, "spec", "template", "spec", "terminationGracePeriod")) + " |",
		"| `limits` | " + fmt.Sprint(at(t, pool.Object, "spec", "limits", "cpu")) + " CPUs |",
		"--version " + strings.TrimPrefix(karpenterVersion, "v") + " ",
	}
	for flag := range flags {
		if flag != "expander" {
			want = append(want, "| `"+flag+"` | "+text(t, a.ExtraArgs[flag])+" |")
		}
	}
	const hpa = 5 * time.Minute // An HPA's stabilisation, by default.
	seen := duration(t, text(t, a.ExtraArgs["scan-interval"]))
	// Karpenter looks each 10 s, and again after 15 s: pollingPeriod and commandValidationDelay of
	// its disruption controller.
	want = append(want, fmt.Sprintf("| **together** | **%s, and the pods' end** | **%s, and the pods' end** |",
		spoken(hpa+duration(t, text(t, a.ExtraArgs["scale-down-unneeded-time"]))+seen),
		spoken(hpa+duration(t, after)+10*time.Second+15*time.Second)))
	for _, row := range want {
		if !strings.Contains(page, row) {
			t.Errorf("the page has no %q", row)
		}
	}
}

// TestNodesFigures computes what the page says of both in passing: a step of an HPA is one burst of
// pods, which comes at any time between two scans.
func TestNodesFigures(t *testing.T) {
	page := repo.Text(t, "docs/nodes.md")
	v := decode[karpenterValues](t, "values.yaml", repo.Text(t, folder+"/nodes/karpenter/values.yaml"))
	scan, idle := duration(t, text(t, clusterAutoscaler(t).ExtraArgs["scan-interval"])), duration(t, v.Settings.BatchIdleDuration)
	headroom := object(t, "nodes/headroom.yaml", "Deployment")
	replicas := fmt.Sprint(at(t, headroom.Object, "spec", "replicas"))
	requests := fmt.Sprint(at(t, headroom.Object, "spec", "template", "spec", "containers", 0, "resources", "requests", "cpu"))
	count, err := strconv.Atoi(replicas)
	if err != nil {
		t.Fatal(err)
	}
	each, err := strconv.Atoi(strings.TrimSuffix(requests, "m"))
	if err != nil {
		t.Fatal(err)
	}
	taken, node := float64(each*count)/1000, float64(allocatable(2))/1000
	if part := taken / node; part < 0.175 || part > 0.225 {
		t.Errorf("the pods take %.2f of a node, which is no fifth", part)
	}
	for _, want := range []string{
		fmt.Sprintf("some %.0f s on average and %.0f s at most", (scan/2 - idle).Seconds(), (scan - idle).Seconds()),
		fmt.Sprintf("%s × %s are %.1f of the %.2f CPUs that an m5.large has for pods, a fifth of its price", replicas, requests, taken, node),
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

// allocatable is what EKS leaves to pods of so many CPUs, in thousandths: all but 6 % of the first,
// 1 % of the second, 0.5 % of the next two and 0.25 % of the others.
// https://github.com/awslabs/amazon-eks-ami/blob/main/nodeadm/internal/kubelet/config.go
func allocatable(cpus int) int {
	reserved := 0 // In hundred thousandths.
	for n := range cpus {
		switch {
		case n == 0:
			reserved += 6000
		case n == 1:
			reserved += 1000
		case n < 4:
			reserved += 500
		default:
			reserved += 250
		}
	}
	return cpus*1000 - reserved/100
}

// TestPagesNameVersions shows that each chart that is installed has its version beside it, and
// everywhere the same.
func TestPagesNameVersions(t *testing.T) {
	texts := map[string]string{}
	for _, page := range []string{"docs/nodes.md", "docs/clusters.md", "docs/eks.md"} {
		texts[page] = repo.Text(t, page)
	}
	for _, file := range files(t) {
		texts[file] = repo.Text(t, folder+"/"+file)
	}
	continued := regexp.MustCompile(`\\\n#?\s*`)
	chart := regexp.MustCompile(`helm (?:install|upgrade)\b[^\n` + "`" + `]*`)
	version := regexp.MustCompile(`--version (v?\d+\.\d+\.\d+)\b`)
	versions := map[string]string{}
	for name, text := range texts {
		for _, command := range chart.FindAllString(continued.ReplaceAllString(text, " "), -1) {
			what := strings.Fields(command)[3]
			found := version.FindStringSubmatch(command)
			switch {
			case strings.HasPrefix(what, "charts/"): // Of this repository.
			case found == nil:
				t.Errorf("%s installs %s of no version: %s", name, what, command)
			case versions[what] != "" && versions[what] != found[1]:
				t.Errorf("%s installs %s %s, and elsewhere it is %s", name, what, found[1], versions[what])
			default:
				versions[what] = found[1]
			}
		}
	}
	for _, what := range []string{"autoscaler/cluster-autoscaler", "oci://public.ecr.aws/karpenter/karpenter", "aws-load-balancer-controller"} {
		if versions[what] == "" {
			t.Errorf("nothing installs %s: %v", what, versions)
		}
	}
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func spoken(d time.Duration) string {
	return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
}

// TestPodsOfANode shows how many pods the page says that a node takes, by the rule of AWS.
func TestPodsOfANode(t *testing.T) {
	page := repo.Text(t, "docs/nodes.md")
	for _, node := range []struct {
		kind                  string
		interfaces, addresses int
	}{{"t3.medium", 3, 6}, {"m5.large", 3, 10}, {"m5.xlarge", 4, 15}} {
		of := node.interfaces * (node.addresses - 1)
		row := fmt.Sprintf("| %s | %d × %d | %d | %d | 110 |", node.kind, node.interfaces, node.addresses, of+2, 16*of+2)
		if !strings.Contains(page, row) {
			t.Errorf("the page has no row %s", row)
		}
	}
}

// TestPagesNameFiles shows that each file which the pages and the files' own comments name is
// there, and each stack is deleted by delete.sh.
func TestPagesNameFiles(t *testing.T) {
	texts := map[string]string{"docs/nodes.md": repo.Text(t, "docs/nodes.md"), "docs/clusters.md": repo.Text(t, "docs/clusters.md")}
	for _, file := range files(t) {
		texts[file] = repo.Text(t, folder+"/"+file)
	}
	script := repo.Text(t, folder+"/delete.sh")
	for name, text := range texts {
		text = regexp.MustCompile(`https?://\S+`).ReplaceAllString(text, "")
		for _, file := range regexp.MustCompile(`(?:deploy|docs)/[a-z0-9/.-]*[a-z0-9]`).FindAllString(text, -1) {
			if _, err := os.Stat(repo.Path(t, file)); err != nil {
				t.Errorf("%s names %s, which there is not", name, file)
			}
		}
		for _, stack := range regexp.MustCompile(`--stack-name ([a-z][a-z-]+)`).FindAllStringSubmatch(text, -1) {
			if name == "delete.sh" {
				continue
			}
			of := regexp.MustCompile(`^tidegauge-(hpa|review|load)-`).ReplaceAllString(stack[1], "$$cluster-")
			if !strings.Contains(script, "delete_stack "+of) && !strings.Contains(script, `delete_stack "`+of) {
				t.Errorf("%s makes the stack %s, which delete.sh does not delete", name, stack[1])
			}
		}
	}
}

// TestClustersPage runs what the page puts in place of the examples, and shows that no example
// is left.
func TestClustersPage(t *testing.T) {
	page := repo.Text(t, "docs/clusters.md")
	yours := regexp.MustCompile(`(?m)^yours\(\) .*$`).FindString(page)
	outputs := regexp.MustCompile(`(?m)^  sed -e .*\) \|$|^  sed -e "s#arn.*$`).FindString(page)
	if yours == "" || outputs == "" {
		t.Fatal("the page does not say how to put yours in place")
	}
	script := "set -eu\naccount=444455556666 network=198.51.100.7/32 AWS_REGION=us-east-1\noutput() { echo \"value-of-$1\"; }\n" + yours + "\n"
	for _, file := range repo.Glob(t, folder+"/eksctl/*.yaml") {
		run := script + "yours " + repo.Path(t, file)
		if filepath.Base(file) == "review-nodes.yaml" {
			run += " | " + strings.TrimSuffix(strings.TrimSpace(outputs), "|")
		}
		out, err := exec.CommandContext(t.Context(), "bash", "-c", run).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", file, err, out)
		}
		for line := range strings.Lines(string(out)) {
			line, _, _ = strings.Cut(line, "#")
			for _, example := range []string{account, region, "203.0.113.", "0123456789abcdef"} {
				if strings.Contains(line, example) {
					t.Errorf("%s: %s is left in %s", file, example, line)
				}
			}
		}
		c := decode[clusterConfig](t, file, string(out))
		if c.Metadata.Region != "us-east-1" {
			t.Errorf("%s: the region is %s", file, c.Metadata.Region)
		}
		for _, g := range c.NodeGroups {
			if say(t, g.TargetGroupARNs) != `["value-of-TargetGroup"]` || say(t, g.SecurityGroups.AttachIDs) != `["value-of-NodeSecurityGroup"]` {
				t.Errorf("%s: the nodes are behind %v with %v", file, g.TargetGroupARNs, g.SecurityGroups.AttachIDs)
			}
		}
	}
}
