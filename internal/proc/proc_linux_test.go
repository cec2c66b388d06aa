package proc_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"porthole.dev/porthole/internal/proc"
)

func TestParseStat(t *testing.T) {
	const behind = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 0 0"
	for text, want := range map[string]proc.Stat{
		"12 (sh) S" + behind:            {State: 'S', Parent: 1, Started: 4711},
		"12 (a) Z (b) 3) Z" + behind:    {State: 'Z', Parent: 1, Started: 4711},
		"12 (new\nline) R" + behind[:9]: {},
		"":                              {},
	} {
		got, err := proc.ParseStat([]byte(text))
		if got != want || (err == nil) != (want.State != 0) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestReadStat(t *testing.T) {
	own, err := proc.ReadStat(os.Getpid())
	if err != nil || own.Parent != os.Getppid() || own.Started == 0 || own.Exited() {
		t.Errorf("this process: %+v, %v", own, err)
	}
	child := exec.Command("true")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	stat, err := proc.ReadStat(child.Process.Pid)
	if err != nil || stat.Started < own.Started {
		t.Errorf("a child: %+v, %v", stat, err)
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := proc.ReadStat(child.Process.Pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a child that was reaped: %v", err)
	}
	if _, err := proc.ReadStat(1<<22 + 1); err == nil {
		t.Error("ReadStat of nobody succeeds")
	}
}
