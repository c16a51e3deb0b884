package reviewapp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// noDatabase is an address at which nothing is.
const noDatabase = "postgres://orders:s3cret@127.0.0.1:1/orders?sslmode=disable"

// listed is what list -o json says of one.
type listed struct {
	Number                          int
	Namespace, URL, Status, Created string
}

// TestLife makes two review apps, reaches each under its own names by the one entry point, has
// one scale by its own queue, and removes them in both ways. Afterwards nothing is left.
func TestLife(t *testing.T) {
	b := running(t)
	for _, number := range []string{"101", "102"} {
		out := b.create(t, number)
		if want := "https://web-pr-" + number + ".example.com\n"; !strings.HasSuffix(out, want) {
			t.Errorf("create ends with %q, want %q", out, want)
		}
	}
	b.wantListed(t, 101, 102)
	b.wantQueues(t, "orders-pr-101", "orders-pr-101-dead", "orders-pr-102", "orders-pr-102-dead")
	b.wantOwnPods(t)
	b.wantOwnOrders(t)
	b.wantNames(t)
	b.wantOwnScale(t)

	if out := b.reviewApp(t, "create", "101", "--component", b.component()).well(t); strings.Contains(out, "queue/orders-pr-101 created") {
		t.Errorf("a second create made the queue anew:\n%s", out)
	}
	b.wantBrokenUpdate(t)
	if out := b.reviewApp(t, "delete", "101").well(t); !strings.Contains(out, "queue/orders-pr-101 deleted") {
		t.Errorf("delete says nothing of the queue:\n%s", out)
	}
	b.wantGone(t, "101")
	b.wantListed(t, 102)
	b.wantQueues(t, "orders-pr-102", "orders-pr-102-dead")
	if status, _ := b.get(t, "https://web-pr-102.example.com/healthz"); status != http.StatusOK {
		t.Errorf("the other review app answers %d", status)
	}

	b.setPull(t, "102", "OPEN")
	b.reviewApp(t, "prune").well(t)
	b.wantListed(t, 102)
	b.setPull(t, "102", "MERGED")
	b.reviewApp(t, "prune", "--dry-run").well(t)
	b.wantListed(t, 102)
	b.reviewApp(t, "prune").well(t)
	b.wantGone(t, "102")
	b.wantListed(t)
	b.wantQueues(t)
	b.reviewApp(t, "delete", "102").well(t) // There is nothing to delete, which is no error.
}

// wantBrokenUpdate brings 101 up to date with what never serves, and create says so, while the pod
// from before it answers.
func (b *testbed) wantBrokenUpdate(t *testing.T) {
	t.Helper()
	vars := append(slices.Clone(b.vars), "DATABASE_URL="+noDatabase)
	c := reviewApp(t, vars, "create", "101", "--component", b.component(), "--timeout", "10s")
	if want := "web-pr-101 does not serve"; c.code != 1 || !strings.Contains(c.complaint, want) || strings.Contains(c.out, "https://") {
		t.Errorf("create of a broken update ended with %d, %q and %q, want %q", c.code, c.out, c.complaint, want)
	}
	if status, _ := b.get(t, "https://web-pr-101.example.com/healthz"); status != http.StatusOK {
		t.Errorf("while the update is broken, %d is answered, want 200 of the pod from before it", status)
	}
}

// wantListed checks the JSON of list, and that the table has the same.
func (b *testbed) wantListed(t *testing.T, want ...int) {
	t.Helper()
	var all []listed
	text := b.reviewApp(t, "list", "-o", "json").well(t)
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		t.Fatalf("list -o json: %v in %s", err, text)
	}
	var got []int
	table := b.reviewApp(t, "list").well(t)
	for _, l := range all {
		got = append(got, l.Number)
		if l.Namespace != fmt.Sprintf("web-pr-%d", l.Number) || l.URL != "https://"+l.Namespace+".example.com" || l.Status != "Active" || l.Created == "" {
			t.Errorf("list -o json has %+v", l)
		}
		if !strings.Contains(table, l.URL) {
			t.Errorf("the table lacks %s:\n%s", l.URL, table)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("listed are %v, want %v", got, want)
	}
}

