package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"porthole.dev/porthole/internal/forward"
	"porthole.dev/porthole/internal/kube"
	"porthole.dev/porthole/internal/netns"
	"porthole.dev/porthole/internal/safetext"
	"porthole.dev/porthole/internal/spelling"
	"porthole.dev/porthole/internal/target"
)

// typed is a command line without the program's name. Its methods guess what was meant,
// and return the line that should have been typed.
type typed []string

// line returns the command line in backquotes, quoted for a shell, with the program called
// as it was called.
func (t typed) line(cmd *cobra.Command) string {
	program := safetext.Quote(os.Args[0])
	if cmd.Root().Annotations[cobra.CommandDisplayNameAnnotation] != "" {
		program = cmd.Root().DisplayName()
	}
	return "`" + program + " " + safetext.QuoteAll(t.withoutSecrets()...) + "`"
}

// withoutSecrets replaces the values of flags that hold secrets by "...".
func (t typed) withoutSecrets() typed {
	t = slices.Clone(t)
	for i, arg := range t {
		for _, flag := range []string{"--token", "--password"} {
			switch {
			case strings.HasPrefix(arg, flag+"="):
				t[i] = flag + "=..."
			case arg == flag && i+1 < len(t):
				t[i+1] = "..."
			}
		}
	}
	return t
}

// with replaces a word by another: the first occurrence that is not a flag's value.
func (t typed) with(old, new string) typed {
	t = slices.Clone(t)
	if i := t.index(0, old); i >= 0 {
		t[i] = new
	}
	return t
}

// inserted replaces a word by two.
func (t typed) inserted(old, first, second string) typed {
	t = t.with(old, first)
	if i := t.index(0, first); i >= 0 {
		t = slices.Insert(t, i+1, second)
	}
	return t
}

func (t typed) index(from int, word string) int {
	for i := from; i < len(t); i++ {
		if t[i] == word && (i == 0 || !isFlagWithValue(t[i-1])) {
			return i
		}
	}
	return slices.Index(t, word) // behind a flag without a value
}

// splitAt returns the index of a command that lacks the -- before it: the first word
// after a target and a port that is a program of this machine, or -1. Values of flags
// are skipped.
func (t typed) splitAt() int {
	words := 0
	for i, arg := range t {
		if arg == "--" {
			return -1
		}
		if strings.HasPrefix(arg, "-") || i > 0 && isFlagWithValue(t[i-1]) {
			continue
		}
		if words++; words > 3 && !isPort(arg) && isProgram(arg) { // forward, target and port
			return i
		}
	}
	return -1
}

// withCommand inserts the -- that a command lacks.
func (t typed) withCommand() (typed, bool) {
	i := t.splitAt()
	if i < 0 {
		return nil, false
	}
	return slices.Insert(slices.Clone(t), i, "--"), true
}

func isFlagWithValue(arg string) bool {
	return strings.HasPrefix(arg, "-") && !strings.Contains(arg, "=")
}

func isProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// isPort reports whether s can only be meant as ports.
func isPort(s string) bool {
	ports, err := target.ParseNamedPorts(s)
	return err == nil && (ports[0].Name == "" || strings.Contains(s, ":"))
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// unknownCommand returns the error for a first word that is no command, but may be a target.
func unknownCommand(cmd *cobra.Command, args []string) error {
	text := fmt.Sprintf("unknown command %q", args[0])
	if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
		text += ", did you mean " + strings.Join(like, " or ") + "?"
		return usageError{hintedError{errors.New(text), typed(os.Args[1:]).with(args[0], like[0]).line(cmd)}}
	}
	err := errors.New(text)
	if cmd.HasParent() {
		return usageError{err}
	}
	if line, ok := typed(os.Args[1:]).asForward(args[0]); ok {
		return usageError{hintedError{err, "to forward to it: " + line.line(cmd)}}
	}
	return usageError{err}
}

