package kuard

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// zone is what the test's name server knows: names to records, each as in a zone file.
var zone = map[string][]string{
	"kuard.default.svc.cluster.local.":          {"kuard.default.svc.cluster.local. 30 IN A 10.96.7.7"},
	"big.default.svc.cluster.local.":            nil, // Filled with as much as makes UDP too small.
	"example.org.":                              {"example.org. 60 IN A 192.0.2.1", "example.org. 60 IN AAAA 2001:db8::1"},
	"1.2.0.192.in-addr.arpa.":                   {"1.2.0.192.in-addr.arpa. 60 IN PTR example.org."},
	"broken.default.svc.cluster.local.":         nil,
	"broken.":                                   nil,
	"half.default.svc.cluster.local.":           {`half.default.svc.cluster.local. 60 IN TXT "no address"`},
	"_http._tcp.web.default.svc.cluster.local.": {"_http._tcp.web.default.svc.cluster.local. 30 IN SRV 0 100 80 web.default.svc.cluster.local."},
}

func answerZone(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	name, qtype := q.Question[0].Name, q.Question[0].Qtype
	records, known := zone[name]
	switch {
	case strings.HasPrefix(name, "broken."):
		m.Rcode = dns.RcodeServerFailure
	case strings.HasPrefix(name, "big.") && w.LocalAddr().Network() == "udp":
		m.Truncated = true
	case strings.HasPrefix(name, "big."):
		for i := range 100 {
			rr, _ := dns.NewRR(fmt.Sprintf("%s 30 IN A 10.0.0.%d", name, i))
			m.Answer = append(m.Answer, rr)
		}
	case !known:
		m.Rcode = dns.RcodeNameError
	}
	for _, s := range records {
		if rr, err := dns.NewRR(s); err == nil && rr.Header().Rrtype == qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m)
}

// nameServer runs a real one on a loopback port, UDP and TCP, until the test ends.
func nameServer(t *testing.T) net.Addr {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*dns.Server{{Listener: tcp}, {PacketConn: udp}} {
		started, ended := make(chan struct{}), make(chan error, 1)
		s.Handler = dns.HandlerFunc(answerZone)
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-ended); err != nil {
				t.Error(err)
			}
		})
	}
	return tcp.Addr()
}

// resolving returns a Server whose resolv.conf is a pod's, with addr as the name server.
func resolving(t *testing.T, addr net.Addr, more string) *Server {
	t.Helper()
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	conf := fmt.Sprintf("nameserver %s\nsearch default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n%s\n", host, more)
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Server{ResolvConf: file, DNSPort: port}
}

func TestDNS(t *testing.T) {
	addr := nameServer(t)
	s := serve(t, resolving(t, addr, ""))
	for _, c := range []struct {
		query, status string
		want          []string // patterns of lines
	}{
		{`{"type":"A","name":"kuard"}`, "NOERROR", []string{`^kuard\.default\.svc\.cluster\.local\.\t30\tIN\tA\t10\.96\.7\.7$`, `^;; Query time: \d+ msec$`}},
		{`{"type":"A","name":"kuard"}`, "NOERROR", []string{`^;; SERVER: 127\.0\.0\.1#\d+ \(UDP\)$`, `^;; MSG SIZE  rcvd: \d+$`, `^;; QUESTION SECTION:$`}},
		{`{"type":"a","name":" kuard.default.svc.cluster.local. "}`, "NOERROR", []string{`A\t10\.96\.7\.7$`}},
		{`{"type":"TYPE1","name":"kuard"}`, "NOERROR", []string{`A\t10\.96\.7\.7$`}},
		{`{"type":"AAAA","name":"example.org"}`, "NOERROR", []string{`^;; tried example\.org\.cluster\.local\. NXDOMAIN$`, `AAAA\t2001:db8::1$`}},
		{`{"type":"SRV","name":"_http._tcp.web"}`, "NOERROR", []string{`SRV\t0 100 80 web\.default\.svc\.cluster\.local\.$`}},
		{`{"type":"PTR","name":"192.0.2.1"}`, "NOERROR", []string{`PTR\texample\.org\.$`}},
		{`{"type":"A","name":"nosuch"}`, "NXDOMAIN", []string{`status: NXDOMAIN`, `^;; tried nosuch\. NXDOMAIN$`}},
		{`{"type":"A","name":"half"}`, "NOERROR", []string{`^;; tried half\.default\.svc\.cluster\.local\. NODATA$`, `^;half\.default`}},
		{`{"type":"A","name":"broken"}`, "SERVFAIL", []string{`status: SERVFAIL`}},
		{`{"type":"A","name":"big"}`, "NOERROR", []string{`^;; SERVER: .* \(TCP\)$`, `A\t10\.0\.0\.99$`}},
	} {
		got := parse[dnsResult](t, s.want(http.StatusOK, "POST", "/dns/api", c.query))
		if got.Status != c.status {
			t.Errorf("%s: status %s, want %s", c.query, got.Status, c.status)
		}
		for _, want := range c.want {
			if !regexp.MustCompile(`(?m)` + want).MatchString(got.Result) {
				t.Errorf("%s: no line %s in\n%s", c.query, want, got.Result)
			}
		}
	}
}

