// Package cloud plays AWS, and the programs that talk to it, towards the commands of
// docs/eks.md: what is there are files of a folder. A call that the real program would refuse is
// an error, and so is one that needs what is not there.
package cloud

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	// Variable names the folder in which the played programs keep what there is in AWS.
	Variable = "TIDEGAUGE_TEST_CLOUD"
	// Region is the one whose clusters and stacks there are.
	Region = "us-east-1"
	// ByUser is a file of the folder: whoever runs the commands is a user then, and no session of
	// a role, whose path is not in the session's name.
	ByUser = "by-user"

	account = "444455556666"
	network = "198.51.100.7"
	session = "arn:aws:sts::" + account + ":assumed-role/AWSReservedSSO_admin_0123456789abcdef/ada"
	roleARN = "arn:aws:iam::" + account + ":role/aws-reserved/sso.amazonaws.com/eu-central-1/AWSReservedSSO_admin_0123456789abcdef"
	user    = "arn:aws:iam::" + account + ":user/ada"
)

// Programs are what the page calls and what is not here.
var Programs = []string{"aws", "eksctl", "npm", "npx", "docker", "curl", "helm-of-others"}

// Play is a program under one of the names of Programs, which keeps what there is in AWS in the
// folder that Variable names. It returns the exit code.
func Play(args []string) int {
	name := filepath.Base(args[0])
	c := Cloud{Dir: os.Getenv(Variable), in: os.Stdin, out: os.Stdout}
	if err := c.run(name, args[1:]); err != nil {
		c.complain(fmt.Errorf("%s %s: %w", name, strings.Join(args[1:], " "), err))
		return 1
	}
	return 0
}

// command is one of a program's, with the flags of it that the pages and delete.sh have use for.
type command struct {
	// words come before the flags. Words behind them, such as file names, are counted by extra.
	words    string
	required []string
	optional []string
	switches []string // flags without a value
	extra    int
	do       func(*Cloud, call) error
}

// call is a command with the values of its flags, and the words that are no flags.
type call struct {
	flags map[string][]string
	words []string
}

func (c call) flag(name string) string { return strings.Join(c.flags[name], " ") }

var (
	errUsage = errors.New("the program has no such command or flag, or wants another one")
	errThere = errors.New("it is not there")
	errHeld  = errors.New("something else holds on to it")
)

