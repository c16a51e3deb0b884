package check

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/tidegauge/tidegauge/cmd/adapter/internal/crd"
	"github.com/tidegauge/tidegauge/cmd/adapter/internal/local"
	metricsaws "github.com/tidegauge/tidegauge/pkg/apis/metricsaws/v1alpha1"
	"github.com/tidegauge/tidegauge/pkg/config"
	"github.com/tidegauge/tidegauge/pkg/sources/cloudwatch"
)

// ConfigKey is the key of a ConfigMap that has a configuration.
const ConfigKey = "config.yaml"

// Options are what Run needs.
type Options struct {
	// Texts are what is checked.
	Texts []Text
	// Overlay lays the flags over a configuration.
	Overlay config.Overlay
	// Namespace is that of objects that name none, and of readers of rules' metrics that
	// no HPA names.
	Namespace string
	// Kubeconfig is the file of the cluster whose resources count; Kubernetes' own without.
	Kubeconfig string
	// NoDataIsZero is for ExternalMetrics that do not say, MaxAge how far back series are
	// looked for.
	NoDataIsZero bool
	MaxAge       time.Duration
	// Live has the backends asked.
	Live bool
	// Served are APIs that an API server has to serve: that of Kubeconfig, or without one
	// that of the cluster in whose pod this process runs.
	Served []schema.GroupVersion
	// Progress is told from time to time what is waited for; it may be nil.
	Progress func(text string)
}

