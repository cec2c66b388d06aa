package kuard

// history keeps the last events of something that never ends.
// It is not safe for concurrent use: its owner holds a lock.
type history[T any] struct {
	events []T // oldest first
}

// add keeps event, and forgets the oldest so that at most limit are kept.
func (h *history[T]) add(event T, limit int) {
	if len(h.events) >= limit {
		h.events = append(h.events[:0], h.events[len(h.events)-limit+1:]...)
	}
	h.events = append(h.events, event)
}

// newestFirst returns a copy, never nil, so that JSON has a list and not null.
func (h *history[T]) newestFirst() []T {
	list := make([]T, 0, len(h.events))
	for i := len(h.events) - 1; i >= 0; i-- {
		list = append(list, h.events[i])
	}
	return list
}
