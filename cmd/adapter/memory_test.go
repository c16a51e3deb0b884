package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
)

// fakeGroup are the files of a control group below a folder that stands for "/".
type fakeGroup struct {
	t     *testing.T
	root  string
	dir   string
	files memoryFiles
}

const (
	// cgroupV1 and mountV1 are as a container without a namespace of control groups sees them.
	cgroupV1 = "9:name=systemd:/\n4:memory,hugetlb:/kubepods/pod1/abc\n1:cpu:/kubepods/pod1/abc\n0::/\n"
	mountV1  = "34 31 0:34 / /sys/fs/cgroup/cpu ro - cgroup none rw,cpu\n" +
		"35 31 0:35 /kubepods/pod1/abc /sys/fs/cgroup/memory ro,nosuid master:1 - cgroup none rw,memory,hugetlb\n" +
		"36 31 0:36 / /sys/fs/cgroup/unified ro - cgroup2 none rw\n"
	cgroupV2 = "0::/\n"
	mountV2  = "30 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n"
)

// newFakeGroup is a group with a limit of 1000 MiB, of which little is used.
func newFakeGroup(t *testing.T, cgroup, mounts, dir string, files memoryFiles) *fakeGroup {
	t.Helper()
	g := &fakeGroup{t, t.TempDir(), dir, files}
	g.write("proc/self/cgroup", cgroup)
	g.write("proc/self/mountinfo", mounts)
	g.set(files.limit, 1000)
	g.use(100, 0)
	return g
}

func fakeV2(t *testing.T) *fakeGroup {
	t.Helper()
	return newFakeGroup(t, cgroupV2, mountV2, "sys/fs/cgroup", memoryFilesV2)
}

func (g *fakeGroup) write(name, text string) {
	g.t.Helper()
	path := filepath.Join(g.root, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		g.t.Fatal(err)
	}
}

// set writes a number of MiB.
func (g *fakeGroup) set(file string, n int) {
	g.t.Helper()
	g.write(filepath.Join(g.dir, file), fmt.Sprintln(n<<20))
}

// use sets what is used, and how much of it are pages of files.
func (g *fakeGroup) use(used, cache int) {
	g.t.Helper()
	g.set(g.files.usage, used)
	g.write(filepath.Join(g.dir, "memory.stat"), fmt.Sprintf("anon 5\n%s %d\nx%s 7\n%s %d\n",
		g.files.cache[0], cache<<19, g.files.cache[0], g.files.cache[1], cache<<19))
}

func (g *fakeGroup) open() *memoryGroup {
	g.t.Helper()
	m := openMemoryGroup(g.root)
	if m == nil {
		g.t.Fatal("the group is not found")
	}
	g.t.Cleanup(m.close)
	return m
}

func TestMemoryGroupIsFound(t *testing.T) {
	for name, tc := range map[string]struct {
		cgroup, mounts, dir string
		files               memoryFiles
	}{
		"version 2":                      {cgroupV2, mountV2, "sys/fs/cgroup", memoryFilesV2},
		"version 2, of the node":         {"0::/kubepods.slice/abc.scope\n", mountV2, "sys/fs/cgroup/kubepods.slice/abc.scope", memoryFilesV2},
		"version 2, beside the mount":    {"0::/../other\n", mountV2, "sys/fs/cgroup", memoryFilesV2},
		"version 1":                      {cgroupV1, mountV1, "sys/fs/cgroup/memory", memoryFilesV1},
		"version 1, of a namespace":      {"4:memory:/\n", mountV1, "sys/fs/cgroup/memory", memoryFilesV1},
		"version 1, deeper":              {"4:memory:/kubepods/pod1/abc/own\n", mountV1, "sys/fs/cgroup/memory/own", memoryFilesV1},
		"version 1, of a similar name":   {"4:memory:/kubepods/pod1/abcd\n", mountV1, "sys/fs/cgroup/memory", memoryFilesV1},
		"both, and memory of version 2":  {"1:cpu:/a\n0::/a\n", mountV1, "sys/fs/cgroup/unified/a", memoryFilesV2},
		"lines that nobody has ever met": {"\nx\n1:2\n" + cgroupV2, "\nx - y\n1 2 3 - cgroup2\n" + mountV2, "sys/fs/cgroup", memoryFilesV2},
	} {
		t.Run(name, func(t *testing.T) {
			g := newFakeGroup(t, tc.cgroup, tc.mounts, tc.dir, tc.files)
			g.use(990, 200)
			if got, ok := g.open().read(); !ok || got != (memoryUse{limit: 1000 << 20, used: 790 << 20}) {
				t.Errorf("got %v, %v", got, ok)
			}
		})
	}
}