func (b *testbed) sqs() *sqs.Client {
	return sqs.New(sqs.Options{
		Region: b.aws.Region, BaseEndpoint: &b.aws.URL,
		Credentials: credentials.NewStaticCredentialsProvider(b.aws.AccessKeyID, b.aws.SecretAccessKey, ""),
	})
}

func (b *testbed) wantQueues(t *testing.T, want ...string) {
	t.Helper()
	out, err := b.sqs().ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: aws.String("orders-pr-")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, url := range out.QueueUrls {
		got = append(got, url[strings.LastIndexByte(url, '/')+1:])
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the queues are %v, want %v", got, want)
	}
}

// get asks by the entry point.
func (b *testbed) get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	return b.do(t, req)
}

func (b *testbed) do(t *testing.T, req *http.Request) (status int, body string) {
	t.Helper()
	resp, err := b.front.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// wantOwnPods asks each review app which pod answers.
func (b *testbed) wantOwnPods(t *testing.T) {
	t.Helper()
	for _, number := range []string{"101", "102"} {
		host := "echo-pr-" + number + ".example.com"
		status, body := b.get(t, "https://"+host+"/some/path")
		var answer struct {
			Pod, Host string
			Forwarded map[string][]string
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != http.StatusOK {
			t.Fatalf("%s answers %d %s: %v", host, status, body, err)
		}
		if answer.Host != host || !slices.Equal(answer.Forwarded["X-Forwarded-Proto"], []string{"https"}) {
			t.Errorf("the pod was asked as %+v", answer)
		}
		if _, err := b.cluster.Client().CoreV1().Pods("web-pr-"+number).Get(t.Context(), answer.Pod, metav1.GetOptions{}); err != nil {
			t.Errorf("%s is answered by another's pod: %v", host, err)
		}
	}
}

// wantOwnOrders places an order, which only the review app has that took it, and whose
// message comes to a queue of its own. As web and worker have no database in common here, the
// worker gives the message to the dead letters.
func (b *testbed) wantOwnOrders(t *testing.T) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://web-pr-101.example.com/api/orders", strings.NewReader(`{"item":"green tea","quantity":2}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if status, body := b.do(t, req); status != http.StatusCreated {
		t.Fatalf("placing an order is answered %d %s", status, body)
	}
	if _, body := b.get(t, "https://web-pr-101.example.com/api/orders"); !strings.Contains(body, "green tea") {
		t.Errorf("101 has not got its order: %s", body)
	}
	if _, body := b.get(t, "https://web-pr-102.example.com/api/orders"); strings.Contains(body, "green tea") {
		t.Errorf("102 has the order of 101: %s", body)
	}
	eventually(t, "a message in the dead letters of 101", func(ctx context.Context) error { return b.wantMessages(ctx, "orders-pr-101-dead", "1") })
	for _, queue := range []string{"orders-pr-102", "orders-pr-102-dead"} {
		if err := b.wantMessages(t.Context(), queue, "0"); err != nil {
			t.Error(err)
		}
	}
}

func (b *testbed) wantMessages(ctx context.Context, queue, want string) error {
	url, err := b.sqs().GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &queue})
	if err != nil {
		return err
	}
	const visible = "ApproximateNumberOfMessages"
	out, err := b.sqs().GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: url.QueueUrl, AttributeNames: []types.QueueAttributeName{visible}})
	if err == nil && out.Attributes[visible] != want {
		err = fmt.Errorf("%s has %s messages, want %s", queue, out.Attributes[visible], want)
	}
	return err
}

// wantNames shows what a wildcard certificate covers, and that a name that nobody has is
// nobody's.
func (b *testbed) wantNames(t *testing.T) {
	t.Helper()
	if status, _ := b.get(t, "https://web-pr-103.example.com/"); status != http.StatusNotFound {
		t.Errorf("a pull request without a review app is answered %d, want 404", status)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://web.pr-101.example.com/", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.front.client().Do(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal("the certificate covers a name of two levels")
	}
	if !strings.Contains(err.Error(), "certificate is valid for *.example.com") {
		t.Errorf("a name of two levels: %v", err)
	}
}

