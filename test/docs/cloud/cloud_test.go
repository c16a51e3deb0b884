package cloud

import (
	"errors"
	"strings"
	"testing"
)

// TestProgramsRefuse shows that what the programs do not know is an error.
func TestProgramsRefuse(t *testing.T) {
	for _, line := range []string{
		"aws eks describe-clusters --name x", "aws eks describe-cluster", "aws eks describe-cluster --cluster-name x", "aws eks describe-cluster --name",
		"aws cloudformation deploy --stack-name x", "eksctl create cluster", "eksctl create cluster --file x -f y", "eksctl delete cluster x",
		"eksctl delete nodegroup --name x", "npx cdk deploy", "npx cdk synth", "npx cdk destroy --context a=b", "docker build .", "docker push", "npm run",
	} {
		words := strings.Fields(line)
		if _, _, err := find(words[0], words[1:]); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v, want %v", line, err, errUsage)
		}
	}
	for _, line := range []string{
		"aws cloudformation list-stacks --stack-status-filter A B --output text", "npm run --silent build", "npx cdk deploy --parameters A=b --parameters C=d",
		"aws cloudformation deploy --stack-name x --template-file y --parameter-overrides A=b C=d",
	} {
		words := strings.Fields(line)
		if _, _, err := find(words[0], words[1:]); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}
