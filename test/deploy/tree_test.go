package deploy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/repo"
)

// checked says which tests look at the files of deploy that its pattern matches. In a pattern *
// is any part of a name, and ** any folders too.
type checked struct {
	pattern string
	checks  []string // folder and test, or a command of the Makefile
}

// tree has a row for every file of deploy. A file of several rows gets the checks of all.
// Besides, TestTreeParses and TestTreeIsClean look at every one.
var tree = []checked{
	// What is installed.
	{"base/*.yaml", []string{everyVersion, "test/chart TestRights", "test/e2e TestHPAFollowsQueueDepth"}},
	{"crds/*.yaml", []string{everyVersion, "make verify", "test/crd TestGoodManifests", "test/crd TestBadManifests"}},
	{"policies/*.yaml", []string{everyVersion, "make verify", "test/crd TestPolicyWarnsOfUpdatesToo"}},
	{"resource-metrics/*.yaml", []string{everyVersion, "test/deploy TestExamplesGetNumbers"}},
	{"install.yaml", []string{everyVersion, "test/deploy TestGenerated", "test/deploy TestInstall"}},
	{"kustomize/**", []string{everyVersion, "test/deploy TestBase", "test/deploy TestComponents", "test/deploy TestKustomizeApplies"}},
	{"iam/*.json", []string{"test/deploy TestPermissions", "test/deploy TestTrust"}},
	{"iam/README.md", []string{"test/deploy TestReadmeOfIAM", everyLink}},

	// Examples of HPAs.
	{"hpa/*.yaml", []string{everyVersion, "test/deploy TestExamplesAreComplete", "test/deploy TestExamplesApply", "test/deploy TestExamplesGetNumbers", "test/deploy TestReferences"}},
	{"hpa/helm/*.yaml", []string{"test/deploy TestExamplesAreComplete", "test/deploy TestExamplesGetNumbers"}},
	{"hpa/README.md", []string{everyLink}},

	// The demo.
	{"demo/base/*.yaml", orderFiles},
	{"demo/components/**", orderFiles},
	{"demo/overlays/**", orderFiles},
	{"demo/queue/*.yaml", []string{everyVersion, "test/demo TestManifests", "test/demo TestStory"}},
	{"demo/requests/*.yaml", []string{everyVersion}},
	{"demo/prometheus/*.yaml", []string{"test/env TestPrometheusConfig", "test/gitops TestFluxPrometheus"}},
	{"demo/orders/**.go", []string{"make test", "make lint"}},
	{"demo/orders/**.html", []string{"make test"}},
	{"demo/orders/go.*", []string{"make build"}},
	{"demo/orders/local.sh", []string{"test/orders TestLocal"}},
	{"demo/orders/README.md", []string{everyLink, "deploy/demo/orders TestReadme"}},
	{"demo/orders/.gitignore", nil},

	// What watches.
	{"monitoring/dashboard.json", []string{"test/monitoring TestDashboardIsWellFormed", "test/monitoring TestDashboardAsksWhatIsThere"}},
	{"monitoring/orders-dashboard.json", []string{"test/gitops TestGrafanaDashboardIsWellFormed", "test/gitops TestGrafanaDashboardAsksWhatIsThere"}},
	{"monitoring/cloudwatch-dashboard.json", []string{"test/gitops TestCloudWatchDashboardIsWellFormed", "test/gitops TestCloudWatchDashboardAsksWhatIsThere"}},
	{"monitoring/rules.yaml", []string{"test/monitoring TestAlerts", "test/monitoring TestAlertsAskWhatIsThere"}},
	{"monitoring/*.yaml", []string{everyVersion, "test/monitoring TestKustomization", "test/monitoring TestScrapeConfigurations"}},

	// Ways in, review apps, GitOps.
	{"ingress/*.yaml", []string{everyVersion, "test/waysin TestManifestsApply", "test/waysin TestManifestsAgree"}},
	{"review-app/review-app", []string{"test/reviewapp TestLife", "test/reviewapp TestOnlyItsOwn", "test/reviewapp TestRefuses"}},
	{"review-app/app/*.yaml", []string{"test/reviewapp TestLife", "test/reviewapp TestTemplate"}},
	{"review-app/gateway/*.yaml", []string{everyVersion, "test/reviewapp TestLife", "test/reviewapp TestOnlyItsOwn"}},
	{"review-app/gateway-node-port/*.yaml", []string{everyVersion, "test/reviewapp TestNodePortGateway", "test/reviewapp TestNodePortGatewayApplies"}},
	{"review-app/workflow.yaml", []string{"test/reviewapp TestWorkflow"}},
	{"review-app/README.md", []string{everyLink, "test/reviewapp TestReadme"}},
	{"gitops/**.yaml", []string{everyVersion, "test/gitops TestFluxApply", "test/gitops TestFluxParts", "test/gitops TestFluxReleases"}},

	// Clusters have a table of their own.
	{"cluster/**", []string{"test/cluster TestEveryFileIsChecked"}},
}