// wantGone shows that nothing is left: delete waits for that.
func (b *testbed) wantGone(t *testing.T, number string) {
	t.Helper()
	name := "web-pr-" + number
	if _, err := b.cluster.Client().CoreV1().Namespaces().Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace %s is still there: %v", name, err)
	}
	for _, p := range b.runner.Pods() {
		if p.Namespace == name {
			t.Errorf("a process of pod %s/%s still runs", p.Namespace, p.Name)
		}
	}
	if status, _ := b.get(t, "https://"+name+".example.com/"); status != http.StatusNotFound {
		t.Errorf("%s is answered %d, want 404", name, status)
	}
}

func (b *testbed) setPull(t *testing.T, number, state string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.pulls(), number), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestPruneKeepsWhatIsNotKnown: what gh cannot tell is not closed. And it finds queues whose
// namespace somebody has removed by hand.
func TestPruneKeepsWhatIsNotKnown(t *testing.T) {
	b := running(t)
	for _, number := range []string{"201", "202", "203"} {
		for _, queue := range []string{"orders-pr-" + number, "orders-pr-" + number + "-dead"} {
			if _, err := b.sqs().CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &queue}); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.setPull(t, "202", "CLOSED")
	b.setPull(t, "203", "DRAFT")
	c := b.reviewApp(t, "prune")
	if c.code != 1 {
		t.Errorf("prune ended with %d, want 1: %s", c.code, c.out)
	}
	for _, want := range []string{"pull request 201: gh does not say", `pull request 203 is "DRAFT", which is not known`} {
		if !strings.Contains(c.complaint, want) {
			t.Errorf("prune does not complain %q:\n%s", want, c.complaint)
		}
	}
	b.wantQueues(t, "orders-pr-201", "orders-pr-201-dead", "orders-pr-203", "orders-pr-203-dead")
	b.setPull(t, "201", "CLOSED")
	b.setPull(t, "203", "CLOSED")
	b.reviewApp(t, "prune").well(t)
	b.wantQueues(t)
}

