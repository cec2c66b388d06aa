package container

import (
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"porthole.dev/porthole/internal/testenv"
)

// A program that a helper container cannot run is refused before anything is started.
func TestAgentProgram(t *testing.T) {
	static, err := os.ReadFile(testenv.Porthole(t))
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, change func(text []byte) []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, change(append([]byte(nil), static...)), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const machine = 18 // the offset of e_machine (elf(5))
	other := write("other", func(text []byte) []byte {
		binary.LittleEndian.PutUint16(text[machine:], uint16(elf.EM_S390))
		return text
	})
	script := write("script", func([]byte) []byte { return []byte("#!/bin/sh\n") })
	for file, want := range map[string]error{
		testenv.Porthole(t): nil, other: errArchitecture, script: errNotELF, "/bin/sh": errNotStatic, "/nothing": os.ErrNotExist,
	} {
		_, err := agentProgram(file, runtime.GOARCH)
		var program *ProgramError
		if !errors.Is(err, want) || want != nil && (!errors.As(err, &program) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v, want %v", file, err, want)
		}
	}
	if _, err := agentProgram("", "riscv64"); !errors.Is(err, errNoneAtHand) {
		t.Errorf("none for another architecture: %v", err)
	}
}

// The same program makes the same image, and another one another.
func TestHelperImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "program")
	made := func(text, architecture string) (name, archive string) {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		image, err := newHelperImage(path, architecture)
		if err != nil {
			t.Fatal(err)
		}
		r, err := image.archive()
		if err != nil {
			t.Fatal(err)
		}
		all := make([]byte, 1<<20)
		n, _ := r.Read(all)
		return image.name, string(all[:n])
	}
	name, archive := made("a program", "amd64")
	if again, same := made("a program", "amd64"); again != name || same != archive {
		t.Errorf("%s and %s of one program", name, again)
	}
	for _, other := range []struct{ text, architecture string }{{"another", "amd64"}, {"a program", "arm64"}} {
		if another, _ := made(other.text, other.architecture); another == name {
			t.Errorf("%+v has the same image", other)
		}
	}
}
