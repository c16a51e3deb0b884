package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// tokenSeconds is how long a pod's token is good: as long as a test bed may live.
	tokenSeconds = 24 * 60 * 60
	// maxExpansion bounds what references make of a text, in bytes.
	maxExpansion = 1 << 20
)

// prepare makes what a pod's container needs, for one life of it. An error is the pod's, as
// its status tells it.
func (p *pod) prepare(ctx context.Context) (launch, error) {
	object := p.now()
	if err := playable(&object.Spec); err != nil {
		return launch{}, err
	}
	dir := filepath.Join(p.runner.opts.Dir, "pods", string(object.UID))
	l := launch{path: p.runner.opts.Program, dir: dir, log: p.logFile(), ports: map[int32]int{}}
	for _, folder := range []string{dir, filepath.Dir(l.log)} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return launch{}, err
		}
	}
	mounts, err := p.mounts(ctx, object, dir)
	if err != nil {
		return launch{}, err
	}
	c := &object.Spec.Containers[0]
	env, err := p.runner.environment(ctx, object, p.ip)
	if err != nil {
		return launch{}, err
	}
	if err := l.takePorts(ctx, c); err != nil {
		return launch{}, err
	}
	place := func(text string) string { return mounts.rewrite(l.listen(text)) }
	for _, arg := range slices.Concat(c.Args, p.runner.opts.Args(object)) {
		l.args = append(l.args, place(expand(arg, env)))
	}
	l.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "HOSTNAME=" + object.Name}
	l.env = append(l.env, p.runner.apiServer()...)
	for _, name := range slices.Sorted(maps.Keys(env)) {
		l.env = append(l.env, name+"="+place(env[name]))
	}
	l.env = append(l.env, p.runner.opts.Env...)
	return l, nil
}

// playable is an error for a pod that would be something else as a process.
func playable(spec *corev1.PodSpec) error {
	switch {
	case len(spec.Containers) != 1 || len(spec.InitContainers) > 0:
		return fmt.Errorf("more than one container: %w", errNotPlayed)
	case len(spec.Containers[0].Command) > 0:
		return fmt.Errorf("a command in place of the image's: %w", errNotPlayed)
	}
	c := &spec.Containers[0]
	for _, probe := range []*corev1.Probe{c.ReadinessProbe, c.LivenessProbe, c.StartupProbe} {
		if probe != nil && probe.HTTPGet == nil && probe.TCPSocket == nil {
			return fmt.Errorf("a probe that is neither httpGet nor tcpSocket: %w", errNotPlayed)
		}
	}
	if c.Lifecycle == nil {
		return nil
	}
	if hook := c.Lifecycle.PreStop; c.Lifecycle.PostStart != nil || hook != nil && hook.HTTPGet == nil && hook.Sleep == nil {
		return fmt.Errorf("a hook that is neither preStop httpGet nor sleep: %w", errNotPlayed)
	}
	return nil
}

// listening is an argument, or the value of a variable, that says to listen on a port of
// every address.
var listening = regexp.MustCompile(`^(-{1,2}[a-z][a-z0-9-]*=)?(?:0\.0\.0\.0|\[::\])?:([0-9]{1,5})$`)

// takePorts reserves a port of this machine for each that the container declares.
func (l *launch) takePorts(ctx context.Context, c *corev1.Container) error {
	for _, p := range c.Ports {
		if p.Protocol != "" && p.Protocol != corev1.ProtocolTCP {
			return fmt.Errorf("port %d is %s: %w", p.ContainerPort, p.Protocol, errNotPlayed)
		}
		port, err := takePort(ctx)
		if err != nil {
			givePorts(l.ports)
			return err
		}
		l.ports[p.ContainerPort] = port
	}
	return nil
}

// listen is a text with the port of this machine in the place of the pod's.
func (l *launch) listen(text string) string {
	m := listening.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	n, err := strconv.ParseInt(m[2], 10, 32)
	if err != nil {
		return text
	}
	if port, ok := l.ports[int32(n)]; ok {
		return m[1] + loopback(port)
	}
	// Nobody else can reach it, but two pods must not have the same.
	return m[1] + loopback(0)
}

// mounts are the folders of this machine by the paths of the pod.
type mounts map[string]string

// rewrite is a text with the folder in the place of the path, if it is a path, or a flag's.
func (m mounts) rewrite(text string) string {
	flag, path, ok := strings.Cut(text, "=")
	if !ok || !strings.HasPrefix(flag, "-") {
		flag, path = "", text
	} else {
		flag += "="
	}
	for at, folder := range m {
		if rest, ok := strings.CutPrefix(path, at); ok && (rest == "" || rest[0] == '/') {
			return flag + folder + rest
		}
	}
	return text
}

