package check

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	strictjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	names "k8s.io/apimachinery/pkg/util/validation"
	fieldpath "k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/scheme"
)

// The bounds of an HPA's behavior, which are Kubernetes'
// (https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/).
const (
	maxStabilizationSeconds = 3600
	maxPeriodSeconds        = 1800
)

// metricsOfV1 are annotations in which an HPA of autoscaling/v1 has what only autoscaling/v2
// has fields for.
var metricsOfV1 = []string{"autoscaling.alpha.kubernetes.io/metrics", "autoscaling.alpha.kubernetes.io/behavior"}

// decoder decodes as an API server does for clients that want unknown fields to be errors,
// as kubectl does.
var decoder = strictjson.NewSerializerWithOptions(strictjson.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, strictjson.SerializerOptions{Strict: true})

// hpa judges an HPA as an API server does.
func (c *check) hpa(o object) {
	switch o.GetAPIVersion() {
	case autoscalingv2.SchemeGroupVersion.String(), autoscalingv1.SchemeGroupVersion.String():
	case "autoscaling/v2beta1", "autoscaling/v2beta2":
		// https://kubernetes.io/docs/reference/using-api/deprecation-guide/#v1-26
		c.add(o.finding(Error, "apiVersion", o.GetAPIVersion()+" is not served any more, since Kubernetes 1.26 at the latest: write autoscaling/v2"))
		return
	default:
		c.add(o.finding(Error, "apiVersion", o.GetAPIVersion()+" is not known: write autoscaling/v2"))
		return
	}
	c.report.Checked.HPAs++
	text, err := json.Marshal(o.Object)
	if err != nil {
		c.add(o.finding(Error, "", err.Error()))
		return
	}
	decoded, _, err := decoder.Decode(text, nil, nil)
	if err != nil {
		c.undecodable(o, err)
		return
	}
	switch typed := decoded.(type) {
	case *autoscalingv2.HorizontalPodAutoscaler:
		c.hpaV2(o, typed)
	case *autoscalingv1.HorizontalPodAutoscaler:
		c.hpaV1(o, typed)
	}
}

// ofField finds the field in errors of the decoder.
var ofField = regexp.MustCompile(`unknown field "([^"]+)"|Go struct field \w+\.([\w.]+)`)

// undecodable finds what an API server cannot decode, in its words.
func (c *check) undecodable(o object, err error) {
	all := []error{err}
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		all = strict.Errors()
	}
	for _, err := range all {
		at, message := "spec", err.Error()
		if m := ofField.FindStringSubmatch(message); m != nil {
			at = m[1] + m[2]
		} else if bad := badQuantity("spec", o.Object["spec"]); bad != "" {
			// The error is the quantity's, and does not say where it is.
			at, message = bad, bad+": "+message
		}
		c.add(o.finding(Error, at, message))
	}
}

// badQuantity is the path of the first field that is to be a quantity and is none, or empty.
func badQuantity(at string, value any) string {
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if bad := badQuantity(at+"."+key, value[key]); bad != "" {
				return bad
			}
		}
	case []any:
		for i, item := range value {
			if bad := badQuantity(fmt.Sprintf("%s[%d]", at, i), item); bad != "" {
				return bad
			}
		}
	case string:
		name := at[strings.LastIndex(at, ".")+1:]
		if _, err := resource.ParseQuantity(value); err != nil && slices.Contains([]string{"value", "averageValue", "tolerance"}, name) {
			return at
		}
	}
	return ""
}

