// Package gitops tests deploy/gitops against the CRDs of Flux, and the dashboards of the demo
// against the metrics that its programs publish.
package gitops