// mounts makes the folders of a pod's volumes. They last as long as the pod.
func (p *pod) mounts(ctx context.Context, object *corev1.Pod, dir string) (mounts, error) {
	m := mounts{}
	for _, mount := range object.Spec.Containers[0].VolumeMounts {
		at := slices.IndexFunc(object.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == mount.Name })
		if at < 0 || mount.SubPath != "" {
			return nil, fmt.Errorf("mount %s: %w", mount.MountPath, errNotPlayed)
		}
		folder := filepath.Join(dir, "volumes", mount.Name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
		m[strings.TrimSuffix(mount.MountPath, "/")] = folder
		switch v := object.Spec.Volumes[at]; {
		case v.EmptyDir != nil:
		case v.Projected != nil:
			if err := p.project(ctx, object, v.Projected, folder); err != nil {
				return nil, fmt.Errorf("volume %s: %w", v.Name, err)
			}
		default:
			return nil, fmt.Errorf("volume %s: %w", v.Name, errNotPlayed)
		}
	}
	return m, nil
}

// project writes what the API server adds to a pod that is to speak with it.
func (p *pod) project(ctx context.Context, object *corev1.Pod, projected *corev1.ProjectedVolumeSource, folder string) error {
	for _, source := range projected.Sources {
		files, err := p.files(ctx, object, source)
		if err != nil {
			return err
		}
		for path, text := range files {
			if err := os.WriteFile(filepath.Join(folder, filepath.Base(path)), []byte(text), 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

// files are those of one source, by their names.
func (p *pod) files(ctx context.Context, object *corev1.Pod, source corev1.VolumeProjection) (map[string]string, error) {
	files := map[string]string{}
	switch {
	case source.ServiceAccountToken != nil:
		token, err := p.token(ctx, object, source.ServiceAccountToken)
		files[source.ServiceAccountToken.Path] = token
		return files, err
	case source.ConfigMap != nil:
		data, err := p.runner.data(ctx, "ConfigMap", object.Namespace, source.ConfigMap.Name, source.ConfigMap.Optional)
		for _, item := range source.ConfigMap.Items {
			files[item.Path] = data[item.Key]
		}
		return files, err
	case source.DownwardAPI != nil:
		for _, item := range source.DownwardAPI.Items {
			if item.FieldRef == nil {
				return nil, fmt.Errorf("file %s: %w", item.Path, errNotPlayed)
			}
			value, err := field(object, p.ip, item.FieldRef.FieldPath)
			if err != nil {
				return nil, err
			}
			files[item.Path] = value
		}
		return files, nil
	default:
		return nil, errNotPlayed
	}
}

// token is one of the pod's ServiceAccount, which ends with the pod.
func (p *pod) token(ctx context.Context, object *corev1.Pod, projection *corev1.ServiceAccountTokenProjection) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: new(int64(tokenSeconds)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: object.Name, UID: object.UID},
	}}
	if projection.Audience != "" {
		request.Spec.Audiences = []string{projection.Audience}
	}
	answer, err := p.runner.client.CoreV1().ServiceAccounts(object.Namespace).CreateToken(ctx, object.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of ServiceAccount %s: %w", object.Spec.ServiceAccountName, err)
	}
	return answer.Status.Token, nil
}

// apiServer are the variables that lead to the API server.
func (r *Runner) apiServer() []string {
	u, err := url.Parse(r.opts.Config.Host)
	if err != nil || u.Port() == "" {
		return nil
	}
	return []string{"KUBERNETES_SERVICE_HOST=" + u.Hostname(), "KUBERNETES_SERVICE_PORT=" + u.Port()}
}

// environment are the variables of a pod's container.
func (r *Runner) environment(ctx context.Context, object *corev1.Pod, ip string) (map[string]string, error) {
	c := &object.Spec.Containers[0]
	env := map[string]string{}
	for _, from := range c.EnvFrom {
		data, err := r.source(ctx, object.Namespace, from)
		if err != nil {
			return nil, err
		}
		for key, value := range data {
			env[from.Prefix+key] = value
		}
	}
	for _, v := range c.Env {
		if v.ValueFrom == nil {
			env[v.Name] = expand(v.Value, env)
			continue
		}
		value, found, err := r.value(ctx, object, ip, v.ValueFrom)
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", v.Name, err)
		}
		if found {
			env[v.Name] = value
		}
	}
	return env, nil
}

