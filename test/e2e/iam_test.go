package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/fakeaws"
)

// enoughCalls is how many GetMetricData calls show that credentials are kept.
const enoughCalls = 5

func role(name string) string { return "arn:aws:iam::" + fakeaws.DefaultAccount + ":role/" + name }

func TestRoleIsAssumedOnce(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	reader, other := role("reader-"+s.namespace), role("other-"+s.namespace)
	for name, arn := range map[string]string{"orders": reader, "again": reader, "returns": other} {
		s.put(name, 95)
		o := s.metric(name, name)
		o.Spec.RoleARN = arn
		s.create(o)
		s.awaitValue(name, "95")
	}
	s.awaitCalls(reader)
	s.awaitCalls(other)
	counts := s.aws.Counts()
	for _, arn := range []string{reader, other} {
		if n := counts.RolesAssumed[arn]; n != 1 {
			t.Errorf("%s was assumed %d times, want once for all of its %d calls", arn, n, counts.CallsByCaller[arn]["cloudwatch.GetMetricData"])
		}
	}
}

// awaitCalls waits until a role has called GetMetricData often enough.
func (s *space) awaitCalls(role string) {
	s.t.Helper()
	s.eventually("calls of "+role, func(context.Context) error {
		if n := s.aws.Counts().CallsByCaller[role]["cloudwatch.GetMetricData"]; n < enoughCalls {
			return fmt.Errorf("%d calls, want %d", n, enoughCalls)
		}
		return nil
	})
}

func TestRoleThatMayNotBeAssumed(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	arn := role("locked-" + s.namespace)
	t.Cleanup(s.aws.Fault(fakeaws.Fault{Service: "sts", Role: arn, ErrorCode: "AccessDenied"}))
	s.put("Orders", 95)
	locked := s.metric("locked", "Orders")
	locked.Spec.RoleARN = arn
	s.create(s.metric("open", "Orders"), locked)
	s.awaitError("locked", http.StatusServiceUnavailable, arn, "is not authorized to perform: sts:AssumeRole")
	s.awaitCondition("locked", notReady("BackendUnavailable"), "is not authorized to perform: sts:AssumeRole")
	s.awaitValue("open", "95")
}

// With IAM Roles for Service Accounts the adapter has a token of its ServiceAccount and
// no key; from that role it may assume others.
func TestIRSA(t *testing.T) {
	t.Parallel()
	b := ownBed(t)
	token, err := b.Token(t.Context(), env.Namespace, env.ServiceAccount, "sts.amazonaws.com")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.Dir(), "web-identity")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	own, reader := role("tidegauge"), role("reader")
	if err := b.startAdapterAs(t.Context(), []string{"AWS_ROLE_ARN=" + own, "AWS_WEB_IDENTITY_TOKEN_FILE=" + file}); err != nil {
		t.Fatal(err)
	}

	s := b.newSpace(t)
	s.put("Orders", 95)
	elsewhere := s.metric("elsewhere", "Orders")
	elsewhere.Spec.RoleARN = reader
	s.create(s.metric("orders", "Orders"), elsewhere)
	s.awaitValue("orders", "95")
	s.awaitValue("elsewhere", "95")
	s.awaitCalls(own)
	s.awaitCalls(reader)

	counts := s.aws.Counts()
	if n := counts.Calls["sts.AssumeRoleWithWebIdentity"]; n != 1 {
		t.Errorf("the web identity was used %d times, want once", n)
	}
	if n := counts.RolesAssumed[reader]; n != 1 {
		t.Errorf("%s was assumed %d times, want once", reader, n)
	}
	if n := len(counts.CallsByCaller[b.aws.AccessKeyID()]); n != 0 {
		t.Errorf("the static key pair was used for %v", counts.CallsByCaller[b.aws.AccessKeyID()])
	}
}
