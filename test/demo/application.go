package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	yamltext "sigs.k8s.io/yaml"

	"github.com/tidegauge/tidegauge/test/balancer"
	"github.com/tidegauge/tidegauge/test/env"
	"github.com/tidegauge/tidegauge/test/runner"
)

const (
	webName       = "web"
	workerName    = "worker"
	loaderName    = "loader"
	simulatorName = "simulator"

	// calmRate is the load of a quiet night, in requests a second.
	calmRate = 1
	// loadRate is the load by which the HPA wants loadPods, at 10 requests a second each.
	loadRate = 25
	loadPods = 3
	// waveLoaders are so many loaders at most, of loadRate each.
	waveLoaders = 2

	// scrapeInterval is how often Prometheus asks the pods. Production has 30 s, and rules
	// that look back over four of them.
	scrapeInterval = 2 * time.Second
	// webStabilization is how long web stays at its highest need. The manifest has 5 minutes.
	webStabilization = 10 * time.Second
	// workerStabilization is that of the workers: until the queue that is nearly empty is empty,
	// and they were asked what they did.
	workerStabilization = 8 * time.Second
	mostPods            = 48
	adminPort           = "admin"
)

const (
	// rulesFile has the rule for the HPA of web, as its first one.
	rulesFile = "deploy/hpa/helm/values.yaml"
	// usualRange is what that rule looks back over, and demoRange what it does here.
	usualRange, demoRange = "[2m]", "[10s]"
)

// rules is an adapter's configuration with the first rule of rulesFile, asked as often as Prometheus
// asks the pods, and over the time of a demo.
func rules() ([]byte, error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(filepath.Join(root, rulesFile))
	if err != nil {
		return nil, err
	}
	var values struct {
		Rules struct {
			Custom []map[string]any `json:"custom"`
		} `json:"rules"`
	}
	if err := yamltext.Unmarshal(text, &values); err != nil {
		return nil, fmt.Errorf("%s: %w", rulesFile, err)
	}
	if len(values.Rules.Custom) == 0 {
		return nil, fmt.Errorf("%s has no rule", rulesFile)
	}
	rule := values.Rules.Custom[0]
	rule["interval"] = scrapeInterval.String()
	text, err = yamltext.Marshal(map[string]any{"rules": []any{rule}})
	return bytes.ReplaceAll(text, []byte(usualRange), []byte(demoRange)), err
}

// render gives the objects of manifestDir as kubectl makes them.
func render(ctx context.Context) ([]*unstructured.Unstructured, error) {
	root, err := env.Root()
	if err != nil {
		return nil, err
	}
	text, err := env.Run(ctx, "", "kubectl", "kustomize", filepath.Join(root, manifestDir))
	if err != nil {
		return nil, err
	}
	objects, err := env.ParseObjects([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifestDir, err)
	}
	return objects, nil
}

