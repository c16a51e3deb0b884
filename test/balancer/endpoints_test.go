package balancer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func webService(ports ...corev1.ServicePort) *corev1.Service {
	if len(ports) == 0 {
		ports = []corev1.ServicePort{{Port: 80, NodePort: 30080}}
	}
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: ports},
	}
}

func sliceOf(port int32, name string, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: new(name), Port: new(port)}},
		Endpoints:   endpoints,
	}
}

func endpointOfPod(host, pod string, ready, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses:  []string{host},
		Conditions: discoveryv1.EndpointConditions{Ready: new(ready), Serving: new(ready), Terminating: new(terminating)},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod},
	}
}

func nodeOf(name, address string, ready corev1.ConditionStatus, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	if change != nil {
		change(n)
	}
	return n
}

func podOf(name, node string, containersReady corev1.ConditionStatus) *pod {
	return &pod{name: name, node: node, conditions: []corev1.PodCondition{{Type: corev1.ContainersReady, Status: containersReady}}}
}

// wanted are the addresses that ought to be registered, in order, or the error.
func (o objects) wanted(opts Options) string {
	endpoints, err := o.endpoints(opts)
	if err != nil {
		return err.Error()
	}
	var all []string
	for a, e := range endpoints {
		all = append(all, fmt.Sprintf("%s(%s)", a, strings.TrimPrefix(e.health, a.Host)))
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

func TestPodsThatAreRegistered(t *testing.T) {
	nodes := map[string]*corev1.Node{
		"well":    nodeOf("well", "", corev1.ConditionTrue, nil),
		"unknown": nodeOf("unknown", "", corev1.ConditionUnknown, nil),
		"ill":     nodeOf("ill", "", corev1.ConditionFalse, nil),
	}
	for _, test := range []struct {
		name     string
		endpoint discoveryv1.Endpoint
		pod      *pod
		want     bool
	}{
		{"ready", endpointOfPod("10.0.0.2", "p", true, false), podOf("p", "well", corev1.ConditionTrue), true},
		{
			"readiness not known",
			discoveryv1.Endpoint{Addresses: []string{"10.0.0.2"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: "p"}},
			podOf("p", "well", corev1.ConditionTrue), true,
		},
		{"not ready", endpointOfPod("10.0.0.2", "p", false, false), podOf("p", "well", corev1.ConditionFalse), false},
		{"not ready but for its gate", endpointOfPod("10.0.0.2", "p", false, false), podOf("p", "well", corev1.ConditionTrue), true},
		{"terminating", endpointOfPod("10.0.0.2", "p", false, true), podOf("p", "well", corev1.ConditionTrue), false},
		{"on a node that is ill", endpointOfPod("10.0.0.2", "p", false, false), podOf("p", "ill", corev1.ConditionTrue), false},
		{"on a node that is gone", endpointOfPod("10.0.0.2", "p", false, false), podOf("p", "gone", corev1.ConditionTrue), false},
		{"on a node that is not heard of", endpointOfPod("10.0.0.2", "p", false, false), podOf("p", "unknown", corev1.ConditionTrue), false},
		{"pod not known yet", endpointOfPod("10.0.0.2", "p", true, false), nil, false},
		{"no pod", discoveryv1.Endpoint{Addresses: []string{"10.0.0.2"}}, nil, false},
	} {
		o := objects{service: webService(), nodes: nodes, pods: map[string]*pod{"other": podOf("other", "well", corev1.ConditionTrue)}}
		o.slices = []*discoveryv1.EndpointSlice{sliceOf(8080, "", endpointOfPod("10.0.0.1", "other", true, false), test.endpoint)}
		if test.pod != nil {
			o.pods["p"] = test.pod
		}
		want := "10.0.0.1:8080(:8080)"
		if test.want {
			want += " 10.0.0.2:8080(:8080)"
		}
		if got := o.wanted(Defaults()); got != want {
			t.Errorf("%s: registered are %q, want %q", test.name, got, want)
		}
	}
}

func TestPodsOnNodesThatAreNotHeardOfServeWhenThereIsNoOther(t *testing.T) {
	o := objects{
		service: webService(), pods: map[string]*pod{"p": podOf("p", "unknown", corev1.ConditionTrue)},
		nodes:  map[string]*corev1.Node{"unknown": nodeOf("unknown", "", corev1.ConditionUnknown, nil)},
		slices: []*discoveryv1.EndpointSlice{sliceOf(8080, "", endpointOfPod("10.0.0.2", "p", false, false))},
	}
	if got, want := o.wanted(Defaults()), "10.0.0.2:8080(:8080)"; got != want {
		t.Errorf("registered are %q, want %q", got, want)
	}
}

func TestPorts(t *testing.T) {
	two := []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "admin", Port: 81}}
	for _, test := range []struct {
		name, port string
		ports      []corev1.ServicePort
		health     int
		want       string
	}{
		{"the only one", "", nil, 0, "10.0.0.1:8080(:8080) 10.0.0.1:9090(:9090)"},
		{"by name", "admin", two, 0, "10.0.0.1:9090(:9090)"},
		{"by number", "80", two, 0, "10.0.0.1:8080(:8080)"},
		{"health elsewhere", "http", two, 9999, "10.0.0.1:8080(:9999)"},
		{"which of them", "", two, 0, `Service shop/web has no port ""`},
		{"none", "443", two, 0, `Service shop/web has no port "443"`},
	} {
		opts := Defaults()
		opts.Port, opts.Health.Port = test.port, test.health
		o := objects{service: webService(test.ports...), pods: map[string]*pod{"p": podOf("p", "well", corev1.ConditionTrue)}}
		e := endpointOfPod("10.0.0.1", "p", true, false)
		o.slices = []*discoveryv1.EndpointSlice{sliceOf(8080, "http", e), sliceOf(9090, "admin", e)}
		if got := o.wanted(opts); got != test.want {
			t.Errorf("%s: registered are %q, want %q", test.name, got, test.want)
		}
	}
	if got := (objects{}).wanted(Defaults()); got != "" {
		t.Errorf("without a Service registered are %q", got)
	}
}

