package simulator

import "math"

// wave is a load that rises and falls like a sine: it begins at its least, as a day does in
// the night, and is at its most half a period later.
type wave struct {
	least, most float64
}

// at is the load at a phase from 0 up to 1.
func (w wave) at(phase float64) float64 {
	return w.least + (w.most-w.least)*(1-math.Cos(2*math.Pi*phase))/2
}

// turn moves a phase on by a step of so many in a period.
func turn(phase float64, steps int) float64 {
	// To the step that is next, so that rounding does not add up.
	step := math.Round(phase*float64(steps)) + 1
	return math.Mod(step, float64(steps)) / float64(steps)
}
