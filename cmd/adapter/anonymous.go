package main

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// healthPaths are what a kubelet probes, without credentials.
var healthPaths = []string{"/healthz", "/livez", "/readyz"}

// credentialed refuses callers without credentials everywhere but at the health
// paths. The library would take them for system:anonymous and answer 403, which
// sends whoever forgot a token looking for a missing role.
type credentialed struct {
	delegate authenticator.Request
}

func (c credentialed) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	response, ok, err := c.delegate.AuthenticateRequest(req)
	if err != nil || !ok || response.User.GetName() != user.Anonymous || isHealthPath(req.URL.Path) {
		return response, ok, err
	}
	return nil, false, nil
}

func isHealthPath(path string) bool {
	return slices.ContainsFunc(healthPaths, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}
