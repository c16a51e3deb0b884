package bench

// measurements are all that there are, in the order in which they run: those that fill
// the cluster come last.
func measurements() []measurement {
	return []measurement{discovery(), reads(), definitions(), hang(), bill(), restart(), controller(), autoscalers(), space()}
}
