package deploy

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
	"github.com/tidegauge/tidegauge/test/repo"
)

// policy is an IAM policy, as far as ours go
// (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html).
type policy struct {
	Version   string
	Statement []statement
}

type statement struct {
	Sid       string
	Effect    string
	Principal map[string]string               `json:",omitempty"`
	Action    oneOrMore                       `json:",omitempty"`
	Resource  oneOrMore                       `json:",omitempty"`
	Condition map[string]map[string]oneOrMore `json:",omitempty"`
}

type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*o = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(o))
}

// policies are the files of deploy/iam, read strictly.
func policies(t *testing.T) map[string]policy {
	t.Helper()
	all := map[string]policy{}
	for _, file := range repo.Glob(t, "deploy/iam/*.json") {
		decoder := json.NewDecoder(strings.NewReader(repo.Text(t, file)))
		decoder.DisallowUnknownFields()
		var p policy
		if err := decoder.Decode(&p); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if p.Version != "2012-10-17" || len(p.Statement) == 0 {
			t.Errorf("%s: version %q, %d statements", file, p.Version, len(p.Statement))
		}
		for _, s := range p.Statement {
			if s.Effect != "Allow" {
				t.Errorf("%s: %s has the effect %q", file, s.Sid, s.Effect)
			}
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = p
	}
	return all
}

// TestPermissions shows that the policies allow what the adapter's code calls, nothing
// more, and of as few resources as AWS knows.
func TestPermissions(t *testing.T) {
	want := map[string]map[string][]string{
		"permissions": {"*": prefixed("cloudwatch:", methods(t, "pkg/sources/cloudwatch/clients.go", "api"))},
		// TagSession is what EKS Pod Identity makes of the adapter's AssumeRole.
		"permissions-assume-role": {"arn:aws:iam::444455556666:role/tidegauge-metrics": {"sts:AssumeRole", "sts:TagSession"}},
		"permissions-managed-prometheus": {
			"arn:aws:aps:eu-central-1:111122223333:workspace/ws-12345678-1234-1234-1234-123456789012": prometheusActions(t),
		},
	}
	got := map[string]map[string][]string{}
	for name, p := range policies(t) {
		if !strings.HasPrefix(name, "permissions") {
			continue
		}
		got[name] = map[string][]string{}
		for _, s := range p.Statement {
			if len(s.Resource) != 1 || s.Principal != nil {
				t.Errorf("%s: %s has the resources %v and the principal %v", name, s.Sid, s.Resource, s.Principal)
				continue
			}
			got[name][s.Resource[0]] = append(got[name][s.Resource[0]], s.Action...)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the policies do not allow exactly what is called (-calls +policies):\n%s", diff)
	}
}

func prefixed(prefix string, names []string) []string {
	for i := range names {
		names[i] = prefix + names[i]
	}
	return names
}

// methods are those of an interface in a file.
func methods(t *testing.T, file, name string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), repo.Path(t, file), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == name {
			for _, method := range spec.Type.(*ast.InterfaceType).Methods.List {
				names = append(names, method.Names[0].Name)
			}
		}
		return true
	})
	return names
}

// prometheusActions are what Amazon Managed Service for Prometheus calls the endpoints that
// the source asks
// (https://docs.aws.amazon.com/prometheus/latest/userguide/AMP-APIReference-Prometheus-Compatible-Apis.html).
func prometheusActions(t *testing.T) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), repo.Path(t, "pkg/sources/prometheus/call.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	actions := map[string]string{"query": "aps:QueryMetrics", "series": "aps:GetSeries"}
	var names []string
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || fmt.Sprint(spec.Type) != "endpoint" {
			return true
		}
		for _, v := range spec.Values {
			at, err := strconv.Unquote(v.(*ast.BasicLit).Value)
			if err != nil || actions[at] == "" {
				t.Errorf("no action is known for the endpoint %s: %v", at, err)
			}
			names = append(names, actions[at])
		}
		return true
	})
	slices.Sort(names)
	return names
}

