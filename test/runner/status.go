package runner

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// written is the status that the API server took last.
type written struct {
	text       string
	conditions map[corev1.PodConditionType]condition
}

type condition struct {
	status corev1.ConditionStatus
	at     time.Time
}

// write has the pod's status say how it is, if it does not. What the API server does not take
// is written a moment later.
func (p *pod) write(ctx context.Context) {
	text, err := p.status()
	if err != nil || string(text) == p.written.text {
		return
	}
	within, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	o := p.now()
	_, err = p.runner.client.CoreV1().Pods(o.Namespace).Patch(within, o.Name, types.StrategicMergePatchType, text, metav1.PatchOptions{}, "status")
	switch {
	case err == nil:
		p.written.text = string(text)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		p.vanish() // Another pod may have its name.
	case ctx.Err() == nil:
		klog.FromContext(ctx).Error(err, "The status of a pod was not written", "pod", klog.KObj(o))
		p.again.Reset(writeEvery)
	}
}

// status is a patch of the pod's status. It leaves conditions alone that are others'.
func (p *pod) status() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.object
	containers := p.running && p.verdict.ready
	ready, why := containers && gatesOpen(o), "ContainersNotReady"
	if containers {
		why = "ReadinessGatesNotReady"
	}
	phase := p.finished
	switch {
	case phase != "":
	case p.process != nil:
		phase = corev1.PodRunning
	default:
		phase = corev1.PodPending
	}
	conditions := []map[string]any{
		p.condition(corev1.PodInitialized, corev1.ConditionTrue, ""),
		p.condition(corev1.ContainersReady, truth[containers], "ContainersNotReady"),
		p.condition(corev1.PodReady, truth[ready], why),
	}
	patch := map[string]any{
		"metadata": map[string]any{"uid": o.UID},
		"status": map[string]any{
			"phase": phase, "hostIP": hostIP(o.Spec.NodeName), "podIP": p.ip, "podIPs": []map[string]any{{"$patch": "replace"}, {"ip": p.ip}},
			"startTime": metav1.NewTime(p.since), "conditions": conditions,
			"containerStatuses": []corev1.ContainerStatus{p.containerStatus()},
		},
	}
	return json.Marshal(patch)
}

var truth = map[bool]corev1.ConditionStatus{true: corev1.ConditionTrue, false: corev1.ConditionFalse}

// condition is a condition with the time at which it changed, and why it is False. The caller
// holds mu.
func (p *pod) condition(kind corev1.PodConditionType, status corev1.ConditionStatus, why string) map[string]any {
	if p.written.conditions == nil {
		p.written.conditions = map[corev1.PodConditionType]condition{}
	}
	if p.written.conditions[kind].status != status {
		p.written.conditions[kind] = condition{status, time.Now()}
	}
	c := map[string]any{
		"type": kind, "status": status, "reason": nil,
		"lastTransitionTime": metav1.NewTime(p.written.conditions[kind].at),
	}
	if status != corev1.ConditionTrue {
		c["reason"] = why
	}
	return c
}

// containerStatus is that of the one container. The caller holds mu.
func (p *pod) containerStatus() corev1.ContainerStatus {
	c := &p.object.Spec.Containers[0]
	s := corev1.ContainerStatus{
		Name: c.Name, Image: c.Image, RestartCount: p.restarts, Ready: p.running && p.verdict.ready,
		Started: new(p.running && p.verdict.started),
	}
	if p.process != nil {
		s.ContainerID = fmt.Sprintf("process://%d", p.process.pid)
	}
	if p.last != nil {
		s.LastTerminationState.Terminated = terminated(p.last)
	}
	switch {
	case p.running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(p.process.started)}
	case p.waiting != nil:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason(p.waiting), Message: p.waiting.Error()}
	case p.process == nil:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	case p.finished != "" || p.object.DeletionTimestamp != nil || p.pause == 0:
		s.State.Terminated = terminated(p.process)
	default:
		s.State.Waiting = &corev1.ContainerStateWaiting{
			Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off %s restarting container %s", p.pause, c.Name),
		}
		s.LastTerminationState.Terminated = terminated(p.process)
	}
	return s
}

func terminated(p *process) *corev1.ContainerStateTerminated {
	code, signal := p.exitCode()
	why := "Error"
	if code == 0 {
		why = "Completed"
	}
	return &corev1.ContainerStateTerminated{
		ExitCode: code, Signal: signal, Reason: why, StartedAt: metav1.NewTime(p.started), FinishedAt: metav1.NewTime(p.ended),
		ContainerID: fmt.Sprintf("process://%d", p.pid),
	}
}
