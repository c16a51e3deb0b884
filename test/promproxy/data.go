package promproxy

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Data are series with a value each. Its method Play makes a Prometheus of them that is
// good enough for the queries of rules: it selects by the first selector of the text
// and adds up by the labels of its first by (…). It passes over everything else, such
// as functions, ranges and times.
type Data []Sample

// Play implements Player.
func (d Data) Play(c Call) (Answer, bool) {
	switch c.Endpoint {
	case Query:
		return d.query(c.Query), true
	case Series:
		return d.series(c.Match), true
	}
	return Answer{}, false
}

func (d Data) query(promQL string) Answer {
	selected, err := d.selected(promQL)
	if err != nil {
		return badParameter("query", err)
	}
	by := grouping.FindStringSubmatch(promQL)
	if by == nil {
		return Vector(selected...)
	}
	return Vector(sumBy(selected, labelNames(by[1]))...)
}

func (d Data) series(selectors []string) Answer {
	found := []map[string]string{}
	for _, selector := range selectors {
		selected, err := d.selected(selector)
		if err != nil {
			return badParameter("match[]", err)
		}
		for _, s := range selected {
			found = append(found, s.Labels)
		}
	}
	text, err := json.Marshal(found)
	if err != nil {
		panic(err) // Strings are always written.
	}
	return JSON(http.StatusOK, `{"status":"success","data":`+string(text)+`}`)
}

func badParameter(name string, err error) Answer {
	return Error(http.StatusBadRequest, "bad_data", "invalid parameter "+strconv.Quote(name)+": "+err.Error())
}

func (d Data) selected(text string) ([]Sample, error) {
	matchers, err := Matchers(text)
	if err != nil {
		return nil, err
	}
	conditions := make([]condition, len(matchers))
	for i, m := range matchers {
		if conditions[i], err = m.compile(); err != nil {
			return nil, err
		}
	}
	var selected []Sample
	for _, s := range d {
		if !slices.ContainsFunc(conditions, func(c condition) bool { return !c.holds(s.Labels) }) {
			selected = append(selected, s)
		}
	}
	return selected, nil
}

// sumBy adds up the samples that have the same values of the labels, in the order in
// which they first appear.
func sumBy(samples []Sample, names []string) []Sample {
	sums := map[string]float64{}
	var groups []Sample
	for _, s := range samples {
		labels := maps.Clone(s.Labels)
		maps.DeleteFunc(labels, func(name, _ string) bool { return !slices.Contains(names, name) })
		key := string(appendLabels(nil, labels))
		if _, ok := sums[key]; !ok {
			groups = append(groups, Sample{Labels: labels, Time: s.Time})
		}
		value, err := strconv.ParseFloat(s.Value, 64)
		if err != nil {
			value = 0 // No number of Prometheus.
		}
		sums[key] += value
	}
	for i := range groups {
		groups[i].Value = strconv.FormatFloat(sums[string(appendLabels(nil, groups[i].Labels))], 'f', -1, 64)
	}
	return groups
}

func labelNames(list string) []string {
	names := strings.Split(list, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	return names
}
