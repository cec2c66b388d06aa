package node

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"porthole.dev/porthole/internal/portforward"
)

// proxyMetrics are those of the process that the kubelet calls, in a registry of their
// own. The data path serves the page, and asks for them.
type proxyMetrics struct {
	registry *prometheus.Registry
	methods  map[string]criMethod
	requests *prometheus.CounterVec
}

// newProxyMetrics makes the metrics; up says whether the runtime is there.
func newProxyMetrics(version string, methods map[string]criMethod, up func() bool) *proxyMetrics {
	m := &proxyMetrics{
		registry: newRegistry("proxy"),
		methods:  methods,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "porthole_cri_requests_total", Help: "CRI calls that have ended, by method (\"other\" for those that this version does not know) and gRPC code.",
		}, []string{"method", "code"}),
	}
	m.registry.MustRegister(m.requests, buildInfo(version),
		gauge("porthole_cri_upstream_up", "Whether the container runtime's socket is connected, 1 or 0.", func() int {
			if up() {
				return 1
			}
			return 0
		}))
	return m
}

// newRegistry makes a registry with Go's and the kernel's metrics of one of the two
// processes.
func newRegistry(process string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	prometheus.WrapRegistererWith(prometheus.Labels{"process": process}, r).MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// forwardMetrics are those of the data path, in a registry of their own. No label is a
// pod's or a client's: there is no bound to their number.
type forwardMetrics struct {
	registry *prometheus.Registry
	forwards connMetrics
	dropped  prometheus.Counter
	connect  prometheus.Histogram
	passed   *prometheus.CounterVec

	reverse   connMetrics
	listeners *prometheus.GaugeVec
}

// newForwardMetrics makes the metrics; load is what the forwards use at the moment.
func newForwardMetrics(load func() portforward.Load) *forwardMetrics {
	m := &forwardMetrics{
		registry: newRegistry("data_path"),
		forwards: newConnMetrics("porthole_forwards", "porthole_forward_bytes_total", "Forwarded connections"),
		reverse:  newConnMetrics("porthole_reverse", "porthole_reverse_bytes_total", "Connections on the way back, from pods,"),
		listeners: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "porthole_reverse_listeners", Help: "Ports of pods that are listened on, for the way back, by network.",
		}, []string{"network"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "porthole_forward_datagrams_dropped_total", Help: "Datagrams that could not be delivered to pods or to clients, of forwarded connections that have ended.",
		}),
		connect: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "porthole_forward_connect_seconds", Help: "Time to enter a pod and connect to its port, where that worked.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .1, .5, 2.5, 10},
		}),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "porthole_forwards_passed_through_total", Help: "Port-forwards that were left to the container runtime, by the pod's runtime handler.",
		}, []string{"handler"}),
	}
	m.registry.MustRegister(m.forwards.open, m.forwards.ended, m.forwards.bytes, m.reverse.open, m.reverse.ended, m.reverse.bytes, m.listeners, m.dropped, m.connect, m.passed,
		gauge("porthole_tunnels_open", "Tunnels of port-forward clients that are open.", func() int { return load().Tunnels }),
		gauge("porthole_forward_memory_bytes", "Bytes that are charged to the memory of forwards (--memory).", func() int { return load().Memory }))
	for _, network := range networks { // so that rates begin at 0
		m.forwards.open.WithLabelValues(network)
		for _, result := range results {
			m.forwards.ended.WithLabelValues(network, result)
		}
	}
	return m
}

func gauge(name, help string, value func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
}

func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "porthole_build_info", Help: "Always 1; the labels tell what runs.",
	}, []string{"version", "goversion"})
	info.WithLabelValues(version, runtime.Version()).Set(1)
	return info
}

// request counts a CRI call.
func (m *proxyMetrics) request(method string, code codes.Code) {
	name := cmp.Or(m.methods[method].name, "other")
	if code > codes.Unauthenticated {
		code = codes.Unknown // not one of gRPC's, so there is no bound to their number
	}
	m.requests.WithLabelValues(name, code.String()).Inc()
}

// count counts a Record of a connection.
func (m *forwardMetrics) count(r Record) {
	if r.Reverse {
		m.reverse.count(r)
	} else {
		m.forwards.count(r)
	}
	m.dropped.Add(float64(r.Dropped))
	if r.Event == EventOpened && !r.Reverse {
		m.connect.Observe(r.ConnectSeconds)
	}
}