// Run checks the texts. The error is for what could not be checked at all.
func Run(ctx context.Context, o Options) (*Report, error) {
	c, err := read(ctx, o)
	if err != nil {
		return nil, err
	}
	served, err := c.discover(ctx)
	if err != nil {
		return nil, err
	}
	if len(o.Texts) > 0 {
		err = c.together(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.nothing()
	c.report.Served = served()
	for i, s := range c.report.Served {
		if s.Error != "" {
			c.add(s.finding(o.Served[i]))
		}
	}
	c.report.Checked.APIs = len(o.Served)
	c.report.finish()
	return c.report, nil
}

// Loaded is what texts define.
type Loaded struct {
	// Findings are what is wrong with them, each by itself.
	Findings []Finding
	// Broken says that the configuration cannot be loaded.
	Broken bool
	// Parts are what the adapter's parts are made of: without the objects that an API
	// server would refuse.
	Parts local.Options
}

// Load reads the texts, of which one at most is a configuration. The error is for what could
// not be read at all.
func Load(ctx context.Context, o Options) (*Loaded, error) {
	c, err := read(ctx, o)
	if err != nil {
		return nil, err
	}
	if len(c.configurations) > 1 && !c.broken {
		return nil, fmt.Errorf("%d configurations: give one", len(c.configurations))
	}
	chosen, err := c.chosen()
	if err != nil {
		return nil, err
	}
	c.metrics = slices.DeleteFunc(c.metrics, func(m *externalMetric) bool { return m.refused })
	c.report.finish()
	return &Loaded{Findings: c.report.Findings, Broken: c.broken, Parts: c.parts(chosen)}, nil
}

// read judges each document by itself.
func read(ctx context.Context, o Options) (*check, error) {
	judge, err := crd.New()
	if err != nil {
		return nil, err
	}
	c := &check{Options: o, judge: judge, report: &Report{Findings: []Finding{}}, skipped: map[string]map[string]int{}}
	files := map[string]bool{}
	for _, t := range o.Texts {
		files[t.File] = true
		if err := c.text(ctx, t); err != nil {
			return nil, err
		}
	}
	c.noteSkipped()
	c.report.Checked.Files = len(files)
	return c, nil
}

// check is one Run.
type check struct {
	Options

	judge   *crd.Judge
	report  *Report
	telling sync.Mutex
	// skipped are how many objects of which kinds are not judged, by file.
	skipped map[string]map[string]int
	// documents is how many there were, with the items of Lists.
	documents int

	// empty are standard input, if it has no document, and the file of --config, if it has
	// not even a comment: with one the adapter serves by it.
	empty []Text

	configurations []*configuration
	// broken says that there is a configuration, or a file with several, that cannot be
	// loaded.
	broken  bool
	metrics []*externalMetric
	hpas    []*hpa
}

// nothing finds that there is nothing to judge where there should be something. Standard
// input without a document is what a command leaves that failed before its pipe, and an
// empty file of --config is one that nobody has written.
func (c *check) nothing() {
	for _, t := range c.empty {
		found := Finding{Severity: Error, File: t.File, Message: "standard input has no YAML document", Cure: "see whether the command before the pipe failed"}
		if t.Config {
			found.Message, found.Cure = "the file of --config has no configuration", "write `rules: []` if it is to have none"
		}
		c.add(found)
	}
	n := c.report.Checked
	wrong := slices.ContainsFunc(c.report.Findings, func(f Finding) bool { return f.Severity == Error })
	if wrong || len(c.Texts) == 0 || n.Configurations+n.ExternalMetrics+n.HPAs > 0 {
		return
	}
	c.add(Finding{
		Severity: Warning, Message: "nothing is checked: no file has a configuration, an ExternalMetric or an HPA",
		Cure: "a configuration in a ConfigMap has the key " + ConfigKey,
	})
}

// discover begins to ask for the APIs, while the rest is judged. What it returns waits for
// the answers.
func (c *check) discover(ctx context.Context) (func() []Served, error) {
	if len(c.Served) == 0 {
		return func() []Served { return nil }, nil
	}
	d, err := newDiscoverer(c.Kubeconfig, c.tell)
	if err != nil {
		return nil, err
	}
	answers := make(chan []Served, 1)
	go func() { answers <- d.ask(ctx, c.Served) }()
	return func() []Served { return <-answers }, nil
}

// tell tells what is waited for.
func (c *check) tell(text string) {
	c.telling.Lock()
	defer c.telling.Unlock()
	if c.Progress != nil {
		c.Progress(text)
	}
}

// configuration is one that can be loaded.
type configuration struct {
	*config.Config
	place

	// namespace is that of its ConfigMap, and so the adapter's.
	namespace string
}

// externalMetric is an ExternalMetric as an API server would store it.
type externalMetric struct {
	object

	stored *unstructured.Unstructured
	// refused says that an API server would not.
	refused bool
}

// hpa is a HorizontalPodAutoscaler.
type hpa struct {
	object

	typed *autoscalingv2.HorizontalPodAutoscaler
}

// place is where a text is in a file.
type place struct {
	file string
	// before is how many lines come before it. If all of it is on one line, which has other
	// lines in it, that is only.
	before, only int
}

func (p place) line(line int) int {
	switch {
	case p.only > 0:
		return p.only
	case line == 0:
		return 0
	}
	return p.before + line
}

func (c *check) add(f Finding) {
	f.Message, f.Cure, f.Object = oneLine(f.Message), oneLine(f.Cure), oneLine(f.Object)
	c.report.Findings = append(c.report.Findings, f)
}

// text judges the documents of a file, as far as that needs no others.
func (c *check) text(ctx context.Context, t Text) error {
	docs := documentsOf(t)
	if c.documents += len(docs); c.documents > maxDocuments {
		return fmt.Errorf("%s: %w", t.File, errTooMany)
	}
	if t.Config && len(docs) == 1 {
		docs[0].served = t.Text
	}
	// counted is the first document that no other may follow.
	var counted *document
	hasContent := false
	for i := range docs {
		d, before := &docs[i], len(c.report.Findings)
		c.document(ctx, d)
		hasContent = hasContent || d.node != nil && !isNull(d.node) || len(c.report.Findings) > before
		if c.documents > maxDocuments {
			return fmt.Errorf("%s: %w", t.File, errTooMany)
		}
		switch {
		case !d.countsIn(t):
		case counted == nil:
			counted = d
		default:
			c.second(t, counted, d)
		}
	}
	if t.Config && len(bytes.TrimSpace(t.Text)) == 0 || t.File == stdin && !hasContent {
		c.empty = append(c.empty, t)
	}
	return nil
}

// countsIn says that the document is one of those that a file may have one of.
func (d *document) countsIn(t Text) bool {
	if t.Config {
		return d.node != nil && !isNull(d.node)
	}
	if !d.isConfiguration() {
		return false
	}
	what, _ := other(d.node)
	return what == ""
}

// second finds that a file has more than the one configuration that it is loaded as.
func (c *check) second(t Text, first, d *document) {
	what, cure := "more than one configuration in a file", "write one document, or a file for each"
	if t.Config {
		what, cure = "more than one YAML document in the file of --config", "give the others as FILE or --filename"
	}
	c.broken = true
	c.add(Finding{
		Severity: Error, File: t.File, Line: d.line(""), Object: "configuration", Cure: cure,
		Message: fmt.Sprintf("%s, which the adapter does not load: one begins on line %d, another on line %d", what, first.line(""), d.line("")),
	})
}

// document judges a document, as far as that needs no others.
func (c *check) document(ctx context.Context, d *document) {
	line, err := d.parse()
	switch {
	case err != nil:
		c.add(Finding{Severity: Error, File: d.file, Line: line, Message: err.Error()})
		return
	case d.node == nil || isNull(d.node):
		return
	case d.node.Kind != yaml.MappingNode:
		c.add(Finding{Severity: Error, File: d.file, Line: d.before + d.node.Line, Message: errNoObject.Error()})
		return
	case d.isConfiguration():
		c.bare(d)
		return
	}
	objects, line, err := d.objects()
	if err != nil {
		c.add(Finding{Severity: Error, File: d.file, Line: line, Message: err.Error()})
	}
	// The document itself is counted already. What is too much ends the check.
	if c.documents += max(len(objects)-1, 0); c.documents > maxDocuments {
		return
	}
	for _, o := range objects {
		c.object(ctx, o)
	}
}

// bare judges a document without apiVersion and kind.
func (c *check) bare(d *document) {
	if what, cure := other(d.node); what != "" {
		c.add(Finding{Severity: Error, File: d.file, Line: d.before + d.node.Line, Message: what, Cure: cure})
		return
	}
	if d.served != nil {
		c.configuration(place{file: d.file}, d.served, "")
		return
	}
	c.configuration(place{file: d.file, before: d.before}, d.text, "")
}

// configuration judges a configuration by the loader that serves.
func (c *check) configuration(p place, text []byte, namespace string) {
	c.report.Checked.Configurations++
	loaded, err := config.Parse(text, c.Overlay)
	faults, ok := errors.AsType[config.FaultsError](err)
	if err != nil && !ok {
		faults = config.FaultsError{{Text: err.Error()}}
	}
	for _, f := range faults {
		c.add(p.finding(Error, f))
	}
	if err != nil {
		c.broken = true
		return
	}
	for _, f := range loaded.Warnings() {
		c.add(p.finding(Warning, f))
	}
	c.configurations = append(c.configurations, &configuration{loaded, p, namespace})
}

func (p place) finding(s Severity, f config.Fault) Finding {
	return Finding{Severity: s, File: p.file, Line: p.line(f.Line), Object: cmp.Or(f.Path, "configuration"), Message: f.Text}
}

// name is what people know an object by.
func (o object) name() string {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	return strings.TrimSpace(o.GetKind() + " " + name)
}

// finding is one of the object, about the field of that path.
func (o object) finding(s Severity, path, message string) Finding {
	return Finding{Severity: s, File: o.file, Line: o.line(path), Object: o.name(), Message: message}
}

// object judges an object, as far as that needs no others.
func (c *check) object(ctx context.Context, o object) {
	if o.Unstructured == nil {
		c.add(Finding{Severity: Error, File: o.file, Line: o.line(""), Message: "an item of a List is no Kubernetes object, which is a mapping of fields"})
		return
	}
	group, err := schema.ParseGroupVersion(o.GetAPIVersion())
	kind := group.WithKind(o.GetKind()).GroupKind()
	switch {
	case err != nil || o.GetKind() == "" || o.GetAPIVersion() == "":
		c.add(o.finding(Error, "apiVersion", "a Kubernetes object needs kind and apiVersion, such as metrics.aws/v1alpha1"))
	case kind == schema.GroupKind{Group: metricsaws.GroupVersion.Group, Kind: "ExternalMetric"}:
		c.externalMetric(ctx, o)
	case kind.Group == metricsaws.GroupVersion.Group:
		c.add(o.finding(Error, "kind", fmt.Sprintf("kind %s is not known in %s: write ExternalMetric", o.GetKind(), o.GetAPIVersion())))
	case kind == schema.GroupKind{Group: autoscalingv2.GroupName, Kind: "HorizontalPodAutoscaler"}:
		c.hpa(o)
	case kind == schema.GroupKind{Kind: "ConfigMap"} && field(field(o.node, "data"), ConfigKey) != nil:
		c.configMap(o)
	default:
		c.skip(o)
	}
}

// skip counts what is not judged. Each file has one note of it.
func (c *check) skip(o object) {
	of := c.skipped[o.file]
	if of == nil {
		of = map[string]int{}
		c.skipped[o.file] = of
	}
	of[o.GetKind()]++
}

// noteSkipped notes what is not judged of each file.
func (c *check) noteSkipped() {
	for file, kinds := range c.skipped {
		var parts []string
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			parts = append(parts, fmt.Sprintf("%d %s", kinds[kind], kind))
		}
		c.add(Finding{Severity: Note, File: file, Message: "not judged, as no configuration, ExternalMetric or HPA: " + strings.Join(parts, ", ")})
	}
}

// configMap judges the configuration in a ConfigMap.
func (c *check) configMap(o object) {
	text, _, err := unstructured.NestedString(o.Object, "data", ConfigKey)
	if err != nil {
		c.add(o.finding(Error, "data", err.Error()))
		return
	}
	if strings.TrimSpace(text) == "" {
		// The adapter takes it when it starts, and for a mistake when it reloads.
		empty := o.finding(Warning, "data", "data: the key "+ConfigKey+" has no configuration")
		empty.Cure = "write `rules: []` if it is to have none"
		c.add(empty)
	}
	node := field(field(o.node, "data"), ConfigKey)
	p := place{file: o.file, before: o.before + node.Line}
	if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		p = place{file: o.file, only: o.before + node.Line}
	}
	c.configuration(p, []byte(text), o.GetNamespace())
}