const (
	everyVersion = "test/deploy TestEveryVersion"
	everyLink    = "test/docs TestEveryLink"
)

var orderFiles = []string{everyVersion, "test/deploy TestOrdersVersions", "test/deploy TestOrdersAgree", "test/deploy TestOrdersApply", "test/deploy TestReferences"}

// matches says whether a row is for a file.
func (r checked) matches(file string) bool {
	pattern := regexp.QuoteMeta(r.pattern)
	pattern = strings.NewReplacer(`\*\*`, `.*`, `\*`, `[^/]*`).Replace(pattern)
	return regexp.MustCompile("^" + pattern + "$").MatchString(file)
}

// treeFiles are those of deploy, but for what npm and cdk make.
func treeFiles(t *testing.T) []string {
	t.Helper()
	root := repo.Path(t, "deploy")
	var files []string
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains([]string{"node_modules", "cdk.out", "dist"}, d.Name()) {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		name, err := filepath.Rel(root, file)
		files = append(files, filepath.ToSlash(name))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestTree fails for a file that no test is named for, and for a test that is not there. With
// -v it says which tests each file gets.
func TestTree(t *testing.T) {
	files := treeFiles(t)
	used := map[string]bool{}
	for _, file := range files {
		var checks []string
		found := false
		for _, r := range tree {
			if r.matches(file) {
				found, used[r.pattern] = true, true
				checks = append(checks, r.checks...)
			}
		}
		if !found {
			t.Errorf("deploy/%s: nothing looks at it: write a test, and a row for it in test/deploy/tree_test.go", file)
		}
		t.Logf("deploy/%s: %s", file, strings.Join(checks, ", "))
	}
	for _, r := range tree {
		if !used[r.pattern] {
			if r.pattern != "cluster/**" {
				t.Errorf("%s: there is no such file", r.pattern)
			}
			continue
		}
		for _, check := range r.checks {
			if err := isThere(t, check); err != nil {
				t.Errorf("%s: %v", r.pattern, err)
			}
		}
	}
}

// isThere looks for a test in the files of its folder, or for a command in the Makefile.
func isThere(t *testing.T, check string) error {
	t.Helper()
	folder, name, _ := strings.Cut(check, " ")
	files, text := []string{repo.Path(t, "Makefile")}, "\n"+name+":"
	if folder != "make" {
		var err error
		if files, err = filepath.Glob(filepath.Join(repo.Path(t, folder), "*_test.go")); err != nil {
			return err
		}
		text = "\nfunc " + name + "(t *testing.T)"
	}
	for _, file := range files {
		source, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if bytes.Contains(source, []byte(text)) {
			return nil
		}
	}
	return fmt.Errorf("there is no %s", check)
}

// TestTreeParses reads every YAML and JSON file strictly: a key that is there twice, or text
// after the end, is an error. Programs of a shell are read by it.
func TestTreeParses(t *testing.T) {
	parsed := 0
	for _, file := range treeFiles(t) {
		text := repo.Text(t, "deploy/"+file)
		var err error
		switch {
		case strings.HasPrefix(file, "cluster/cdk/") && strings.HasSuffix(file, "tsconfig.json"):
			continue // It has comments.
		case filepath.Ext(file) == ".json":
			err = parseJSON(text)
		case file == "cluster/cloudformation" || strings.HasPrefix(file, "cluster/cloudformation/"):
			continue // Its tags, such as !Ref, are CloudFormation's.
		case filepath.Ext(file) == ".yaml":
			err = parseYAML(text)
		case strings.HasPrefix(text, "#!/usr/bin/env bash"):
			err = exec.CommandContext(t.Context(), "bash", "-n", repo.Path(t, "deploy/"+file)).Run()
		default:
			continue
		}
		parsed++
		if err != nil {
			t.Errorf("deploy/%s: %v", file, err)
		}
	}
	if parsed < 60 {
		t.Errorf("only %d files were read", parsed)
	}
}

func parseJSON(text string) error {
	decoder := json.NewDecoder(strings.NewReader(text))
	var value any
	if err := decoder.Decode(&value); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is text after the end")
	}
	// JSON is YAML, whose reader knows keys that are there twice.
	return yaml.UnmarshalStrict([]byte(text), &value)
}

func parseYAML(text string) error {
	for document := range strings.SplitSeq("\n"+text, "\n---\n") {
		var value any
		if err := yaml.UnmarshalStrict([]byte(document), &value); err != nil {
			return err
		}
	}
	return nil
}

// unclean is what no file of deploy has.
var unclean = map[string]*regexp.Regexp{
	"an image of no version":       regexp.MustCompile(`(?m)^\s*-?\s*(image|newTag|tag): .*\blatest\b`),
	"a key of AWS":                 regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{16}\b`),
	"a private key":                regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`),
	"a password":                   regexp.MustCompile(`(?im)^\s*(password|token|secretAccessKey): ["']?[A-Za-z0-9/+]{8,}`),
	"a link to a file that moves":  regexp.MustCompile(`raw\.githubusercontent\.com/[^\s]*/(main|master)/`),
	"an annotation of old Ingress": regexp.MustCompile(`kubernetes\.io/ingress\.class`),
	"a removed API":                regexp.MustCompile(`apiVersion: (extensions/|autoscaling/v2beta|apps/v1beta|policy/v1beta1|karpenter\.sh/v1alpha|karpenter\.sh/v1beta|helm\.fluxcd\.io|(helm|source|kustomize)\.toolkit\.fluxcd\.io/v[12]beta)`),
}

