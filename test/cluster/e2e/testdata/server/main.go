// Command server answers in a pod as the first line of a connection asks it to. It listens on the pod's loopback
// only: what reaches it was forwarded.
package main

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// taken is how many bytes the last "sink" took, once its client is through; -1 before.
var taken atomic.Int64

func main() {
	switch {
	case len(os.Args) < 2:
	case os.Args[1] == "listens":
		listens()
	case os.Args[1] == "idle": // where the ports are not the pod's own
		for {
			time.Sleep(time.Hour)
		}
	case os.Args[1] == "sockets":
		log.Fatal(sockets(os.Args[2:]))
	default: // what to say once
		fmt.Println(os.Args[1])
		return
	}
	taken.Store(-1)
	for _, port := range []string{"8080", "9090"} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			log.Fatal(err)
		}
		go accept(l)
	}
	select {}
}

// listens ends with status 0 when another process of this program serves.
func listens() {
	c, err := net.Dial("tcp", "127.0.0.1:9090") // the last that it opens
	if err != nil {
		log.Fatal(err)
	}
	c.Close()
	os.Exit(0)
}

func accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go converse(c.(*net.TCPConn))
	}
}

// converse serves a connection. A server that is killed meanwhile resets it, although it may have read all that has come:
// what looks like an end is one.
func converse(c *net.TCPConn) {
	_ = c.SetLinger(0)
	serve(c)
	_ = c.SetLinger(-1) // fails for one that was reset
	_ = c.Close()
}

func serve(c *net.TCPConn) {
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	if err != nil {
		return
	}
	command, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
	n, _ := strconv.ParseInt(argument, 10, 64)
	switch command {
	case "who":
		who(c)
	case "echo":
		_, _ = io.Copy(c, r)
	case "pause": // N seconds before the answer
		time.Sleep(time.Duration(n) * time.Second)
		_, _ = io.WriteString(c, "late answer")
	case "late": // N seconds after the end of the request
		request, _ := io.ReadAll(r)
		time.Sleep(time.Duration(n) * time.Second)
		_, _ = fmt.Fprintf(c, "late answer to %s", request)
	case "reset": // after half of the answer
		_, _ = io.WriteString(c, "half")
		time.Sleep(50 * time.Millisecond)
		_ = c.Close()
	case "download":
		_, _ = io.CopyN(c, rand.NewChaCha8([32]byte{}), n)
	case "upload":
		sum := sha256.New()
		got, _ := io.CopyN(sum, r, n)
		_, _ = fmt.Fprintf(c, "%d %x\n", got, sum.Sum(nil))
	case "stall": // neither reads nor writes for N seconds
		time.Sleep(time.Duration(n) * time.Second)
	case "sink": // ends its own side first
		sink(c, r)
	case "taken":
		_, _ = fmt.Fprintln(c, taken.Load())
	case "crash":
		os.Exit(3)
	}
}

// who says which pod this is, and which of its ports.
func who(c *net.TCPConn) {
	host, _ := os.Hostname()
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	_, _ = fmt.Fprintf(c, "%s %s\n", host, port)
}

func sink(c *net.TCPConn, r io.Reader) {
	taken.Store(-1)
	_, _ = io.WriteString(c, "goodbye\n")
	_ = c.CloseWrite()
	n, _ := io.Copy(io.Discard, r)
	taken.Store(n)
}
