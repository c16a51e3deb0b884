package cluster

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
)

// policy is an IAM policy. What it says of principals and resources may be CloudFormation's
// functions.
type policy struct {
	Version   string
	Statement []statement
}

type statement struct {
	Sid, Effect string
	Principal   any
	Action      oneOrMore
	Resource    any
	Condition   map[string]map[string]any
}

// says is what a policy allows: actions by resource, and behind the resource a condition.
func (p policy) says(t *testing.T, name func(resource any) string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, s := range p.Statement {
		if s.Effect != "Allow" {
			t.Errorf("it has the effect %s", s.Effect)
		}
		resources, ok := s.Resource.([]any)
		if !ok {
			resources = []any{s.Resource}
		}
		for _, r := range resources {
			words := []string{name(r)}
			for _, operator := range slices.Sorted(maps.Keys(s.Condition)) {
				words = append(words, "if", operator, say(t, s.Condition[operator]))
			}
			key := strings.Join(words, " ")
			all[key] = sorted(append(all[key], s.Action...))
		}
	}
	return all
}

const publishing = `* if StringEquals {"cloudwatch:namespace":"appsimulator"}`

// demo is what the adapter and the demo's programs may do: for each ServiceAccount, actions by
// queue.
func demo() map[string]map[string][]string {
	put := []string{"cloudwatch:PutMetricData"}
	return map[string]map[string][]string{
		"tidegauge-system/tidegauge": {"*": {"cloudwatch:GetMetricData"}},
		"orders/web":                 {"orders": {"sqs:GetQueueUrl", "sqs:SendMessage"}},
		"orders/worker": {
			"orders":      {"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"},
			"orders-dead": {"sqs:GetQueueUrl", "sqs:SendMessage"},
		},
		"orders/loader": {publishing: put},
		"orders/simulator": {
			publishing: put,
			"orders-sine": {
				"sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:GetQueueUrl",
				"sqs:ReceiveMessage", "sqs:SendMessage",
			},
		},
	}
}

// TestDemoCallsWhatItMay shows that what the programs may do is what their code calls.
func TestDemoCallsWhatItMay(t *testing.T) {
	allowed := func(accounts ...string) []string {
		set := map[string]bool{}
		for _, account := range accounts {
			for resource, actions := range demo()[account] {
				for _, action := range actions {
					if resource != publishing {
						set[action] = true
					}
				}
			}
		}
		return slices.Sorted(maps.Keys(set))
	}
	for _, test := range []struct {
		file, name string
		allowed    []string
	}{
		{"internal/queue/queue.go", "API", allowed("orders/web", "orders/worker")},
		{"internal/simulator/position.go", "client", allowed("orders/simulator")},
	} {
		var called []string
		for _, method := range methods(t, repo.Text(t, "deploy/demo/orders/"+test.file), test.name) {
			// IAM knows no batches: they are so many of the single ones.
			called = append(called, "sqs:"+strings.TrimSuffix(method, "Batch"))
		}
		slices.Sort(called)
		if diff := cmp.Diff(slices.Compact(called), test.allowed); diff != "" {
			t.Errorf("%s calls other than it may (-called +allowed):\n%s", test.file, diff)
		}
	}
	adapter := decode[policy](t, "permissions.json", repo.Text(t, "deploy/iam/permissions.json"))
	if diff := cmp.Diff(adapter.says(t, resource(t)), demo()["tidegauge-system/tidegauge"]); diff != "" {
		t.Errorf("the adapter has other permissions than deploy/iam says:\n%s", diff)
	}
	if namespace := regexp.MustCompile(`const Namespace = "(.*)"`).FindStringSubmatch(repo.Text(t, "deploy/demo/orders/internal/metrics/cloudwatch.go")); len(namespace) < 2 || !strings.Contains(publishing, `"`+namespace[1]+`"`) {
		t.Errorf("metrics are put into %v", namespace)
	}
}

