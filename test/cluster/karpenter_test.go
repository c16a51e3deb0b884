package cluster

import (
	"archive/zip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
	"github.com/tidegauge/tidegauge/test/testcluster"
)

const (
	// karpenter is the release that values.yaml installs: its CRDs, its chart and its code are in
	// a module.
	karpenter        = "github.com/aws/karpenter-provider-aws"
	karpenterVersion = "v1.15.1"
	// karpenterSum is the module's, of the public database of sums.
	karpenterSum = "h1:6eH///KgWKDwD2R6wHRnKGN8Vu8OHueaXjNdx64TnuY="
)

// karpenterFiles are the files of Karpenter's module below a folder, by their path in it.
func karpenterFiles(t *testing.T, below string) map[string]string {
	t.Helper()
	// It is not compiled, so it does not matter when it asks for a later Go than runs here: the
	// answer has the archive and its sum all the same. Outside of any module, as it is none that
	// another one needs.
	out, failed := command(t.Context(), t.TempDir(), "go", "mod", "download", "-json", karpenter+"@"+karpenterVersion)
	var m struct{ Zip, Sum, Error string }
	if err := json.Unmarshal([]byte(out), &m); err != nil || m.Zip == "" {
		t.Fatalf("there is no module of Karpenter: %v: %v", failed, err)
	}
	if m.Sum != karpenterSum {
		t.Fatalf("Karpenter's module has the sum %s, want %s", m.Sum, karpenterSum)
	}
	archive, err := zip.OpenReader(m.Zip)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	all := map[string]string{}
	prefix := karpenter + "@" + karpenterVersion + "/" + below
	for _, f := range archive.File {
		if name, ok := strings.CutPrefix(f.Name, prefix); ok {
			all[name] = unzip(t, f)
		}
	}
	if len(all) == 0 {
		t.Fatalf("Karpenter's module has nothing at %s", below)
	}
	return all
}