// commands are those of the AWS CLI (botocore's model of each service says which flags a call
// has and needs), of eksctl, cdk, npm, docker, and of Helm for charts that are not here.
func commands() map[string][]command {
	output := []string{"--query", "--output", "--region"}
	get := func(words, says string, required ...string) command {
		return command{words: words, required: required, optional: output, do: func(c *Cloud, _ call) error { return c.say(says) }}
	}
	stack := func(words string, do func(*Cloud, call) error) command {
		return command{words: words, required: []string{"--stack-name"}, optional: output, do: do}
	}
	return map[string][]command{
		"aws": {
			{words: "sts get-caller-identity", optional: output, do: (*Cloud).caller},
			{words: "iam get-role", required: []string{"--role-name"}, optional: output, do: (*Cloud).role},
			get("configure get region", Region),
			{words: "cloudformation deploy", required: []string{"--stack-name", "--template-file"}, optional: []string{"--parameter-overrides", "--capabilities", "--region"}, do: (*Cloud).deploy},
			stack("cloudformation describe-stacks", (*Cloud).describeStack),
			stack("cloudformation delete-stack", (*Cloud).deleteStack),
			stack("cloudformation wait stack-delete-complete", func(*Cloud, call) error { return nil }),
			{words: "cloudformation list-stacks", optional: append([]string{"--stack-status-filter"}, output...), do: func(c *Cloud, _ call) error { return c.list("stack") }},
			{words: "eks list-clusters", optional: output, do: func(c *Cloud, _ call) error { return c.list("cluster") }},
			{words: "eks describe-cluster", required: []string{"--name"}, optional: output, do: (*Cloud).describeCluster},
			{words: "eks update-kubeconfig", required: []string{"--name"}, optional: []string{"--kubeconfig", "--region", "--role-arn", "--alias"}, do: (*Cloud).kubeconfig},
			get("ec2 describe-subnets", "subnet-1\tsubnet-2\tsubnet-3", "--filters"),
			{words: "ecr describe-repositories", optional: append([]string{"--repository-names"}, output...), do: (*Cloud).repository},
			get("ecr get-login-password", "password"),
			get("ecr describe-images", "", "--repository-name"),
			get("sqs list-queues", "", "--queue-name-prefix"),
			get("resourcegroupstaggingapi get-resources", "", "--tag-filters"),
			{words: "logs delete-log-group", required: []string{"--log-group-name"}, optional: output, do: (*Cloud).deleteLogs},
		},
		"eksctl": {
			{words: "create cluster", required: []string{"-f"}, do: (*Cloud).createCluster},
			{words: "create nodegroup", required: []string{"-f"}, do: (*Cloud).createNodes},
			{words: "delete cluster", required: []string{"--name"}, optional: []string{"--region"}, switches: []string{"--wait", "--disable-nodegroup-eviction"}, do: (*Cloud).deleteCluster},
			{words: "delete nodegroup", required: []string{"--cluster", "--name"}, optional: []string{"--region"}, switches: []string{"--wait", "--disable-eviction"}, do: (*Cloud).deleteNodes},
		},
		"npm": {
			{words: "ci", switches: []string{"--silent"}, do: func(c *Cloud, _ call) error { return c.Put("npm/packages") }},
			{words: "run", switches: []string{"--silent"}, extra: 1, do: func(c *Cloud, _ call) error { return c.needs("npm/packages") }},
		},
		"npx": {
			{words: "cdk bootstrap", do: func(c *Cloud, _ call) error { return c.Put("bootstrapped") }},
			{words: "cdk deploy", required: []string{"--parameters"}, do: (*Cloud).deployCDK},
			{words: "cdk destroy", required: []string{"--context"}, switches: []string{"--force"}, extra: 1, do: (*Cloud).destroyCDK},
		},
		"docker": {
			{words: "build", required: []string{"--platform", "--tag"}, extra: 1, do: (*Cloud).buildImage},
			{words: "login", required: []string{"--username"}, switches: []string{"--password-stdin"}, extra: 1, do: (*Cloud).login},
			{words: "push", extra: 1, do: (*Cloud).push},
		},
		"curl":           {{switches: []string{"-sS", "-fsS"}, extra: 1, do: (*Cloud).curl}},
		"helm-of-others": {{words: "install", required: []string{"--version", "--namespace", "-f"}, switches: []string{"--create-namespace", "--wait"}, extra: 2, do: (*Cloud).chart}},
	}
}

// find is the command that arguments are of, read.
func find(program string, args []string) (command, call, error) {
	var words []string
	for len(words) < len(args) && !strings.HasPrefix(args[len(words)], "-") {
		words = args[:len(words)+1]
	}
	said := strings.Join(words, " ") + " "
	for _, c := range commands()[program] {
		if c.words != "" && !strings.HasPrefix(said, c.words+" ") {
			continue
		}
		read, err := c.read(args[len(strings.Fields(c.words)):])
		return c, read, err
	}
	return command{}, call{}, fmt.Errorf("%q: %w", said, errUsage)
}

// read takes flags and words apart. A flag of the AWS CLI may have several values.
func (c command) read(args []string) (call, error) {
	read := call{flags: map[string][]string{}}
	for i := 0; i < len(args); i++ {
		arg := args[i]
		switch {
		case slices.Contains(c.switches, arg):
			read.flags[arg] = nil
		case slices.Contains(c.required, arg), slices.Contains(c.optional, arg):
			first := i + 1
			for i+1 < len(args) && (i+1 == first || c.extra == 0) && !strings.HasPrefix(args[i+1], "--") {
				i++
				read.flags[arg] = append(read.flags[arg], args[i])
			}
			if i < first {
				return read, fmt.Errorf("%s has no value: %w", arg, errUsage)
			}
		case strings.HasPrefix(arg, "-"):
			return read, fmt.Errorf("%s: %w", arg, errUsage)
		default:
			read.words = append(read.words, arg)
		}
	}
	for _, flag := range c.required {
		if read.flags[flag] == nil {
			return read, fmt.Errorf("%s is missing: %w", flag, errUsage)
		}
	}
	if len(read.words) != c.extra {
		return read, fmt.Errorf("%q: %w", read.words, errUsage)
	}
	return read, nil
}