var (
	imageLine = regexp.MustCompile(`(?m)^\s*(?:- )?image: +["']?([^\s"'#]+)`)
	ofVersion = regexp.MustCompile(`:[\w][\w.-]*$|@sha256:[0-9a-f]{64}$`)
)

// unversioned are the images of a file that have neither a tag nor a digest, which is the tag
// latest in other words. A kustomization beside the file may give them one.
func unversioned(text, kustomization string) []string {
	var given struct {
		Images []struct{ Name, NewTag, Digest string }
	}
	if err := yaml.Unmarshal([]byte(kustomization), &given); err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, image := range imageLine.FindAllStringSubmatch(text, -1) {
		name := image[1]
		ok := ofVersion.MatchString(name[strings.LastIndex(name, "/")+1:])
		for _, i := range given.Images {
			ok = ok || i.Name == name && i.NewTag+i.Digest != ""
		}
		if !ok {
			found = append(found, name)
		}
	}
	return found
}

// TestUnversioned shows what an image without a version looks like.
func TestUnversioned(t *testing.T) {
	const gives = "images:\n- name: example.com/web\n  newTag: 1.2.0\n- name: example.com/renamed\n  newName: example.com/other\n"
	for text, want := range map[string]string{
		"image: pause":                                  "pause",
		"      - image: example.com:5000/web":           "example.com:5000/web",
		`        image: "example.com/web"`:              "example.com/web",
		"image: example.com/web:1.2":                    "",
		"image: example.com/web # of the build":         "example.com/web",
		"image: web@sha256:" + strings.Repeat("0a", 32): "",
		"image:\n  tag: 1.2":                            "",
	} {
		if got := strings.Join(unversioned(text, ""), " "); got != want {
			t.Errorf("%s: %q has no version, want %q", text, got, want)
		}
	}
	for text, want := range map[string]string{"image: example.com/web": "", "image: example.com/renamed": "example.com/renamed"} {
		if got := strings.Join(unversioned(text, gives), " "); got != want {
			t.Errorf("%s, with a kustomization: %q has no version, want %q", text, got, want)
		}
	}
}

// kustomizationBeside is the text of the kustomization in a file's folder, if there is one.
func kustomizationBeside(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(repo.Path(t, "deploy/"+file)), "kustomization.yaml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(text)
}

// TestTreeIsClean looks for what was right once, and for what is a secret.
func TestTreeIsClean(t *testing.T) {
	for _, file := range treeFiles(t) {
		text := repo.Text(t, "deploy/"+file)
		if filepath.Ext(file) == ".yaml" {
			for _, image := range unversioned(text, kustomizationBeside(t, file)) {
				t.Errorf("deploy/%s has an image of no version: %s", file, image)
			}
		}
		for what, pattern := range unclean {
			if found := pattern.FindString(text); found != "" {
				t.Errorf("deploy/%s has %s: %s", file, what, strings.TrimSpace(found))
			}
		}
	}
}
