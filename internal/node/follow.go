package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// Follow calls each with every Record that the node at an events' socket tells,
// beginning with an EventFollowing, until ctx ends, which is no error, or each returns one. The error wraps
// ErrNoNode if there is no node, or it has ended, or ErrNotRoot.
func Follow(ctx context.Context, endpoint string, each func(Record) error) error {
	path, err := socketPath(endpoint)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %w", ErrNoNode, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", ErrNotRoot, err)
	case err != nil:
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	err = readRecords(conn, each)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func readRecords(r io.Reader, each func(Record) error) error {
	lines := json.NewDecoder(r)
	for {
		var record Record
		err := lines.Decode(&record)
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET):
			return fmt.Errorf("%w any more", ErrNoNode)
		case err != nil:
			return fmt.Errorf("read events: %w", err)
		}
		if err := each(record); err != nil {
			return err
		}
	}
}