func TestMemoryGroupWithoutFiles(t *testing.T) {
	for _, file := range []string{"proc/self/cgroup", "proc/self/mountinfo", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current", "sys/fs/cgroup/memory.stat"} {
		g := fakeV2(t)
		if err := os.Remove(filepath.Join(g.root, file)); err != nil {
			t.Fatal(err)
		}
		if openMemoryGroup(g.root) != nil {
			t.Errorf("a group is found without %s", file)
		}
	}
	if err := newMemoryWatch(nil, nil).run(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestMemoryGroupIsReadAnew has the limit change and go, as it does when a pod is resized.
func TestMemoryGroupIsReadAnew(t *testing.T) {
	g := fakeV2(t)
	m := g.open()
	for _, tc := range []struct {
		limit, usage, stat string
		want               memoryUse
		ok                 bool
	}{
		{"1000\n", "10\n", "", memoryUse{1000, 10}, true},
		{"2000\n", "10\n", "", memoryUse{2000, 10}, true},
		{"max\n", "10\n", "", memoryUse{}, false},
		{"9223372036854771712\n", "10\n", "", memoryUse{}, false},
		{"0\n", "10\n", "", memoryUse{}, false},
		{"\n", "10\n", "", memoryUse{}, false},
		{"1000\n", "\n", "", memoryUse{}, false},
		{"1000\n", "990\n", "inactive_file 20\n", memoryUse{1000, 970}, true},
		{"1000\n", "990\n", "inactive_file many\nactive_file 5\n", memoryUse{1000, 985}, true},
		{"1000\n", "990\n", "inactive_file 2000\n", memoryUse{1000, 0}, true},
		{"1000\n", "1100\n", "", memoryUse{1000, 1100}, true},
	} {
		g.write("sys/fs/cgroup/memory.max", tc.limit)
		g.write("sys/fs/cgroup/memory.current", tc.usage)
		g.write("sys/fs/cgroup/memory.stat", tc.stat)
		if got, ok := m.read(); got != tc.want || ok != tc.ok {
			t.Errorf("of %q and %q: got %v, %v, want %v, %v", tc.limit, tc.usage, got, ok, tc.want, tc.ok)
		}
	}
}

func BenchmarkMemoryLook(b *testing.B) {
	m := openMemoryGroup("/")
	if m == nil {
		b.Skip("this process has no control group with a limit of memory")
	}
	defer m.close()
	for b.Loop() {
		m.read()
	}
}

// watched is a memoryWatch that runs in a bubble. What is set is set before it runs.
type watched struct {
	*memoryWatch

	group    *fakeGroup
	standing standing
	err      error // of look
	// unseen says that nobody finds out that the replica is not ready.
	unseen bool
	onFree func()

	freed atomic.Int32 // how often
	cause atomic.Value // why it stopped, an error
}

// twoReplicas are ready, and the other lets this one go first.
var twoReplicas = standing{ready: true, others: 1}

// run runs f while the memoryWatch runs. The replica is found not ready 8 seconds after it
// says so.
func (w *watched) run(t *testing.T, f func()) {
	t.Helper()
	t.Cleanup(func() { debug.SetMemoryLimit(math.MaxInt64) })
	synctest.Test(t, func(t *testing.T) {
		var leaving time.Time
		w.memoryWatch = newMemoryWatch(w.group.open(), func(context.Context) (standing, error) {
			s := w.standing
			if w.leaving.Load() && !w.unseen {
				if leaving.IsZero() {
					leaving = time.Now()
				}
				s.ready = time.Since(leaving) < 8*time.Second
			}
			return s, w.err
		})
		w.bounded = false
		w.free = func() {
			w.freed.Add(1)
			if w.onFree != nil {
				w.onFree()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.memoryWatch.run(ctx, func(err error) { w.cause.Store(err) }) }()
		f()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// stopped is why the process has to end, nil while it has not.
func (w *watched) stopped() error {
	err, _ := w.cause.Load().(error)
	return err
}

// after lets time pass.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestProcessStopsNearItsMemoryLimit(t *testing.T) {
	for name, g := range map[string]*fakeGroup{
		"version 1": newFakeGroup(t, cgroupV1, mountV1, "sys/fs/cgroup/memory", memoryFilesV1),
		"version 2": fakeV2(t),
	} {
		t.Run(name, func(t *testing.T) {
			w := &watched{group: g, standing: twoReplicas}
			w.run(t, func() {
				after(2 * time.Minute)
				g.use(950, 0)
				after(time.Minute)
				g.use(1000, 51) // Pages of files can be taken away.
				after(time.Minute)
				if w.freed.Load() != 0 || w.check(nil) != nil {
					t.Fatalf("something was done within the limit: %d collections, %v", w.freed.Load(), w.check(nil))
				}
				g.use(960, 0)
				after(time.Second)
				if w.freed.Load() != 1 || w.check(nil) == nil {
					t.Fatalf("%d collections, want 1, and readyz says %v", w.freed.Load(), w.check(nil))
				}
				if w.stopped() != nil {
					t.Fatal("it stopped while the pod was ready")
				}
				after(9 * time.Second)
				if w.stopped() == nil {
					t.Fatal("it goes on")
				}
				for _, want := range []string{"960.0 MiB of the container's limit of 1000.0 MiB", "heap ", " queries", "resources.limits.memory", "docs/troubleshooting.md"} {
					if !strings.Contains(w.stopped().Error(), want) {
						t.Errorf("the error lacks %q: %v", want, w.stopped())
					}
				}
				if exitCode(w.stopped()) != exitWrong {
					t.Errorf("it ends with %d", exitCode(w.stopped()))
				}
				if w.check(nil) == nil {
					t.Error("it says that it is ready again")
				}
			})
		})
	}
}

func TestCollectionsMakeRoom(t *testing.T) {
	g := fakeV2(t)
	w := &watched{group: g, standing: twoReplicas, onFree: func() { g.use(900, 0) }}
	w.run(t, func() {
		after(2 * time.Minute)
		for range 3 {
			g.use(990, 0)
			after(collectAgain + memoryEvery)
		}
		if w.freed.Load() != 3 || w.stopped() != nil || w.check(nil) != nil {
			t.Errorf("%d collections, want 3; it stopped: %v", w.freed.Load(), w.stopped())
		}
		if got := gathered(t, w, "freed"); got != "3" {
			t.Errorf("the self-metric says %s", got)
		}
		g.use(990, 0)
		after(memoryEvery)
		g.use(990, 0)
		after(4 * memoryEvery)
		if w.freed.Load() != 4 {
			t.Error("it collects all the time")
		}
	})
}

// TestProcessGoesOnNearItsMemoryLimit has cases in which a stop would cost readers more than
// the kernel's kill does.
func TestProcessGoesOnNearItsMemoryLimit(t *testing.T) {
	for name, tc := range map[string]struct {
		standing standing
		err      error
		up       time.Duration // before memory is near the limit
		goesOn   time.Duration // for how long after that; 0 for ever
	}{
		"alone":              {standing: standing{ready: true}, up: time.Hour},
		"nobody knows":       {standing: twoReplicas, err: errors.New("refused"), up: time.Hour},
		"young":              {standing: twoReplicas, up: 10 * time.Second, goesOn: 50 * time.Second},
		"restarted":          {standing: standing{ready: true, others: 1, restarted: true}, up: 2 * time.Minute, goesOn: 8 * time.Minute},
		"another goes first": {standing: standing{ready: true, others: 1, before: 1}, up: time.Hour, goesOn: turn},
		"two go first":       {standing: standing{ready: true, others: 2, before: 2}, up: time.Hour, goesOn: 2 * turn},
	} {
		t.Run(name, func(t *testing.T) {
			g := fakeV2(t)
			w := &watched{group: g, standing: tc.standing, err: tc.err}
			w.run(t, func() {
				after(tc.up)
				g.use(960, 0)
				least := tc.goesOn
				if least == 0 {
					least = time.Hour
				}
				after(least - time.Second)
				if w.stopped() != nil || w.check(nil) != nil {
					t.Fatalf("it stops: %v", w.check(nil))
				}
				if got := gathered(t, w, "full"); got != "1" {
					t.Errorf("the self-metric says %s", got)
				}
				after(stopAgain + 10*time.Second)
				if stopped := w.stopped() != nil; stopped != (tc.goesOn > 0) {
					t.Errorf("that it stopped is %v", stopped)
				}
			})
		})
	}
}

// TestReadinessThatNobodySees is of a container without a readinessProbe.
func TestReadinessThatNobodySees(t *testing.T) {
	g := fakeV2(t)
	w := &watched{group: g, standing: twoReplicas, unseen: true}
	w.run(t, func() {
		after(2 * time.Minute)
		g.use(960, 0)
		after(unreadyLimit - time.Second)
		if w.check(nil) == nil {
			t.Error("it does not wait for the probe")
		}
		after(2 * time.Second)
		if w.check(nil) != nil || w.stopped() != nil {
			t.Error("it does not go on")
		}
	})
}

// TestLimitThatChanges has a young process near its limit, and its pod resized.
func TestLimitThatChanges(t *testing.T) {
	g := fakeV2(t)
	w := &watched{group: g, standing: twoReplicas}
	w.run(t, func() {
		g.use(960, 0)
		after(leastUptime / 2)
		if debug.SetMemoryLimit(-1) == math.MaxInt64 {
			t.Error("Go has no bound near the limit")
		}
		g.set(g.files.limit, 2000)
		after(time.Hour)
		if w.stopped() != nil || w.check(nil) != nil {
			t.Error("it stops far from its limit")
		}
		if debug.SetMemoryLimit(-1) != math.MaxInt64 {
			t.Error("Go's bound is that of the limit of before")
		}
		g.set(g.files.limit, 1000)
		after(10 * time.Second)
		if w.stopped() == nil {
			t.Error("it goes on near the limit that it has now")
		}
	})
}

func TestStandingOfAReplica(t *testing.T) {
	pod := func(name, hash, set string, change func(p *corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: "own", Labels: map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash},
				OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: set, UID: types.UID(set), Controller: new(true)}},
			},
			Status: corev1.PodStatus{
				Conditions:        []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
				ContainerStatuses: []corev1.ContainerStatus{{Name: "adapter"}},
			},
		}
		if change != nil {
			change(p)
		}
		return p
	}
	now := metav1.Now()
	others := []*corev1.Pod{
		pod("a", "1", "set", nil),
		pod("z", "1", "set", nil),
		pod("c", "1", "set", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		pod("d", "1", "set", func(p *corev1.Pod) { p.DeletionTimestamp, p.Finalizers = &now, []string{"a/b"} }),
		pod("e", "1", "another", nil),
		pod("f", "2", "set", nil),
		pod("b", "1", "set", func(p *corev1.Pod) { p.Namespace = "another" }),
	}
	for name, tc := range map[string]struct {
		own  *corev1.Pod
		want standing
	}{
		"one of three":      {pod("m", "1", "set", nil), standing{ready: true, others: 2, before: 1}},
		"not ready":         {pod("m", "1", "set", func(p *corev1.Pod) { p.Status.Conditions = nil }), standing{others: 2, before: 1}},
		"restarted":         {pod("m", "1", "set", func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount = 1 }), standing{ready: true, restarted: true, others: 2, before: 1}},
		"of no ReplicaSet":  {pod("m", "1", "set", func(p *corev1.Pod) { p.OwnerReferences = nil }), standing{ready: true}},
		"of no Deployment":  {pod("m", "1", "set", func(p *corev1.Pod) { p.Labels = nil }), standing{ready: true}},
		"of one that is so": {pod("m", "9", "lonely", nil), standing{ready: true}},
	} {
		t.Run(name, func(t *testing.T) {
			kube := kubefake.NewClientset(tc.own)
			for _, p := range others {
				if err := kube.Tracker().Add(p); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := (replicas{kube, "own", "m"}).look(t.Context()); err != nil || got != tc.want {
				t.Errorf("got %+v (%v), want %+v", got, err, tc.want)
			}
		})
	}
	if _, err := (replicas{kubefake.NewClientset(), "own", "m"}).look(t.Context()); err == nil {
		t.Error("a process without a pod has a standing")
	}
}

// gathered is the value of the self-metric with that result.
func gathered(t *testing.T, c prometheus.Collector, result string) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			if metric.GetLabel()[0].GetValue() == result {
				return fmt.Sprint(metric.GetCounter().GetValue())
			}
		}
	}
	return "nothing"
}