// asForward inserts the command that is missing before a first word which can be a
// target. A number is taken for a process.
func (t typed) asForward(first string) (typed, bool) {
	if meant, ok := t.withEngine(first); ok {
		return slices.Insert(meant, 0, "forward"), true
	}
	switch i := t.index(0, first); {
	case isNumber(first):
		return slices.Insert(t.with(first, "pid://"+first), 0, "forward"), true
	case kube.IsResource(first) && i >= 0 && i+1 < len(t) && !isPort(t[i+1]):
		t = slices.Delete(t.with(first, first+"/"+t[i+1]), i+1, i+2)
		return slices.Insert(t, 0, "forward"), true
	}
	if name, ports, ok := targetAndPorts(first); ok {
		return slices.Insert(t.inserted(first, name, ports), 0, "forward"), true
	}
	_, err := target.Parse(first)
	return slices.Insert(slices.Clone(t), 0, "forward"), err == nil
}

// flagError adds the line that was meant to pflag's error about a flag.
func flagError(cmd *cobra.Command, err error) error {
	line := typed(os.Args[1:])
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError{err}
	}
	if !cmd.HasParent() && len(line) > 0 {
		if meant, ok := line.withoutCommand(cmd); ok {
			return usageError{hintedError{err, meant.line(cmd)}}
		}
		return usageError{err}
	}
	if meant, ok := line.withCommand(); ok && cmd.Name() == "forward" {
		return usageError{hintedError{err, "a command goes behind --: " + meant.line(cmd)}}
	}
	var known []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
	name := unknown.GetSpecifiedName()
	near, ok := spelling.Nearest(name, known)
	if !ok || len(name) < 2 {
		return usageError{err}
	}
	for i, arg := range line {
		if rest, found := strings.CutPrefix(arg, "--"+name); found && (rest == "" || rest[0] == '=') {
			line[i] = "--" + near + rest
			break
		}
	}
	return usageError{hintedError{fmt.Errorf("%w, did you mean --%s?", err, near), line.line(cmd)}}
}

// targetAndPorts splits a word that is both, such as svc/web:8080:80 or host://db:5432.
func targetAndPorts(word string) (name, ports string, ok bool) {
	scheme, rest, ok := strings.Cut(word, "://")
	switch s := target.Scheme(scheme); {
	case !ok || s != target.RemoteHost && !s.InEngine():
		rest = word
	case s == target.RemoteHost:
		if _, err := netip.ParseAddr(rest); err == nil { // all colons are the address'
			return "", "", false
		}
	}
	from := strings.Index(rest, "]") + 1 // behind an IPv6 address in brackets
	name, ports, _ = strings.Cut(rest[from:], ":")
	name = word[:len(word)-len(rest)+from] + name
	_, err := target.Parse(name)
	return name, ports, err == nil && isPort(ports) && !isPort(word)
}

// withoutCommand corrects a line that lacks its command, or has it behind its flags.
func (t typed) withoutCommand(cmd *cobra.Command) (typed, bool) {
	for i, arg := range t {
		if named, _, err := cmd.Find([]string{arg}); i > 0 && err == nil && named != cmd {
			return slices.Insert(slices.Delete(slices.Clone(t), i, i+1), 0, arg), true
		}
		if !strings.HasPrefix(arg, "-") && (i == 0 || !isFlagWithValue(t[i-1])) {
			return t.asForward(arg)
		}
	}
	return nil, false
}