func unzip(t *testing.T, f *zip.File) string {
	t.Helper()
	r, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// applied are the manifests, in the order in which they are applied.
var applied = []string{"nodes/karpenter/ec2nodeclass.yaml", "nodes/karpenter/nodepool.yaml", "nodes/headroom.yaml"}

// TestApplies applies the manifests on a real API server with Karpenter's CRDs, and shows that
// those find what is wrong.
func TestApplies(t *testing.T) {
	c := testcluster.Start(t, env.Options{Nodes: 1})
	kubectl := func(args ...string) error {
		_, err := c.Kubectl(t.Context(), "", args...)
		return err
	}
	crds := t.TempDir()
	for _, name := range []string{"karpenter.k8s.aws_ec2nodeclasses.yaml", "karpenter.sh_nodepools.yaml"} {
		write(t, filepath.Join(crds, name), karpenterFiles(t, "pkg/apis/crds/")[name])
	}
	if err := kubectl("apply", "--server-side", "-f", crds); err != nil {
		t.Fatal(err)
	}
	if err := kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", crds); err != nil {
		t.Fatal(err)
	}
	for _, file := range applied {
		if err := kubectl("apply", "--server-side", "--validate=strict", "-f", repo.Path(t, folder+"/"+file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	for what, replace := range map[string][3]string{
		"a field that a NodePool does not have":      {applied[1], "consolidateAfter:", "consolidatesAfter:"},
		"a reason that there is not":                 {applied[1], "[Empty]", "[Nobody]"},
		"a label that Karpenter keeps to itself":     {applied[1], "tidegauge.dev/nodes: general", "karpenter.sh/nodepool: general"},
		"a role beside an instance profile":          {applied[0], "  instanceProfile:", "  role: another\n  instanceProfile:"},
		"an image family that there is not":          {applied[0], "al2023@", "al2024@"},
		"a tag that Karpenter keeps to itself":       {applied[0], "  tags:\n    tidegauge.dev/cluster", "  tags:\n    karpenter.sh/nodepool"},
		"a field that a PriorityClass does not have": {applied[2], "preemptionPolicy: Never", "preemption: Never"},
	} {
		good := repo.Text(t, folder+"/"+replace[0])
		broken := strings.Replace(good, replace[1], replace[2], 1)
		if broken == good {
			t.Fatalf("%s has no %q", replace[0], replace[1])
		}
		file := filepath.Join(t.TempDir(), "broken.yaml")
		write(t, file, broken)
		if err := kubectl("apply", "--server-side", "--validate=strict", "--dry-run=server", "-f", file); err == nil {
			t.Errorf("%s is not found", what)
		}
	}
}

// object is the object of a kind in a manifest.
func object(t *testing.T, file, kind string) *unstructured.Unstructured {
	t.Helper()
	objects, err := env.ParseObjects([]byte(repo.Text(t, folder+"/"+file)))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetKind() == kind {
			return o
		}
	}
	t.Fatalf("%s has no %s", file, kind)
	return nil
}

type karpenterValues struct {
	ServiceAccount struct {
		Create bool
		Name   string
	}
	Settings struct {
		ClusterName, InterruptionQueue      string
		EKSControlPlane                     bool
		BatchIdleDuration, BatchMaxDuration string
	}
	Controller struct{ Resources map[string]map[string]string }
}

// TestKarpenterValues renders Karpenter's chart with the values, all of which it has.
func TestKarpenterValues(t *testing.T) {
	const file = folder + "/nodes/karpenter/values.yaml"
	chart := filepath.Join(t.TempDir(), "karpenter")
	all := karpenterFiles(t, "charts/karpenter/")
	for name, text := range all {
		write(t, filepath.Join(chart, filepath.FromSlash(name)), text)
	}
	ours, theirs := decode[map[string]any](t, file, repo.Text(t, file)), decode[map[string]any](t, "the chart's", all["values.yaml"])
	for _, key := range unknown(ours, theirs, "") {
		t.Errorf("the chart has no value %s", key)
	}
	out, err := env.Run(t.Context(), "", "helm", "template", "karpenter", chart, "--kubeconfig", os.DevNull, "--namespace", "kube-system", "--values", repo.Path(t, file))
	if err != nil {
		t.Fatal(err)
	}
	v := decode[karpenterValues](t, file, repo.Text(t, file))
	for _, want := range []string{
		"serviceAccountName: " + v.ServiceAccount.Name + "\n",
		"name: CLUSTER_NAME\n              value: \"" + v.Settings.ClusterName + "\"",
		"name: INTERRUPTION_QUEUE\n              value: \"" + v.Settings.InterruptionQueue + "\"",
		"name: BATCH_IDLE_DURATION\n              value: \"" + v.Settings.BatchIdleDuration + "\"",
		"name: BATCH_MAX_DURATION\n              value: \"" + v.Settings.BatchMaxDuration + "\"",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the chart does not render %q", want)
		}
	}
	if !strings.Contains(repo.Text(t, file), "--version "+strings.TrimPrefix(karpenterVersion, "v")+" ") {
		t.Errorf("another version than %s is installed", karpenterVersion)
	}
}

// unknown are the keys of ours that theirs does not have. What theirs leaves empty may have any.
func unknown(ours, theirs map[string]any, path string) []string {
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(ours)) {
		value, ok := theirs[key]
		if !ok {
			keys = append(keys, path+key)
			continue
		}
		in, isMap := ours[key].(map[string]any)
		of, known := value.(map[string]any)
		if isMap && known && len(of) > 0 {
			keys = append(keys, unknown(in, of, path+key+".")...)
		}
	}
	return keys
}

