package kube

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"porthole.dev/porthole/internal/pinned"
	"porthole.dev/porthole/internal/target"
)

// podOf is a pod with one running container, whose fields are as JSON has them.
func podOf(t *testing.T, spec, status string) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	text := `{"metadata": {"name": "web", "uid": "1"}, "spec": ` + spec + `, "status": {"containerStatuses": [` + status + `]}}`
	if err := json.Unmarshal([]byte(text), &pod); err != nil {
		t.Fatal(err)
	}
	return &pod
}

const runningServer = `{"name": "server", "containerID": "containerd://abc", "state": {"running": {}}`

// An agent runs as its target does, by the specification, else by the status, and with no more than it needs.
func TestAgentSecurity(t *testing.T) {
	server := func(context string) string {
		return `"containers": [{"name": "server", "securityContext": ` + context + `}]`
	}
	for name, c := range map[string]struct{ spec, status, target, want string }{
		"no target":             {`{` + server(`{"runAsUser": 7}`) + `}`, runningServer + `}`, "", "65532:65532 nonroot drop ALL"},
		"no target, pod's user": {`{"securityContext": {"runAsUser": 7, "runAsGroup": 8}, ` + server(`{}`) + `}`, runningServer + `}`, "", "7:8 nonroot drop ALL"},
		"no target, pod's root": {`{"securityContext": {"runAsUser": 0}, ` + server(`{}`) + `}`, runningServer + `}`, "", "65532:65532 nonroot drop ALL"},
		"container's user":      {`{"securityContext": {"runAsUser": 7, "runAsGroup": 8}, ` + server(`{"runAsUser": 9}`) + `}`, runningServer + `}`, "server", "9:8 nonroot drop ALL"},
		"status' group":         {`{` + server(`{"runAsUser": 9}`) + `}`, runningServer + `, "user": {"linux": {"uid": 9, "gid": 70}}}`, "server", "9:70 nonroot drop ALL"},
		"status' user":          {`{` + server(`{}`) + `}`, runningServer + `, "user": {"linux": {"uid": 70, "gid": 71}}}`, "server", "70:71 nonroot drop ALL"},
		"nobody knows":          {`{` + server(`{}`) + `}`, runningServer + `}`, "server", "error"},
		"root":                  {`{` + server(`{"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]}}`) + `}`, runningServer + `}`, "server", "0: add NET_ADMIN drop CHOWN"},
		"root with the usual":   {`{` + server(`{}`) + `}`, runningServer + `, "user": {"linux": {"uid": 0, "gid": 0}}}`, "server", "0:0"},
		"privileged":            {`{` + server(`{"runAsUser": 0, "privileged": true}`) + `}`, runningServer + `}`, "server", "0: add ALL"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := podOf(t, c.spec, c.status)
			w := wantedAgent{agents: &Agents{Image: "i"}, key: "k", target: c.target}
			container, _, err := w.container(pod)
			if c.want == "error" {
				if !errors.Is(err, ErrUserUnknown) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := describeSecurity(container.SecurityContext); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if s := container.SecurityContext; *s.AllowPrivilegeEscalation || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
				t.Errorf("%+v", s)
			}
		})
	}
}

// describeSecurity is the user and group, and what the context adds and drops.
func describeSecurity(s *corev1.SecurityContext) string {
	text, _ := json.Marshal(s.RunAsUser)
	words := string(text) + ":"
	if s.RunAsGroup != nil {
		text, _ = json.Marshal(s.RunAsGroup)
		words += string(text)
	}
	if valueOr(s.RunAsNonRoot, false) {
		words += " nonroot"
	}
	if s.Capabilities != nil {
		for _, c := range s.Capabilities.Add {
			words += " add " + string(c)
		}
		for _, c := range s.Capabilities.Drop {
			words += " drop " + string(c)
		}
	}
	return words
}

