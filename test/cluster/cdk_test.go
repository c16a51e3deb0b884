package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tidegauge/tidegauge/test/repo"
)

const (
	cdkFolder = folder + "/cdk"
	stackName = "tidegauge-hpa"
	// requireNode is the variable that makes a missing Node.js a failure.
	requireNode = "TIDEGAUGE_REQUIRE_NODEJS"
)

// built is the program of deploy/cluster/cdk, compiled and run, once for all tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// cdk is the folder of the compiled program, with its packages and what it synthesised.
func cdk(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv(requireNode) == "1" {
				t.Fatalf("there is no %s, and %s=1 asks for it: install Node.js 20 or later", program, requireNode)
			}
			t.Skip("NOT TESTED HERE: the stack of AWS CDK and the templates of CloudFormation, which need Node.js 20 or later and npm")
		}
	}
	built.once.Do(func() {
		built.dir, built.err = build(context.WithoutCancel(t.Context()), repo.Path(t, "."), repo.Path(t, ".bin/cdk"))
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

// build compiles in a folder of its own, as deploy has no files that a test made. The packages
// are kept, by what they are.
func build(ctx context.Context, root, kept string) (dir string, err error) {
	from := filepath.Join(root, filepath.FromSlash(cdkFolder))
	if dir, err = os.MkdirTemp("", "tidegauge-cdk-"); err != nil {
		return "", err
	}
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc", "tsconfig.json", "cdk.json"} {
		text, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return dir, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return dir, err
		}
	}
	for _, name := range []string{"bin", "lib", "test"} {
		if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Join(from, name))); err != nil {
			return dir, err
		}
	}
	packages, err := install(ctx, dir, kept)
	if err != nil {
		return dir, err
	}
	if err := os.Symlink(packages, filepath.Join(dir, "node_modules")); err != nil {
		return dir, err
	}
	if _, err := command(ctx, dir, filepath.Join(packages, ".bin", "tsc")); err != nil {
		return dir, err
	}
	// Ends with an error when cdk-nag has one.
	if out, err := command(ctx, dir, filepath.Join(packages, ".bin", "cdk"), "synth", "--quiet", "--no-lookups"); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, nil
}

// install is the folder of the packages that the lock file in a folder names. It is made at once,
// as others may make the same.
func install(ctx context.Context, dir, kept string) (string, error) {
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return "", err
	}
	done := filepath.Join(kept, fmt.Sprintf("%x", sha256.Sum256(lock))[:16])
	packages := filepath.Join(done, "node_modules")
	if _, err := os.Stat(done); !errors.Is(err, fs.ErrNotExist) {
		return packages, err
	}
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return "", err
	}
	partial, err := os.MkdirTemp(kept, "partial-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(partial)
	for _, name := range []string{"package.json", "package-lock.json", ".npmrc"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(partial, name), text, 0o600); err != nil {
			return "", err
		}
	}
	if _, err := command(ctx, partial, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"); err != nil {
		return "", fmt.Errorf("the packages of %s: %w", cdkFolder, err)
	}
	if err := os.Rename(partial, done); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return packages, nil
}