// countListener counts a Record of a listener.
func (m *forwardMetrics) countListener(r Record) {
	switch r.Event {
	case EventListening:
		m.listeners.WithLabelValues(r.Network).Inc()
	case EventStopped:
		m.listeners.WithLabelValues(r.Network).Dec()
	}
}

// connMetrics are those of connections in one direction.
type connMetrics struct {
	open         *prometheus.GaugeVec
	ended, bytes *prometheus.CounterVec
}

func newConnMetrics(name, bytes, what string) connMetrics {
	return connMetrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: name + "_open", Help: what + " that are open, by network.",
		}, []string{"network"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name + "_total", Help: what + " that have ended, or could not be opened, by network and result.",
		}, []string{"network", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: bytes, Help: what + " that have ended: their bytes, by network, sent to pods, and received from them.",
		}, []string{"network", "direction"}),
	}
}

func (m connMetrics) count(r Record) {
	switch r.Event {
	case EventOpened:
		m.open.WithLabelValues(r.Network).Inc()
		return
	case EventClosed:
		m.open.WithLabelValues(r.Network).Dec()
	}
	m.ended.WithLabelValues(r.Network, r.Result).Inc()
	m.bytes.WithLabelValues(r.Network, "sent").Add(float64(r.Sent))
	m.bytes.WithLabelValues(r.Network, "received").Add(float64(r.Received))
}

// handler is the page, with the parent's metrics too.
func (m *forwardMetrics) handler(parent prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(prometheus.Gatherers{m.registry, parent}, promhttp.HandlerOpts{}))
	return mux
}

// encodeMetrics gathers metrics for parentMetrics.
func encodeMetrics(from prometheus.Gatherer, log *slog.Logger) []byte {
	families, err := from.Gather()
	if err != nil {
		log.Warn("node: gather metrics", "err", err) // which are incomplete
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeProtoDelim))
	for _, family := range families {
		if err := encoder.Encode(family); err != nil {
			log.Warn("node: encode metrics", "err", err)
		}
	}
	return text.Bytes()
}

// parentMetricsMethod is a call that the parent makes, so that the data path can ask for
// its metrics: the parent answers each message with them.
const parentMetricsMethod = "/porthole.node.DataPath/Counts"

// askTime is how long the parent may take to answer.
const askTime = 5 * time.Second

// parentMetrics gathers the parent's metrics.
type parentMetrics struct{ asks chan chan<- []byte }

func newParentMetrics() *parentMetrics { return &parentMetrics{asks: make(chan chan<- []byte)} }

// ask asks on behalf of Gather for as long as the parent's call lasts.
func (c *parentMetrics) ask(down grpc.ServerStream) error {
	for {
		select {
		case answer := <-c.asks:
			var f frame
			if err := down.SendMsg(&frame{}); err != nil {
				return err
			}
			if err := down.RecvMsg(&f); err != nil {
				return err
			}
			answer <- f.data.Materialize()
			f.data.Free()
		case <-down.Context().Done():
			return nil
		}
	}
}

// Gather implements prometheus.Gatherer.
func (c *parentMetrics) Gather() ([]*dto.MetricFamily, error) {
	limit := time.NewTimer(askTime)
	defer limit.Stop()
	answer := make(chan []byte, 1)
	select {
	case c.asks <- answer:
	case <-limit.C:
		return nil, errParentSilent
	}
	select {
	case data := <-answer:
		return decodeMetrics(data)
	case <-limit.C:
		return nil, errParentSilent
	}
}

var errParentSilent = errors.New("porthole node's other process does not tell its metrics")

func decodeMetrics(data []byte) (families []*dto.MetricFamily, err error) {
	decoder := expfmt.NewDecoder(bytes.NewReader(data), expfmt.NewFormat(expfmt.TypeProtoDelim))
	for {
		family := &dto.MetricFamily{}
		err := decoder.Decode(family)
		if errors.Is(err, io.EOF) {
			return families, nil
		}
		if err != nil {
			return families, fmt.Errorf("decode metrics: %w", err)
		}
		families = append(families, family)
	}
}
