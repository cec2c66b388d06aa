package kuard

import (
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
)

const defaultMemLimit = 1 << 30

// memory holds on to what visitors allocate. Its methods are safe for concurrent use.
type memory struct {
	limit int64 // bytes; 0 means defaultMemLimit

	mu     sync.Mutex
	chunks [][]byte
	held   int64
}

// memoryStats is the JSON of /mem/api. All sizes are in bytes.
type memoryStats struct {
	Allocated  int64  `json:"allocated"` // by visitors
	Limit      int64  `json:"limit"`
	Chunks     int    `json:"chunks"`
	HeapAlloc  uint64 `json:"heapAlloc"`
	HeapSys    uint64 `json:"heapSys"`
	Sys        uint64 `json:"sys"`
	Resident   int64  `json:"resident,omitempty"` // 0 where the system does not tell
	NumGC      uint32 `json:"numGC"`
	Goroutines int    `json:"goroutines"`
}

func (m *memory) show(*http.Request) (any, error) { return m.stats(), nil }

func (m *memory) serveAlloc(r *http.Request) (any, error) {
	size, err := strconv.ParseInt(r.FormValue("size"), 10, 64)
	if err != nil || size <= 0 {
		return nil, refuse(http.StatusBadRequest, "allocate: size=%q is not a number of bytes above 0", r.FormValue("size"))
	}
	if err := m.alloc(size); err != nil {
		return nil, err
	}
	return m.stats(), nil
}

func (m *memory) serveClear(*http.Request) (any, error) {
	m.clear()
	return m.stats(), nil
}

// alloc holds size more bytes, or none when that would be above the limit.
func (m *memory) alloc(size int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	free := m.max() - m.held
	if size <= free {
		size = wholePages(size)
	}
	if size > free {
		return refuse(http.StatusUnprocessableEntity,
			"allocate %d bytes: %d are held already, and the limit is %d", size, m.held, m.max())
	}
	m.chunks = append(m.chunks, touched(size))
	m.held += size
	return nil
}

// wholePages rounds up, so that a great many small pieces do not hold more in their headers than is counted.
func wholePages(size int64) int64 {
	page := int64(os.Getpagesize())
	return (size + page - 1) / page * page
}

// touched returns size bytes that the kernel had to find pages for.
func touched(size int64) []byte {
	b := make([]byte, size)
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	return b
}

// clear drops everything held and gives it back to the system, where the visitor looks at it.
func (m *memory) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == 0 {
		return
	}
	m.chunks, m.held = nil, 0
	debug.FreeOSMemory()
}

func (m *memory) max() int64 {
	if m.limit == 0 {
		return defaultMemLimit
	}
	return m.limit
}

func (m *memory) stats() memoryStats {
	var rt runtime.MemStats
	runtime.ReadMemStats(&rt)
	m.mu.Lock()
	defer m.mu.Unlock()
	return memoryStats{
		Allocated:  m.held,
		Limit:      m.max(),
		Chunks:     len(m.chunks),
		HeapAlloc:  rt.HeapAlloc,
		HeapSys:    rt.HeapSys,
		Sys:        rt.Sys,
		Resident:   resident(),
		NumGC:      rt.NumGC,
		Goroutines: runtime.NumGoroutine(),
	}
}

// resident returns the bytes of the process in memory: the second field of /proc/self/statm, in pages, see proc(5).
func resident() int64 {
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(statm))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
