package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// seenWithin is how soon a change of an object should be seen, and seenLimit how late
	// it may be while other tests keep the machine busy.
	seenWithin = time.Second
	seenLimit  = 5 * time.Second
)

func TestObjectsChangeWhileServing(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.put("Returns", 5)
	pid := s.adapter.ID()

	s.create(s.metric("work", "Orders"))
	s.seenSoon("created", func(ctx context.Context) error { return s.hasValue(ctx, "work", "95") })
	s.update(s.metric("work", "Returns"))
	s.seenSoon("changed", func(ctx context.Context) error { return s.hasValue(ctx, "work", "5") })
	if err := s.objects().Delete(t.Context(), "work", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.seenSoon("deleted", func(ctx context.Context) error {
		items, err := s.values(ctx, "work")
		if err == nil {
			return fmt.Errorf("it still has %v", items)
		}
		return isError(err, http.StatusNotFound, "work", s.namespace)
	})
	s.create(s.metric("work", "Orders"))
	s.seenSoon("created again", func(ctx context.Context) error { return s.hasValue(ctx, "work", "95") })
	if now := s.adapter.ID(); now != pid {
		t.Errorf("the adapter was %v and is %v", pid, now)
	}
}

// seenSoon waits for the effect of a change that the API server has just taken.
func (s *space) seenSoon(change string, check func(context.Context) error) {
	s.t.Helper()
	start := time.Now()
	var last error
	err := wait.PollUntilContextTimeout(s.t.Context(), seenWithin/20, await, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	took := time.Since(start)
	switch {
	case err != nil:
		s.t.Fatalf("%s: %v: %v", change, err, last)
	case took > seenLimit:
		s.t.Errorf("%s: seen after %v, want %v", change, took, seenWithin)
	case took > seenWithin:
		s.t.Logf("%s: seen after %v, more than %v, on a busy machine", change, took, seenWithin)
	}
}

// While kube-apiserver is away nobody can be asked who a caller is and what the caller
// may read, so the adapter answers those whom it asked about lately; and it goes on
// asking CloudWatch. Afterwards it is as before.
func TestAPIServerRestarts(t *testing.T) {
	t.Parallel()
	s := ownBedWithAdapter(t).newSpace(t)
	s.put("Orders", 95)
	s.create(s.metric("orders", "Orders"))
	s.scale(worker, 1, "orders")
	s.awaitReplicas(worker, 4)
	pid := s.adapter.ID()
	direct := s.client(s.adapter.Config(s.reader()))
	read := func(ctx context.Context) error {
		_, err := readValues(ctx, direct, s.namespace, "orders")
		return err
	}
	s.eventually("direct read", read)

	apiserver := s.process(t, "kube-apiserver")
	if err := apiserver.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := read(t.Context()); err != nil {
		t.Errorf("direct read without kube-apiserver: %v", err)
	}
	// Longer than the Lease of the status writer lasts.
	asked := len(s.asked())
	s.eventually("refreshes without kube-apiserver", func(context.Context) error {
		if n := len(s.asked()) - asked; n < 20 {
			return fmt.Errorf("%d GetMetricData calls", n)
		}
		return nil
	})
	if err := apiserver.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}

	s.eventually("direct read", read)
	s.awaitValue("orders", "95")
	s.put("Returns", 55)
	s.create(s.metric("returns", "Returns"))
	s.awaitValue("returns", "55")
	s.awaitCondition("returns", ready("Available"))
	s.put("Orders", 300)
	s.awaitReplicas(worker, 10)
	s.scale("returner", 1, "returns")
	s.awaitReplicas("returner", 2)
	if now := s.adapter.ID(); now != pid {
		t.Errorf("the adapter was %v and is %v", pid, now)
	}
}
