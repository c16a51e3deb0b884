package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	// askAgain is how soon an API server is asked again for an API that it does not serve
	// yet, and maxAnswer how long one answer may take.
	askAgain  = time.Second
	maxAnswer = 10 * time.Second
)

// Served is what an API server says of a version of an API.
type Served struct {
	// API is group and version, such as "external.metrics.k8s.io/v1beta1".
	API string `json:"api"`
	// Resources is how many it lists, Names the first of them.
	Resources int      `json:"resources"`
	Names     []string `json:"names,omitempty"`
	// Error is why it is not served, in the server's words.
	Error string `json:"error,omitempty"`
}

// discoverer asks an API server which APIs it serves.
type discoverer struct {
	client rest.Interface
	tell   func(text string)
}

// newDiscoverer is for the API server of a kubeconfig, or without one for that of the
// cluster in whose pod this process runs.
func newDiscoverer(kubeconfig string, tell func(text string)) (*discoverer, error) {
	config, err := clientConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // It asks once a second, and the limiter's words are not the server's.
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("--served: no client of the API server: %w", err)
	}
	return &discoverer{client.RESTClient(), tell}, nil
}

func clientConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig: cannot use %s: %w", kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("--served asks an API server: outside of a pod give --kubeconfig: %w", err)
	}
	return config, nil
}

// ask asks for all of them at once, each until it is served or ctx is done.
func (d *discoverer) ask(ctx context.Context, apis []schema.GroupVersion) []Served {
	served := make([]Served, len(apis))
	var group sync.WaitGroup
	for i, api := range apis {
		group.Go(func() { served[i] = d.await(ctx, api) })
	}
	group.Wait()
	return served
}

// await asks until the API is served: an APIService becomes available some seconds after
// the pods behind it are ready.
func (d *discoverer) await(ctx context.Context, api schema.GroupVersion) Served {
	last := errNoAnswer
	told := time.Now()
	for began := told; ; {
		list, err := d.list(ctx, api)
		if err == nil {
			return servedAs(api, list)
		}
		// What is cut short at the end says nothing of the server.
		if ctx.Err() == nil {
			last = err
		}
		if time.Since(told) >= tellEvery {
			told = time.Now()
			d.tell(fmt.Sprintf("%v: %s is not served yet: %s", time.Since(began).Round(time.Second), api, wordsOf(last)))
		}
		select {
		case <-ctx.Done():
			return Served{API: api.String(), Error: wordsOf(last)}
		case <-time.After(askAgain):
		}
	}
}

func (d *discoverer) list(ctx context.Context, api schema.GroupVersion) (*metav1.APIResourceList, error) {
	ctx, cancel := context.WithTimeout(ctx, maxAnswer)
	defer cancel()
	list := &metav1.APIResourceList{}
	err := d.client.Get().AbsPath("/apis", api.Group, api.Version).Do(ctx).Into(list)
	if err == nil && list.GroupVersion != api.String() {
		err = fmt.Errorf("the answer is no list of its resources, but one of %q", list.GroupVersion)
	}
	return list, err
}

func servedAs(api schema.GroupVersion, list *metav1.APIResourceList) Served {
	served := Served{API: api.String(), Resources: len(list.APIResources)}
	for _, r := range list.APIResources[:min(len(list.APIResources), maxExposed)] {
		served.Names = append(served.Names, r.Name)
	}
	return served
}

// wordsOf are the words of an API server, with the status and those of whoever stands
// behind it: the library keeps them apart.
func wordsOf(err error) string {
	status, ok := errors.AsType[*apierrors.StatusError](err)
	if !ok {
		return oneLine(err.Error())
	}
	s := status.Status()
	text := s.Message
	if s.Details != nil {
		for _, cause := range s.Details.Causes {
			if said := strings.TrimSpace(cause.Message); said != "" && !strings.Contains(text, said) {
				text += ": " + said
			}
		}
	}
	return oneLine(fmt.Sprintf("%d: %s", s.Code, cmp.Or(text, string(s.Reason))))
}

// finding says that an API is not served.
func (s Served) finding(api schema.GroupVersion) Finding {
	return Finding{
		Severity: Error, Object: "API " + s.API, Message: "is not served: " + s.Error,
		Cure: fmt.Sprintf("`kubectl describe apiservice %s.%s` says why", api.Version, api.Group),
	}
}
