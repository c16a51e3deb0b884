package page

// ring keeps the newest items, in order.
type ring[T any] struct {
	items []T
	first int // the place of the oldest once all places are taken
	most  int
}

func newRing[T any](most int) *ring[T] { return &ring[T]{most: most} }

func (r *ring[T]) add(item T) {
	if len(r.items) < r.most {
		r.items = append(r.items, item)
		return
	}
	r.items[r.first] = item
	r.first = (r.first + 1) % r.most
}

// all are the items, the oldest first, in a slice of their own.
func (r *ring[T]) all() []T {
	return append(append(make([]T, 0, len(r.items)), r.items[r.first:]...), r.items[:r.first]...)
}