// TestKarpenterAgrees shows that what Karpenter's files say of each other, and of the clusters,
// is so.
func TestKarpenterAgrees(t *testing.T) {
	stack := templateOf(t, "karpenter.yaml")
	v := decode[karpenterValues](t, "values.yaml", repo.Text(t, folder+"/nodes/karpenter/values.yaml"))
	class, pool := object(t, applied[0], "EC2NodeClass"), object(t, applied[1], "NodePool")
	cluster := v.Settings.ClusterName
	named := func(text any) string { return strings.ReplaceAll(fmt.Sprint(text), "${ClusterName}", cluster) }

	if got := stack.Parameters["ClusterName"]["Default"]; got != cluster || configs(t)["hpa"].Metadata.Name != cluster {
		t.Errorf("the cluster is %s, and of karpenter.yaml %v", cluster, got)
	}
	if want := named(stack.Resources["Interruptions"].Properties["QueueName"]); v.Settings.InterruptionQueue != want {
		t.Errorf("it listens to the queue %s, want %s", v.Settings.InterruptionQueue, want)
	}
	association := stack.Resources["Controller"].Properties
	if association["ServiceAccount"] != v.ServiceAccount.Name || association["Namespace"] != "kube-system" {
		t.Errorf("the role is for %v", association)
	}
	trusts(t, stack.Resources["ControllerRole"].Properties, "kube-system", v.ServiceAccount.Name)
	if want := named(stack.Resources["InstanceProfile"].Properties["InstanceProfileName"]); at(t, class.Object, "spec", "instanceProfile") != want {
		t.Errorf("nodes have the profile %v, want %s", at(t, class.Object, "spec", "instanceProfile"), want)
	}
	if got := at(t, pool.Object, "spec", "template", "spec", "nodeClassRef", "name"); got != class.GetName() {
		t.Errorf("the pool's class is %v", got)
	}
	for _, tags := range []any{
		at(t, class.Object, "spec", "subnetSelectorTerms", 0, "tags", "tidegauge.dev/cluster"),
		at(t, class.Object, "spec", "securityGroupSelectorTerms", 0, "tags", "aws:eks:cluster-name"),
		at(t, class.Object, "spec", "tags", "tidegauge.dev/cluster"),
	} {
		if tags != cluster {
			t.Errorf("it looks for the cluster %v", tags)
		}
	}
	// What the node group of the cluster has at most: an m5.large has 2 CPUs and 8 GiB.
	most := configs(t)["hpa"].ManagedNodeGroups[0].MaxSize
	if got, want := say(t, at(t, pool.Object, "spec", "limits")), fmt.Sprintf(`{"cpu":"%d","memory":"%dGi"}`, 2*most, 8*most); got != want {
		t.Errorf("the limits are %s, want %s", got, want)
	}
}

// unused are calls that Karpenter has and does not make as it is set up here.
var unused = map[string]string{
	"RebootInstances":               "node repair is off",
	"SendMessage":                   "it only takes from the queue",
	"GetManagedResource":            "zonal shifts are off",
	"WriteRecords":                  "only its tests do",
	"CreateInstanceProfile":         "the EC2NodeClass names one",
	"DeleteInstanceProfile":         "the EC2NodeClass names one",
	"AddRoleToInstanceProfile":      "the EC2NodeClass names one",
	"RemoveRoleFromInstanceProfile": "the EC2NodeClass names one",
	"TagInstanceProfile":            "the EC2NodeClass names one",
	"GetRole":                       "the EC2NodeClass names a profile, and no role",
}

// TestKarpenterMay shows that Karpenter may do what its code calls, and nothing else.
func TestKarpenterMay(t *testing.T) {
	code := karpenterFiles(t, "pkg/aws/sdk.go")[""]
	var called []string
	for service, name := range map[string]string{
		"ec2": "EC2API", "iam": "IAMAPI", "eks": "EKSAPI", "pricing": "PricingAPI", "ssm": "SSMAPI", "sqs": "SQSAPI",
	} {
		for _, method := range methods(t, code, name) {
			if unused[method] == "" {
				called = append(called, service+":"+method)
			}
		}
	}
	// A role is not given by a call of its own.
	called = append(called, "iam:PassRole")
	role := templateOf(t, "karpenter.yaml").Resources["ControllerRole"].Properties
	text := say(t, at(t, role, "Policies", 0, "PolicyDocument"))
	var may []string
	for _, s := range decode[policy](t, "the controller's policy", text).Statement {
		may = append(may, s.Action...)
	}
	may = sorted(may)
	if diff := cmp.Diff(sorted(called), slices.Compact(may)); diff != "" {
		t.Errorf("Karpenter may do other than it does (-does +may):\n%s", diff)
	}
}