// agentOf is what a pod wants, and the pod with that in a state.
func agentOf(t *testing.T, state corev1.ContainerState) (wantedAgent, *corev1.Pod, string) {
	t.Helper()
	pod := podOf(t, `{"containers": [{"name": "server", "ports": [{"containerPort": 20001}], "securityContext": {"runAsUser": 9}}]}`, runningServer+`}`)
	w := wantedAgent{agents: &Agents{Image: "i"}, key: "k", target: "server", containerID: "abc"}
	if found, ok := w.in(pod); ok {
		t.Fatalf("found %+v where there is none", found)
	}
	first, args, err := w.container(pod)
	if err != nil {
		t.Fatal(err)
	}
	if read, ok := readAgentArgs(first.Args); !ok || read != args || args.containerID != "abc" || first.TargetContainerName != "server" {
		t.Errorf("%+v has the arguments %+v, %v", first, read, ok)
	}
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *first)
	pod.Status.EphemeralContainerStatuses = []corev1.ContainerStatus{{Name: first.Name, State: state}}
	return w, pod, first.Name
}

// A pod's agent is found by its arguments, if it will do.
func TestAgentIsFound(t *testing.T) {
	w, running, name := agentOf(t, corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}})
	_, starting, _ := agentOf(t, corev1.ContainerState{})
	newer, patched, stranger, restarted := w, w, w, w
	newer.agents, patched.agents = &Agents{Image: "newer"}, &Agents{Image: "i", Patch: `{"env": []}`}
	stranger.key, restarted.containerID = "other", "def"
	for what, c := range map[string]struct {
		wanted wantedAgent
		pod    *corev1.Pod
		found  bool
	}{
		"the same":                            {w, running, true},
		"the same, starting":                  {w, starting, true},
		"of another image":                    {newer, running, true},
		"of another image, starting":          {newer, starting, false}, // it may never run
		"no container":                        {wantedAgent{agents: w.agents, key: "k"}, running, true},
		"with a patch":                        {patched, running, false},
		"another key":                         {stranger, running, false},
		"the target's container is a new one": {restarted, running, false},
	} {
		if got, ok := c.wanted.in(c.pod); ok != c.found || ok && got.name != name {
			t.Errorf("%s: found %+v, %v", what, got, ok)
		}
	}
	if got := stranger.strangerIn(running); got != name {
		t.Errorf("the agent of another key is %q", got)
	}
}

// An agent that has ended is not found, and the next one has another name and port.
func TestAgentHasEnded(t *testing.T) {
	w, pod, name := agentOf(t, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}})
	if got, ok := w.in(pod); ok {
		t.Errorf("%s will do, which has ended", got.name)
	}
	before, _ := readAgentArgs(pod.Spec.EphemeralContainers[0].Args)
	second, args, err := w.container(pod)
	if err != nil || second.Name != strings.TrimSuffix(name, "1")+"2" || args.port == before.port {
		t.Errorf("%+v after %s, %v", second, name, err)
	}
	second.Name = w.namePrefix() + strconv.Itoa(maxAgents)
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, *second)
	if _, _, err := w.container(pod); err == nil {
		t.Error("there is no end of agents")
	}
}

