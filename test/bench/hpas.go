package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tidegauge/tidegauge/test/env"
)

const (
	controllerHPAs       = 1000
	controllerNamespaces = 10
	// periods is how long the syncs of each HPA are looked at. The controller counts a
	// period from the end of the sync before, so that it is a moment longer than it is set
	// to, and one sync less fits.
	periods        = 8
	hpaController  = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"
	externalPrefix = "/apis/external.metrics.k8s.io/v1beta1/namespaces/"

	figSynced      = "HPAs synced every period"
	figLongest     = "longest time between two reads of an HPA"
	figFailedReads = "reads that failed"
	figSyncReads   = "reads every 15 s"
	figAccess      = "SubjectAccessReviews every 15 s"
	figCPU         = "the adapter's CPU"
	figResident    = "the adapter's resident memory"
)

// auditPolicy has the adapter write down who reads which external metric, and when.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  resources:
  - group: external.metrics.k8s.io
- level: None
`

// controller measures the adapter while the real HPA controller syncs many HPAs.
func controller() measurement {
	return measurement{
		name: "controller",
		figures: []figure{
			{name: figSynced, atLeast: new(float64(controllerHPAs))},
			{name: figLongest, unit: "s"},
			{name: figFailedReads, atMost: new(0.0)},
			{name: figSyncReads},
			{name: figAccess},
			{name: figCPU, unit: "cores"},
			{name: figResident, unit: "MB"},
		},
		run: measureController,
	}
}

func measureController(ctx context.Context, b *bed) (map[string]measured, error) {
	metrics := spread("bench-controller", controllerHPAs, controllerNamespaces)
	aws, err := startAmazon(ctx, metrics, podLimit+hpaLimit+2*periods*hpaSync)
	if err != nil {
		return nil, err
	}
	defer aws.Close()
	wanted := make([]deployment, len(metrics))
	for i, m := range metrics {
		wanted[i] = deployment{m.Namespace, m.Name, 1}
	}
	values := map[string]float64{}
	err = func() error {
		if _, err := b.deployments(ctx, wanted); err != nil {
			return err
		}
		if err := b.createMetrics(ctx, metrics, ""); err != nil {
			return err
		}
		log := filepath.Join(b.Dir(), "logs", "audit-of-reads.log")
		args, err := b.auditTo(log)
		if err != nil {
			return err
		}
		return b.withAmazon(ctx, aws, nil, args, func(a *env.Adapter) error {
			return b.measureSyncs(ctx, a, metrics, log, values)
		})
	}()
	return plain(values), b.clearAfter(ctx, namespacesOf(metrics), err)
}

// auditTo gives the arguments of an adapter that writes its reads to a file.
func (b *bed) auditTo(log string) ([]string, error) {
	policy := filepath.Join(b.Dir(), "audit-policy.yaml")
	err := os.WriteFile(policy, []byte(auditPolicy), 0o600)
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + log}, err
}

func (b *bed) measureSyncs(ctx context.Context, a *env.Adapter, metrics []types.NamespacedName, log string, values map[string]float64) error {
	if err := b.createHPAs(ctx, metrics); err != nil {
		return err
	}
	if err := b.awaitActive(ctx, metrics); err != nil {
		return err
	}
	// Those that were created one after the other have found their places by then.
	if err := pause(ctx, hpaSync); err != nil {
		return err
	}
	const window = periods * hpaSync
	b.say("counting for %v", window)
	cpu, err := cpuOf(a.ID().PID)
	if err != nil {
		return err
	}
	access, err := b.accessReviews(ctx)
	if err != nil {
		return err
	}
	from := time.Now()
	m, err := settledMemory(ctx, a.ID().PID, window)
	if err != nil {
		return err
	}
	to := time.Now()
	cpuAfter, err := cpuOf(a.ID().PID)
	if err != nil {
		return err
	}
	accessAfter, err := b.accessReviews(ctx)
	if err != nil {
		return err
	}
	values[figCPU] = (cpuAfter - cpu).Seconds() / to.Sub(from).Seconds()
	values[figAccess] = (accessAfter - access) / to.Sub(from).Seconds() * hpaSync.Seconds()
	values[figResident] = m.resident / megabyte

	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	reads, err := parseAudit(text)
	if err != nil {
		return err
	}
	return reads.figures(metrics, from, to, values)
}

// accessReviews is how often the API server was asked whether somebody may do something.
func (b *bed) accessReviews(ctx context.Context) (float64, error) {
	return requestsServed(ctx, b.Config(), map[string]string{"resource": "subjectaccessreviews"})
}

// awaitActive waits until each HPA has a number of its metric.
func (b *bed) awaitActive(ctx context.Context, metrics []types.NamespacedName) error {
	return b.await(ctx, "HPAs", hpaLimit, func(ctx context.Context) (string, bool, error) {
		active, example := 0, ""
		for _, namespace := range namespacesOf(metrics) {
			list, err := b.Client().AutoscalingV2().HorizontalPodAutoscalers(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err != nil {
				return "", false, err
			}
			for _, hpa := range list.Items {
				says, ok := hasExternal(hpa.Status)
				if ok {
					active++
				} else {
					example = fmt.Sprintf("; %s/%s: %s", hpa.Namespace, hpa.Name, says)
				}
			}
		}
		return fmt.Sprintf("%d of %d have a number%s", active, len(metrics), example), active == len(metrics), nil
	})
}

// hasExternal says whether an HPA is active and has a value of its external metric, and
// what it says of it.
func hasExternal(s autoscalingv2.HorizontalPodAutoscalerStatus) (says string, ok bool) {
	says = "it was not looked at yet"
	for _, c := range s.Conditions {
		if c.Type != autoscalingv2.ScalingActive {
			continue
		}
		says = c.Message
		if c.Status != corev1.ConditionTrue {
			return says, false
		}
	}
	return says, slices.ContainsFunc(s.CurrentMetrics, func(m autoscalingv2.MetricStatus) bool {
		return m.External != nil && m.External.Current.AverageValue != nil
	})
}

// auditedReads are when the HPA controller read each metric.
type auditedReads struct {
	at map[types.NamespacedName][]time.Time
	// failed are when reads failed.
	failed []time.Time
}

// auditEvent is what is of interest in a line of an audit log, see
// https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/
type auditEvent struct {
	Stage      string `json:"stage"`
	RequestURI string `json:"requestURI"`
	User       struct {
		Username string `json:"username"`
	} `json:"user"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
	RequestReceivedTimestamp time.Time `json:"requestReceivedTimestamp"`
}

