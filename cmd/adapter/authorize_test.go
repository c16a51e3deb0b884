package main

import (
	"context"
	"errors"
	"slices"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// TestAuthorizeAllFirst shows who is asked for all metrics, and that nobody may more by it.
func TestAuthorizeAllFirst(t *testing.T) {
	const (
		controller = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
		external   = "external.metrics.k8s.io"
		all        = "get external.metrics.k8s.io/* in "
		one        = "get external.metrics.k8s.io/orders in shop"
	)
	for _, tc := range []struct {
		name    string
		user    string
		group   string
		allowed string // the only question that is answered with yes
		failing string // the only question that is not answered
		may     bool
		asked   []string
	}{
		{name: "a controller that may all", user: controller, allowed: all, may: true, asked: []string{all}},
		{name: "one of OpenShift", user: "system:serviceaccount:openshift-infra:hpa-controller", allowed: all, may: true, asked: []string{all}},
		{name: "one without an account of its own", user: "system:kube-controller-manager", allowed: all, may: true, asked: []string{all}},
		{name: "a controller that may one", user: controller, allowed: one, may: true, asked: []string{all, one}},
		{name: "a controller that may nothing", user: controller, asked: []string{all, one}},
		{name: "nobody can say of all", user: controller, allowed: one, failing: all, may: true, asked: []string{all, one}},
		{name: "anybody else", user: "system:serviceaccount:shop:kube-system", allowed: all, asked: []string{one}},
		{name: "a person named alike", user: "kube-system:jane", allowed: all, asked: []string{one}},
		{
			name: "another API", user: controller, group: "metrics.k8s.io", allowed: "get metrics.k8s.io/* in ",
			asked: []string{"get metrics.k8s.io/orders in shop"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked []string
			each := authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
				question := a.GetVerb() + " " + a.GetAPIGroup() + "/" + a.GetResource() + " in " + a.GetNamespace()
				asked = append(asked, question)
				switch question {
				case tc.failing:
					return authorizer.DecisionNoOpinion, "", errors.New("no answer")
				case tc.allowed:
					return authorizer.DecisionAllow, "", nil
				}
				return authorizer.DecisionNoOpinion, "", nil
			})
			group := tc.group
			if group == "" {
				group = external
			}
			decision, _, err := authorizeAllFirst(each).Authorize(t.Context(), authorizer.AttributesRecord{
				User: &user.DefaultInfo{Name: tc.user}, Verb: "get", Namespace: "shop", APIGroup: group, Resource: "orders", ResourceRequest: true,
			})
			if may := decision == authorizer.DecisionAllow; err != nil || may != tc.may {
				t.Errorf("it is decided %v (%v), want allowed: %v", decision, err, tc.may)
			}
			if !slices.Equal(asked, tc.asked) {
				t.Errorf("asked: %q, want %q", asked, tc.asked)
			}
		})
	}
}
