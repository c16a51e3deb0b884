package main

import (
	"context"
	"strings"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"k8s.io/metrics/pkg/apis/external_metrics"
)

// controllerNamespaces are where Kubernetes' own controllers have their ServiceAccounts.
var controllerNamespaces = map[string]bool{"kube-system": true, "openshift-infra": true}

// authorizeAllFirst asks for all metrics of all namespaces before it asks for one. Every
// metric is a resource of its own, so that the HPA controller's reads of 1,000 metrics would
// be 1,000 SubjectAccessReviews whenever the answers to them have expired, and the reads
// would wait for them.
//
// It does so for Kubernetes' own controllers, whose ClusterRole has all metrics. For anybody
// else it asks for each metric: an authorizer of the cluster may refuse one namespace and
// know nothing of a question about all.
func authorizeAllFirst(each authorizer.Authorizer) authorizer.Authorizer {
	return authorizer.AuthorizerFunc(func(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
		if all, ok := allMetrics(attrs); ok {
			if decision, reason, err := each.Authorize(ctx, all); err == nil && decision == authorizer.DecisionAllow {
				return decision, reason, nil
			}
		}
		return each.Authorize(ctx, attrs)
	})
}

// allMetrics is the question whether the user may do the same with all metrics of the API in
// all namespaces, if the question is a controller's about one of them. A resource of "*" and
// a namespace of "" stand for all: see the reference of SubjectAccessReview's
// resourceAttributes.
func allMetrics(attrs authorizer.Attributes) (authorizer.Attributes, bool) {
	group := attrs.GetAPIGroup()
	if group != external_metrics.GroupName && group != custom_metrics.GroupName || !attrs.IsResourceRequest() || !isController(attrs.GetUser()) {
		return nil, false
	}
	return authorizer.AttributesRecord{
		User:            attrs.GetUser(),
		Verb:            attrs.GetVerb(),
		APIGroup:        group,
		APIVersion:      attrs.GetAPIVersion(),
		Resource:        "*",
		ResourceRequest: true,
	}, true
}

func isController(u user.Info) bool {
	if u == nil {
		return false
	}
	account, ok := strings.CutPrefix(u.GetName(), serviceaccount.ServiceAccountUsernamePrefix)
	if !ok {
		return u.GetName() == user.KubeControllerManager
	}
	namespace, _, _ := strings.Cut(account, serviceaccount.ServiceAccountUsernameSeparator)
	return controllerNamespaces[namespace]
}