// hpaV2 judges an HPA of autoscaling/v2.
func (c *check) hpaV2(o object, typed *autoscalingv2.HorizontalPodAutoscaler) {
	typed.Namespace = cmp.Or(typed.Namespace, c.Namespace)
	j := &hpaJudge{}
	j.meta(typed.ObjectMeta)
	j.replicas(typed.Spec.MinReplicas, typed.Spec.MaxReplicas)
	j.scaleTarget(typed.Spec.ScaleTargetRef)
	j.zero(typed.Spec.MinReplicas, typed.Spec.Metrics)
	for i := range typed.Spec.Metrics {
		m, before := &typed.Spec.Metrics[i], len(j.faults)
		j.metric(fmt.Sprintf("spec.metrics[%d]", i), m)
		if slices.ContainsFunc(j.faults[before:], func(f hpaFault) bool { return f.severity == Error }) {
			// It is looked up nowhere. The others keep their numbers.
			*m = autoscalingv2.MetricSpec{}
		}
	}
	if b := typed.Spec.Behavior; b != nil {
		j.scaling("spec.behavior.scaleUp", b.ScaleUp)
		j.scaling("spec.behavior.scaleDown", b.ScaleDown)
	}
	c.addFaults(o, j)
	c.hpas = append(c.hpas, &hpa{o, typed})
}

// hpaV1 judges an HPA of autoscaling/v1, whose only metric is cpu.
func (c *check) hpaV1(o object, typed *autoscalingv1.HorizontalPodAutoscaler) {
	typed.Namespace = cmp.Or(typed.Namespace, c.Namespace)
	j := &hpaJudge{}
	j.meta(typed.ObjectMeta)
	j.replicas(typed.Spec.MinReplicas, typed.Spec.MaxReplicas)
	j.scaleTarget(autoscalingv2.CrossVersionObjectReference(typed.Spec.ScaleTargetRef))
	if n := typed.Spec.TargetCPUUtilizationPercentage; n != nil && *n < 1 {
		j.wrong("spec.targetCPUUtilizationPercentage", fmt.Sprintf("%d is not 1 or more", *n), "write percents of the requests of a pod, or leave it out for 80")
	}
	noted := false
	for _, key := range metricsOfV1 {
		if _, there := typed.Annotations[key]; there {
			noted = true
			c.add(o.finding(Note, "metadata.annotations["+key+"]", "annotation "+key+" is not judged: write autoscaling/v2, which has fields for it"))
		}
	}
	if !noted {
		j.zero(typed.Spec.MinReplicas, nil)
	}
	c.addFaults(o, j)
}

func (c *check) addFaults(o object, j *hpaJudge) {
	for _, f := range j.faults {
		found := o.finding(f.severity, f.path, f.path+": "+f.text)
		found.Cure = f.cure
		c.add(found)
	}
}

// hpaFault is what is wrong with a field of an HPA.
type hpaFault struct {
	severity         Severity
	path, text, cure string
}

// hpaJudge judges HPAs by the rules of Kubernetes 1.37.
type hpaJudge struct{ faults []hpaFault }

// wrong finds what an API server refuses.
func (j *hpaJudge) wrong(at, text, cure string) {
	j.faults = append(j.faults, hpaFault{Error, at, text, cure})
}

// meta judges the name, the labels and what else all objects have.
func (j *hpaJudge) meta(m metav1.ObjectMeta) {
	if m.Name == "" && m.GenerateName != "" {
		m.Name = m.GenerateName + "x"
	}
	// The API server sets it.
	m.Generation = 0
	const namespaced = true
	for _, err := range validation.ValidateObjectMeta(&m, namespaced, validation.NameIsDNSSubdomain, fieldpath.NewPath("metadata")) {
		j.wrong(err.Field, err.ErrorBody(), "")
	}
}

func (j *hpaJudge) replicas(least *int32, most int32) {
	if least != nil && *least < 0 {
		j.wrong("spec.minReplicas", fmt.Sprintf("%d is not 0 or more", *least), "write how many pods there are at least; 1 without")
	}
	switch {
	case most == 0:
		j.wrong("spec.maxReplicas", "is missing or 0", "write how many pods there may be, 1 or more")
	case most < 0:
		j.wrong("spec.maxReplicas", fmt.Sprintf("%d is not 1 or more", most), "write how many pods there may be")
	case least != nil && most < *least:
		j.wrong("spec.maxReplicas", fmt.Sprintf("%d is less than minReplicas, %d", most, *least), "write as many at least")
	}
}