// Cloud is an account of AWS and what is around it, as files of a folder: each is something that
// is there, named by its kind and name.
type Cloud struct {
	Dir string
	in  io.Reader
	out io.Writer
}

func (c *Cloud) run(name string, args []string) error {
	command, read, err := find(name, args)
	if err != nil {
		return err
	}
	return command.do(c, read)
}

// complain remembers what a program was told that it cannot do: delete.sh takes some for an answer.
func (c *Cloud) complain(err error) {
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, errThere) {
		return
	}
	f, openErr := os.OpenFile(filepath.Join(c.Dir, "faults"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if openErr != nil {
		fmt.Fprintln(os.Stderr, openErr)
		return
	}
	defer f.Close()
	fmt.Fprintln(f, err)
}

func (c *Cloud) say(text string) error {
	_, err := fmt.Fprintln(c.out, text)
	return err
}

// Path is the file of something, by its kind and name: "stack/tidegauge-orders".
func (c *Cloud) Path(name string) string { return filepath.Join(c.Dir, filepath.FromSlash(name)) }

// Has says whether something is there.
func (c *Cloud) Has(name string) bool {
	_, err := os.Stat(c.Path(name))
	return err == nil
}

func (c *Cloud) needs(name string) error {
	if !c.Has(name) {
		return fmt.Errorf("%s: %w", name, errThere)
	}
	return nil
}

// Put has something be there.
func (c *Cloud) Put(name string) error {
	if err := os.MkdirAll(filepath.Dir(c.Path(name)), 0o700); err != nil {
		return err
	}
	return os.WriteFile(c.Path(name), nil, 0o600)
}

// Remove has things not be there.
func (c *Cloud) Remove(names ...string) error {
	for _, name := range names {
		if err := os.Remove(c.Path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// list prints the names of a kind.
func (c *Cloud) list(kind string) error {
	entries, err := os.ReadDir(c.Path(kind))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := c.say(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cloud) deploy(a call) error {
	if _, err := os.Stat(a.flag("--template-file")); err != nil {
		return err
	}
	if file := filepath.Base(a.flag("--template-file")); file == "elb.yaml" && a.flag("--parameter-overrides") != "VpcId=vpc-1 PublicSubnets=subnet-1,subnet-2,subnet-3 CertificateArn=" {
		return fmt.Errorf("elb.yaml gets %s: %w", a.flag("--parameter-overrides"), errUsage)
	}
	return c.Put("stack/" + a.flag("--stack-name"))
}

var outputKey = regexp.MustCompile(`OutputKey=='(\w+)'`)

func (c *Cloud) describeStack(a call) error {
	if name := a.flag("--stack-name"); !c.Has("stack/" + name) {
		return awsError("ValidationError", "DescribeStacks", "Stack with id "+name+" does not exist")
	}
	if key := outputKey.FindStringSubmatch(a.flag("--query")); key != nil {
		return c.say("output-" + key[1])
	}
	return nil
}

func (c *Cloud) deleteStack(a call) error {
	name := a.flag("--stack-name")
	if strings.HasSuffix(name, "-elb") && c.Has("nodes/"+strings.TrimSuffix(name, "-elb")) {
		return fmt.Errorf("%s: nodes: %w", name, errHeld)
	}
	return c.Remove("stack/" + name)
}

// awsError is how the AWS CLI tells of what is not there.
func awsError(code, operation, says string) error {
	return fmt.Errorf("An error occurred (%s) when calling the %s operation: %s: %w", code, operation, says, errThere)
}

func (c *Cloud) describeCluster(a call) error {
	if name := a.flag("--name"); !c.Has("cluster/" + name) {
		return awsError("ResourceNotFoundException", "DescribeCluster", "No cluster found for name: "+name+".")
	}
	return c.say("vpc-1")
}

// kubeconfig leads to the cluster of the test, if there is one.
func (c *Cloud) kubeconfig(a call) error {
	if err := c.needs("cluster/" + a.flag("--name")); err != nil {
		return err
	}
	text, err := os.ReadFile(os.Getenv("KUBECONFIG")) //nolint:gosec // G703: the test names it.
	if file := a.flag("--kubeconfig"); file != "" && err == nil {
		return os.WriteFile(file, text, 0o600) //nolint:gosec // G703: it is the page's command.
	}
	return nil
}

func (c *Cloud) repository(a call) error {
	if !c.Has("stack/tidegauge-orders") && !c.Has("cdk") {
		return fmt.Errorf("repository %s: %w", a.flag("--repository-names"), errThere)
	}
	return c.say(account + ".dkr.ecr." + os.Getenv("AWS_REGION") + ".amazonaws.com/orders")
}

// config is a file of eksctl's, in which nothing of the examples is to be left.
func (c *Cloud) config(a call) (name string, err error) {
	if a.flag("-f") != "-" {
		return "", fmt.Errorf("-f %s: %w", a.flag("-f"), errUsage)
	}
	text, err := io.ReadAll(c.in)
	if err != nil {
		return "", err
	}
	var config struct {
		Metadata     struct{ Name, Region string }
		AccessConfig map[string]any
		Addons       []any
		IAM          map[string]any
		VPC          struct{ PublicAccessCIDRs []string }
		NodeGroups   []struct{ TargetGroupARNs []string }
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		return "", err
	}
	plain := regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(string(text), "")
	switch {
	case config.Metadata.Region != os.Getenv("AWS_REGION"), strings.Contains(plain, "111122223333"):
		return "", fmt.Errorf("an example is left in %s", config.Metadata.Name)
	case len(config.NodeGroups) > 0:
		if config.NodeGroups[0].TargetGroupARNs[0] != "output-TargetGroup" {
			return "", fmt.Errorf("the nodes are behind %v", config.NodeGroups[0].TargetGroupARNs)
		}
	case !slices.Equal(config.VPC.PublicAccessCIDRs, []string{network + "/32"}), len(config.Addons) < 5, len(config.IAM) == 0:
		return "", fmt.Errorf("%s is not whole", config.Metadata.Name)
	case config.AccessConfig["authenticationMode"] != "API", config.AccessConfig["bootstrapClusterCreatorAdminPermissions"] != true, config.AccessConfig["accessEntries"] != nil:
		return "", fmt.Errorf("in an empty account nobody could use %v", config.AccessConfig)
	}
	return config.Metadata.Name, nil
}

func (c *Cloud) createCluster(a call) error {
	name, err := c.config(a)
	if err != nil {
		return err
	}
	return errors.Join(c.Put("cluster/"+name), c.Put("stack/eksctl-"+name+"-cluster"), c.Put("logs/"+name))
}

func (c *Cloud) createNodes(a call) error {
	name, err := c.config(a)
	if err != nil {
		return err
	}
	return errors.Join(c.needs("cluster/"+name), c.needs("stack/"+name+"-elb"), c.Put("nodes/"+name), c.Put(nodesStack(name)))
}

// nodesStack is eksctl's own of the nodes that eksctl/review-nodes.yaml names.
func nodesStack(cluster string) string { return "stack/eksctl-" + cluster + "-nodegroup-review" }

// deleteNodes fails when there are none, as eksctl does.
func (c *Cloud) deleteNodes(a call) error {
	name := a.flag("--cluster")
	if err := c.needs("nodes/" + name); err != nil {
		return err
	}
	return c.Remove("nodes/"+name, nodesStack(name))
}

func (c *Cloud) deleteCluster(a call) error {
	name := a.flag("--name")
	if c.Has("stack/"+name+"-elb") || c.Has("cdk") {
		return fmt.Errorf("%s: %w", name, errHeld)
	}
	return c.Remove("cluster/"+name, "stack/eksctl-"+name+"-cluster")
}

// deleteLogs deletes those of a cluster's control plane, which are no part of eksctl's stack.
func (c *Cloud) deleteLogs(a call) error {
	name := strings.TrimSuffix(strings.TrimPrefix(a.flag("--log-group-name"), "/aws/eks/"), "/cluster")
	if !c.Has("logs/" + name) {
		return awsError("ResourceNotFoundException", "DeleteLogGroup", "The specified log group does not exist.")
	}
	return c.Remove("logs/" + name)
}

// caller says as whom AWS sees who asks.
func (c *Cloud) caller(a call) error {
	switch {
	case a.flag("--query") == "Account":
		return c.say(account)
	case a.flag("--query") != "Arn":
		return fmt.Errorf("--query %s: %w", a.flag("--query"), errUsage)
	case c.Has(ByUser):
		return c.say(user)
	}
	return c.say(session)
}

// role has no role but the one behind the session: the account was empty.
func (c *Cloud) role(a call) error {
	if !strings.HasSuffix(roleARN, "/"+a.flag("--role-name")) {
		return fmt.Errorf("role %s: %w", a.flag("--role-name"), errThere)
	}
	return c.say(roleARN)
}

// deployCDK needs an administrator that there is: an access entry of another is refused.
func (c *Cloud) deployCDK(a call) error {
	admin := roleARN
	if c.Has(ByUser) {
		admin = user
	}
	want := []string{"Admin=" + admin, "Allow=" + network + "/32"}
	if got := a.flags["--parameters"]; !slices.Equal(got, want) {
		return fmt.Errorf("the parameters are %v, want %v", got, want)
	}
	err := errors.Join(c.needs("npm/packages"), c.needs("bootstrapped"))
	if err != nil {
		return err
	}
	return errors.Join(c.Put("cdk"), c.Put("cluster/tidegauge-hpa"), c.Put("stack/tidegauge-hpa"))
}

func (c *Cloud) destroyCDK(a call) error {
	return c.Remove("cdk", "cluster/"+a.words[0], "stack/"+a.words[0])
}

// buildImage looks at what goes into the image: one program for Linux, and how it is called.
func (c *Cloud) buildImage(a call) error {
	dockerfile, err := os.ReadFile(filepath.Join(a.words[0], "Dockerfile"))
	if err != nil {
		return err
	}
	if want := "FROM scratch\nCOPY orders /orders\nUSER 65532:65532\nENTRYPOINT [\"/orders\"]\n"; string(dockerfile) != want {
		return fmt.Errorf("the Dockerfile is %q", dockerfile)
	}
	program := filepath.Join(a.words[0], "orders")
	text, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(text, []byte("\x7fELF")) || a.flag("--platform") != "linux/amd64" {
		return fmt.Errorf("%s is no program of %s", program, a.flag("--platform"))
	}
	return c.Put("image/" + filepath.Base(a.flag("--tag")))
}

func (c *Cloud) login(a call) error {
	password, err := io.ReadAll(c.in)
	if err != nil {
		return err
	}
	if string(password) != "password\n" || strings.Contains(a.words[0], "/") {
		return fmt.Errorf("a login at %s by %q", a.words[0], password)
	}
	return c.Put("login/" + a.words[0])
}

func (c *Cloud) push(a call) error {
	host, name, _ := strings.Cut(a.words[0], "/")
	return errors.Join(c.needs("login/"+host), c.needs("image/"+name))
}

func (c *Cloud) curl(a call) error {
	switch a.words[0] {
	case "https://checkip.amazonaws.com":
		return c.say(network)
	case "http://output-DnsName/healthz":
		return nil
	}
	return fmt.Errorf("%s: %w", a.words[0], errThere)
}

// chart is Prometheus': the version and the values are to be those of deploy/gitops.
func (c *Cloud) chart(a call) error {
	text, err := os.ReadFile("deploy/gitops/prometheus/release.yaml")
	if err != nil {
		return err
	}
	objects, err := env.ParseObjects(text)
	if err != nil {
		return err
	}
	given, err := os.ReadFile(a.flag("-f"))
	if err != nil {
		return err
	}
	var values map[string]any
	if err := yaml.UnmarshalStrict(given, &values); err != nil {
		return err
	}
	source, release := spec(objects[0].Object), spec(objects[1].Object)
	// As ParseObjects reads numbers in another way.
	want, err := yaml.Marshal(release["values"])
	if err != nil {
		return err
	}
	var wanted map[string]any
	if err := yaml.Unmarshal(want, &wanted); err != nil {
		return err
	}
	switch ref, ok := source["ref"].(map[string]any); {
	case !ok, a.words[0] != release["releaseName"], a.words[1] != source["url"], a.flag("--version") != ref["tag"], a.flag("--namespace") != objects[1].GetNamespace():
		return fmt.Errorf("it is %q, version %s, in %s; Flux has %v", a.words, a.flag("--version"), a.flag("--namespace"), source)
	case !reflect.DeepEqual(values, wanted):
		return fmt.Errorf("the values are %v, want %v", values, wanted)
	}
	return nil
}

func spec(object map[string]any) map[string]any {
	s, ok := object["spec"].(map[string]any)
	if !ok {
		return nil
	}
	return s
}
