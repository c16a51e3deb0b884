package cluster

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tidegauge/tidegauge/test/repo"
)

// recorder plays each program that delete.sh runs: it records what it is told, and answers as its
// environment says, in AWS' own words. What the pattern BROKEN matches fails in another way.
const recorder = `#!/usr/bin/env bash
name=$(basename "$0")
echo "$name $*" >> "$RECORD"
fail() { echo "An error occurred ($1) when calling the $2 operation: $3" >&2; exit 254; }
if [[ -n $BROKEN && "$name $*" == $BROKEN* ]]; then fail ThrottlingException Some "Rate exceeded"; fi
case "$name $*" in
"aws sts get-caller-identity"*) echo 111122223333 ;;
"aws eks list-clusters"*) echo tidegauge-load ;;
"aws eks describe-cluster"*)
	[[ -z $NO_CLUSTER ]] || fail ResourceNotFoundException DescribeCluster "No cluster found for name: $4." ;;
"aws cloudformation describe-stacks --stack-name"*)
	[[ " $STACKS " == *" $4 "* ]] || fail ValidationError DescribeStacks "Stack with id $4 does not exist" ;;
"aws cloudformation list-stacks"*)
	for stack in $STACKS $DELETED; do if [[ "$*" == *"'$stack'"* ]]; then echo "$stack"; fi; done ;;
"aws logs delete-log-group"*)
	[[ -z $NO_LOGS ]] || fail ResourceNotFoundException DeleteLogGroup "The specified log group does not exist." ;;
"aws resourcegroupstaggingapi"*) echo "$LEFT" ;;
"kubectl"*" get nodepools.karpenter.sh"*) echo "<none> general" ;;
"kubectl"*" get service "*) echo "demo web" ;;
"kubectl"*" get crd nodepools"*) echo customresourcedefinition.apiextensions.k8s.io/nodepools.karpenter.sh ;;
"kubectl"*" get pod "*) printf '%s \n' "demo web-1" "demo db-0 data" ;;
"kubectl"*" get persistentvolume "*) echo pvc-1 ;;
esac
`

// deleting is what a run of delete.sh did.
type deleting struct {
	code            int
	told            []string
	out, complaints string
}

// runDelete runs a copy of delete.sh, as it goes to folders beside itself.
func runDelete(t *testing.T, environment []string, args ...string) deleting {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "delete.sh"), repo.Text(t, folder+"/delete.sh"))
	if err := os.Mkdir(filepath.Join(dir, "cdk"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"aws", "kubectl", "eksctl", "npm", "npx"} {
		file := filepath.Join(dir, "bin", program)
		write(t, file, recorder)
		if err := os.Chmod(file, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	record := filepath.Join(dir, "record")
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{filepath.Join(dir, "delete.sh")}, args...)...)
	cmd.Env = slices.Concat([]string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "RECORD=" + record, "AWS_REGION=" + region,
		"NO_CLUSTER=", "STACKS=", "DELETED=", "NO_LOGS=", "LEFT=", "BROKEN=", "TMPDIR=" + dir,
	}, environment)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	var d deleting
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatal(err)
		}
		d.code = exit.ExitCode()
	}
	text, err := os.ReadFile(record)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	d.told, d.out, d.complaints = strings.Split(strings.TrimSpace(string(text)), "\n"), out.String(), complaints.String()
	return d
}

// changes are what it told programs to do, and not what it asked them, with how a program is
// led to the cluster left out.
func (d deleting) changes() []string {
	var all []string
	for _, line := range d.told {
		asks := strings.Contains(line, " get") || strings.Contains(line, "describe-") || strings.Contains(line, "list-") || strings.Contains(line, "configure") || strings.Contains(line, "update-kubeconfig")
		if !asks {
			fields := strings.Fields(line)
			if len(fields) > 2 && fields[1] == "--kubeconfig" {
				fields = slices.Delete(fields, 1, 3)
			}
			all = append(all, strings.Join(fields, " "))
		}
	}
	return all
}