// methods are those of an interface in a file.
func methods(t *testing.T, text, name string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		if s, ok := n.(*ast.TypeSpec); ok && s.Name.Name == name {
			for _, method := range s.Type.(*ast.InterfaceType).Methods.List {
				names = append(names, method.Names[0].Name)
			}
		}
		return true
	})
	if len(names) == 0 {
		t.Fatalf("there is no interface %s", name)
	}
	return names
}

// resource is how a resource in a file of eksctl is told of: a queue by its name.
func resource(t *testing.T) func(any) string {
	t.Helper()
	return func(r any) string {
		return strings.TrimPrefix(fmt.Sprint(r), fmt.Sprintf("arn:aws:sqs:%s:%s:", region, account))
	}
}

// autoscaler is what Cluster Autoscaler may do in a cluster.
func autoscaler(cluster string) map[string][]string {
	return map[string][]string{
		"*": {
			"autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances",
			"autoscaling:DescribeLaunchConfigurations", "autoscaling:DescribeScalingActivities", "autoscaling:DescribeTags",
			"ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
			"ec2:GetInstanceTypesFromInstanceRequirements",
		},
		`* if StringEquals {"aws:ResourceTag/k8s.io/cluster-autoscaler/` + cluster + `":"owned"}`: {
			"autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup",
		},
		fmt.Sprintf("arn:aws:eks:%s:%s:nodegroup/%s/*/*", region, account, cluster): {"eks:DescribeNodegroup"},
	}
}

const controller = "kube-system/aws-load-balancer-controller"

// TestEksctlIdentities shows what pods may do in AWS in each cluster.
func TestEksctlIdentities(t *testing.T) {
	all := configs(t)
	for _, name := range []string{"hpa", "review", "load"} {
		t.Run(name, func(t *testing.T) {
			want := demo()
			want["kube-system/cluster-autoscaler"] = autoscaler("tidegauge-" + name)
			if name == "review" { // Its three nodes are three, and its apps have queues of their own.
				want = map[string]map[string][]string{"tidegauge-system/tidegauge": want["tidegauge-system/tidegauge"]}
			}
			want[controller] = map[string][]string{"well-known": {"awsLoadBalancerController"}}
			got := map[string]map[string][]string{}
			for _, a := range all[name].IAM.PodIdentityAssociations {
				key := a.Namespace + "/" + a.ServiceAccountName
				if a.PermissionPolicy == nil {
					got[key] = map[string][]string{"well-known": slices.Sorted(maps.Keys(a.WellKnownPolicies))}
					continue
				}
				got[key] = a.PermissionPolicy.says(t, resource(t))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("pods may do other than is wanted (-want +got):\n%s", diff)
			}
		})
	}
}

// TestServiceAccountsAreThere shows that whom a role is given to is somebody.
func TestServiceAccountsAreThere(t *testing.T) {
	there := map[string]bool{
		// Charts of others: their values name them, see TestClusterAutoscaler.
		"kube-system/cluster-autoscaler": true, controller: true,
	}
	for namespace, file := range map[string]string{
		"":       "deploy/install.yaml",
		"orders": "deploy/demo/base/*.yaml",
	} {
		for _, name := range repo.Glob(t, file) {
			objects, err := env.ParseObjects([]byte(repo.Text(t, name)))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objects {
				if o.GetKind() == "ServiceAccount" {
					there[namespace+o.GetNamespace()+"/"+o.GetName()] = true
				}
			}
		}
	}
	if !strings.Contains(repo.Text(t, "deploy/demo/base/kustomization.yaml"), "\nnamespace: orders\n") {
		t.Error("the demo is in another namespace than orders")
	}
	for name, c := range configs(t) {
		for _, a := range c.IAM.PodIdentityAssociations {
			if !there[a.Namespace+"/"+a.ServiceAccountName] {
				t.Errorf("%s gives a role to %s/%s, which nothing has", name, a.Namespace, a.ServiceAccountName)
			}
		}
	}
}
