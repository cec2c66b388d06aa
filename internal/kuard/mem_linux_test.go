package kuard

import (
	"net/http"
	"os"
	"runtime"
	"syscall"
	"testing"
	"unsafe"
)

// What is taken on must be in memory, and not only promised: mincore(2) tells.
// The process' resident size would not do: the race detector's own memory comes and goes in it.
func TestTouchedPagesAreResident(t *testing.T) {
	b := touched(8 << 20)
	pages := make([]byte, len(b)/os.Getpagesize())
	_, _, errno := syscall.Syscall(syscall.SYS_MINCORE,
		uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	for i, p := range pages {
		if p&1 == 0 {
			t.Fatalf("page %d of %d is not in memory", i, len(pages))
		}
	}
	runtime.KeepAlive(b)
}

func TestClearGivesBack(t *testing.T) {
	const size = 64 << 20
	s := serve(t, &Server{})
	held := parse[memoryStats](t, s.want(http.StatusOK, "POST", "/mem/api/alloc?size=67108864", ""))
	if held.Resident == 0 {
		t.Error("the resident size is not told")
	}
	before := released()
	s.want(http.StatusOK, "POST", "/mem/api/clear", "")
	if got := released() - before; got < size/2 {
		t.Errorf("of %d bytes, %d went back to the system", size, got)
	}
}

func released() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapReleased)
}