func TestDNSRefuses(t *testing.T) {
	s := serve(t, resolving(t, nameServer(t), ""))
	for _, query := range []string{
		`{}`, `{"type":"A"}`, `{"name":"kuard"}`, `{"type":"NOSUCH","name":"kuard"}`, `{"type":"TYPE99999","name":"kuard"}`, `{"type":"TYPE","name":"kuard"}`,
		`{"type":"AXFR","name":"cluster.local"}`, `{"type":"OPT","name":"kuard"}`, `{"type":"None","name":"kuard"}`,
		`{"type":"A","name":"a..b"}`, `{"type":"A","name":" "}`, `{"type":"A","name":"` + strings.Repeat("a", 64) + `"}`, `{"type":"A","name":"` + strings.Repeat("a.", 200) + `"}`,
	} {
		s.want(http.StatusBadRequest, "POST", "/dns/api", query)
	}
}

func TestDNSWithoutServers(t *testing.T) {
	const query = `{"type":"A","name":"kuard"}`
	missing := serve(t, &Server{ResolvConf: filepath.Join(t.TempDir(), "nosuch")})
	if r := missing.want(http.StatusInternalServerError, "POST", "/dns/api", query); !strings.Contains(r.body, "resolver configuration") {
		t.Errorf("without a file: %s", r.body)
	}
	empty := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(empty, []byte("search cluster.local\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := serve(t, &Server{ResolvConf: empty}).want(http.StatusInternalServerError, "POST", "/dns/api", query); !strings.Contains(r.body, "names no server") {
		t.Errorf("without a server: %s", r.body)
	}
}

func TestDNSServersThatDoNotReply(t *testing.T) {
	const query = `{"type":"A","name":"kuard."}`
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, resolving(t, silent.LocalAddr(), "options timeout:1 attempts:1"))
	if r := s.want(http.StatusGatewayTimeout, "POST", "/dns/api", query); !strings.Contains(r.body, "no reply in time from 127.0.0.1") {
		t.Errorf("silent: %s", r.body)
	}
	silent.Close()
	s.want(http.StatusBadGateway, "POST", "/dns/api", query)
}

// Whatever a visitor types is refused with a 4xx, or can be put into a packet.
func FuzzDNSQuery(f *testing.F) {
	for _, q := range []dnsQuery{{"A", "kuard"}, {"ptr", "fe80::1%eth0"}, {"TYPE65", "."}, {"SRV", "_a._b.c."}, {"TXT", `\000.\.`}, {"A", "ü.de"}, {"TXT", `\0\`}} {
		f.Add(q.Type, q.Name)
	}
	f.Fuzz(func(t *testing.T, qtype, name string) {
		asked, number, err := dnsQuery{qtype, name}.parse()
		if err != nil {
			if status := statusOf(err); status != http.StatusBadRequest {
				t.Fatalf("status %d for %v", status, err)
			}
			return
		}
		if _, err := new(dns.Msg).SetQuestion(dns.Fqdn(asked), number).Pack(); err != nil {
			t.Fatalf("%q, %q was taken as %q, and cannot be sent: %v", qtype, name, asked, err)
		}
	})
}
