package promproxy

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
)

// SyntheticSeries are series as a large cluster has them, with values of the lengths of
// real ones: of 13 labels a series is about 600 bytes of JSON. They are the same in
// each call.
type SyntheticSeries struct {
	Count int
	// Labels is how many each series has beside its name: namespace and pod come first,
	// and what is beyond 13 is called extra_0, extra_1 and so on.
	Labels int
	// Names are the metrics' names. Each pod has a series of every name.
	Names []string
}

// Answer lists the series. They are made while they are sent, and never held in memory.
func (s SyntheticSeries) Answer() Answer {
	labels := s.labels()
	return success(func(w *bufio.Writer) error {
		_ = w.WriteByte('[')
		buffer := make([]byte, 0, 1024)
		for i := range s.Count {
			buffer = s.appendOne(buffer[:0], labels, i)
			if _, err := w.Write(buffer); err != nil {
				return err
			}
		}
		return w.WriteByte(']')
	})
}

func (s SyntheticSeries) appendOne(b []byte, labels []label, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	b = append(b, `{"__name__":"`...)
	b = append(b, s.Names[i%len(s.Names)]...)
	pod := i / len(s.Names)
	for _, l := range labels {
		b = append(b, `","`...)
		b = append(b, l.name...)
		b = append(b, `":"`...)
		b = l.value(b, pod)
	}
	return append(b, `"}`...)
}

// label makes the value of one label; no value needs to be escaped in JSON.
type label struct {
	name  string
	value func(b []byte, pod int) []byte
}

// labels are those of each series, sorted as Prometheus sorts them.
func (s SyntheticSeries) labels() []label {
	labels := slices.Clone(clusterLabels[:min(s.Labels, len(clusterLabels))])
	for i := range s.Labels - len(labels) {
		labels = append(labels, label{fmt.Sprintf("extra_%d", i), func(b []byte, pod int) []byte {
			return appendHex(b, pod, "extra", 10)
		}})
	}
	slices.SortFunc(labels, func(a, b label) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return labels
}

const (
	podsPerNamespace = 50
	podsPerNode      = 30
	podsPerApp       = 5
)

// clusterLabels are those that cAdvisor's series have, the ones that rules use first.
var clusterLabels = []label{
	{"namespace", appendNamespace},
	{"pod", appendPod},
	{"container", appendApp},
	{"node", appendNode},
	{"service", constant("kubelet")},
	{"job", constant("kubelet")},
	{"instance", func(b []byte, pod int) []byte {
		node := pod / podsPerNode
		b = append(b, "10.42."...)
		b = strconv.AppendInt(b, int64(node/250), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(node%250+1), 10)
		return append(b, ":10250"...)
	}},
	{"endpoint", constant("https-metrics")},
	{"metrics_path", constant("/metrics/cadvisor")},
	{"image", func(b []byte, pod int) []byte {
		b = append(b, "registry.internal/platform/"...)
		b = appendApp(b, pod)
		return appendHex(append(b, "@sha256:"...), pod/podsPerApp, "image", 64)
	}},
	{"name", func(b []byte, pod int) []byte { return appendHex(b, pod, "container", 64) }},
	{"id", func(b []byte, pod int) []byte {
		return appendHex(append(b, "/kubepods/burstable/pod"...), pod, "uid", 32)
	}},
	{"prometheus", constant("monitoring/k8s")},
}

func constant(value string) func([]byte, int) []byte {
	return func(b []byte, _ int) []byte { return append(b, value...) }
}

func appendNamespace(b []byte, pod int) []byte {
	return strconv.AppendInt(append(b, "team-"...), int64(pod/podsPerNamespace), 10)
}

func appendApp(b []byte, pod int) []byte {
	return strconv.AppendInt(append(b, "checkout-service-"...), int64(pod/podsPerApp), 10)
}

func appendPod(b []byte, pod int) []byte {
	b = appendHex(append(appendApp(b, pod), '-'), pod/podsPerApp, "replicas", 10)
	return appendHex(append(b, '-'), pod, "pod", 5)
}

func appendNode(b []byte, pod int) []byte {
	node := pod / podsPerNode
	b = append(b, "ip-10-42-"...)
	b = strconv.AppendInt(b, int64(node/250), 10)
	b = append(b, '-')
	b = strconv.AppendInt(b, int64(node%250+1), 10)
	return append(b, ".eu-central-1.compute.internal"...)
}

// appendHex appends n hexadecimal digits, at most 64, that look random and are the same
// for the same number and use.
func appendHex(b []byte, number int, use string, n int) []byte {
	const maxDigits = 64
	var raw [maxDigits / 2]byte
	state := uint64(number) //nolint:gosec // Any bits serve.
	for _, c := range []byte(use) {
		state = state*31 + uint64(c)
	}
	for i := 0; i < len(raw) && 2*i < n; i += 8 {
		state += 0x9e3779b97f4a7c15 // The generator is splitmix64.
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		binary.BigEndian.PutUint64(raw[i:], z^z>>31)
	}
	var digits [maxDigits]byte
	hex.Encode(digits[:], raw[:])
	return append(b, digits[:n]...)
}