// TestServices shows that the adapter has the clients of no other service of AWS, which
// would need a permission too.
func TestServices(t *testing.T) {
	const prefix = "github.com/aws/aws-sdk-go-v2/service/"
	services := map[string]bool{}
	for _, folder := range []string{"cmd", "internal", "pkg"} {
		err := filepath.WalkDir(repo.Path(t, folder), func(file string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				return err
			}
			for _, i := range parsed.Imports {
				if service, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), prefix); ok {
					service, _, _ = strings.Cut(service, "/")
					services[service] = true
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := slices.Sorted(maps.Keys(services)); !slices.Equal(got, []string{"cloudwatch", "sts"}) {
		t.Errorf("the adapter calls %v: what it calls has to be in deploy/iam", got)
	}
}

// TestTrust shows that each trust policy trusts one principal, under conditions.
func TestTrust(t *testing.T) {
	account := parse(t, repo.Text(t, "deploy/install.yaml")).own(t, "ServiceAccount")
	const (
		adapter = "AWS arn:aws:iam::111122223333:role/tidegauge"
		issuer  = "oidc.eks.eu-central-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
	)
	want := map[string][]string{
		"trust-irsa": {
			"sts:AssumeRoleWithWebIdentity by Federated arn:aws:iam::111122223333:oidc-provider/" + issuer,
			"if StringEquals " + issuer + ":aud sts.amazonaws.com",
			fmt.Sprintf("if StringEquals %s:sub system:serviceaccount:%s:%s", issuer, account.GetNamespace(), account.GetName()),
		},
		"trust-pod-identity": {
			"sts:AssumeRole sts:TagSession by Service pods.eks.amazonaws.com",
			"if ArnEquals aws:SourceArn arn:aws:eks:eu-central-1:111122223333:cluster/production",
			"if StringEquals aws:RequestTag/kubernetes-namespace " + account.GetNamespace(),
			"if StringEquals aws:RequestTag/kubernetes-service-account " + account.GetName(),
			"if StringEquals aws:SourceAccount 111122223333",
		},
		"trust-cross-account": {
			"sts:AssumeRole by " + adapter,
			"if StringEquals sts:RoleSessionName " + cloudwatch.DefaultConfig().RoleSessionName,
			"sts:TagSession by " + adapter,
		},
		"trust-target-role": {
			"sts:AssumeRole by " + adapter,
			fmt.Sprintf("if StringEquals sts:ExternalId eu-central-1/111122223333/production/%s/%s", account.GetNamespace(), account.GetName()),
			"sts:TagSession by " + adapter,
		},
	}
	got := map[string][]string{}
	for name, p := range policies(t) {
		if strings.HasPrefix(name, "trust") {
			got[name] = p.told()
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the trust policies are not those wanted (-want +got):\n%s", diff)
	}
}

// told is what a trust policy says, in lines.
func (p policy) told() []string {
	var lines []string
	for _, s := range p.Statement {
		for _, kind := range slices.Sorted(maps.Keys(s.Principal)) {
			lines = append(lines, strings.Join(s.Action, " ")+" by "+kind+" "+s.Principal[kind])
		}
		for _, operator := range slices.Sorted(maps.Keys(s.Condition)) {
			for _, key := range slices.Sorted(maps.Keys(s.Condition[operator])) {
				lines = append(lines, "if "+operator+" "+key+" "+strings.Join(s.Condition[operator][key], " or "))
			}
		}
	}
	return lines
}

// TestReadmeOfIAM shows that no file is left unexplained, and none is missing.
func TestReadmeOfIAM(t *testing.T) {
	text := repo.Text(t, "deploy/iam/README.md")
	for name := range policies(t) {
		if !strings.Contains(text, "| `"+name+".json` |") {
			t.Errorf("the table has no row of %s.json", name)
		}
	}
	for word := range strings.FieldsSeq(text) {
		if file, ok := strings.CutPrefix(word, "file://"); ok {
			repo.Text(t, file)
		}
	}
}