// TestDelete shows the order: what controllers made, then what holds on to the network, then the
// cluster.
func TestDelete(t *testing.T) {
	inCluster := []string{
		"kubectl delete ingress --all --all-namespaces --timeout=10m",
		"kubectl delete nodepools.karpenter.sh general --namespace default --cascade=foreground --timeout=20m",
		"kubectl delete service web --namespace demo --timeout=10m",
		"kubectl delete statefulset --all --all-namespaces --cascade=foreground --timeout=10m",
		"kubectl delete persistentvolumeclaim --all --all-namespaces --wait=false",
		"kubectl delete pod db-0 --namespace demo --ignore-not-found --timeout=10m",
		"kubectl delete persistentvolumeclaim --all --all-namespaces --timeout=10m",
		"kubectl wait --for=delete persistentvolume/pvc-1 --timeout=5m",
	}
	stack := func(name string) []string {
		return []string{
			"aws cloudformation delete-stack --stack-name " + name,
			"aws cloudformation wait stack-delete-complete --stack-name " + name,
		}
	}
	eksctl := []string{
		"eksctl delete cluster --name tidegauge-review --region eu-central-1 --disable-nodegroup-eviction --wait",
		"aws logs delete-log-group --log-group-name /aws/eks/tidegauge-review/cluster",
	}
	for name, test := range map[string]struct {
		environment, args, want []string
	}{
		"with a load balancer of one's own": {
			[]string{"STACKS=tidegauge-review-elb eksctl-tidegauge-review-nodegroup-review"},
			[]string{"eksctl", "tidegauge-review", "--yes"},
			slices.Concat(inCluster, []string{"eksctl delete nodegroup --cluster tidegauge-review --region eu-central-1 --name review --disable-eviction --wait"},
				stack("tidegauge-review-elb"), eksctl),
		},
		"again, when the nodes behind the load balancer are gone": {
			[]string{"STACKS=tidegauge-review-elb"},
			[]string{"eksctl", "tidegauge-review", "--yes"},
			slices.Concat(inCluster, stack("tidegauge-review-elb"), eksctl),
		},
		"with Karpenter": {
			[]string{"STACKS=tidegauge-review-karpenter"},
			[]string{"--yes", "eksctl", "tidegauge-review"},
			slices.Concat(inCluster, stack("tidegauge-review-karpenter"), eksctl),
		},
		"again, when the cluster is gone and its stack is not": {
			[]string{"NO_CLUSTER=1", "STACKS=eksctl-tidegauge-review-cluster"},
			[]string{"eksctl", "tidegauge-review", "--yes"},
			eksctl,
		},
		"again, when all is gone": {
			[]string{"NO_CLUSTER=1", "DELETED=eksctl-tidegauge-review-cluster", "NO_LOGS=1"},
			[]string{"eksctl", "tidegauge-review", "--yes"},
			eksctl[1:],
		},
		"again, when its logs alone are left": {
			[]string{"NO_CLUSTER=1", "DELETED=eksctl-tidegauge-review-cluster"},
			[]string{"eksctl", "tidegauge-review", "--yes"},
			eksctl[1:],
		},
		"of CDK": {
			nil,
			[]string{"cdk", "tidegauge-hpa", "--yes"},
			slices.Concat(inCluster, []string{
				"npm ci --silent", "npm run --silent build",
				"npx cdk destroy --force --context cluster=tidegauge-hpa tidegauge-hpa",
			}),
		},
		"the queues": {
			[]string{"STACKS=tidegauge-orders"},
			[]string{"orders", "--yes"},
			stack("tidegauge-orders"),
		},
		"the queues, again": {
			[]string{"DELETED=tidegauge-orders"},
			[]string{"orders", "--yes"},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := runDelete(t, test.environment, test.args...)
			if got := d.changes(); d.code != 0 || !slices.Equal(got, test.want) {
				t.Errorf("it ends with %d and did\n%s\nwant\n%s\n%s", d.code, strings.Join(got, "\n"), strings.Join(test.want, "\n"), d.complaints)
			}
		})
	}
}

// TestDeleteSaysWhatIsLeft shows that it ends with an error when something costs on.
func TestDeleteSaysWhatIsLeft(t *testing.T) {
	const volume = "arn:aws:ec2:eu-central-1:111122223333:volume/vol-0123456789abcdef0"
	d := runDelete(t, []string{"LEFT=" + volume}, "eksctl", "tidegauge-hpa", "--yes")
	if d.code != 1 || strings.Count(d.out, volume) != 1 || !strings.Contains(d.complaints, "delete them") {
		t.Errorf("it ends with %d: %s%s", d.code, d.out, d.complaints)
	}
	asked := strings.Join(d.told, "\n")
	for _, tag := range []string{
		"tidegauge.dev/cluster,Values=tidegauge-hpa", "elbv2.k8s.aws/cluster,Values=tidegauge-hpa",
		"eks:eks-cluster-name,Values=tidegauge-hpa", "kubernetes.io/cluster/tidegauge-hpa,Values=owned",
	} {
		if !strings.Contains(asked, "--tag-filters Key="+tag+" ") {
			t.Errorf("it does not ask for what has the tag %s", tag)
		}
	}
	if d := runDelete(t, nil, "eksctl", "tidegauge-hpa", "--yes"); d.code != 0 || !strings.HasSuffix(d.out, "nothing\n") {
		t.Errorf("with nothing left it ends with %d: %s%s", d.code, d.out, d.complaints)
	}
}