// misplaced returns an error for a target and ports that are in the wrong order or form,
// or nil.
func (f *forwarding) misplaced(args []string) error {
	if len(args) == 0 {
		return nil
	}
	name, ports, joined := targetAndPorts(args[0])
	switch _, err := target.ParseEach(args[0]); {
	case err == nil && f.each != "" && len(args) > 2 && !isPort(args[1]):
		line := f.typed.with("--each", "--each="+args[0]).reordered(args, args[1:])
		return hintedError{fmt.Errorf("%s: --each takes %s behind an equals sign", f.cmd.Name(), args[0]), line.line(f.cmd)}
	case joined && name == "pid" && len(args) > 1:
		meant := name + "://" + ports
		return hintedError{fmt.Errorf("target %q: want %s", args[0], meant), f.typed.with(args[0], meant).line(f.cmd)}
	case joined && strings.Contains(name, "://") && len(args) > 1 && isPort(args[1]): // host://db:5432 15432:5432
		return hintedError{fmt.Errorf("%s: the ports of %s are words of their own", f.cmd.Name(), name), f.typed.with(args[0], name).line(f.cmd)}
	case joined:
		line := f.typed.inserted(args[0], name, ports)
		return hintedError{fmt.Errorf("%s: a target and its ports are words of their own: %s %s", f.cmd.Name(), name, ports), line.line(f.cmd)}
	case !strings.Contains(args[0], "://") && isPort(args[0]) && len(args) > 1:
		for i, arg := range args[1:] {
			_, err := target.Parse(arg)
			certain := strings.Contains(args[0], ":") || strings.Contains(arg, "/") // a pod may be called 8080
			if err == nil && !isPort(arg) && certain {
				rest := slices.Delete(slices.Clone(args), i+1, i+2)
				line := f.typed.reordered(args, append([]string{arg}, rest...))
				return hintedError{fmt.Errorf("%s: %q is a port, and the target comes first", f.cmd.Name(), args[0]), line.line(f.cmd)}
			}
		}
	case kube.IsResource(args[0]) && len(args) > 1 && !isPort(args[1]) && !strings.Contains(args[1], "/"):
		joined := args[0] + "/" + args[1]
		line := f.typed.reordered(args, append([]string{joined}, args[2:]...))
		return hintedError{fmt.Errorf("%s: a target is one word, %s", f.cmd.Name(), joined), line.line(f.cmd)}
	}
	return nil
}

// reordered replaces arguments by others, which are as many or fewer, in their places.
func (t typed) reordered(old, new []string) typed {
	line := slices.Clone(t)
	at := 1 // after the command
	for i, arg := range old {
		if at = line.index(at, arg); at < 0 {
			break
		}
		if i < len(new) {
			line[at] = new[i]
			at++
		} else {
			line = slices.Delete(line, at, at+1)
		}
	}
	return line
}

// portHint adds the next step to the error of an argument that is no port.
func (f *forwarding) portHint(arg string, err error) error {
	if number, ok := strings.CutSuffix(arg, ":"); ok && isNumber(number) {
		line, second := f.typed.with(arg, number).line(f.cmd), "REMOTE"
		if f.reverse {
			second = "LOCAL"
		}
		return hintedError{err, "the same port at both ends: " + line + ", another: " + number + ":" + second}
	}
	if line, ok := f.typed.withCommand(); ok {
		return hintedError{err, "a command goes behind --: " + line.line(f.cmd)}
	}
	return f.reverseForms(err)
}

// reverseForms adds the forms of ports and addresses to an error about one, where they are not those of "porthole forward".
func (f *forwarding) reverseForms(err error) error {
	switch {
	case !f.reverse:
	case errors.Is(err, target.ErrAddress):
		return hintedError{err, "for example --listen 0.0.0.0 for all of IPv4"}
	case errors.Is(err, forward.ErrTwice):
		return hintedError{err, "give each a port of its own there: REMOTE:LOCAL"}
	case errors.Is(err, kube.ErrNoSelector):
		return hintedError{err, "name a pod, or a service or workload that has pods"}
	case errors.Is(err, target.ErrPort):
		return hintedError{err, "ports are REMOTE[:LOCAL], as 8080, 8000-8010, 8080:3000, 8080:HOST:5432, 5432:./x.sock or 5353:53/udp, with numbers from 1 to 65535"}
	}
	return err
}

// engines are the schemes of containers by the programs of their engines, which somebody may write in place of them.
var engines = map[string]target.Scheme{
	"docker": target.Docker, "compose": target.Docker, "podman": target.Podman, "containerd": target.Containerd, "nerdctl": target.Containerd,
	"ctr": target.Containerd, "cri": target.CRI, "crictl": target.CRI, "crio": target.CRI, "cri-o": target.CRI,
}

