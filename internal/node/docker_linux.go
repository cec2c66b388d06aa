package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// docker asks the Docker engine for what cri-dockerd does not report.
type docker struct{ client *http.Client }

// maxInspect limits the size of the engine's answer about a container, in bytes.
const maxInspect = 4 << 20

func newDocker(path string) *docker {
	var d net.Dialer
	return &docker{client: &http.Client{
		Timeout: upstreamTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true, // used once per forward
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			},
		},
	}}
}

// inspected is the part of the engine's answer about a container that matters here.
type inspected struct {
	State      *struct{ Pid int }
	HostConfig struct{ Runtime string }
}

// inspect asks for a running container.
func (d *docker) inspect(ctx context.Context, id string) (*inspected, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/"+url.PathEscape(id)+"/json", nil)
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	response, err := d.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("docker: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("docker: inspect container %s: %s", id, response.Status)
	}
	c, err := readInspect(response.Body)
	if err == nil && c.State.Pid == 0 {
		err = errors.New("it does not run")
	}
	if err != nil {
		return nil, fmt.Errorf("docker: inspect container %s: %w", id, err)
	}
	return c, nil
}

// readInspect reads the engine's answer; a Pid of 0 means no process.
func readInspect(body io.Reader) (*inspected, error) {
	c := &inspected{}
	if err := json.NewDecoder(io.LimitReader(body, maxInspect)).Decode(c); err != nil {
		return nil, err
	}
	if c.State == nil {
		return nil, errors.New("no State in the answer")
	}
	c.State.Pid = max(c.State.Pid, 0)
	return c, nil
}
