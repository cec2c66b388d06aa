package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/safetext"
)

// kubectlFlags are kubectl's global flags that client-go does not define.
type kubectlFlags struct {
	verbosity        int32
	modules          string
	warningsAsErrors bool
	profile          string
	profileOutput    string
	kuberc           string
}

func (k *kubectlFlags) add(flags *pflag.FlagSet) {
	flags.Int32VarP(&k.verbosity, "v", "v", 0, "log the requests to the API server on stderr as kubectl does, from 6 (each request) to 9 (all of it)")
	flags.StringVar(&k.modules, "vmodule", "", "levels of the log by file, as PATTERN=N,...")
	flags.BoolVar(&k.warningsAsErrors, "warnings-as-errors", false, "exit with an error if the server has sent warnings")
	flags.StringVar(&k.profile, "profile", "none", "profile to write at the end: none, cpu, heap, goroutine, threadcreate, block, mutex or trace")
	flags.StringVar(&k.profileOutput, "profile-output", "profile.pprof", "file for the profile")
	flags.StringVar(&k.kuberc, "kuberc", "", "kubectl's file of preferences, of which those for port-forward count; $KUBERC or ~/.kube/kuberc if not given")
	// These are accepted, and do nothing: porthole has no such feature.
	flags.String("cache-dir", "", "taken as kubectl takes it; porthole caches nothing on disk")
	flags.Duration("log-flush-frequency", 5*time.Second, "taken as kubectl takes it; porthole writes each line at once")
	flags.Bool("match-server-version", false, "taken as kubectl takes it; porthole has no version in common with servers")
	for _, name := range []string{"vmodule", "cache-dir", "log-flush-frequency", "match-server-version"} {
		_ = flags.MarkHidden(name)
	}
}

// around calls run, with logging, profiling and the counting of warnings around it as the flags say.
func (k *kubectlFlags) around(stderr io.Writer, config *kube.Config, run func() error) (err error) {
	if err := k.log(stderr); err != nil {
		return usageError{err}
	}
	stop, err := startProfile(k.profile, k.profileOutput)
	if err != nil {
		return err
	}
	var warnings warningCounter
	config.Warn = func(text string) { warnings.print(stderr, text) }
	err = run()
	if failed := stop(); err == nil {
		err = failed
	}
	if n := warnings.count(); err == nil && k.warningsAsErrors && n > 0 {
		return fmt.Errorf("%d %s received", n, map[bool]string{true: "warning", false: "warnings"}[n == 1])
	}
	return err
}

// log makes client-go log in kubectl's form, which masks credentials.
func (k *kubectlFlags) log(stderr io.Writer) error {
	if k.verbosity <= 0 && k.modules == "" {
		return nil
	}
	var flags flag.FlagSet
	klog.InitFlags(&flags)
	for name, value := range map[string]string{
		"v": strconv.Itoa(int(k.verbosity)), "vmodule": k.modules,
		"logtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true", // so that everything goes to the writer of SetOutput
	} {
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("--%s %s: %w", name, value, err)
		}
	}
	klog.ClearLogger()
	klog.SetOutput(stderr)
	return nil
}

// warningCounter prints each warning of a server once, as kubectl does, and counts them.
type warningCounter struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (w *warningCounter) print(to io.Writer, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[text] {
		return
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[text] = true
	fmt.Fprintln(to, "Warning: "+safetext.Line(text))
}

func (w *warningCounter) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen)
}

// startProfile begins a profile; stop writes it to a file.
func startProfile(name, path string) (stop func() error, err error) {
	switch name {
	case "none":
		return func() error { return nil }, nil
	case "cpu", "trace":
		return startStream(name, path)
	case "block":
		runtime.SetBlockProfileRate(1)
	case "mutex":
		runtime.SetMutexProfileFraction(1)
	}
	profile := pprof.Lookup(name)
	if profile == nil {
		return nil, usageError{fmt.Errorf("unknown profile %q", name)}
	}
	return func() error { return writeProfile(profile, path) }, nil
}

func writeProfile(profile *pprof.Profile, path string) error {
	if profile.Name() == "heap" {
		runtime.GC() // so that the profile shows what is still in use
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write profile: %w", err)
	}
	defer f.Close()
	return profile.WriteTo(f, 0)
}

// startStream begins a profile that is written continuously.
func startStream(name, path string) (stop func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("write profile: %w", err)
	}
	start, end := pprof.StartCPUProfile, pprof.StopCPUProfile
	if name == "trace" {
		start, end = trace.Start, trace.Stop
	}
	if err := start(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("profile: %w", err)
	}
	return func() error {
		end()
		return f.Close()
	}, nil
}
