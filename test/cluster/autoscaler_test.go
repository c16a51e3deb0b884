package cluster

import (
	"maps"
	"slices"
	"testing"

	"github.com/tidegauge/tidegauge/test/repo"
)

// flags are those of Cluster Autoscaler that the values set, as its documentation has them.
// https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/FAQ.md
var flags = map[string]string{
	"scan-interval": "10s", "scale-down-unneeded-time": "10m", "max-node-provision-time": "15m", "scale-down-delay-after-add": "10m",
	"expander": "least-waste", "skip-nodes-with-local-storage": "false", "skip-nodes-with-system-pods": "false",
}

type autoscalerValues struct {
	FullnameOverride, CloudProvider, AWSRegion string
	AutoDiscovery                              struct{ ClusterName string }
	Image                                      struct{ Tag string }
	RBAC                                       struct {
		ServiceAccount struct {
			Create bool
			Name   string
		}
	}
	ExtraArgs map[string]any
	Resources map[string]map[string]string
}

func clusterAutoscaler(t *testing.T) autoscalerValues {
	t.Helper()
	const file = folder + "/nodes/cluster-autoscaler/values.yaml"
	return decode[autoscalerValues](t, file, repo.Text(t, file))
}

// TestClusterAutoscaler shows that it scales the cluster that there is, as the ServiceAccount
// that has the role, with flags that it has.
func TestClusterAutoscaler(t *testing.T) {
	v := clusterAutoscaler(t)
	hpa := configs(t)["hpa"]
	if v.AutoDiscovery.ClusterName != hpa.Metadata.Name || v.AWSRegion != hpa.Metadata.Region || v.CloudProvider != "aws" {
		t.Errorf("it scales %s in %s, and the cluster is %v", v.AutoDiscovery.ClusterName, v.AWSRegion, hpa.Metadata)
	}
	name := v.RBAC.ServiceAccount.Name
	if !v.RBAC.ServiceAccount.Create || !slices.ContainsFunc(hpa.IAM.PodIdentityAssociations, func(a association) bool {
		return a.Namespace == "kube-system" && a.ServiceAccountName == name
	}) {
		t.Errorf("it is kube-system/%s, which has no role", name)
	}
	if v.Image.Tag > "v"+hpa.Metadata.Version+".99" {
		t.Errorf("it is of %s, and the cluster of %s", v.Image.Tag, hpa.Metadata.Version)
	}
	got := map[string]string{}
	for flag, value := range v.ExtraArgs {
		got[flag] = text(t, value)
	}
	if !maps.Equal(got, flags) {
		t.Errorf("its flags are %v, want %v", got, flags)
	}
}

func text(t *testing.T, value any) string {
	t.Helper()
	if s, ok := value.(string); ok {
		return s
	}
	return say(t, value)
}
