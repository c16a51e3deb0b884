// Package scale holds the tests of the demo's system at its full size: hundreds of pods on
// simulated nodes, with the real control plane, the real adapter and both HPAs in the loop.
package scale
