package node

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"porthole.dev/porthole/internal/portforward"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

// refuse answers to uploads in a pod, and closes with most of them unread, which resets.
func refuse(t *testing.T, pod *testenv.Pod, text []byte, end func(*net.TCPConn)) (port uint16) {
	t.Helper()
	l := pod.Listen(t, "127.0.0.1:0")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadFull(c, make([]byte, 1))
			_, _ = c.Write(text)
			end(c.(*net.TCPConn))
			_ = c.Close()
		}
	}()
	return testenv.Port(l)
}

// What a port answers before it resets the connection arrives at a stock client, and the
// end is told as a reset.
func TestAnswerBeforeReset(t *testing.T) {
	testenv.NoLeaks(t)
	text := bytes.Repeat([]byte("a"), 229)
	pod := testenv.NewPod(t)
	port := refuse(t, pod, text, func(*net.TCPConn) {})
	r := startNode(t, pod, Node{})
	records := follow(t, r.Events)
	local, stop := r.forwarded(t, port)
	for i := range 100 {
		c, err := net.Dial("tcp", local[0])
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(waitTime))
		if got := upload(c); !bytes.Equal(got, text) {
			t.Fatalf("try %d: %d bytes of the answer", i, len(got))
		}
		<-records
		if closed := <-records; closed.Event != EventClosed || closed.Result != resultReset {
			t.Fatalf("try %d: told %+v", i, closed)
		}
		_ = c.Close()
	}
	stop()
	r.stop()
}

// A reset behind an end of file is told as a reset, too, although Linux calls it EPIPE.
func TestEndBeforeReset(t *testing.T) {
	testenv.NoLeaks(t)
	text := bytes.Repeat([]byte("a"), 229)
	pod := testenv.NewPod(t)
	ended := make(chan struct{})
	port := refuse(t, pod, text, func(c *net.TCPConn) { _ = c.CloseWrite(); <-ended })
	r := startNode(t, pod, Node{})
	records := follow(t, r.Events)
	client := &portforward.Client{URL: r.url(t), Transport: &http.Transport{}, SPDYOnly: true}
	defer client.Close()
	conn, err := client.Dial(t.Context(), target.TCPPort(port))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("upload that goes on"))
	if got, err := io.ReadAll(conn); !bytes.Equal(got, text) || err != nil {
		t.Errorf("%d bytes of the answer, then %v", len(got), err)
	}
	close(ended)
	<-records
	if closed := <-records; closed.Event != EventClosed || closed.Result != resultReset {
		t.Errorf("told %+v", closed)
	}
	_ = client.Close()
	r.stop()
}

// upload sends more than is taken and returns what is answered.
func upload(c net.Conn) []byte {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = c.Write(make([]byte, 300_000))
	}()
	got, _ := io.ReadAll(c) // to the end, which is a reset, or looks like one to its writer
	<-done
	return got
}
