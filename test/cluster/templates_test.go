package cluster

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/repo"
)

// cloudFormation is a template. Of files of ours in YAML the short functions are read as what
// they are of: `!Ref X` as X, `!GetAtt X.Y` as X.Y.
type cloudFormation struct {
	AWSTemplateFormatVersion, Description string
	Parameters                            map[string]map[string]any
	Conditions, Outputs, Rules            map[string]any
	Resources                             map[string]struct {
		Type, Condition                     string
		DeletionPolicy, UpdateReplacePolicy string
		Properties                          map[string]any
		Metadata                            any
		DependsOn                           any
	}
}

// of are the properties of all resources of a type, in the order of their names.
func (c cloudFormation) of(kind string) []map[string]any {
	var all []map[string]any
	for _, id := range slices.Sorted(maps.Keys(c.Resources)) {
		if c.Resources[id].Type == kind {
			all = append(all, c.Resources[id].Properties)
		}
	}
	return all
}

// name is how a resource in a policy is told of: a queue by its name, parameters as ${Name}.
func (c cloudFormation) name(t *testing.T, r any) string {
	t.Helper()
	m, ok := r.(map[string]any)
	switch {
	case !ok:
		return fmt.Sprint(r)
	case m["Fn::GetAtt"] != nil:
		id := at(t, m, "Fn::GetAtt", 0).(string)
		return fmt.Sprint(c.Resources[id].Properties["QueueName"])
	case m["Ref"] != nil:
		return fmt.Sprintf("${%v}", m["Ref"])
	}
	var joined strings.Builder
	for _, part := range at(t, m, "Fn::Join", 1).([]any) {
		joined.WriteString(c.name(t, part))
	}
	return joined.String()
}

func templateOf(t *testing.T, name string) cloudFormation {
	t.Helper()
	file := folder + "/cloudformation/" + name
	return decode[cloudFormation](t, file, repo.Text(t, file))
}

// TestTemplates validates the templates, and what CDK made, with AWS' own validator.
func TestTemplates(t *testing.T) {
	dir := cdk(t)
	var all []string
	for _, file := range repo.Glob(t, folder+"/cloudformation/*.yaml") {
		all = append(all, repo.Path(t, file))
	}
	all = append(all, filepath.Join(dir, "cdk.out", stackName+".template.json"))
	out, err := command(t.Context(), dir, "node", append([]string{"dist/bin/validate.js"}, all...)...)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		if !strings.Contains(out, file+": ") || strings.Count(out, " 0 findings") != len(all) {
			t.Errorf("%s was not looked at:\n%s", file, out)
		}
	}
}

// TestTemplatesFinds shows that the validator finds what is wrong.
func TestTemplatesFinds(t *testing.T) {
	dir := cdk(t)
	good := repo.Text(t, folder+"/cloudformation/elb.yaml")
	var broken []string
	for _, replace := range [][2]string{
		{"HealthCheckPath:", "HealthCheckPaths:"},
		{"TargetGroupArn: !Ref TargetGroup", "TargetGroupArn: !Ref TargetGroups"},
		{"Type: AWS::ElasticLoadBalancingV2::TargetGroup", "Type: AWS::ElasticLoadBalancingV2::Targets"},
		{"TargetType: instance", "TargetType: instances"},
		{"HealthCheckIntervalSeconds: 5", "HealthCheckIntervalSeconds: 1"},
	} {
		text := strings.Replace(good, replace[0], replace[1], 1)
		if text == good {
			t.Fatalf("elb.yaml has no %q", replace[0])
		}
		file := filepath.Join(t.TempDir(), "broken.yaml")
		write(t, file, text)
		broken = append(broken, file)
	}
	out, err := command(t.Context(), dir, "node", append([]string{"dist/bin/validate.js"}, broken...)...)
	if err == nil {
		t.Error("it ends without an error")
	}
	for _, file := range broken {
		if strings.Contains(out, file+": 7 resources, 0 findings") || strings.Contains(out, file+": 8 resources, 0 findings") {
			t.Errorf("nothing is found in %s", file)
		}
	}
}

