package kuard

import (
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"
)

// environment is the JSON of /env/api. Showing all of it is the purpose of the application.
type environment struct {
	Host        string            `json:"hostname"`
	Addresses   []netip.Addr      `json:"addresses"`
	Version     string            `json:"version"`
	Go          string            `json:"goVersion"`
	PID         int               `json:"pid"`
	Started     time.Time         `json:"started"`
	CommandLine []string          `json:"commandLine"`
	Env         map[string]string `json:"env"`
}

func (s *Server) showEnv(*http.Request) (any, error) {
	return environment{
		Host:        hostName(),
		Addresses:   append([]netip.Addr{}, podAddresses()...),
		Version:     s.version(),
		Go:          runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH,
		PID:         os.Getpid(),
		Started:     s.started,
		CommandLine: os.Args,
		Env:         splitEnv(os.Environ()),
	}, nil
}

// splitEnv maps names to values. A variable set twice has its last value.
func splitEnv(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, kv := range list {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	return env
}