// TestOnlyItsOwn: a namespace of the name that somebody else made is neither changed nor
// deleted, and the rights of the one who deploys end at the names of review apps.
func TestOnlyItsOwn(t *testing.T) {
	b := running(t)
	namespaces := b.cluster.Client().CoreV1().Namespaces()
	_, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "web-pr-301"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := namespaces.Delete(context.WithoutCancel(t.Context()), "web-pr-301", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	for _, command := range []string{"create", "delete"} {
		c := b.reviewApp(t, command, "301")
		if want := "namespace web-pr-301 is not of review-app: it has no label " + label + "=301"; c.code != 1 || !strings.Contains(c.complaint, want) {
			t.Errorf("%s ended with %d, %q, want %q", command, c.code, c.complaint, want)
		}
	}
	if ns, err := namespaces.Get(t.Context(), "web-pr-301", metav1.GetOptions{}); err != nil || ns.DeletionTimestamp != nil || ns.Labels[label] != "" {
		t.Errorf("the namespace was changed: %+v, %v", ns, err)
	}
	b.wantQueues(t)
	b.wantRights(t)
	b.wantRestricted(t)
}

// wantRights calls kubectl as whoever deploys.
func (b *testbed) wantRights(t *testing.T) {
	t.Helper()
	kubeconfig := "--kubeconfig=" + filepath.Join(b.dir, "kubeconfig")
	// The API server takes a policy up some time after it was made.
	eventually(t, "the policy is in force", func(ctx context.Context) error {
		if _, err := b.cluster.Kubectl(ctx, "", kubeconfig, "create", "namespace", "other", "--dry-run=server"); err == nil {
			return errors.New("it lets a namespace of another name through")
		}
		return nil
	})
	for _, args := range [][]string{
		{"delete", "namespace", "web-pr-301"},
		{"delete", "namespace", "tidegauge-system"},
		{"create", "namespace", "other"},
		{"create", "namespace", "web-pr-302"}, // Without its label.
		{"label", "namespace", "web-pr-301", label + "=301"},
		{"label", "namespace", "web-pr-301", label + "=301", enforce + "=restricted"},
		{"create", "configmap", "a", "-n", "web-pr-301"},
		{"create", "configmap", "a", "-n", "default"},
		{"create", "secret", "generic", "a", "-n", "kube-system"},
	} {
		_, err := b.cluster.Kubectl(t.Context(), "", append([]string{kubeconfig}, args...)...)
		if err == nil || !strings.Contains(err.Error(), "the group review-app may write") {
			t.Errorf("kubectl %s: %v, want that the policy refuses it", strings.Join(args, " "), err)
		}
	}
	for _, args := range [][]string{
		{"get", "secrets", "-A"},
		{"get", "pods", "-A"},
		{"delete", "deployment", "web", "-n", "web-pr-301"},
		// A way past the labels would be one that writes them by a subresource.
		{"patch", "namespace", "web-pr-301", "--subresource=status", "--type=merge", "-p", `{"metadata": {"labels": {"` + label + `": "301"}}}`},
	} {
		if _, err := b.cluster.Kubectl(t.Context(), "", append([]string{kubeconfig}, args...)...); err == nil || !strings.Contains(err.Error(), "forbidden") {
			t.Errorf("kubectl %s: %v, want forbidden", strings.Join(args, " "), err)
		}
	}
}

// wantRestricted: whoever deploys makes no namespace, and keeps none, whose pods may have more
// of a node than those of a review app.
func (b *testbed) wantRestricted(t *testing.T) {
	t.Helper()
	const name = "web-pr-303"
	t.Cleanup(func() {
		if _, err := b.cluster.Kubectl(context.WithoutCancel(t.Context()), "", "delete", "namespace", name, "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	kubeconfig := "--kubeconfig=" + filepath.Join(b.dir, "kubeconfig")
	namespace := func(labels string) string {
		return "{apiVersion: v1, kind: Namespace, metadata: {name: " + name + ", labels: {" + label + `: "303"` + labels + "}}}"
	}
	refused := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "the group review-app may write namespaces only that have the label") {
			t.Errorf("%s: %v, want that the policy refuses it", what, err)
		}
	}
	for _, labels := range []string{
		"", ", " + enforce + ": privileged", ", " + enforce + ": baseline", ", " + enforce + ": restricted, " + enforce + "-version: v1.7",
	} {
		_, err := b.cluster.Kubectl(t.Context(), namespace(labels), kubeconfig, "create", "-f", "-")
		refused("a namespace with the labels of 303"+labels, err)
	}
	if _, err := b.cluster.Kubectl(t.Context(), namespace(", "+enforce+": restricted"), kubeconfig, "create", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{enforce + "=privileged", enforce + "-", enforce + "-version=v1.7", label + "-", label + "=304"} {
		_, err := b.cluster.Kubectl(t.Context(), "", kubeconfig, "label", "namespace", name, "--overwrite", to)
		refused("the label "+to, err)
	}
	// That is what the label is for, and holds for everybody.
	_, err := b.cluster.Kubectl(t.Context(), "", "run", "root", "--image=a", "--dry-run=server", "-n", name,
		`--overrides={"apiVersion": "v1", "spec": {"hostNetwork": true, "hostPID": true}}`)
	if err == nil || !strings.Contains(err.Error(), `violates PodSecurity "restricted:latest"`) {
		t.Errorf("a pod with the network of its node: %v, want that Pod Security refuses it", err)
	}
	// Somebody else has made it less, whom the policy does not bind: then nothing comes into it.
	if _, err := b.cluster.Kubectl(t.Context(), "", "label", "namespace", name, "--overwrite", enforce+"=privileged"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the policy sees the label of the namespace", func(ctx context.Context) error {
		_, err := b.cluster.Kubectl(ctx, "", kubeconfig, "create", "configmap", "a", "--dry-run=server", "-n", name)
		if err == nil {
			return errors.New("it lets a ConfigMap through")
		}
		if !strings.Contains(err.Error(), "and in no others") {
			return err
		}
		return nil
	})
	for _, args := range [][]string{{"label", "namespace", name, "--overwrite", enforce + "=restricted"}, {"delete", "namespace", name}} {
		if _, err := b.cluster.Kubectl(t.Context(), "", append([]string{kubeconfig}, args...)...); err != nil {
			t.Error(err)
		}
	}
}

// TestDatabase: the pods get the address of the database from a Secret, and who deploys never
// shows it. Here nothing is at the address, so web does not serve, and create says so.
func TestDatabase(t *testing.T) {
	b := running(t)
	c := reviewApp(t, append(slices.Clone(b.vars), "DATABASE_URL="+noDatabase), "create", "401", "--component", b.component(), "--timeout", "5s")
	if want := "web-pr-401 does not serve: kubectl get pods,events --namespace web-pr-401 says why"; c.code != 1 || !strings.Contains(c.complaint, want) {
		t.Errorf("create ended with %d, %q, want %q", c.code, c.complaint, want)
	}
	if strings.Contains(c.out+c.complaint, "s3cret") {
		t.Errorf("create shows the password:\n%s%s", c.out, c.complaint)
	}
	secret, err := b.cluster.Client().CoreV1().Secrets("web-pr-401").Get(t.Context(), "orders-database", metav1.GetOptions{})
	if err != nil || string(secret.Data["url"]) != noDatabase {
		t.Errorf("the Secret has %q: %v", secret.Data["url"], err)
	}
	b.reviewApp(t, "delete", "401").well(t)
	b.wantGone(t, "401")
	b.wantQueues(t)
}

// TestRefuses: what is wrong is said before anything is done.
func TestRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		vars []string
		want string
		code int
	}{
		"nothing":               {nil, nil, "say what: create, list, delete or prune", 2},
		"another command":       {[]string{"remove", "1"}, nil, `there is no "remove"`, 2},
		"no number":             {[]string{"create"}, nil, `"" is no number of a pull request`, 2},
		"a name":                {[]string{"delete", "web-pr-1"}, nil, `"web-pr-1" is no number of a pull request`, 2},
		"zero":                  {[]string{"create", "0"}, nil, "is no number", 2},
		"a leading zero":        {[]string{"create", "012"}, nil, "is no number", 2},
		"more than a number":    {[]string{"create", "1;id"}, nil, "is no number", 2},
		"a second line":         {[]string{"create", "1\n2"}, nil, "is no number", 2},
		"a number that is long": {[]string{"create", "1234567890"}, nil, "is no number", 2},
		"two numbers":           {[]string{"delete", "1", "2"}, nil, "delete takes one number", 2},
		"a flag that is not":    {[]string{"create", "1", "--force", "yes"}, nil, "create has no flag --force", 2},
		"a flag without value":  {[]string{"create", "1", "--domain"}, nil, "--domain has no value", 2},
		"no domain":             {[]string{"create", "1", "--domain", `a"b.com`}, nil, "is no domain", 2},
		"latest":                {[]string{"create", "1", "--image", "ghcr.io/acme/orders:latest"}, nil, "is no image with a tag", 2},
		"no tag":                {[]string{"create", "1", "--image", "ghcr.io/acme/orders"}, nil, "is no image with a tag", 2},
		"no role":               {[]string{"create", "1", "--role-arn", "orders"}, nil, "is no ARN of a role", 2},
		"no component":          {[]string{"create", "1", "--component", "/nowhere"}, nil, "there is no folder /nowhere", 2},
		"no time":               {[]string{"create", "1", "--timeout", "long"}, nil, "is no time", 2},
		"no Region":             {[]string{"create", "1"}, []string{"AWS_REGION="}, "AWS_REGION is \"\"", 2},
		"no tools":              {[]string{"list"}, []string{"PATH=/nowhere"}, "kubectl is not installed, or not in PATH", 1},
		"another output":        {[]string{"list", "-o", "yaml"}, nil, "there is -o json", 2},
		"another prune":         {[]string{"prune", "--all"}, nil, "there is --dry-run", 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := reviewApp(t, append([]string{"PATH=/usr/bin:/bin", "AWS_REGION=eu-central-1"}, test.vars...), test.args...)
			if c.code != test.code || !strings.Contains(c.complaint, test.want) || c.out != "" {
				t.Errorf("it ended with %d, %q and %q, want %d and %q", c.code, c.out, c.complaint, test.code, test.want)
			}
		})
	}
	if out := reviewApp(t, []string{"PATH=/usr/bin:/bin"}, "--help").well(t); !strings.Contains(out, "review-app create NUMBER") {
		t.Errorf("--help says %s", out)
	}
}
