package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// sockets echoes datagrams at 127.0.0.1:5353, and greets whoever connects to Unix sockets at
// the places; NAME=PLACE makes a symbolic link instead.
func sockets(places []string) error {
	udp, err := net.ListenPacket("udp", "127.0.0.1:5353")
	if err == nil {
		go echo(udp)
	}
	for _, place := range places {
		name, to, isLink := strings.Cut(place, "=")
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if isLink {
			if err := os.Symlink(to, name); err != nil {
				return err
			}
			continue
		}
		l, err := net.Listen("unix", name)
		if err == nil {
			err = os.Chmod(name, 0o777)
		}
		if err != nil {
			return err
		}
		go greet(l, name)
	}
	fmt.Println("ready")
	select {}
}

func greet(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			fmt.Fprintf(c, "hello from %s of user %d", name, os.Getuid())
			_ = c.Close()
		}
	}
}

func echo(conn net.PacketConn) {
	p := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(p)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(p[:n], from)
	}
}
