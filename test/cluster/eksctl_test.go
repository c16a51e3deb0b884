package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"
	"k8s.io/kube-openapi/pkg/validation/strfmt"
	"k8s.io/kube-openapi/pkg/validation/validate"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/repo"
)

// schemasVariable names the folder that eksctl-v1alpha5.schema.json is in: eksctl's own schema,
// as `eksctl utils schema` prints it. By default it is beside the repository.
const schemasVariable = "TIDEGAUGE_SCHEMAS"

// clusterConfig is a file of eksctl, as far as ours go.
type clusterConfig struct {
	APIVersion, Kind string
	Metadata         struct {
		Name, Region, Version string
		Tags                  map[string]string
	}
	UpgradePolicy struct{ SupportType string }
	VPC           struct {
		NAT               struct{ Gateway string }
		ClusterEndpoints  struct{ PrivateAccess, PublicAccess bool }
		PublicAccessCIDRs []string
	}
	CloudWatch struct {
		ClusterLogging struct {
			EnableTypes        []string
			LogRetentionInDays int
		}
	}
	AccessConfig struct {
		AuthenticationMode                      string
		BootstrapClusterCreatorAdminPermissions bool
		AccessEntries                           []struct {
			PrincipalARN   string
			AccessPolicies []struct {
				PolicyARN   string
				AccessScope struct {
					Type       string
					Namespaces []string
				}
			}
		}
	}
	Addons []struct {
		Name                              string
		UseDefaultPodIdentityAssociations bool
		ConfigurationValues               string
	}
	IAM struct {
		WithOIDC                bool
		PodIdentityAssociations []association
	}
	ManagedNodeGroups, NodeGroups []nodeGroup
	FargateProfiles               []struct {
		Name      string
		Selectors []struct {
			Namespace string
			Labels    map[string]string
		}
	}
}

type association struct {
	Namespace, ServiceAccountName string
	PermissionPolicy              *policy
	WellKnownPolicies             map[string]bool
}

type nodeGroup struct {
	Name, AMIFamily, InstanceType     string
	MinSize, DesiredCapacity, MaxSize int
	MaxPodsPerNode                    int
	PrivateNetworking, DisablePodIMDS bool
	VolumeType                        string
	VolumeSize                        int
	VolumeEncrypted, PropagateASGTags bool
	Labels                            map[string]string
	UpdateConfig                      struct{ MaxUnavailable int }
	SecurityGroups                    struct{ AttachIDs []string }
	TargetGroupARNs                   []string
}

// configs are the files of eksctl by their names, read strictly.
func configs(t *testing.T) map[string]clusterConfig {
	t.Helper()
	all := map[string]clusterConfig{}
	for _, file := range repo.Glob(t, folder+"/eksctl/*.yaml") {
		all[strings.TrimSuffix(filepath.Base(file), ".yaml")] = decode[clusterConfig](t, file, repo.Text(t, file))
	}
	return all
}