// template is what the stack is in CloudFormation.
func template(t *testing.T) cloudFormation {
	t.Helper()
	file := filepath.Join(cdk(t), "cdk.out", stackName+".template.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c cloudFormation
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestCDK runs the stack's own tests. That it compiles, and is synthesised without a finding of
// cdk-nag that nobody explained, is shown by having it.
func TestCDK(t *testing.T) {
	dir := cdk(t)
	tests, err := filepath.Glob(filepath.Join(dir, "dist", "test", "*.test.js"))
	if err != nil || len(tests) == 0 {
		t.Fatalf("there are no tests: %v", err)
	}
	out, err := command(t.Context(), dir, "node", append([]string{"--test", "--test-reporter=tap"}, tests...)...)
	if err != nil {
		t.Fatal(err)
	}
	if passed := regexp.MustCompile(`(?m)^# pass (\d+)$`).FindStringSubmatch(out); len(passed) < 2 || passed[1] == "0" {
		t.Errorf("no test passed:\n%s", out)
	}
}

// TestCDKExplains shows which rules of cdk-nag are not followed somewhere, and that each time a
// sentence says why.
func TestCDKExplains(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(cdk(t), "cdk.out", stackName+".metadata.json"))
	if err != nil {
		t.Fatal(err)
	}
	var metadata map[string][]struct {
		Type string
		Data json.RawMessage
	}
	if err := json.Unmarshal(text, &metadata); err != nil {
		t.Fatal(err)
	}
	rules := map[string]bool{}
	for construct, entries := range metadata {
		for _, entry := range entries {
			if entry.Type != "aws:cdk:acknowledged-rules" {
				continue
			}
			for finding, reason := range decode[map[string]string](t, construct, string(entry.Data)) {
				rule, _, _ := strings.Cut(strings.TrimPrefix(finding, "Annotation::"), "[")
				rules[rule] = true
				if len(reason) < 30 || !strings.HasSuffix(reason, ".") {
					t.Errorf("%s does not follow %s, and says of it: %s", construct, finding, reason)
				}
			}
		}
	}
	want := []string{"AwsSolutions-EKS1", "AwsSolutions-IAM4", "AwsSolutions-IAM5", "AwsSolutions-SQS3", "AwsSolutions-VPC7"}
	if got := slices.Sorted(maps.Keys(rules)); !slices.Equal(got, want) {
		t.Errorf("not followed are %v, want %v", got, want)
	}
}

// TestCDKNag shows that what nobody explains is found.
func TestCDKNag(t *testing.T) {
	from, dir := cdk(t), t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "dist"), os.DirFS(filepath.Join(from, "dist"))); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cdk.json"), repo.Text(t, cdkFolder+"/cdk.json"))
	packages := filepath.Join(from, "node_modules")
	if err := os.Symlink(packages, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	const rule = "AwsSolutions-VPC7"
	compiled := filepath.Join(dir, "dist", "lib", "network.js")
	text, err := os.ReadFile(compiled)
	if err != nil || !strings.Contains(string(text), rule) {
		t.Fatalf("%s is not in network.js: %v", rule, err)
	}
	write(t, compiled, strings.ReplaceAll(string(text), rule, "AwsSolutions-VPC3"))
	out, err := command(t.Context(), dir, filepath.Join(packages, ".bin", "cdk"), "synth", "--quiet", "--no-lookups")
	if err == nil || !strings.Contains(err.Error()+out, rule) {
		t.Errorf("without a reason %s is not found: %v", rule, err)
	}
}

// TestCDKLock shows that the packages are exact, checked by sums, and of no registry by name.
func TestCDKLock(t *testing.T) {
	manifest := decode[struct {
		Name, Version, License, Description string
		Private                             bool
		Engines, Scripts                    map[string]string
		Dependencies, DevDependencies       map[string]string
	}](t, "package.json", repo.Text(t, cdkFolder+"/package.json"))
	for _, list := range []map[string]string{manifest.Dependencies, manifest.DevDependencies} {
		for name, version := range list {
			if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(version) {
				t.Errorf("%s is of the version %s, and has to be exact", name, version)
			}
		}
	}
	var lock struct {
		Packages map[string]struct {
			Version, Resolved, Integrity string
			InBundle                     bool
		}
	}
	if err := json.Unmarshal([]byte(repo.Text(t, cdkFolder+"/package-lock.json")), &lock); err != nil {
		t.Fatal(err)
	}
	for name, p := range lock.Packages {
		if p.Resolved != "" {
			t.Errorf("%s is of %s: see .npmrc", name, p.Resolved)
		}
		if name != "" && !p.InBundle && p.Integrity == "" {
			t.Errorf("%s has no sum", name)
		}
	}
	for name, version := range maps.All(manifest.Dependencies) {
		if got := lock.Packages["node_modules/"+name].Version; got != version {
			t.Errorf("%s is %s, and locked as %s", name, version, got)
		}
	}
	ignored := strings.Fields(repo.Text(t, cdkFolder+"/.gitignore"))
	if want := []string{"/cdk.out/", "/dist/", "/node_modules/"}; !slices.Equal(sorted(ignored), want) {
		t.Errorf("git ignores %v, want %v", ignored, want)
	}
}

