package container

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// The errors of programs for helper containers.
var (
	errNotELF       = errors.New("it is no program for Linux")
	errNotStatic    = errors.New("it is not linked statically, and a helper container has no libraries")
	errNoneAtHand   = errors.New("there is none at hand")
	errArchitecture = errors.New("it is for another architecture")
)

// ProgramError is why there is no porthole that a helper container of an engine could run.
type ProgramError struct {
	Architecture string // of the engine, as GOARCH has it
	File         string // that does not do; "" if there is none
	Beside       string // where one would be found
	Err          error
}

func (e *ProgramError) Error() string {
	if e.File == "" {
		return fmt.Sprintf("helper container: it needs a porthole for linux/%s: %v", e.Architecture, e.Err)
	}
	return fmt.Sprintf("helper container: it needs a porthole for linux/%s: %s: %v", e.Architecture, e.File, e.Err)
}

// Unwrap returns Err.
func (e *ProgramError) Unwrap() error { return e.Err }

// machines are the architectures of engines, by the names of GOARCH.
var machines = map[string]elf.Machine{
	"386": elf.EM_386, "amd64": elf.EM_X86_64, "arm": elf.EM_ARM, "arm64": elf.EM_AARCH64, "loong64": elf.EM_LOONGARCH,
	"ppc64le": elf.EM_PPC64, "riscv64": elf.EM_RISCV, "s390x": elf.EM_S390,
}

// agentProgram finds a porthole for an engine's architecture: the file that was given, or else this program, or one of the
// release that is in the same folder. The error is a *ProgramError.
func agentProgram(given, architecture string) (string, error) {
	beside := ""
	if self, err := os.Executable(); err == nil {
		beside = filepath.Join(filepath.Dir(self), "porthole-linux-"+architecture)
	}
	problem := func(file string, err error) error {
		return &ProgramError{Architecture: architecture, File: file, Beside: beside, Err: err}
	}
	if given != "" {
		if err := checkProgram(given, architecture); err != nil {
			return "", problem(given, err)
		}
		return given, nil
	}
	err := problem("", errNoneAtHand)
	if runtime.GOOS == "linux" && runtime.GOARCH == architecture {
		const self = "/proc/self/exe" // also when it was replaced since
		bad := checkProgram(self, architecture)
		if bad == nil {
			return self, nil
		}
		err = problem("this program", bad)
	}
	if _, missing := os.Stat(beside); missing != nil {
		return "", err
	}
	if bad := checkProgram(beside, architecture); bad != nil {
		return "", problem(beside, bad)
	}
	return beside, nil
}

// checkProgram reports why a file is no static program for Linux on an architecture.
func checkProgram(path, architecture string) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.Unwrap(err) // without the path
	}
	defer f.Close()
	program, err := elf.NewFile(f)
	if err != nil {
		return errNotELF
	}
	machine, known := machines[architecture]
	switch {
	case program.Type != elf.ET_EXEC && program.Type != elf.ET_DYN, program.OSABI != elf.ELFOSABI_NONE && program.OSABI != elf.ELFOSABI_LINUX:
		return errNotELF
	case known && program.Machine != machine:
		return fmt.Errorf("%w, %s", errArchitecture, architectureOf(program.Machine))
	}
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return errNotStatic
		}
	}
	return nil
}

// architectureOf is GOARCH's name of a machine.
func architectureOf(machine elf.Machine) string {
	for name, m := range machines {
		if m == machine {
			return name
		}
	}
	return machine.String()
}