// externalMetric judges an ExternalMetric as an API server does.
func (c *check) externalMetric(ctx context.Context, o object) {
	c.report.Checked.ExternalMetrics++
	stored := o.DeepCopy()
	if stored.GetNamespace() == "" {
		stored.SetNamespace(c.Namespace)
	}
	faults := c.judge.Errors(ctx, stored)
	for _, f := range faults {
		message := f.Text
		if f.Field != "" && !strings.Contains(message, f.Field) {
			message = f.Field + ": " + message
		}
		c.add(o.finding(Error, f.Field, message))
	}
	if len(faults) == 0 {
		for _, text := range c.judge.Warnings(ctx, stored) {
			c.add(o.finding(Warning, pathOf(text), text))
		}
	}
	c.metrics = append(c.metrics, &externalMetric{object: o, stored: stored, refused: len(faults) > 0})
}

// leading is how messages of the policy and of the catalog begin: with the path of a field,
// or the key of an annotation.
var leading = regexp.MustCompile(`^(?:annotation ([\w./-]+)|([a-z][\w./\[\]-]*))`)

// pathOf is the path of the field that a message is about.
func pathOf(message string) string {
	switch m := leading.FindStringSubmatch(message); {
	case m == nil:
		return ""
	case m[1] != "":
		return "metadata.annotations[" + m[1] + "]"
	default:
		return m[2]
	}
}