// TestKarpenterKeepsToItsCluster shows that what changes something is kept to what is the cluster's.
func TestKarpenterKeepsToItsCluster(t *testing.T) {
	const resource, request = `"aws:ResourceTag/eks:eks-cluster-name":"ClusterName"`, `"aws:RequestTag/eks:eks-cluster-name":"ClusterName"`
	want := map[string]string{
		"UseForLaunches":        `null`, // Images, networks: what is there, and stays as it is.
		"UseOwnLaunchTemplates": `{"StringEquals":{` + resource + `}}`,
		"LaunchWithTags":        `{"StringEquals":{` + request + `}}`,
		"TagWhatIsMade":         `{"StringEquals":{` + request + `,"ec2:CreateAction":["CreateFleet","CreateLaunchTemplate","RunInstances"]}}`,
		"NameOwnInstances":      `{"ForAllValues:StringEquals":{"aws:TagKeys":["eks:eks-cluster-name","karpenter.sh/nodeclaim","Name"]},"StringEquals":{` + resource + `}}`,
		"EndOwn":                `{"StringEquals":{` + resource + `}}`,
		"GiveNodesTheirRole":    `{"StringEquals":{"iam:PassedToService":"ec2.amazonaws.com"}}`,
		"HearOfInterruptions":   `null`, // Of one queue.
	}
	role := templateOf(t, "karpenter.yaml").Resources["ControllerRole"].Properties
	text := say(t, at(t, role, "Policies", 0, "PolicyDocument"))
	got := map[string]string{}
	for _, s := range decode[policy](t, "the controller's policy", text).Statement {
		asks := func(action string) bool {
			_, name, _ := strings.Cut(action, ":")
			return strings.HasPrefix(name, "Describe") || strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "List")
		}
		if slices.ContainsFunc(s.Action, func(action string) bool { return !asks(action) }) {
			got[s.Sid] = say(t, s.Condition)
		}
		one := map[string]string{"GiveNodesTheirRole": "NodeRole.Arn", "HearOfInterruptions": "Interruptions.Arn"}[s.Sid]
		if one != "" && s.Resource != one {
			t.Errorf("%s is of %v, want %s", s.Sid, s.Resource, one)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("it may change other than is wanted (-want +got):\n%s", diff)
	}
}

// TestNodesOutlastDrains shows that no node is taken from under a pod that still ends.
func TestNodesOutlastDrains(t *testing.T) {
	pool := object(t, applied[1], "NodePool")
	if got := at(t, pool.Object, "spec", "template", "spec", "terminationGracePeriod"); got != "10m" {
		t.Errorf("a node ends after %v, and web after 150 s: is that longer?", got)
	}
	if !strings.Contains(repo.Text(t, "deploy/demo/base/web.yaml"), "terminationGracePeriodSeconds: 150\n") {
		t.Error("web has another grace period")
	}
	capacity := say(t, at(t, pool.Object, "spec", "template", "spec", "requirements", 2))
	if want := `{"key":"karpenter.sh/capacity-type","operator":"In","values":["on-demand"]}`; capacity != want {
		t.Errorf("nodes are of %s, and a spot instance goes after 120 s", capacity)
	}
}

// TestHeadroom shows that the room that is kept free is for pods of web, and gives way.
func TestHeadroom(t *testing.T) {
	class, d := object(t, applied[2], "PriorityClass"), object(t, applied[2], "Deployment")
	if value := at(t, class.Object, "value"); fmt.Sprint(value) != "-10" {
		// Cluster Autoscaler's --expendable-pods-priority-cutoff.
		t.Errorf("the priority is %v: below -10 nobody makes a node for it, and from 0 on it gives no way", value)
	}
	if got := at(t, d.Object, "spec", "template", "spec", "priorityClassName"); got != class.GetName() {
		t.Errorf("its pods have the priority %v", got)
	}
	objects, err := env.ParseObjects([]byte(repo.Text(t, "deploy/demo/base/web.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	requests := func(o *unstructured.Unstructured) string {
		return say(t, at(t, o.Object, "spec", "template", "spec", "containers", 0, "resources"))
	}
	if got, want := requests(d), requests(objects[0]); got != want {
		t.Errorf("a place is of %s, and a pod of web takes %s", got, want)
	}
}
