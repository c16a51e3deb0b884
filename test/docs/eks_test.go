package docs

import "testing"

// TestInstallOnEKS follows the page in an empty cluster, but for what happens in AWS, and then
// has the commands of the troubleshooting page find nothing wrong.
func TestInstallOnEKS(t *testing.T) {
	b := newBed(t, "helm")
	b.publish(jobsMetric("ApproximateNumberOfMessagesVisible", 95))
	b.apply(namespaces("demo"))
	(&guide{bed: b, blocks: readPage(t, "install-eks.md")}).follow(t)

	b.apply(workload("demo", "worker", 4) + hpa("demo", "worker", external("jobs-depth", 30)))
	b.awaitHPAs()
	(&guide{bed: b, blocks: readPage(t, "troubleshooting.md")}).follow(t)
}