// TestLoadBalancer shows who reaches whom: users the load balancer, the load balancer the
// NodePort, and nobody else.
func TestLoadBalancer(t *testing.T) {
	c := templateOf(t, "elb.yaml")
	if got := c.Parameters["NodePort"]["Default"]; got != 30080.0 {
		t.Errorf("the NodePort is %v", got)
	}
	rule := func(id string) map[string]any {
		p := maps.Clone(c.Resources[id].Properties)
		delete(p, "Description")
		return p
	}
	want := map[string]any{
		"IpProtocol": "tcp", "FromPort": "NodePort", "ToPort": "NodePort",
		"GroupId": "LoadBalancerSecurityGroup.GroupId", "DestinationSecurityGroupId": "NodeSecurityGroup.GroupId",
	}
	if diff := cmp.Diff(want, rule("ToNodes")); diff != "" {
		t.Errorf("the load balancer reaches other than nodes:\n%s", diff)
	}
	want["GroupId"], want["SourceSecurityGroupId"] = "NodeSecurityGroup.GroupId", "LoadBalancerSecurityGroup.GroupId"
	delete(want, "DestinationSecurityGroupId")
	if diff := cmp.Diff(want, rule("FromLoadBalancer")); diff != "" {
		t.Errorf("nodes are reached by others than the load balancer:\n%s", diff)
	}
	for id, ingress := range map[string]int{"LoadBalancerSecurityGroup": 2, "NodeSecurityGroup": 0} {
		p := c.Resources[id].Properties
		rules, _ := p["SecurityGroupIngress"].([]any)
		if len(rules) != ingress {
			t.Errorf("%s has %d rules of its own, want %d", id, len(rules), ingress)
		}
		if got := at(t, p, "SecurityGroupEgress", 0, "CidrIp"); got != "127.0.0.1/32" {
			t.Errorf("%s lets out to %v", id, got)
		}
	}
	target := c.Resources["TargetGroup"].Properties
	if target["TargetType"] != "instance" || target["Port"] != "NodePort" || target["HealthCheckPort"] != "traffic-port" {
		t.Errorf("requests go to %v", target)
	}
	for _, output := range []string{"DnsName", "TargetGroup", "NodeSecurityGroup"} {
		if c.Outputs[output] == nil {
			t.Errorf("it has no output %s", output)
		}
	}
}

