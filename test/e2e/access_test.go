package e2e

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// reader makes a ServiceAccount that may read the external metrics of the space.
func (s *space) reader() *rest.Config {
	s.t.Helper()
	const name = "reader"
	ctx, client, meta := s.t.Context(), s.Client(), metav1.ObjectMeta{Name: name}
	_, err := client.CoreV1().ServiceAccounts(s.namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = client.RbacV1().Roles(s.namespace).Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"external.metrics.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
	}}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = client.RbacV1().RoleBindings(s.namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: name, Namespace: s.namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	config, err := s.ServiceAccountConfig(ctx, s.namespace, name)
	if err != nil {
		s.t.Fatal(err)
	}
	return config
}

// client is for the server of a configuration: kube-apiserver, or the adapter itself.
func (s *space) client(config *rest.Config) rest.Interface {
	s.t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return client.Discovery().RESTClient()
}

func TestAccess(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	s.put("Orders", 95)
	s.create(s.metric("orders", "Orders"))
	s.awaitValue("orders", "95")

	reader := s.reader()
	stranger, err := s.UserConfig("mallory")
	if err != nil {
		t.Fatal(err)
	}
	// A certificate of the cluster's authority proves a user, and no front proxy.
	spoof := rest.CopyConfig(stranger)
	spoof.Wrap(func(next http.RoundTripper) http.RoundTripper { return asAdmin{next} })
	forged := rest.AnonymousClientConfig(reader)
	forged.BearerToken = "forged"

	aggregator := func(c *rest.Config) *rest.Config { return c }
	for _, tc := range []struct {
		name string
		as   *rest.Config
		to   func(*rest.Config) *rest.Config
		code int
		says string
	}{
		{"reader", reader, s.adapter.Config, http.StatusOK, ""},
		{"reader, aggregated", reader, aggregator, http.StatusOK, ""},
		{"nobody", rest.AnonymousClientConfig(reader), s.adapter.Config, http.StatusUnauthorized, ""},
		// kube-apiserver itself takes requests without credentials for those of system:anonymous.
		{"nobody, aggregated", rest.AnonymousClientConfig(reader), aggregator, http.StatusForbidden, "system:anonymous"},
		{"forged token", forged, s.adapter.Config, http.StatusUnauthorized, ""},
		{"forged token, aggregated", forged, aggregator, http.StatusUnauthorized, ""},
		{"stranger", stranger, s.adapter.Config, http.StatusForbidden, "mallory"},
		{"stranger, aggregated", stranger, aggregator, http.StatusForbidden, "mallory"},
		{"spoofed headers", spoof, s.adapter.Config, http.StatusForbidden, "mallory"},
		{"spoofed headers, aggregated", spoof, aggregator, http.StatusForbidden, "mallory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			client := s.client(tc.to(tc.as))
			// A right that was just given takes a moment to be known.
			err := eventually(t.Context(), func(ctx context.Context) error {
				items, err := readValues(ctx, client, s.namespace, "orders")
				switch {
				case tc.code != http.StatusOK && err == nil:
					return fmt.Errorf("it may read %v", items)
				case tc.code != http.StatusOK:
					return isError(err, tc.code, tc.says)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// asAdmin claims to be an administrator, the way the aggregator speaks for its users.
type asAdmin struct{ http.RoundTripper }

func (a asAdmin) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("X-Remote-User", "admin")
	r.Header.Set("X-Remote-Group", "system:masters")
	return a.RoundTripper.RoundTrip(r)
}

// Probes come without credentials.
func TestHealthNeedsNoCredentials(t *testing.T) {
	t.Parallel()
	s := sharedBed(t).newSpace(t)
	client := s.client(s.adapter.Config(rest.AnonymousClientConfig(s.Config())))
	for _, path := range []string{"/livez", "/readyz", "/healthz"} {
		if err := client.Get().AbsPath(path).Do(t.Context()).Error(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := client.Get().AbsPath("/metrics").Do(t.Context()).Error(); !apierrors.IsUnauthorized(err) {
		t.Errorf("/metrics: %v, want 401", err)
	}
}