// zero judges whether something could tell that there is work while no pod runs. Without
// metrics an HPA goes by cpu.
func (j *hpaJudge) zero(least *int32, metrics []autoscalingv2.MetricSpec) {
	if least == nil || *least != 0 {
		return
	}
	if !slices.ContainsFunc(metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ExternalMetricSourceType || m.Type == autoscalingv2.ObjectMetricSourceType
	}) {
		j.wrong("spec.minReplicas", "0 needs a metric of type External or Object: the others are of pods, of which there would be none", "add one, or write 1")
	}
}

func (j *hpaJudge) scaleTarget(r autoscalingv2.CrossVersionObjectReference) {
	const at = "spec.scaleTargetRef"
	j.reference(at, r)
	group, err := schema.ParseGroupVersion(r.APIVersion)
	if err == nil && group.Group == "" && r.Kind != "ReplicationController" {
		j.wrong(at+".apiVersion", fmt.Sprintf("%q names no API group", r.APIVersion), "write that of the kind, such as apps/v1")
	}
}

// reference judges what names another object.
func (j *hpaJudge) reference(at string, r autoscalingv2.CrossVersionObjectReference) {
	j.segment(at+".kind", r.Kind, "write the kind of the object, such as Deployment")
	j.segment(at+".name", r.Name, "write the name of the object")
	if _, err := schema.ParseGroupVersion(r.APIVersion); err != nil {
		j.wrong(at+".apiVersion", err.Error(), "write group and version, such as apps/v1")
	}
}

// segment judges a text that becomes a part of a URL's path.
func (j *hpaJudge) segment(at, text, cure string) {
	if text == "" {
		j.wrong(at, "is missing", cure)
	}
	for _, problem := range content.IsPathSegmentName(text) {
		j.wrong(at, fmt.Sprintf("%q %s", text, problem), cure)
	}
}

// sourcesOf are the types of metrics, each with its field.
func sourcesOf(m *autoscalingv2.MetricSpec) []source {
	return []source{
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil},
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil},
	}
}

// source is a type of metrics, and whether a metric has the field of that type.
type source struct {
	of    autoscalingv2.MetricSourceType
	field string
	there bool
}

func (j *hpaJudge) metric(at string, m *autoscalingv2.MetricSpec) {
	all := sourcesOf(m)
	if !slices.ContainsFunc(all, func(s source) bool { return s.of == m.Type }) {
		text := fmt.Sprintf("%q is no type of metrics", m.Type)
		if m.Type == "" {
			text = "is missing"
		}
		j.wrong(at+".type", text, "write External, Object, Pods, Resource or ContainerResource, spelt so")
		return
	}
	for _, s := range all {
		switch {
		case s.of == m.Type && !s.there:
			j.wrong(at+"."+s.field, "is missing, which a metric of type "+string(m.Type)+" needs", "add it, or write the type whose field is there")
		case s.of == m.Type:
			j.source(at+"."+s.field, m)
		case s.there:
			j.wrong(at+"."+s.field, "is for type "+string(s.of)+", and this metric is of type "+string(m.Type), "leave it out, or write type: "+string(s.of))
		}
	}
}

// source judges the field of the metric's type.
func (j *hpaJudge) source(at string, m *autoscalingv2.MetricSpec) {
	switch m.Type {
	case autoscalingv2.ExternalMetricSourceType:
		j.metricName(at, m.External.Metric)
		j.target(at, m.External.Target, valueOrAverage)
	case autoscalingv2.ObjectMetricSourceType:
		j.reference(at+".describedObject", m.Object.DescribedObject)
		j.metricName(at, m.Object.Metric)
		j.target(at, m.Object.Target, ofObject)
	case autoscalingv2.PodsMetricSourceType:
		j.metricName(at, m.Pods.Metric)
		j.target(at, m.Pods.Target, averageOnly)
	case autoscalingv2.ResourceMetricSourceType:
		if m.Resource.Name == "" {
			j.wrong(at+".name", "is missing", "write cpu or memory")
		}
		j.target(at, m.Resource.Target, utilizationOrAverage)
	case autoscalingv2.ContainerResourceMetricSourceType:
		j.containerResource(at, m.ContainerResource)
	}
}