// together judges what needs all documents.
func (c *check) together(ctx context.Context) error {
	if len(c.configurations) > 1 && c.Live && !c.broken {
		return fmt.Errorf("%d configurations: --live asks the backends of one", len(c.configurations))
	}
	chosen, err := c.chosen()
	if err != nil {
		return err
	}
	c.twice()
	if c.Live && c.broken {
		c.add(Finding{Severity: Note, Message: "the backends are not asked: the configuration has errors"})
		c.Live = false
	}
	if c.Live {
		return c.live(ctx, chosen)
	}
	a, err := local.New(ctx, c.parts(chosen))
	if err != nil {
		return err
	}
	c.look(a, chosen)
	return nil
}

// chosen is the configuration that holds for the objects.
func (c *check) chosen() (*configuration, error) {
	if len(c.configurations) > 0 {
		first := c.configurations[0]
		if len(c.configurations) > 1 && len(c.metrics)+len(c.hpas) > 0 {
			c.add(Finding{Severity: Note, File: first.file, Line: first.line(1), Message: "of several configurations the objects are judged by this one"})
		}
		return first, nil
	}
	loaded, err := config.Parse(nil, c.Overlay)
	if err != nil {
		return nil, err
	}
	return &configuration{Config: loaded}, nil
}

// twice finds objects that are there twice, of which kubectl leaves the last one.
func (c *check) twice() {
	first := map[string]*externalMetric{}
	for _, m := range c.metrics {
		name := m.stored.GetNamespace() + "/" + m.stored.GetName()
		if before, there := first[name]; there {
			c.add(m.finding(Warning, "", fmt.Sprintf("is there already, in %s line %d: the one applied last counts", before.file, before.line(""))))
			continue
		}
		first[name] = m
	}
}