func (r *Runner) source(ctx context.Context, namespace string, from corev1.EnvFromSource) (map[string]string, error) {
	switch {
	case from.ConfigMapRef != nil:
		return r.data(ctx, "ConfigMap", namespace, from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
	case from.SecretRef != nil:
		return r.data(ctx, "Secret", namespace, from.SecretRef.Name, from.SecretRef.Optional)
	default:
		return nil, errNotPlayed
	}
}

// value is what a variable is of, unless it is optional and not there.
func (r *Runner) value(ctx context.Context, object *corev1.Pod, ip string, from *corev1.EnvVarSource) (value string, found bool, err error) {
	switch {
	case from.FieldRef != nil:
		value, err = field(object, ip, from.FieldRef.FieldPath)
		return value, true, err
	case from.ResourceFieldRef != nil:
		value, err = resources(&object.Spec.Containers[0], from.ResourceFieldRef)
		return value, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		return r.key(ctx, "ConfigMap", object.Namespace, ref.Name, ref.Key, ref.Optional)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		return r.key(ctx, "Secret", object.Namespace, ref.Name, ref.Key, ref.Optional)
	default:
		return "", false, errNotPlayed
	}
}

func (r *Runner) key(ctx context.Context, kind, namespace, name, key string, optional *bool) (value string, found bool, err error) {
	data, err := r.data(ctx, kind, namespace, name, optional)
	if err != nil {
		return "", false, err
	}
	value, found = data[key]
	if !found && (optional == nil || !*optional) {
		return "", false, fmt.Errorf("couldn't find key %s in %s %s/%s", key, kind, namespace, name)
	}
	return value, found, nil
}

// data is what a ConfigMap or Secret has, nothing if it is optional and not there.
func (r *Runner) data(ctx context.Context, kind, namespace, name string, optional *bool) (map[string]string, error) {
	data := map[string]string{}
	var err error
	if kind == "Secret" {
		var secret *corev1.Secret
		if secret, err = r.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			for key, value := range secret.Data {
				data[key] = string(value)
			}
		}
	} else {
		var config *corev1.ConfigMap
		if config, err = r.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			maps.Copy(data, config.Data)
		}
	}
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return data, nil
	}
	return data, err
}

// field is a field of the pod, see
// https://kubernetes.io/docs/concepts/workloads/pods/downward-api/#available-fields.
func field(object *corev1.Pod, ip, path string) (string, error) {
	if name, key, ok := strings.Cut(path, "['"); ok {
		set := map[string]map[string]string{"metadata.labels": object.Labels, "metadata.annotations": object.Annotations}[name]
		return set[strings.TrimSuffix(key, "']")], nil
	}
	fields := map[string]string{
		"metadata.name": object.Name, "metadata.namespace": object.Namespace, "metadata.uid": string(object.UID),
		"spec.nodeName": object.Spec.NodeName, "spec.serviceAccountName": object.Spec.ServiceAccountName,
		"status.podIP": ip, "status.podIPs": ip, "status.hostIP": hostIP(object.Spec.NodeName), "status.hostIPs": hostIP(object.Spec.NodeName),
	}
	value, ok := fields[path]
	if !ok {
		return "", fmt.Errorf("field %s: %w", path, errNotPlayed)
	}
	return value, nil
}

// resources is what a container requests or may use at most, in whole units of the divisor.
func resources(c *corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	of, name, _ := strings.Cut(ref.Resource, ".")
	list, ok := map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests}[of]
	if !ok {
		return "", fmt.Errorf("resource %s: %w", ref.Resource, errNotPlayed)
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	amount := list[corev1.ResourceName(name)]
	unit := divisor.AsApproximateFloat64()
	whole := int64(amount.AsApproximateFloat64() / unit)
	if float64(whole)*unit < amount.AsApproximateFloat64() {
		whole++
	}
	return strconv.FormatInt(whole, 10), nil
}

// reference is $(NAME), or $$ which is a dollar sign.
var reference = regexp.MustCompile(`\$\$|\$\([A-Za-z0-9._-]+\)`)

// expand puts variables in the place of their references. One that is not known stays, see
// https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/.
func expand(text string, env map[string]string) string {
	out := reference.ReplaceAllStringFunc(text, func(ref string) string {
		if ref == "$$" {
			return "$"
		}
		if value, ok := env[ref[2:len(ref)-1]]; ok {
			return value
		}
		return ref
	})
	if len(out) > maxExpansion {
		return text
	}
	return out
}

// reason is why a container waits that could not be started, in a kubelet's words.
func reason(err error) string {
	if errors.Is(err, errNotPlayed) {
		return "NotPlayed"
	}
	return "CreateContainerConfigError"
}