// TestLoadBalancerAsks shows that it asks for health as the demo's web tier wants to be asked.
func TestLoadBalancerAsks(t *testing.T) {
	target := templateOf(t, "elb.yaml").Resources["TargetGroup"].Properties
	objects, err := env.ParseObjects([]byte(repo.Text(t, "deploy/demo/base/web.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	annotations := map[string]string{}
	for _, o := range objects {
		if o.GetKind() == "Service" {
			annotations = o.GetAnnotations()
		}
	}
	attribute := at(t, target, "TargetGroupAttributes", 0)
	for name, got := range map[string]any{
		"healthcheck-path":             target["HealthCheckPath"],
		"healthcheck-interval-seconds": target["HealthCheckIntervalSeconds"],
		"healthcheck-timeout-seconds":  target["HealthCheckTimeoutSeconds"],
		"healthy-threshold-count":      target["HealthyThresholdCount"],
		"unhealthy-threshold-count":    target["UnhealthyThresholdCount"],
		"success-codes":                at(t, target, "Matcher", "HttpCode"),
		"target-group-attributes":      fmt.Sprintf("%v=%v", at(t, attribute, "Key"), at(t, attribute, "Value")),
	} {
		if want := annotations["alb.ingress.kubernetes.io/"+name]; fmt.Sprint(got) != want {
			t.Errorf("%s is %v, and web wants %q", name, got, want)
		}
	}
}

// queues are the queues of a template, with what makes one unlike another.
func queues(c cloudFormation) map[string]string {
	all := map[string]string{}
	for _, q := range c.of("AWS::SQS::Queue") {
		redrive, _ := q["RedrivePolicy"].(map[string]any)
		all[fmt.Sprint(q["QueueName"])] = fmt.Sprintf("%v s hidden, %v s kept, encrypted %v, %v times", q["VisibilityTimeout"], q["MessageRetentionPeriod"], q["SqsManagedSseEnabled"], redrive["maxReceiveCount"])
	}
	return all
}

// TestQueues shows that both roads make the queues that the demo finds by name, and no other.
func TestQueues(t *testing.T) {
	got := queues(templateOf(t, "orders.yaml"))
	config := decode[struct {
		APIVersion, Kind, Namespace string
		Labels, Resources, Images   []any
		ConfigMapGenerator          []struct {
			Name     string
			Literals []string
		}
	}](t, "kustomization.yaml", repo.Text(t, "deploy/demo/base/kustomization.yaml"))
	literals := config.ConfigMapGenerator[0].Literals
	for _, want := range []string{"ORDERS_QUEUE=orders", "ORDERS_DEAD_LETTER_QUEUE=orders-dead", "AWS_REGION=" + region} {
		if !slices.Contains(literals, want) {
			t.Errorf("the demo has %v, want %s", literals, want)
		}
	}
	for file, want := range map[string]string{"simulator.yaml": "- --queue=orders-sine\n", "worker.yaml": "- name: QueueName\n          value: orders\n"} {
		if !strings.Contains(repo.Text(t, "deploy/demo/base/"+file), want) {
			t.Errorf("%s has another queue", file)
		}
	}
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"orders", "orders-dead", "orders-sine"}) {
		t.Errorf("there are the queues %v", names)
	}
	if diff := cmp.Diff(queues(template(t)), got); diff != "" {
		t.Errorf("the queues of CDK are others than those of orders.yaml:\n%s", diff)
	}
	if got, want := templateOf(t, "orders.yaml").of("AWS::ECR::Repository")[0]["RepositoryName"], template(t).of("AWS::ECR::Repository")[0]["RepositoryName"]; got != want {
		t.Errorf("the image repository is %v, and of CDK %v", got, want)
	}
}

// TestTemplatesLeaveNothing shows that a stack that is deleted leaves nothing that costs.
func TestTemplatesLeaveNothing(t *testing.T) {
	for _, file := range repo.Glob(t, folder+"/cloudformation/*.yaml") {
		c := templateOf(t, filepath.Base(file))
		for id, r := range c.Resources {
			if r.DeletionPolicy == "Retain" || r.DeletionPolicy == "Snapshot" || r.UpdateReplacePolicy == "Retain" {
				t.Errorf("%s: %s is kept", file, id)
			}
		}
		for _, r := range c.of("AWS::ECR::Repository") {
			if r["EmptyOnDelete"] != true {
				t.Errorf("%s: a repository with images is kept", file)
			}
		}
	}
}

// TestTemplatesNoAliases shows that no template has YAML's aliases, which CloudFormation refuses.
// https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-formats.html
func TestTemplatesNoAliases(t *testing.T) {
	for _, file := range repo.Glob(t, folder+"/cloudformation/*.yaml") {
		for i, line := range strings.Split(repo.Text(t, file), "\n") {
			_, value, _ := strings.Cut(line, ": ")
			if strings.HasPrefix(value, "*") || strings.HasPrefix(value, "&") {
				t.Errorf("%s:%d: %s", file, i+1, line)
			}
		}
	}
}

// trusts is what the conditions of a role for pods have to be.
func trusts(t *testing.T, role map[string]any, namespace, serviceAccount string) {
	t.Helper()
	text, err := yaml.Marshal(at(t, role, "AssumeRolePolicyDocument", "Statement", 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"aws:RequestTag/kubernetes-namespace: " + namespace, "aws:RequestTag/kubernetes-service-account: " + serviceAccount,
		"aws:SourceAccount: ", "aws:SourceArn: ", "Service: pods.eks.amazonaws.com",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the role of %s/%s does not ask for %s:\n%s", namespace, serviceAccount, want, text)
		}
	}
}
