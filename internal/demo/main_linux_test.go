package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be what porthole is to the package: the
// pod's init, the application, and the demo that gets killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		if err := role(os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func role(name string, args []string) error {
	switch name {
	case InitCommand:
		return Init()
	case "kuard":
		return serveHello(args[1])
	case "die":
		return fmt.Errorf("no such flag: %s", strings.Join(args, " "))
	case "idle":
		time.Sleep(time.Hour)
	case "demo":
		return runDemo(Config{StateDir: args[0], Bridge: args[1]})
	case "get":
		return get(args[0])
	case "lookup":
		return lookup(args[0])
	}
	return fmt.Errorf("no role %q", name)
}

func serveHello(addr string) error {
	fmt.Println("serving on", addr)
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "hello from kuard\n", strings.Join(os.Environ(), "\n"))
	}))
}

// runDemo says the pod's PID and waits to be killed.
func runDemo(cfg Config) error {
	pod, err := Start(context.Background(), cfg)
	if err != nil {
		return err
	}
	fmt.Println(pod.PID)
	return pod.Wait()
}

func get(url string) error {
	response, err := (&http.Client{Timeout: time.Minute}).Get(url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

func lookup(name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true}
	found, err := resolver.LookupHost(ctx, name)
	if net.ParseIP(name) != nil {
		found, err = resolver.LookupAddr(ctx, name)
	}
	fmt.Println(strings.Join(found, " "))
	return err
}
