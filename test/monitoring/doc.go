// Package monitoring holds the tests of what deploy/monitoring has for Prometheus and
// Grafana: that it names metrics that exist, and that alerts fire when they should and
// not otherwise.
package monitoring
