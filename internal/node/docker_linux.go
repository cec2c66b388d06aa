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

// docker asks the Docker engine for what cri-dockerd does not tell.
type docker struct{ client *http.Client }

// maxInspect bounds what the engine may tell of a container, in octets.
const maxInspect = 4 << 20

func newDocker(path string) *docker {
	var d net.Dialer
	return &docker{client: &http.Client{
		Timeout: defaultPatience,
		Transport: &http.Transport{
			DisableKeepAlives: true, // once a forward
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			},
		},
	}}
}

// pid is the number of the process of a running container.
func (d *docker) pid(ctx context.Context, id string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/"+url.PathEscape(id)+"/json", nil)
	if err != nil {
		return 0, fmt.Errorf("docker: %w", err)
	}
	response, err := d.client.Do(request)
	if err != nil {
		return 0, fmt.Errorf("docker: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("docker: inspect container %s: %s", id, response.Status)
	}
	pid, err := readInspect(response.Body)
	if err == nil && pid == 0 {
		err = errors.New("it does not run")
	}
	if err != nil {
		return 0, fmt.Errorf("docker: inspect container %s: %w", id, err)
	}
	return pid, nil
}

// readInspect reads a container's process from the engine's answer; 0 is for none.
func readInspect(body io.Reader) (int, error) {
	var container struct {
		State *struct{ Pid int }
	}
	if err := json.NewDecoder(io.LimitReader(body, maxInspect)).Decode(&container); err != nil {
		return 0, err
	}
	if container.State == nil {
		return 0, errors.New("no State in the answer")
	}
	return max(container.State.Pid, 0), nil
}
