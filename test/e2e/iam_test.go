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

// allows is the part of a configuration that lets a namespace use a role.
func allows(namespace, arn string) string {
	return fmt.Sprintf("cloudwatch:\n  roles:\n  - {namespaces: [%s], arns: [%s]}\n", namespace, arn)
}

// A role is used only where the configuration says so, whatever the object's user wants. A
// reload counts for objects that are there, in both directions.
func TestRoleIsAllowedByTheConfiguration(t *testing.T) {
	t.Parallel()
	b := ownBedScrapedEvery(t, scrape)
	s := b.newSpace(t)
	reader := role("reader")
	// A rule makes a metric of the same name, whose value must never stand for the object's.
	rules := configuration("5m", externalRule("orders"))
	m := newMount(t, rules+allows("other", reader))
	if err := b.startAdapter(t.Context(), "--config="+m.file(), "--prometheus-url="+b.proxy.URL(), "--metrics-relist-interval=1s"); err != nil {
		t.Fatal(err)
	}
	s.setSeries(outside("orders", 5, s.here()))
	s.awaitValue("orders", "5")

	s.put("Orders", 95)
	orders := s.metric("orders", "Orders")
	orders.Spec.RoleARN = reader
	s.create(orders)
	cure := fmt.Sprintf("- {namespaces: [%s], arns: [%s]}", s.namespace, reader)
	s.awaitError("orders", http.StatusInternalServerError, cure)
	s.scale(worker, 2, "orders")
	release := s.hold(2)
	refused := func() {
		t.Helper()
		s.awaitError("orders", http.StatusInternalServerError, s.namespace+"/orders", "spec.roleArn: ", "cloudwatch.roles", cure)
		s.awaitCondition("orders", notReady("RoleNotAllowed"), "spec.roleArn: ", "cloudwatch.roles", cure)
		s.awaitBlindHPA(s.namespace+"/orders", cure)
		s.awaitSelfMetric(`tidegauge_external_metrics{state="invalid"}`, "1")
	}
	refused()
	s.warns(s.awaitEvent("orders", "RoleNotAllowed", cure))
	if n := s.aws.Counts().RolesAssumed[reader]; n != 0 {
		t.Errorf("the role was assumed %d times", n)
	}
	release()

	m.set(rules + "cloudwatch:\n  roles:\n  " + cure + "\n")
	s.awaitValue("orders", "95")
	s.awaitCondition("orders", ready("Available"))
	s.awaitReplicas(worker, 4)
	s.awaitSelfMetric(`tidegauge_external_metrics{state="invalid"}`, "0")

	release = s.hold(4)
	m.set(rules)
	refused()
	release()

	own := *s
	own.namespace = env.Namespace
	trusted := own.metric("trusted", "Orders")
	trusted.Spec.RoleARN = reader
	own.create(trusted)
	own.awaitValue("trusted", "95")
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
	m := newMount(t, allows("e2e-*", reader))
	if err := b.startAdapterAs(t.Context(), []string{"AWS_ROLE_ARN=" + own, "AWS_WEB_IDENTITY_TOKEN_FILE=" + file}, "--config="+m.file()); err != nil {
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