func (j *hpaJudge) metricName(at string, m autoscalingv2.MetricIdentifier) {
	j.segment(at+".metric.name", m.Name, "write the name of the metric")
}

func (j *hpaJudge) containerResource(at string, r *autoscalingv2.ContainerResourceMetricSource) {
	if problem := resourceProblem(string(r.Name)); problem != "" {
		j.wrong(at+".name", problem, "write cpu or memory")
	}
	if r.Container == "" {
		j.wrong(at+".container", "is missing", "write the name of the container in the pods")
	} else {
		for _, problem := range names.IsDNS1123Label(r.Container) {
			j.wrong(at+".container", fmt.Sprintf("%q: %s", r.Container, problem), "write the name of the container in the pods")
		}
	}
	j.target(at, r.Target, utilizationOrAverage)
}

// resourceProblem is why nothing in a container has a resource of that name, or empty: one
// without a domain is Kubernetes' own, and one with a domain is what a quota could name.
func resourceProblem(name string) string {
	own := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	problems := names.IsQualifiedName(name)
	switch {
	case name == "":
		return "is missing"
	case len(problems) > 0:
		return fmt.Sprintf("%q: %s", name, problems[0])
	case !strings.Contains(name, "/"):
		if !slices.Contains(own, corev1.ResourceName(name)) && !strings.HasPrefix(name, corev1.ResourceHugePagesPrefix) {
			return fmt.Sprintf("%q is no resource of containers", name)
		}
	case strings.Contains(name, corev1.ResourceDefaultNamespacePrefix):
	case strings.HasPrefix(name, corev1.DefaultResourceRequestsPrefix), len(names.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+name)) > 0:
		return fmt.Sprintf("%q cannot be the name of an extended resource", name)
	}
	return ""
}

// wanted are the fields of a target of which a type of metrics needs one.
type wanted struct {
	fields []string
	// one says that there may be no more than one of them.
	one bool
	// byType says that the HPA controller goes by target.type, and not by what is there.
	byType bool
}

var (
	valueOrAverage       = wanted{fields: []string{"averageValue", "value"}, one: true}
	utilizationOrAverage = wanted{fields: []string{"averageUtilization", "averageValue"}, one: true}
	ofObject             = wanted{fields: []string{"value", "averageValue"}, byType: true}
	averageOnly          = wanted{fields: []string{"averageValue"}}
)

// fieldOfTarget is the field of a target of that type.
var fieldOfTarget = map[autoscalingv2.MetricTargetType]string{
	autoscalingv2.UtilizationMetricType:  "averageUtilization",
	autoscalingv2.ValueMetricType:        "value",
	autoscalingv2.AverageValueMetricType: "averageValue",
}

func (j *hpaJudge) target(at string, t autoscalingv2.MetricTarget, w wanted) {
	at += ".target"
	_, known := fieldOfTarget[t.Type]
	switch {
	case t.Type == "":
		j.wrong(at+".type", "is missing", "write "+w.types())
	case !known:
		j.wrong(at+".type", fmt.Sprintf("%q is no type of targets", t.Type), "write "+w.types())
	}
	j.positive(at+".value", t.Value)
	j.positive(at+".averageValue", t.AverageValue)
	if n := t.AverageUtilization; n != nil && *n < 1 {
		j.wrong(at+".averageUtilization", fmt.Sprintf("%d is not 1 or more", *n), "write percents of what pods request")
	}
	there := map[string]bool{"value": t.Value != nil, "averageValue": t.AverageValue != nil, "averageUtilization": t.AverageUtilization != nil}
	set := slices.DeleteFunc(slices.Clone(w.fields), func(name string) bool { return !there[name] })
	switch {
	case len(set) == 0:
		j.wrong(at, "has no "+strings.Join(w.fields, " and no "), "write type: "+w.types()+", and its field")
	case len(set) > 1 && w.one:
		j.wrong(at, "has both "+strings.Join(set, " and "), "leave one out")
	case known && !slices.Contains(set, fieldOfTarget[t.Type]):
		j.otherType(at, t.Type, set[0], w)
	}
}

