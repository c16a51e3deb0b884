package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// firstProbe is about how long a program takes to listen.
	firstProbe = 100 * time.Millisecond
	// maxAnswer is how much is read of what a hook or a probe is answered, in bytes.
	maxAnswer = 10 << 10
)

// verdict is what the probes of a process say.
type verdict struct {
	started, ready bool
	// dead is said by the startup or the liveness probe.
	dead bool
}

// probe asks the probes of a process until ctx is done or the process has ended.
func (p *pod) probe(ctx context.Context, of *process, c *corev1.Container) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.StartupProbe != nil {
		p.repeat(ctx, of, c, c.StartupProbe, func(ok bool) (goOn bool) {
			p.judge(of, func(v *verdict) {
				v.started, v.dead = ok, !ok
				v.ready = ok && c.ReadinessProbe == nil
			})
			return false
		})
	}
	var both sync.WaitGroup
	if c.ReadinessProbe != nil {
		both.Go(func() {
			p.repeat(ctx, of, c, c.ReadinessProbe, func(ok bool) bool {
				p.judge(of, func(v *verdict) { v.ready = ok })
				return true
			})
		})
	}
	if c.LivenessProbe != nil {
		both.Go(func() {
			p.repeat(ctx, of, c, c.LivenessProbe, func(ok bool) bool {
				// A pod that is about to end is not started again.
				if !ok && p.now().DeletionTimestamp == nil {
					p.judge(of, func(v *verdict) { v.dead = true })
				}
				return ok
			})
		})
	}
	both.Wait()
}

// judge changes the verdict on a process, if it still is the pod's.
func (p *pod) judge(of *process, change func(*verdict)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.process != of || !p.running {
		return
	}
	before := p.verdict
	change(&p.verdict)
	if p.verdict != before {
		p.kick()
	}
}

// repeat asks a probe and tells what it says each time that its thresholds are reached,
// until it is told not to go on.
func (p *pod) repeat(ctx context.Context, of *process, c *corev1.Container, probe *corev1.Probe, tell func(ok bool) (goOn bool)) {
	timer := time.NewTimer(firstProbe + time.Duration(probe.InitialDelaySeconds)*time.Second)
	defer timer.Stop()
	good, bad := int32(0), int32(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-of.done:
			return
		case <-timer.C:
			timer.Reset(time.Duration(max(1, probe.PeriodSeconds)) * time.Second)
		}
		if p.ask(ctx, of, c, probe) == nil {
			good, bad = good+1, 0
		} else {
			good, bad = 0, bad+1
		}
		switch {
		case good >= max(1, probe.SuccessThreshold) && !tell(true):
			return
		case bad >= max(1, probe.FailureThreshold) && !tell(false):
			return
		}
	}
}

func (p *pod) ask(ctx context.Context, of *process, c *corev1.Container, probe *corev1.Probe) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(1, probe.TimeoutSeconds))*time.Second)
	defer cancel()
	if probe.HTTPGet != nil {
		return p.get(ctx, of, c, probe.HTTPGet)
	}
	to, err := of.address(c, probe.TCPSocket.Port)
	if err != nil {
		return err
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		return err
	}
	return conn.Close()
}

// address is where a port of the pod is.
func (p *process) address(c *corev1.Container, port intstr.IntOrString) (string, error) {
	n, err := number(c, port.String())
	if err != nil {
		return "", err
	}
	own, ok := p.ports[n]
	if !ok {
		return "", fmt.Errorf("container %s does not declare port %d", c.Name, n)
	}
	return loopback(own), nil
}

// get asks what a probe or a hook says, and is nil for an answer from 200 to 399.
func (p *pod) get(ctx context.Context, of *process, c *corev1.Container, action *corev1.HTTPGetAction) error {
	if action.Host != "" || action.Scheme == corev1.URISchemeHTTPS {
		return errNotPlayed
	}
	to, err := of.address(c, action.Port)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to+"/"+strings.TrimPrefix(action.Path, "/"), http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "kube-probe/runner")
	for _, h := range action.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
		}
	}
	transport := &http.Transport{DisableKeepAlives: true}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)); err != nil {
		return err
	}
	if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusBadRequest {
		return errors.New(resp.Status)
	}
	return nil
}