// TestCDKIdentities shows that pods may do the same in the cluster of CDK as in that of eksctl.
func TestCDKIdentities(t *testing.T) {
	c := template(t)
	want := demo()
	want["kube-system/cluster-autoscaler"] = map[string][]string{}
	for resource, actions := range autoscaler(stackName) {
		resource = strings.NewReplacer("arn:aws:", "arn:${AWS::Partition}:", region, "${AWS::Region}", account, "${AWS::AccountId}").Replace(resource)
		want["kube-system/cluster-autoscaler"][resource] = actions
	}
	got := map[string]map[string][]string{}
	for _, association := range c.of("AWS::EKS::PodIdentityAssociation") {
		name := fmt.Sprintf("%v/%v", association["Namespace"], association["ServiceAccount"])
		if name == controller {
			continue // Its project's policy, which is long.
		}
		role := at(t, association, "RoleArn", "Fn::GetAtt", 0)
		text := say(t, at(t, c.Resources[role.(string)].Properties, "Policies", 0, "PolicyDocument"))
		got[name] = decode[policy](t, name, text).says(t, func(r any) string { return c.name(t, r) })
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pods may do other than is wanted (-want +got):\n%s", diff)
	}
}

// TestCDKIsAsEksctl shows that the cluster of CDK is that of eksctl/hpa.yaml.
func TestCDKIsAsEksctl(t *testing.T) {
	c, e := template(t), configs(t)["hpa"]
	cluster := c.of("AWS::EKS::Cluster")[0]
	if cluster["Name"] != e.Metadata.Name || cluster["Version"] != e.Metadata.Version {
		t.Errorf("it is %v of %v, and eksctl's is %v", cluster["Name"], cluster["Version"], e.Metadata)
	}
	addons, wantAddons := map[string]any{}, map[string]any{}
	for _, a := range c.of("AWS::EKS::Addon") {
		addons[a["AddonName"].(string)] = configuration(t, a["ConfigurationValues"])
	}
	for _, a := range e.Addons {
		wantAddons[a.Name] = configuration(t, a.ConfigurationValues)
	}
	if diff := cmp.Diff(wantAddons, addons); diff != "" {
		t.Errorf("it has other add-ons than eksctl's (-eksctl +cdk):\n%s", diff)
	}
	group, want := c.of("AWS::EKS::Nodegroup")[0], e.ManagedNodeGroups[0]
	got := fmt.Sprintf("%v %v %v", group["InstanceTypes"], group["ScalingConfig"], group["Labels"])
	if w := fmt.Sprintf("[%s] map[DesiredSize:%d MaxSize:%d MinSize:%d] %v", want.InstanceType, want.DesiredCapacity, want.MaxSize, want.MinSize, want.Labels); got != w {
		t.Errorf("its nodes are %s, and eksctl's are %s", got, w)
	}
	tags := fmt.Sprint(c.of("AWS::EC2::VPC")[0]["Tags"])
	if !strings.Contains(tags, "Key:tidegauge.dev/cluster Value:"+e.Metadata.Tags["tidegauge.dev/cluster"]) {
		t.Errorf("what it makes has the tags %s", tags)
	}
}

// configuration is what an add-on is told, which is JSON in a text, and may be nothing.
func configuration(t *testing.T, text any) map[string]any {
	t.Helper()
	if text == nil || text == "" {
		return nil
	}
	return decode[map[string]any](t, "configuration", text.(string))
}
