package balancer

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pod is what the controller looks at.
type pod struct {
	namespace, name string
	uid             types.UID
	node            string
	gates           []corev1.PodReadinessGate
	conditions      []corev1.PodCondition
}

func newPod(p *corev1.Pod) *pod {
	return &pod{
		namespace: p.Namespace, name: p.Name, uid: p.UID, node: p.Spec.NodeName,
		gates: p.Spec.ReadinessGates, conditions: p.Status.Conditions,
	}
}

func (p *pod) has(gate corev1.PodConditionType) bool {
	return slices.ContainsFunc(p.gates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == gate })
}

// condition is the one of that type, or nil.
func (p *pod) condition(kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.conditions {
		if p.conditions[i].Type == kind {
			return &p.conditions[i]
		}
	}
	return nil
}

func (p *pod) containersReady() bool {
	c := p.condition(corev1.ContainersReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// objects are what the API server has of a Service.
type objects struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	pods    map[string]*pod // by name
	nodes   map[string]*corev1.Node
}

// endpoints are what ought to be registered.
func (o objects) endpoints(opts Options) (map[Address]endpoint, error) {
	if o.service == nil {
		return map[Address]endpoint{}, nil // Without its Service, the controller empties a target group.
	}
	port, err := servicePort(o.service, opts.Port)
	if err != nil {
		return nil, err
	}
	if opts.TargetType == Instance {
		return o.nodeEndpoints(port, opts.Health.Port)
	}
	return o.podEndpoints(port, opts.Health.Port), nil
}

func servicePort(s *corev1.Service, name string) (corev1.ServicePort, error) {
	if name == "" && len(s.Spec.Ports) == 1 {
		return s.Spec.Ports[0], nil
	}
	for _, p := range s.Spec.Ports {
		if name != "" && (p.Name == name || strconv.Itoa(int(p.Port)) == name) {
			return p, nil
		}
	}
	return corev1.ServicePort{}, fmt.Errorf("Service %s/%s has no port %q", s.Namespace, s.Name, name)
}

// podEndpoints are the pods that the controller registers: those that are ready, and those
// whose containers are ready and which are not ready only because something else has to be,
// such as a readiness gate that waits for the very registration. If there is none, those
// on nodes that nobody has heard of are taken (its feature EndpointsFailOpen). A pod that
// terminates is not ready.
//
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/configurations/,
// pkg/backend/endpoint_resolver.go of the controller.
func (o objects) podEndpoints(port corev1.ServicePort, health int) map[Address]endpoint {
	ready, unknown := map[Address]endpoint{}, map[Address]endpoint{}
	for _, slice := range o.slices {
		for _, p := range slice.Ports {
			if p.Port == nil || port.Name != "" && (p.Name == nil || *p.Name != port.Name) {
				continue
			}
			for _, e := range slice.Endpoints {
				to := o.place(e, ready, unknown)
				if to == nil {
					continue
				}
				a := Address{e.Addresses[0], int(*p.Port)}
				to[a] = endpoint{a, healthAddress(a, health), o.pods[e.TargetRef.Name]}
			}
		}
	}
	if len(ready) == 0 {
		return unknown
	}
	return ready
}

// place says where an endpoint belongs, nil if nowhere.
func (o objects) place(e discoveryv1.Endpoint, ready, unknown map[Address]endpoint) map[Address]endpoint {
	if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || len(e.Addresses) == 0 {
		return nil
	}
	p := o.pods[e.TargetRef.Name]
	switch {
	case p == nil:
		return nil
	case e.Conditions.Ready == nil || *e.Conditions.Ready:
		return ready
	case !p.containersReady():
		return nil
	}
	switch nodeReady(o.nodes[p.node]) {
	case corev1.ConditionTrue:
		if e.Conditions.Terminating == nil || !*e.Conditions.Terminating {
			return ready
		}
	case corev1.ConditionUnknown:
		return unknown
	case corev1.ConditionFalse:
	}
	return nil
}

func healthAddress(a Address, port int) string {
	if port == 0 {
		port = a.Port
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(port))
}

func nodeReady(n *corev1.Node) corev1.ConditionStatus {
	if n != nil {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status
			}
		}
	}
	return corev1.ConditionFalse
}

// nodeEndpoints are the nodes that the controller registers for the target type instance:
// those that are ready, whether they have a pod of the Service or not, but for those that
// are labelled out of load balancers and those that an autoscaler is about to remove. A
// node that is cordoned or drained stays. If no node is ready, those that nobody has heard
// of are taken.
//
// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/targetgroupbinding/targetgroupbinding/#nodeselector,
// pkg/backend/endpoint_utils.go of the controller.
func (o objects) nodeEndpoints(port corev1.ServicePort, health int) (map[Address]endpoint, error) {
	if port.NodePort == 0 {
		return nil, fmt.Errorf("Service %s/%s of type %s has no NodePort, which target type %s needs",
			o.service.Namespace, o.service.Name, o.service.Spec.Type, Instance)
	}
	if health == NodeHealthPort {
		health = int(o.service.Spec.HealthCheckNodePort)
		if health == 0 {
			return nil, fmt.Errorf("Service %s/%s has no healthCheckNodePort: that takes type LoadBalancer and externalTrafficPolicy Local",
				o.service.Namespace, o.service.Name)
		}
	}
	found := map[Address]endpoint{}
	for _, status := range []corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionUnknown} {
		for _, n := range o.nodes {
			host := nodeAddress(n)
			if host == "" || nodeReady(n) != status || !carriesTraffic(n) {
				continue
			}
			a := Address{host, int(port.NodePort)}
			found[a] = endpoint{address: a, health: healthAddress(a, health)}
		}
		if len(found) > 0 {
			break
		}
	}
	return found, nil
}

func nodeAddress(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

func carriesTraffic(n *corev1.Node) bool {
	for _, label := range []string{
		"node-role.kubernetes.io/master", corev1.LabelNodeExcludeBalancers, "alpha.service-controller.kubernetes.io/exclude-balancer",
	} {
		if _, out := n.Labels[label]; out {
			return false
		}
	}
	return n.Labels["eks.amazonaws.com/compute-type"] != "fargate" && !slices.ContainsFunc(n.Spec.Taints, leaving)
}

// leaving says whether a taint is that of an autoscaler about to remove the node.
func leaving(t corev1.Taint) bool {
	return t.Key == "ToBeDeletedByClusterAutoscaler" || t.Key == "karpenter.sh/disrupted" && t.Effect == corev1.TaintEffectNoSchedule
}
