package fakeaws

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// environment sets what a process finds that runs against the server, and nothing
// of the machine's own configuration.
func environment(t *testing.T, s *Server, more map[string]string) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL(), "AWS_ENDPOINT_URL_STS": s.URL(), "AWS_REGION": "eu-west-1",
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "",
	} {
		t.Setenv(name, value)
	}
	for name, value := range more {
		t.Setenv(name, value)
	}
}

func TestDefaultChain(t *testing.T) {
	s := start(t, Options{})
	s.PutMetric(Metric{Namespace: "test", Name: "m", Region: "eu-west-1", Value: 1})
	encode := base64.RawURLEncoding.EncodeToString
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(encode([]byte("{}"))+"."+encode([]byte(`{"sub":"sa"}`))+".c2ln"), 0o600); err != nil {
		t.Fatal(err)
	}
	role := "arn:aws:iam::" + DefaultAccount + ":role/irsa"
	for name, env := range map[string]map[string]string{
		"static key pair": {"AWS_ACCESS_KEY_ID": s.AccessKeyID(), "AWS_SECRET_ACCESS_KEY": s.SecretAccessKey()},
		"web identity":    {"AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_ARN": role},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, s, env)
			cfg, err := awsconfig.LoadDefaultConfig(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			client := cloudwatch.NewFromConfig(cfg)
			for range 3 {
				out, err := client.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
				if err != nil {
					t.Fatal(err)
				}
				if len(out.Metrics) != 1 {
					t.Errorf("%d metrics, want 1", len(out.Metrics))
				}
			}
		})
	}
	counts := s.Counts()
	if counts.RolesAssumed[role] != 1 || counts.CallsByCaller[role]["cloudwatch.ListMetrics"] != 3 {
		t.Errorf("counts are %+v, want one session with three calls", counts)
	}
}

func TestAssumedRoleIsCached(t *testing.T) {
	s := start(t, Options{})
	cfg := config(s)
	cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(cfg), reader))
	for range 3 {
		if _, err := cloudwatch.NewFromConfig(cfg).ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Counts().RolesAssumed[reader]; n != 1 {
		t.Errorf("role was assumed %d times, want 1", n)
	}
}