// parts are what the adapter's parts are made of.
func (c *check) parts(of *configuration) local.Options {
	objects := make([]*unstructured.Unstructured, len(c.metrics))
	for i, m := range c.metrics {
		objects[i] = m.stored
	}
	return local.Options{
		Config: of.Config, Objects: objects, NoDataIsZero: c.NoDataIsZero, OwnNamespace: of.namespace,
		MaxAge: c.MaxAge, Kubeconfig: c.Kubeconfig,
	}
}

// look judges by what the parts know.
func (c *check) look(a *local.Adapter, of *configuration) {
	for i, m := range c.metrics {
		if err := a.Metrics[i].Err; err != nil && !m.refused {
			c.add(c.refusal(m, err))
		}
		rule := a.Catalog.ExternalRule(m.stored.GetName())
		if rule != nil {
			c.add(m.finding(Note, "metadata.name", "wins over "+rule.Rule.ID+" in its namespace, which makes a metric of the same name"))
		}
	}
	for _, f := range a.Discovery.Found() {
		for _, u := range f.Unmapped {
			finding := Finding{Severity: Warning, File: of.file, Line: of.lineOf(f.Rule), Object: f.Rule.ID, Message: u.String()}
			if c.Kubeconfig == "" {
				finding.Severity = Note
				finding.Message = fmt.Sprintf("resources.overrides has the label %q name %q, which is none of Kubernetes' own resources", u.Label, u.Resource)
				finding.Cure = "give --kubeconfig of a cluster that has its CRD, or correct it"
			}
			c.add(finding)
		}
	}
	for _, h := range c.hpas {
		c.lookUp(a, h)
	}
}

// refusal is the finding of an object that the adapter would not serve.
func (c *check) refusal(m *externalMetric, err error) Finding {
	path := pathOf(err.Error())
	if _, ofRole := errors.AsType[*cloudwatch.RoleError](err); ofRole && len(c.configurations) == 0 {
		return m.finding(Note, path, path+": not judged: the configuration, which is not among the files, says in cloudwatch.roles who may name which role")
	}
	return m.finding(Error, path, err.Error())
}

// lookUp looks for the metrics that an HPA names.
func (c *check) lookUp(a *local.Adapter, h *hpa) {
	for _, u := range a.Catalog.Undefined(h.typed, a.Mapper) {
		f := h.finding(Warning, u.Field, u.Text)
		switch {
		case u.Suggestion == "" && c.broken:
			f.Severity, f.Message = Note, u.Field+": not looked up in the rules: the configuration has errors"
		case !u.External && len(c.configurations) == 0:
			f.Severity, f.Message = Note, u.Field+": not looked up: no configuration is among the files"
		case u.Discovered && !c.Live:
			f.Message = fmt.Sprintf("%s: nothing in the files defines it by this name%s; a rule may make it of the series of its server", u.Field, u.Suggestion)
			f.Cure = "--live asks the server"
			if u.Suggestion == "" {
				f.Severity = Note
			}
		}
		c.add(f)
	}
	for _, r := range c.reads(h) {
		if r.err != nil {
			c.add(h.finding(Error, r.field, r.field+": "+r.err.Error()))
			continue
		}
		rule := a.Catalog.ExternalRule(r.name.Name)
		if rule == nil || a.Catalog.External(r.name) != nil {
			continue
		}
		if _, err := a.Planner.External(rule.Rule, rule.Series, r.name.Namespace, r.selector); err != nil {
			c.add(h.finding(Error, r.field, r.field+": "+err.Error()))
		}
	}
}