// TestDeleteDoesNotGuess shows that only AWS' own word for it makes a thing gone: any other error
// ends the run, and is shown.
func TestDeleteDoesNotGuess(t *testing.T) {
	for _, broken := range []string{
		"aws eks describe-cluster", "aws cloudformation list-stacks", "aws cloudformation describe-stacks --stack-name tidegauge-hpa-elb",
		"aws cloudformation describe-stacks --stack-name eksctl-tidegauge-hpa-cluster", "aws logs delete-log-group", "aws resourcegroupstaggingapi get-resources",
	} {
		environment := []string{"NO_CLUSTER=1", "DELETED=eksctl-tidegauge-hpa-cluster", "BROKEN=" + broken}
		d := runDelete(t, environment, "eksctl", "tidegauge-hpa", "--yes")
		if d.code != 1 || !strings.Contains(d.complaints, "Rate exceeded") || strings.Contains(d.out+d.complaints, "nothing") || strings.Contains(d.complaints, "had none") {
			t.Errorf("without an answer to %s it ends with %d: %s%s", broken, d.code, d.out, d.complaints)
		}
	}
	for _, broken := range []string{"kubectl * get crd", "kubectl * get service", "kubectl * get pod", "kubectl * delete persistentvolumeclaim"} {
		d := runDelete(t, []string{"BROKEN=" + broken}, "eksctl", "tidegauge-hpa", "--yes")
		if d.code == 0 || slices.ContainsFunc(d.changes(), func(c string) bool { return strings.HasPrefix(c, "eksctl") }) {
			t.Errorf("without an answer to %s it ends with %d and did %v", broken, d.code, d.changes())
		}
	}
	// A volume that stays is told of, and found by its tags.
	if d := runDelete(t, []string{"BROKEN=kubectl * wait"}, "eksctl", "tidegauge-hpa", "--yes"); d.code != 0 || !strings.Contains(d.complaints, "the volume pvc-1 is still there") {
		t.Errorf("with a volume that stays it ends with %d: %s", d.code, d.complaints)
	}
}

// TestDeleteKnowsNoSuchCluster shows that a name that is wrong, or a region, is not taken for a
// cluster that is gone.
func TestDeleteKnowsNoSuchCluster(t *testing.T) {
	for _, args := range [][]string{{"eksctl", "tidegauge-hpa"}, {"cdk", "tidegauge-hpa"}, {"orders"}} {
		d := runDelete(t, []string{"NO_CLUSTER=1", "DELETED=tidegauge-other"}, append(args, "--yes")...)
		said := "in region eu-central-1, and had none in the last 90 days\nclusters there: tidegauge-load\n"
		if d.code != 1 || len(d.changes()) > 0 || !strings.HasSuffix(d.complaints, said) || !strings.Contains(d.complaints, "account 111122223333 has no ") {
			t.Errorf("%v: it ends with %d and did %v: %s%s", args, d.code, d.changes(), d.out, d.complaints)
		}
	}
	d := runDelete(t, []string{"NO_CLUSTER=1", "DELETED=eksctl-tidegauge-hpa-cluster"}, "eksctl", "tidegauge-hpa", "--yes")
	if d.code != 0 || !strings.Contains(d.out, "there is no cluster tidegauge-hpa in eu-central-1 any more") {
		t.Errorf("again, it ends with %d: %s%s", d.code, d.out, d.complaints)
	}
}

// TestDeleteAsks shows that without --yes it does nothing that nobody confirmed, and nothing
// that it does not understand.
func TestDeleteAsks(t *testing.T) {
	d := runDelete(t, nil, "eksctl", "tidegauge-hpa")
	if d.code != 1 || len(d.changes()) > 0 || !strings.Contains(d.complaints, "nothing was deleted") {
		t.Errorf("it ends with %d and did %v: %s", d.code, d.changes(), d.complaints)
	}
	for _, args := range [][]string{{}, {"eksctl"}, {"orders", "tidegauge-hpa"}, {"helm", "tidegauge-hpa"}, {"eksctl", "tidegauge-hpa", "--force"}} {
		d := runDelete(t, nil, args...)
		if d.code != 2 || !strings.Contains(d.complaints, "deploy/cluster/delete.sh eksctl") || d.told[0] != "" {
			t.Errorf("%v: it ends with %d and told %v: %s", args, d.code, d.told, d.complaints)
		}
	}
}