// otherType warns of a target whose type is not that of its field. The API server takes it.
func (j *hpaJudge) otherType(at string, of autoscalingv2.MetricTargetType, set string, w wanted) {
	text := fmt.Sprintf("%s, and what is there and counts is %s", of, set)
	if w.byType {
		text = fmt.Sprintf("%s, and there is only %s: the HPA controller takes no such metric", of, set)
	}
	j.faults = append(j.faults, hpaFault{Warning, at + ".type", text, "write " + typeOf(set)})
}

// types are the types of targets with such fields.
func (w wanted) types() string {
	types := make([]string, len(w.fields))
	for i, name := range w.fields {
		types[i] = typeOf(name)
	}
	return strings.Join(types, " or ")
}

func typeOf(name string) string {
	for of, its := range fieldOfTarget {
		if its == name {
			return string(of)
		}
	}
	return ""
}

func (j *hpaJudge) positive(at string, q *resource.Quantity) {
	if q != nil && q.Sign() <= 0 {
		j.wrong(at, q.String()+" is not more than 0", "write what one pod, or all of them, should have to do")
	}
}

// scaling judges the behavior in one direction.
func (j *hpaJudge) scaling(at string, r *autoscalingv2.HPAScalingRules) {
	if r == nil {
		return
	}
	if n := r.StabilizationWindowSeconds; n != nil && (*n < 0 || *n > maxStabilizationSeconds) {
		j.wrong(at+".stabilizationWindowSeconds", fmt.Sprintf("%d is not within 0 and %d", *n, maxStabilizationSeconds), "write seconds, of an hour at most")
	}
	selects := []autoscalingv2.ScalingPolicySelect{autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect}
	if s := r.SelectPolicy; s != nil && !slices.Contains(selects, *s) {
		j.wrong(at+".selectPolicy", fmt.Sprintf("%q is not known", *s), "write Max, Min or Disabled")
	}
	if r.Policies != nil && len(r.Policies) == 0 {
		j.wrong(at+".policies", "is empty", "add a policy, or leave the field out for Kubernetes' own")
	}
	for i, p := range r.Policies {
		j.policy(fmt.Sprintf("%s.policies[%d]", at, i), p)
	}
	if q := r.Tolerance; q != nil && q.Sign() < 0 {
		j.wrong(at+".tolerance", q.String()+" is less than 0", "write a part of 1, such as 0.05")
	}
}

func (j *hpaJudge) policy(at string, p autoscalingv2.HPAScalingPolicy) {
	if p.Type != autoscalingv2.PodsScalingPolicy && p.Type != autoscalingv2.PercentScalingPolicy {
		text := fmt.Sprintf("%q is not known", p.Type)
		if p.Type == "" {
			text = "is missing"
		}
		j.wrong(at+".type", text, "write Pods or Percent")
	}
	if p.Value <= 0 {
		j.wrong(at+".value", fmt.Sprintf("is missing, or %d is not 1 or more", p.Value), "write how many pods, or percents of them, may come or go in periodSeconds")
	}
	if p.PeriodSeconds <= 0 || p.PeriodSeconds > maxPeriodSeconds {
		j.wrong(at+".periodSeconds", fmt.Sprintf("is missing, or %d is not within 1 and %d", p.PeriodSeconds, maxPeriodSeconds), "write seconds, of half an hour at most")
	}
}
