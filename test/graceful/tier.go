package graceful

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/tidegauge/tidegauge/test/balancer"
)

const (
	namespace = "orders"
	// web is the name of the Deployment, of its Service and of its ServiceAccount.
	web = "web"
	// gateLabel has the AWS Load Balancer Controller give readiness gates to the pods of a
	// namespace, see
	// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/pod_readiness_gate/
	gateLabel = "elbv2.k8s.aws/pod-readiness-gate-inject"
	gate      = "target-health.elbv2.k8s.aws/" + web
	// annotation begins the names by which a Service tells that controller about its target group, see
	// https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/annotations/
	annotation = "alb.ingress.kubernetes.io/"
	// anyUser is whom pods run as. The test bed's image names no user, and Pod Security
	// wants one that is not root.
	anyUser = 65532
)

// tier is what an overlay says of the web tier, and of the load balancer before it.
type tier struct {
	// around are the objects that the Deployment needs, in the order to apply them.
	around     []*unstructured.Unstructured
	deployment *appsv1.Deployment
	// gated is whether pods have the readiness gate of the load balancer.
	gated     bool
	balancing balancer.Options
}

// readTier takes what belongs to web from the text of an overlay as kustomize has built it.
func readTier(text string) (*tier, error) {
	t := &tier{balancing: balancer.Defaults()}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), len(text))
	for {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(&o.Object)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := t.take(o); err != nil {
			return nil, fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	if t.deployment == nil {
		return nil, fmt.Errorf("there is no Deployment %s", web)
	}
	return t, nil
}

// take leaves out what nothing here needs: HPAs, which would scale, and the policies of a
// network that nobody enforces.
func (t *tier) take(o *unstructured.Unstructured) error {
	switch kind := o.GetKind(); {
	case kind == "Namespace":
		t.gated = o.GetLabels()[gateLabel] == "enabled"
	case kind == "ConfigMap":
	case kind == "ServiceAccount" && o.GetName() == web:
	case kind == "Service" && o.GetName() == web:
		if err := readAnnotations(&t.balancing, o.GetAnnotations()); err != nil {
			return err
		}
	case kind == "Deployment" && o.GetName() == web:
		t.deployment = &appsv1.Deployment{}
		return runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, t.deployment)
	default:
		return nil
	}
	t.around = append(t.around, o)
	return nil
}

// readAnnotations sets up the target group as the controller would.
func readAnnotations(b *balancer.Options, all map[string]string) error {
	h := &b.Health
	for name, value := range all {
		var err error
		switch strings.TrimPrefix(name, annotation) {
		case "healthcheck-path":
			h.Path = value
		case "healthcheck-interval-seconds":
			h.Interval, err = seconds(value)
		case "healthcheck-timeout-seconds":
			h.Timeout, err = seconds(value)
		case "healthy-threshold-count":
			h.HealthyThreshold, err = strconv.Atoi(value)
		case "unhealthy-threshold-count":
			h.UnhealthyThreshold, err = strconv.Atoi(value)
		case "success-codes":
			h.Matcher = value
		case "target-group-attributes":
			delay, found := strings.CutPrefix(value, "deregistration_delay.timeout_seconds=")
			if !found {
				return fmt.Errorf("%s: %q is not known here", name, value)
			}
			b.DeregistrationDelay, err = seconds(delay)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func seconds(text string) (time.Duration, error) {
	n, err := strconv.Atoi(text)
	return time.Duration(n) * time.Second, err
}

func (t *tier) pod() *corev1.PodSpec { return &t.deployment.Spec.Template.Spec }

func (t *tier) container() *corev1.Container { return &t.pod().Containers[0] }

// arg is the value of a flag of the program, with its place.
func (t *tier) arg(name string) (value string, place int, err error) {
	for i, arg := range t.container().Args {
		if value, found := strings.CutPrefix(arg, "--"+name+"="); found {
			return value, i, nil
		}
	}
	return "", 0, fmt.Errorf("web has no argument --%s", name)
}

func (t *tier) setArg(name, value string) error {
	_, place, err := t.arg(name)
	if err == nil {
		t.container().Args[place] = "--" + name + "=" + value
	}
	return err
}

// compress has a tier that drains do it in less time.
func (t *tier) compress(o Options) error {
	if o.DeregistrationDelay > 0 {
		t.balancing.DeregistrationDelay = o.DeregistrationDelay
	}
	idle, _, err := t.arg("drain-idle")
	if err != nil || o.DrainIdle == 0 || idle == "0s" {
		return err
	}
	return t.setArg("drain-idle", o.DrainIdle.String())
}

// healthOfUsers has health checks ask for what users see, which is good to the end. They are
// traffic like any other then, with which a drain never ends but at its limit.
func (t *tier) healthOfUsers() error {
	t.balancing.Health.Path = "/"
	t.container().ReadinessProbe.HTTPGet.Path = "/"
	return t.setArg("drain", "20s")
}

// fit makes it a Deployment for the test bed: with its AWS, and with the gate that the
// controller's webhook would give to each pod.
func (t *tier) fit(aws []corev1.EnvVar) {
	t.deployment.Spec.Replicas = new(int32(left))
	t.pod().SecurityContext.RunAsUser = new(int64(anyUser))
	t.container().Env = append(t.container().Env, aws...)
	t.pod().ReadinessGates = nil
	if t.gated {
		t.pod().ReadinessGates = []corev1.PodReadinessGate{{ConditionType: gate}}
	}
}

// render builds an overlay and reads it.
func (b *bed) render(ctx context.Context, v Variant) (*tier, error) {
	dir, err := b.overlay(v.overlay)
	if err != nil {
		return nil, err
	}
	text, err := b.Kubectl(ctx, "", "kustomize", dir)
	if err != nil {
		return nil, err
	}
	t, err := readTier(text)
	if err != nil {
		return nil, fmt.Errorf("overlay %s: %w", v.overlay, err)
	}
	if err := t.compress(b.opts); err != nil {
		return nil, err
	}
	if v.without != nil {
		if err := v.without(t); err != nil {
			return nil, err
		}
	}
	t.fit(b.awsVariables())
	t.balancing.Client, t.balancing.Namespace, t.balancing.Service = b.Client(), namespace, web
	t.balancing.RegistrationLag, t.balancing.DeregistrationLag = b.opts.Lag, b.opts.Lag
	t.balancing.Requeue = requeue
	return t, nil
}

// text is what is around the Deployment, to be applied.
func (t *tier) text() ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	for _, o := range t.around {
		if err := encoder.Encode(o.Object); err != nil {
			return nil, err
		}
	}
	return text.Bytes(), nil
}