// parseAudit reads an audit log, whose last line may be under way.
func parseAudit(text []byte) (auditedReads, error) {
	reads := auditedReads{at: map[types.NamespacedName][]time.Time{}}
	for line := range bytes.Lines(text[:bytes.LastIndexByte(text, '\n')+1]) {
		var e auditEvent
		if err := json.Unmarshal(line, &e); err != nil {
			return reads, fmt.Errorf("audit log: %w", err)
		}
		path, _, _ := strings.Cut(e.RequestURI, "?")
		namespace, name, ok := strings.Cut(strings.TrimPrefix(path, externalPrefix), "/")
		if e.Stage != "ResponseComplete" || e.User.Username != hpaController || !ok || !strings.HasPrefix(path, externalPrefix) {
			continue
		}
		if e.ResponseStatus.Code != 200 {
			reads.failed = append(reads.failed, e.RequestReceivedTimestamp)
			continue
		}
		key := types.NamespacedName{Namespace: namespace, Name: name}
		reads.at[key] = append(reads.at[key], e.RequestReceivedTimestamp)
	}
	return reads, nil
}

// figures are those of the time between two points.
func (r auditedReads) figures(metrics []types.NamespacedName, from, to time.Time, values map[string]float64) error {
	synced, reads, longest := 0, 0, time.Duration(0)
	for _, m := range metrics {
		gap, n := longestGap(r.at[m], from, to)
		reads += n
		longest = max(longest, gap)
		if n >= periods-1 && gap < 2*hpaSync {
			synced++
		}
	}
	if reads == 0 {
		return fmt.Errorf("the audit log has no read of %d metrics: is the user another one than %s?", len(metrics), hpaController)
	}
	failed := 0
	for _, at := range r.failed {
		if at.After(from) && at.Before(to) {
			failed++
		}
	}
	values[figSynced] = float64(synced)
	values[figLongest] = longest.Seconds()
	values[figFailedReads] = float64(failed)
	values[figSyncReads] = float64(reads) / to.Sub(from).Seconds() * hpaSync.Seconds()
	return nil
}

// longestGap is the longest time without a read, and n how many there were. What is before
// the first and after the last counts too.
func longestGap(reads []time.Time, from, to time.Time) (longest time.Duration, n int) {
	last := from
	for _, at := range slices.SortedFunc(slices.Values(reads), time.Time.Compare) {
		if at.Before(from) || at.After(to) {
			continue
		}
		n++
		longest = max(longest, at.Sub(last))
		last = at
	}
	return max(longest, to.Sub(last)), n
}