// startApplication applies the manifests. The balancer is there before the pods, as the
// loaders are told its address.
func (d *demo) startApplication(ctx context.Context) error {
	objects, err := render(ctx)
	if err != nil {
		return err
	}
	var later []*unstructured.Unstructured
	for _, o := range objects {
		if err := errors.Join(d.hasten(o), runner.Place(o)); err != nil {
			return fmt.Errorf("%s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if slices.Contains([]string{"Deployment", "HorizontalPodAutoscaler"}, o.GetKind()) {
			later = append(later, o)
			continue
		}
		if err := d.apply(ctx, o); err != nil {
			return err
		}
	}
	if err := d.apply(ctx, d.database.secret()); err != nil {
		return err
	}
	opts := balancer.Defaults()
	opts.Client, opts.Namespace, opts.Service, opts.Port = d.cluster.Client(), namespace, webName, "http"
	// As the annotations of the Service have it, but for a demo's time.
	opts.DeregistrationDelay = webDrainIdle
	opts.Dial, opts.Grace = d.runner.Dial, time.Second
	if d.balancer, err = balancer.Start(ctx, opts); err != nil {
		return err
	}
	d.load.aim(d.balancer.URL())
	d.board.step("the load balancer is ready: " + d.balancer.URL())
	for _, o := range later {
		if err := d.apply(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) apply(ctx context.Context, o *unstructured.Unstructured) error {
	text, err := yamltext.Marshal(o.Object)
	if err != nil {
		return err
	}
	return d.cluster.Apply(ctx, text)
}

// hasten has an object take seconds where the manifests have minutes, as
// deploy/demo/queue has it, and leaves the loaders and the simulator to the story.
func (d *demo) hasten(o *unstructured.Unstructured) error {
	set := func(value any, path ...string) error { return unstructured.SetNestedField(o.Object, value, path...) }
	switch o.GetKind() + " " + o.GetName() {
	case "Deployment " + simulatorName:
		return set(int64(0), "spec", "replicas")
	case "Deployment " + loaderName:
		return set(int64(1), "spec", "replicas")
	case "HorizontalPodAutoscaler " + webName:
		return set(int64(d.opts.webStabilization().Seconds()), "spec", "behavior", "scaleDown", "stabilizationWindowSeconds")
	case "HorizontalPodAutoscaler " + workerName:
		step := []any{map[string]any{"type": "Pods", "value": int64(4), "periodSeconds": int64(4)}}
		return set(map[string]any{
			"scaleUp":   map[string]any{"policies": step},
			"scaleDown": map[string]any{"stabilizationWindowSeconds": int64(workerStabilization.Seconds()), "policies": step},
		}, "spec", "behavior")
	case "ExternalMetric " + metricName:
		return errors.Join(set(publishInterval.String(), "spec", "interval"), set(metricMaxAge.String(), "spec", "maxAge"), hastenQueries(o))
	}
	return nil
}

// hastenQueries asks for data of each second, which the stand-in publishes.
func hastenQueries(o *unstructured.Unstructured) error {
	queries, _, err := unstructured.NestedSlice(o.Object, "spec", "queries")
	if err != nil {
		return err
	}
	for _, q := range queries {
		query, ok := q.(map[string]any)
		if !ok {
			continue
		}
		if _, asks := query["metricStat"]; !asks {
			continue
		}
		if err := unstructured.SetNestedField(query, int64(1), "metricStat", "period"); err != nil {
			return err
		}
	}
	return unstructured.SetNestedSlice(o.Object, queries, "spec", "queries")
}

// startRunner starts what runs the pods.
func (d *demo) startRunner(ctx context.Context) error {
	// The pods end with stop, after the balancer: they serve up to the end.
	var err error
	d.runner, err = runner.Start(context.WithoutCancel(ctx), runner.Options{
		Config: d.cluster.Config(), Program: filepath.Join(d.cluster.Binaries(), "orders"),
		Dir: filepath.Join(d.dir, bedDir, podDir), Nodes: 2, Pods: mostPods,
		Args: d.arguments, Env: d.amazon.env(),
	})
	if err == nil {
		d.board.step("two nodes run the pods as processes")
	}
	return err
}

const (
	// webDrainIdle is how long nothing may come before a web pod ends.
	webDrainIdle = 5 * time.Second
	// workerVisibility is when the message of a worker that was killed comes back.
	workerVisibility = 10 * time.Second
)

// arguments follow those of a pod's manifest and overrule them.
func (d *demo) arguments(pod *corev1.Pod) []string {
	switch pod.Labels["app"] {
	case webName:
		return append(d.database.args(), "--drain-idle="+webDrainIdle.String())
	case workerName:
		return append(d.database.args(), "--concurrency=1", "--visibility="+workerVisibility.String(),
			"--work="+time.Duration(float64(time.Second)/d.opts.Rate).String())
	case loaderName:
		// The orders are the story's: the load looks at them.
		return []string{
			"--url=" + d.load.target(), "--mix=list=1", "--publish=" + publishInterval.String(),
			"--rate=" + strconv.FormatFloat(d.load.rate(), 'f', -1, 64),
		}
	case simulatorName:
		return []string{
			"--period=" + d.opts.Period.String(), "--steps=" + strconv.Itoa(waveSteps),
			"--max=" + strconv.Itoa(waveLoaders), "--publish=" + publishInterval.String(),
			// Where they are by default, which names no file of this machine.
			"--kube-token-file=" + accountDir + "/token", "--kube-ca-file=" + accountDir + "/ca.crt",
		}
	}
	return nil
}

const (
	// waveSteps is how often in a period the simulator looks whether there is to be one more.
	waveSteps = 20
	// accountDir is where a pod finds its ServiceAccount.
	accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"
)

// writeRules writes the adapter's configuration.
func (d *demo) writeRules() (path string, err error) {
	text, err := rules()
	if err != nil {
		return "", err
	}
	path = filepath.Join(d.dir, bedDir, "adapter.yaml")
	return path, os.WriteFile(path, text, 0o600)
}