// eksctlSchema is eksctl's schema of a ClusterConfig. The test is skipped where it is not.
func eksctlSchema(t *testing.T) *spec.Schema {
	t.Helper()
	dir := os.Getenv(schemasVariable)
	if dir == "" {
		dir = repo.Path(t, "../shared/schemas")
	}
	file := filepath.Join(dir, "eksctl-v1alpha5.schema.json")
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && os.Getenv(schemasVariable) == "":
		t.Skip("NOT TESTED HERE: the files of eksctl against its schema: " + schemasVariable + " names the folder that eksctl-v1alpha5.schema.json is in, which `eksctl utils schema` prints")
	case err != nil:
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	definitions, _ := document["definitions"].(map[string]any)
	inlined, err := json.Marshal(inline(definitions, map[string]any{"$ref": document["$ref"]}))
	if err != nil {
		t.Fatal(err)
	}
	s := &spec.Schema{}
	if err := json.Unmarshal(inlined, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// inline puts definitions in the place of what refers to them. None of eksctl's refers to itself.
func inline(definitions map[string]any, in any) any {
	switch in := in.(type) {
	case map[string]any:
		if ref, ok := in["$ref"].(string); ok {
			return inline(definitions, definitions[strings.TrimPrefix(ref, "#/definitions/")])
		}
		out := map[string]any{}
		for key, value := range in {
			// The schema has defaults as texts, whatever the type is; they decide nothing here.
			if key != "default" || !isText(value) {
				out[key] = inline(definitions, value)
			}
		}
		return out
	case []any:
		out := make([]any, len(in))
		for i, item := range in {
			out[i] = inline(definitions, item)
		}
		return out
	}
	return in
}

func isText(value any) bool {
	_, ok := value.(string)
	return ok
}

func checkEksctl(s *spec.Schema, text string) error {
	var document map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &document); err != nil {
		return err
	}
	result := validate.NewSchemaValidator(s, nil, "", strfmt.Default).Validate(document)
	return errors.Join(result.Errors...)
}

// TestEksctlSchema holds the files against eksctl's own schema.
func TestEksctlSchema(t *testing.T) {
	s := eksctlSchema(t)
	for _, file := range repo.Glob(t, folder+"/eksctl/*.yaml") {
		if err := checkEksctl(s, repo.Text(t, file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	good := repo.Text(t, folder+"/eksctl/hpa.yaml")
	for what, replace := range map[string][2]string{
		"a field that eksctl does not know": {"maxSize: 5", "maximum: 5"},
		"a value of another type":           {"maxSize: 5", "maxSize: five"},
		"an image family that there is not": {"AmazonLinux2023", "AmazonLinux3"},
		"a missing name":                    {"  name: tidegauge-hpa\n", ""},
	} {
		broken := strings.Replace(good, replace[0], replace[1], 1)
		if broken == good {
			t.Fatalf("%s: hpa.yaml has no %q", what, replace[0])
		}
		if err := checkEksctl(s, broken); err == nil {
			t.Errorf("%s is not found", what)
		}
	}
}

// TestEksctlClusters shows what the clusters have in common: a version with HPAs to and from
// zero, all logs for a while, access entries, and a role for each add-on that needs one.
func TestEksctlClusters(t *testing.T) {
	all := configs(t)
	for _, name := range []string{"hpa", "review", "load"} {
		c, ok := all[name]
		if !ok {
			t.Fatalf("there is no %s.yaml", name)
		}
		t.Run(name, func(t *testing.T) {
			checkCluster(t, name, c)
		})
	}
	if len(all) != 4 {
		t.Errorf("there are %d files; add the new one here", len(all))
	}
}

func checkCluster(t *testing.T, name string, c clusterConfig) {
	t.Helper()
	if want := "tidegauge-" + name; c.Metadata.Name != want || c.Metadata.Region != region || c.Metadata.Tags["tidegauge.dev/cluster"] != want {
		t.Errorf("it is %v, want %s in %s with a tag of its name", c.Metadata, want, region)
	}
	if minor, err := strconv.Atoi(strings.TrimPrefix(c.Metadata.Version, "1.")); err != nil || minor < 37 {
		t.Errorf("Kubernetes %s has no HPA from zero", c.Metadata.Version)
	}
	if c.UpgradePolicy.SupportType != "STANDARD" || c.VPC.NAT.Gateway != "Single" {
		t.Errorf("support %s, NAT %s", c.UpgradePolicy.SupportType, c.VPC.NAT.Gateway)
	}
	if e := c.VPC.ClusterEndpoints; !e.PrivateAccess || !e.PublicAccess || !slices.Equal(c.VPC.PublicAccessCIDRs, []string{"203.0.113.0/24"}) {
		t.Errorf("the API is reached from %v", c.VPC)
	}
	logs := c.CloudWatch.ClusterLogging
	if want := []string{"api", "audit", "authenticator", "controllerManager", "scheduler"}; !slices.Equal(sorted(logs.EnableTypes), want) || logs.LogRetentionInDays == 0 {
		t.Errorf("it logs %v for %d days", logs.EnableTypes, logs.LogRetentionInDays)
	}
	if c.AccessConfig.AuthenticationMode != "API" || len(c.AccessConfig.AccessEntries) != 2 {
		t.Errorf("it is entered by %+v", c.AccessConfig)
	}
	addons := map[string]bool{}
	for _, a := range c.Addons {
		addons[a.Name] = true
		if a.Name == "vpc-cni" && !a.UseDefaultPodIdentityAssociations {
			t.Error("vpc-cni has the nodes' role")
		}
	}
	for _, want := range []string{"eks-pod-identity-agent", "vpc-cni", "kube-proxy", "coredns", "metrics-server"} {
		if !addons[want] {
			t.Errorf("it has no add-on %s", want)
		}
	}
	if v := networkValues(t, c); v.EnableNetworkPolicy != "true" {
		t.Errorf("its nodes keep pods to no NetworkPolicy: %+v", v)
	}
	for _, group := range c.ManagedNodeGroups {
		checkNodes(t, group, networkValues(t, c))
	}
}

// networkPlugin is what an add-on vpc-cni is told. Its own schema has the switch as a text.
type networkPlugin struct {
	EnableNetworkPolicy string
	Env                 map[string]string
}

func networkValues(t *testing.T, c clusterConfig) networkPlugin {
	t.Helper()
	for _, a := range c.Addons {
		if a.Name == "vpc-cni" {
			return decode[networkPlugin](t, "vpc-cni", a.ConfigurationValues)
		}
	}
	t.Fatalf("%s has no network", c.Metadata.Name)
	return networkPlugin{}
}

// TestEksctlDevelopers shows which namespaces developers work in.
func TestEksctlDevelopers(t *testing.T) {
	if !strings.Contains(repo.Text(t, "deploy/review-app/review-app"), "web-pr-") {
		t.Error("review apps have namespaces of other names")
	}
	for name, want := range map[string]string{
		"hpa":    `{"Type":"namespace","Namespaces":["demo","orders"]}`,
		"load":   `{"Type":"namespace","Namespaces":["demo","orders"]}`,
		"review": `{"Type":"namespace","Namespaces":["web-pr-*"]}`,
	} {
		entry := configs(t)[name].AccessConfig.AccessEntries[1]
		if !strings.HasSuffix(entry.PrincipalARN, ":role/developers") || len(entry.AccessPolicies) != 1 {
			t.Fatalf("%s has %+v", name, entry)
		}
		if got := say(t, entry.AccessPolicies[0].AccessScope); got != want {
			t.Errorf("in %s developers work in %s, want %s", name, got, want)
		}
	}
}

// TestEksctlProvider shows that the cluster whose pods have their roles by IRSA has a provider
// for it: those of review apps, whose namespaces Pod Identity cannot name.
func TestEksctlProvider(t *testing.T) {
	for name, c := range configs(t) {
		if want := name == "review"; c.IAM.WithOIDC != want {
			t.Errorf("%s has a provider of OpenID Connect: %v, want %v", name, c.IAM.WithOIDC, want)
		}
	}
}

func checkNodes(t *testing.T, group nodeGroup, network networkPlugin) {
	t.Helper()
	if group.AMIFamily != "AmazonLinux2023" || !group.PrivateNetworking || !group.DisablePodIMDS || !group.VolumeEncrypted || group.UpdateConfig.MaxUnavailable != 1 {
		t.Errorf("the nodes %s: %+v", group.Name, group)
	}
	if group.MaxPodsPerNode > 0 && network.Env["ENABLE_PREFIX_DELEGATION"] != "true" {
		t.Errorf("the nodes %s have %d pods and addresses for fewer: %v", group.Name, group.MaxPodsPerNode, network.Env)
	}
}

// sizes is how a group of nodes is told of, in short.
func (g nodeGroup) sizes() string {
	return fmt.Sprintf("%s %s %d/%d/%d, %d pods", g.Name, g.InstanceType, g.MinSize, g.DesiredCapacity, g.MaxSize, g.MaxPodsPerNode)
}

func TestEksctlNodes(t *testing.T) {
	all := configs(t)
	got := map[string][]string{}
	for name, c := range all {
		for _, g := range slices.Concat(c.ManagedNodeGroups, c.NodeGroups) {
			got[name] = append(got[name], g.sizes())
		}
	}
	want := map[string][]string{
		"hpa":          {"general m5.large 1/2/5, 0 pods"},
		"load":         {"system m5.large 3/3/3, 0 pods", "load m5.xlarge 0/0/27, 110 pods"},
		"review-nodes": {"review t3.medium 3/3/3, 110 pods"},
	}
	if say(t, got) != say(t, want) {
		t.Errorf("the nodes are %v, want %v", got, want)
	}
}

// TestEksctlFargate shows that the profile takes what the demo's overlay for Fargate labels.
func TestEksctlFargate(t *testing.T) {
	profiles := configs(t)["hpa"].FargateProfiles
	if len(profiles) != 1 {
		t.Fatalf("there are %d profiles", len(profiles))
	}
	var namespaces []string
	for _, s := range profiles[0].Selectors {
		namespaces = append(namespaces, s.Namespace)
		if say(t, s.Labels) != `{"scheduler":"fargate"}` {
			t.Errorf("in %s it takes %v", s.Namespace, s.Labels)
		}
	}
	if !slices.Equal(namespaces, []string{"demo", "orders"}) {
		t.Errorf("it takes pods of %v", namespaces)
	}
	overlay := repo.Text(t, "deploy/demo/overlays/fargate/kustomization.yaml")
	if !strings.Contains(overlay, "path: /spec/template/metadata/labels/scheduler\n      value: fargate\n") {
		t.Error("the overlay has another label")
	}
}

// TestReviewNodes shows that the nodes of the review apps are those of review.yaml, and are
// reached by the load balancer of cloudformation/elb.yaml.
func TestReviewNodes(t *testing.T) {
	all := configs(t)
	cluster, nodes := all["review"], all["review-nodes"]
	if cluster.Metadata.Name != nodes.Metadata.Name || cluster.Metadata.Region != nodes.Metadata.Region || cluster.Metadata.Version != nodes.Metadata.Version {
		t.Errorf("the nodes are of %v, and the cluster is %v", nodes.Metadata, cluster.Metadata)
	}
	if n := len(cluster.ManagedNodeGroups) + len(cluster.NodeGroups); n != 0 {
		t.Errorf("the cluster begins with %d groups of nodes", n)
	}
	group := nodes.NodeGroups[0]
	checkNodes(t, group, networkValues(t, cluster))
	target := fmt.Sprintf("arn:aws:elasticloadbalancing:%s:%s:targetgroup/%s/", region, account, cluster.Metadata.Name)
	if len(group.TargetGroupARNs) != 1 || !strings.HasPrefix(group.TargetGroupARNs[0], target) {
		t.Errorf("they are registered with %v, want %s…", group.TargetGroupARNs, target)
	}
	if len(group.SecurityGroups.AttachIDs) != 1 {
		t.Errorf("they have the security groups %v", group.SecurityGroups.AttachIDs)
	}
}

// TestLoadClusterHolds shows that the load cluster holds the pods that the load test is for, by
// CPU and by addresses.
func TestLoadClusterHolds(t *testing.T) {
	const (
		daemons = 200 // What DaemonSets take of a node.
		web     = 100
	)
	// Of the 4 CPUs of an m5.xlarge.
	forPods := allocatable(4)
	if !strings.Contains(repo.Text(t, folder+"/eksctl/load.yaml"), fmt.Sprintf("An m5.xlarge has %dm for pods", forPods)) {
		t.Errorf("the file does not say that an m5.xlarge has %dm for pods", forPods)
	}
	if !strings.Contains(repo.Text(t, "deploy/demo/base/web.yaml"), "cpu: "+strconv.Itoa(web)+"m") {
		t.Error("a pod of web requests another amount of CPU")
	}
	if !strings.Contains(repo.Text(t, "deploy/demo/components/cpu-5-percent/kustomization.yaml"), "value: 1000") {
		t.Error("the load test has another maximum")
	}
	total := 0
	for _, g := range configs(t)["load"].ManagedNodeGroups {
		total += g.MaxSize
		if g.Name == "load" {
			if perNode := (forPods - daemons) / web; perNode > g.MaxPodsPerNode || perNode*g.MaxSize < 999 {
				t.Errorf("%d nodes hold %d pods of web each", g.MaxSize, perNode)
			}
		}
	}
	if total < 20 || total > 30 {
		t.Errorf("there are up to %d nodes", total)
	}
}