// withEngine joins an engine and the name of a container that are two words, as docker web.
func (t typed) withEngine(program string) (typed, bool) {
	i := t.index(0, program)
	if engines[program] == "" || i < 0 || i+1 >= len(t) || isPort(t[i+1]) || strings.HasPrefix(t[i+1], "-") {
		return nil, false
	}
	meant := string(engines[program]) + "://" + t[i+1]
	return slices.Delete(t.with(program, meant), i+1, i+2), true
}

// targetHint adds the next step to the error of an argument that is no target.
func (t typed) targetHint(cmd *cobra.Command, arg string, err error) error {
	meant, ok := asContainer(arg)
	if !ok || meant == arg {
		return err
	}
	return hintedError{err, t.with(arg, meant).line(cmd)}
}

// asContainer returns the target that was meant by an engine and a name with something else than :// between them, as docker:web
// or docker/web, or with the engine's name spelled wrong.
func asContainer(arg string) (meant string, ok bool) {
	i := strings.IndexAny(arg, ":/")
	if i <= 0 {
		return "", false
	}
	program, name := strings.ToLower(arg[:i]), strings.TrimLeft(arg[i:], ":/")
	if engines[program] == "" && strings.HasPrefix(arg[i:], "://") {
		if near, ok := spelling.Nearest(program, slices.Sorted(maps.Keys(engines))); ok {
			program = near
		}
	}
	if engines[program] == "" || name == "" {
		return "", false
	}
	return string(engines[program]) + "://" + name, true
}

// advise adds the line that was probably meant to the error of a target that was typed.
func (f *forwarding) advise(err error) error {
	var thread *netns.ThreadError
	var missing *kube.NotFoundError
	var port *kube.PortError
	arg := f.targetArg
	switch {
	case arg == "":
		return err
	case errors.As(err, &thread):
		return hintedError{err, f.typed.with(arg, fmt.Sprintf("pid://%d", thread.Process)).line(f.cmd)}
	case errors.As(err, &missing) && missing.NoNamespace && len(missing.Similar) > 0:
		return hintedError{err, f.typed.withNamespace(missing.Namespace, missing.Similar[0]).line(f.cmd)}
	case errors.As(err, &missing) && !missing.NoNamespace && len(missing.Similar) > 0:
		return hintedError{err, f.typed.with(arg, missing.Similar[0]).line(f.cmd)}
	case errors.As(err, &port) && errors.Is(err, kube.ErrNoPort):
		return f.portHint(port.Port, err)
	case (errors.As(err, &missing) && !missing.NoNamespace || errors.Is(err, kube.ErrNoConfig)) && !strings.Contains(arg, "/"):
		return f.adviseHere(arg, err)
	case errors.Is(err, kube.ErrNoConfig): // docker/web, say: the form of a resource and its name
		return f.typed.targetHint(f.cmd, arg, err)
	}
	return err
}

// adviseHere suggests a process or container of this host for a name that the cluster does not have.
func (f *forwarding) adviseHere(arg string, err error) error {
	next := tableHint(err) + "; "
	if isNumber(arg) {
		return hintedError{err, next + "a process: " + f.typed.with(arg, "pid://"+arg).line(f.cmd)}
	}
	if meant, ok := f.typed.withEngine(arg); ok {
		return hintedError{err, next + "a container: " + meant.line(f.cmd)}
	}
	for _, program := range []string{"docker", "podman", "nerdctl"} {
		if isProgram(program) {
			return hintedError{err, next + "a container: " + f.typed.with(arg, string(engines[program])+"://"+arg).line(f.cmd)}
		}
	}
	return err
}

// withNamespace replaces the namespace, or adds one where it came from the kubeconfig.
func (t typed) withNamespace(old, new string) typed {
	line := slices.Clone(t)
	for i, arg := range line {
		for _, flag := range []string{"--namespace=", "-n=", "-n"} {
			if arg == flag+old {
				line[i] = flag + new
				return line
			}
		}
		if arg == old && i > 0 && (line[i-1] == "-n" || line[i-1] == "--namespace") {
			line[i] = new
			return line
		}
	}
	return slices.Insert(line, 1, "-n", new)
}