func TestNodesThatAreRegistered(t *testing.T) {
	label := func(name, value string) func(*corev1.Node) { return func(n *corev1.Node) { n.Labels[name] = value } }
	taint := func(key string, effect corev1.TaintEffect) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: key, Effect: effect}} }
	}
	for _, test := range []struct {
		name   string
		ready  corev1.ConditionStatus
		change func(*corev1.Node)
		want   bool
	}{
		{"ready", corev1.ConditionTrue, nil, true},
		{"not ready", corev1.ConditionFalse, nil, false},
		{"not heard of", corev1.ConditionUnknown, nil, false},
		{"cordoned", corev1.ConditionTrue, func(n *corev1.Node) { n.Spec.Unschedulable = true }, true},
		{"excluded", corev1.ConditionTrue, label("node.kubernetes.io/exclude-from-external-load-balancers", ""), false},
		{"master", corev1.ConditionTrue, label("node-role.kubernetes.io/master", ""), false},
		{"fargate", corev1.ConditionTrue, label("eks.amazonaws.com/compute-type", "fargate"), false},
		{"cluster autoscaler removes it", corev1.ConditionTrue, taint("ToBeDeletedByClusterAutoscaler", corev1.TaintEffectNoSchedule), false},
		{"Karpenter removes it", corev1.ConditionTrue, taint("karpenter.sh/disrupted", corev1.TaintEffectNoSchedule), false},
		{"another taint", corev1.ConditionTrue, taint("dedicated", corev1.TaintEffectNoExecute), true},
		{"no address", corev1.ConditionTrue, func(n *corev1.Node) { n.Status.Addresses = nil }, false},
	} {
		opts := Defaults()
		opts.TargetType = Instance
		o := objects{service: webService(), nodes: map[string]*corev1.Node{
			"other": nodeOf("other", "10.0.0.1", corev1.ConditionTrue, nil),
			"node":  nodeOf("node", "10.0.0.2", test.ready, test.change),
		}}
		want := "10.0.0.1:30080(:30080)"
		if test.want {
			want += " 10.0.0.2:30080(:30080)"
		}
		if got := o.wanted(opts); got != want {
			t.Errorf("%s: registered are %q, want %q", test.name, got, want)
		}
	}
}

func TestNodePorts(t *testing.T) {
	opts := Defaults()
	opts.TargetType = Instance
	o := objects{service: webService(), nodes: map[string]*corev1.Node{"n": nodeOf("n", "10.0.0.1", corev1.ConditionUnknown, nil)}}
	if got, want := o.wanted(opts), "10.0.0.1:30080(:30080)"; got != want {
		t.Errorf("a node that nobody has heard of, alone: registered are %q, want %q", got, want)
	}
	opts.Health.Port = NodeHealthPort
	if got := o.wanted(opts); !strings.Contains(got, "has no healthCheckNodePort") {
		t.Errorf("without a health port: %q", got)
	}
	o.service.Spec.HealthCheckNodePort = 31111
	if got, want := o.wanted(opts), "10.0.0.1:30080(:31111)"; got != want {
		t.Errorf("registered are %q, want %q", got, want)
	}
	o.service = webService(corev1.ServicePort{Port: 80})
	if got := o.wanted(opts); !strings.Contains(got, "has no NodePort") {
		t.Errorf("without a NodePort: %q", got)
	}
}
