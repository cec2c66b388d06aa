package node

import (
	"cmp"
	"net/http"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"
)

// metrics are those of one Node, in a registry of their own. No label is a pod's or
// a client's: these are without number.
type metrics struct {
	registry *prometheus.Registry
	methods  map[string]criMethod
	open     prometheus.Gauge
	forwards *prometheus.CounterVec
	octets   *prometheus.CounterVec
	connect  prometheus.Histogram
	requests *prometheus.CounterVec
}

// newMetrics makes the metrics; up says whether the runtime is there.
func newMetrics(version string, methods map[string]criMethod, up func() bool) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		methods:  methods,
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "porthole_forwards_open", Help: "Forwarded connections that are open.",
		}),
		forwards: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "porthole_forwards_total", Help: "Forwarded connections that have ended, or could not be opened, by result.",
		}, []string{"result"}),
		octets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "porthole_forward_bytes_total", Help: "Bytes of forwarded connections that have ended: sent to pods, and received from them.",
		}, []string{"direction"}),
		connect: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "porthole_forward_connect_seconds", Help: "Time to enter a pod and connect to its port, where that worked.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5, 10},
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "porthole_cri_requests_total", Help: "CRI calls that have ended, by method (\"other\" for those that this version does not know) and gRPC code.",
		}, []string{"method", "code"}),
	}
	m.registry.MustRegister(m.open, m.forwards, m.octets, m.connect, m.requests, upstreamUp(up), buildInfo(version),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, result := range results {
		m.forwards.WithLabelValues(result) // so that rates begin at 0
	}
	return m
}

func upstreamUp(up func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "porthole_cri_upstream_up", Help: "Whether the container runtime's socket is connected, 1 or 0.",
	}, func() float64 {
		if up() {
			return 1
		}
		return 0
	})
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "porthole_build_info", Help: "Always 1; the labels tell what runs.",
	}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	return info
}

// request counts a CRI call.
func (m *metrics) request(method string, code codes.Code) {
	name := cmp.Or(m.methods[method].name, "other")
	if code > codes.Unauthenticated {
		code = codes.Unknown // no code of gRPC's, hence without bound
	}
	m.requests.WithLabelValues(name, code.String()).Inc()
}

// count counts what a Record tells.
func (m *metrics) count(r Record) {
	if r.Event == EventOpened {
		m.open.Inc()
		m.connect.Observe(r.ConnectSeconds)
		return
	}
	if r.Event == EventClosed {
		m.open.Dec()
	}
	m.forwards.WithLabelValues(r.Result).Inc()
	m.octets.WithLabelValues("sent").Add(float64(r.Sent))
	m.octets.WithLabelValues("received").Add(float64(r.Received))
}

func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	return mux
}