// Pods that can have no agent are told apart, and pods with several containers need one named.
func TestAgentless(t *testing.T) {
	const server = `"containers": [{"name": "server", "securityContext": {"runAsUser": 9}}]`
	unix := []target.Port{{Network: target.Unix, Path: "/x"}}
	for want, c := range map[string]struct {
		spec, annotation string
		want             []target.Port
		named            string
	}{
		"":                              {spec: `{` + server + `}`, want: unix},
		"static pod":                    {spec: `{` + server + `}`, annotation: mirrorAnnotation},
		"Windows":                       {spec: `{"os": {"name": "windows"}, ` + server + `}`},
		"Windows node":                  {spec: `{"nodeSelector": {"kubernetes.io/os": "windows"}, ` + server + `}`},
		"network of its node":           {spec: `{"hostNetwork": true, ` + server + `}`},
		"several containers: a, b":      {spec: `{"containers": [{"name": "a"}, {"name": "b"}]}`, want: unix},
		"no container c, but server":    {spec: `{` + server + `}`, named: "c"},
		"container server does not run": {spec: `{"containers": [{"name": "server"}, {"name": "b"}]}`, named: "server", annotation: "stopped"},
	} {
		pod := podOf(t, c.spec, runningServer+`}`)
		if c.annotation == "stopped" {
			pod.Status.ContainerStatuses[0].State = corev1.ContainerState{}
		} else if c.annotation != "" {
			pod.Annotations = map[string]string{c.annotation: "x"}
		}
		r := &Route{Agents: &Agents{}, Want: c.want, Container: c.named}
		_, err := r.wantedAgent(pod, pinned.PublicKey{})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A patch may have what an ephemeral container can, and what it may not have is named.
func TestAgentPatch(t *testing.T) {
	for text, want := range map[string]string{
		"env: [{name: A, value: b}]":                           "",
		"securityContext: {runAsUser: 5}":                      "",
		`{"volumeMounts": [{"name": "v", "mountPath": "/v"}]}`: "",
		"image: other":                       "image: there is no such field",
		"resources: {limits: {cpu: 1}}":      "resources: there is no such field",
		"securityContext: {runAsUsr: 5}":     "securityContext.runAsUsr: there is no such field",
		"securityContext: {runAsUser: five}": "securityContext.runAsUser: want a number",
		"":                                   "",
		"[1]":                                "container: want a mapping",
		"env: [":                             "line 1: not YAML",
		"env: []\n---\nenv: []":              "line 2: a second document",
		"env: []\nenv: []":                   "line 2: not YAML",
		"volumeMounts: [{mountPath: 1}]":     "volumeMounts.mountPath: want text",
	} {
		patch, err := ReadPatch(AgentPatch, []byte(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil {
			continue
		}
		c := &corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "x", Args: []string{"a"},
			SecurityContext: &corev1.SecurityContext{RunAsUser: new(int64(1)), RunAsGroup: new(int64(2))}}}
		if err := (&Agents{Patch: patch}).patch(c); err != nil || c.Name != "x" || len(c.Args) != 1 || *c.SecurityContext.RunAsGroup != 2 {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

// The state of an agent's container says whether to wait, to give up, or to try another port.
func TestAgentStates(t *testing.T) {
	for name, c := range map[string]struct {
		state       corev1.ContainerState
		runs, final bool
		taken       bool
		text        string
	}{
		"new":      {text: "nothing is known of it yet"},
		"creating": {state: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}, text: "ContainerCreating"},
		"running":  {state: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, runs: true},
		"no image": {state: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no such host"}}, final: true, text: "ErrImagePull: no such host"},
		"no user":  {state: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "RunContainerError", Message: "no"}}, final: true, text: "RunContainerError: no"},
		"ended":    {state: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}, final: true, text: "exit code 137: OOMKilled"},
		"taken": {state: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error",
			Message: "porthole: agent: listen tcp 127.0.0.1:4711: bind: address already in use (hint: ...)\n"}}, final: true, taken: true},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Status: corev1.PodStatus{
			EphemeralContainerStatuses: []corev1.ContainerStatus{{Name: "porthole-1", State: c.state}}}}
		why, final := agentRuns(pod, "porthole-1")
		if (why == nil) != c.runs || (final != nil) != c.final || errors.Is(final, errPortTaken) != c.taken {
			t.Errorf("%s: %v, %v", name, why, final)
		}
		if c.text != "" && !strings.HasSuffix(why.Error(), c.text) {
			t.Errorf("%s: %v, want %q", name, why, c.text)
		}
	}
}

func FuzzReadKeyLine(f *testing.F) {
	key := pinned.PublicKey{1}.String()
	f.Add("porthole agent key=" + key + " version=v1\n")
	f.Add("porthole: agent: listen tcp 127.0.0.1:1: bind: address already in use\n")
	f.Fuzz(func(t *testing.T, line string) {
		if got, err := readKeyLine(line); err == nil && !slices.Contains(strings.Fields(line), "key="+got.String()) {
			t.Errorf("%q has the key %s", line, got)
		}
	})
}

func FuzzReadAgentArgs(f *testing.F) {
	f.Add("--listen 127.0.0.1:1 --client-key k --container-id c")
	f.Fuzz(func(t *testing.T, text string) {
		args, ok := readAgentArgs(strings.Split(text, " "))
		if again, also := readAgentArgs(args.list()); ok && (!also || again != args) {
			t.Errorf("%q: %+v, and then %+v", text, args, again)
		}
	})
}
