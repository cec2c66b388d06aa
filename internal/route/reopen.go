package route

import (
	"context"
	"errors"
)

// Reopen tells that a way is lost, and opens it again, until that succeeds, ctx ends or there is a
// *FinalError. It tells each reason why it cannot yet once. The pauses between attempts are open's.
func Reopen[T any](ctx context.Context, lost error, events func(Event), open func(context.Context) (T, error)) (T, error) {
	events(Event{Kind: Reconnecting, Err: lost})
	for told := ""; ; {
		opened, err := open(ctx)
		var final *FinalError
		if err == nil || ctx.Err() != nil || errors.As(err, &final) {
			return opened, err
		}
		if told != err.Error() {
			told = err.Error()
			events(Event{Kind: Waiting, Err: err})
		}
	}
}
