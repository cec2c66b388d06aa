package main

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"time"
)

// untilEnd, as the size of an upload, has the server take everything up to the end
// of the request, and answer 3 seconds after it.
const untilEnd = -1

// upload sends a number of bytes, ends its side and reads the answer, which says how
// many came.
func upload(c net.Conn, size int64) error {
	head := -size
	if size == untilEnd {
		head, size = untilEnd, 1
	}
	if err := ask(c, head); err != nil {
		return err
	}
	buf := make([]byte, chunk)
	for left := size; left > 0; left -= chunk {
		if _, err := c.Write(buf[:min(left, chunk)]); err != nil {
			return err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return err
	}
	var answer [8]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return err
	}
	if got := int64(binary.BigEndian.Uint64(answer[:])); got != size {
		return errors.New("the server got another number of bytes")
	}
	return nil
}

// uploadRate measures an upload from dial to the answer, in MB/s.
func (b *bench) uploadRate(dial dialer) (float64, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	start := time.Now()
	if err := upload(c, b.bytes); err != nil {
		return 0, err
	}
	return float64(b.bytes) / 1e6 / time.Since(start).Seconds(), nil
}

// takeUpload is the server's side of upload.
func takeUpload(c net.Conn, head int64) error {
	limit := -head
	if head == untilEnd {
		limit = math.MaxInt64
	}
	n, err := io.Copy(io.Discard, io.LimitReader(c, limit))
	if err != nil {
		return err
	}
	if head == untilEnd {
		time.Sleep(3 * time.Second)
	}
	_, err = c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
	return err
}
