package demo

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"porthole.dev/porthole/internal/testenv"
)

func startDNS(t *testing.T, d *DNS) *DNS {
	t.Helper()
	testenv.NoGoroutines(t)
	if d.Addr == "" {
		d.Addr = "127.0.0.1:0"
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

func clusterDNS(t *testing.T) *DNS {
	t.Helper()
	pod := netip.MustParseAddr("10.1.4.8")
	return startDNS(t, &DNS{Hosts: clusterHosts(pod), Pointers: clusterPointers(pod)})
}

func ask(t *testing.T, d *DNS, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	client := &dns.Client{Net: network, Timeout: testenv.Patience}
	reply, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, qtype), d.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestDNSZone(t *testing.T) {
	d := clusterDNS(t)
	for _, c := range []struct {
		name   string
		qtype  uint16
		rcode  int
		answer string // the record's data, "" for none
	}{
		{"kuard.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "10.1.4.8"},
		{"KUARD.default.svc.CLUSTER.local.", dns.TypeA, dns.RcodeSuccess, "10.1.4.8"},
		{"kuard.default.svc.cluster.local.", dns.TypeANY, dns.RcodeSuccess, "10.1.4.8"},
		{"kuard.default.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "10.96.0.1"},
		{"10-1-4-8.default.pod.cluster.local.", dns.TypeA, dns.RcodeSuccess, "10.1.4.8"},
		{"10-1-4-9.default.pod.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, ""},
		{"uard.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"x.kuard.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"example.com.default.svc.cluster.local.", dns.TypeAAAA, dns.RcodeNameError, ""},
		{"cluster.local.", dns.TypeA, dns.RcodeSuccess, ""},
		{"cluster.local.", dns.TypeSOA, dns.RcodeSuccess, "ns.dns.cluster.local."},
		{"8.4.1.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "kuard.default.svc.cluster.local."},
		{"8.4.1.10.in-addr.arpa.", dns.TypeTXT, dns.RcodeSuccess, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			reply := ask(t, d, network, c.name, c.qtype)
			if reply.Rcode != c.rcode || !reply.Authoritative || data(reply) != c.answer {
				t.Errorf("%s %s %s: %v", network, c.name, dns.TypeToString[c.qtype], reply)
			}
			if hasSOA := len(reply.Ns) == 1 && reply.Ns[0].Header().Rrtype == dns.TypeSOA; hasSOA != (c.answer == "") {
				t.Errorf("%s %s %s: authority %v", network, c.name, dns.TypeToString[c.qtype], reply.Ns)
			}
		}
	}
}

// data is the first field of the first answer's data.
func data(reply *dns.Msg) string {
	if len(reply.Answer) == 0 {
		return ""
	}
	return dns.Field(reply.Answer[0], 1)
}

func TestDNSRefusesWhatItIsNotFor(t *testing.T) {
	d := clusterDNS(t)
	client := &dns.Client{Timeout: testenv.Patience}
	update := new(dns.Msg).SetUpdate("cluster.local.")
	reply, _, err := client.Exchange(update, d.LocalAddr().String())
	if err != nil || reply.Rcode != dns.RcodeNotImplemented {
		t.Errorf("update: %v, %v", reply, err)
	}
	chaos := new(dns.Msg).SetQuestion("kuard.default.svc.cluster.local.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	reply, _, err = client.Exchange(chaos, d.LocalAddr().String())
	if err != nil || len(reply.Answer) != 0 {
		t.Errorf("class CH: %v, %v", reply, err)
	}
}

// upstream is a real server for example.com, which remembers what asked it.
type upstream struct {
	*DNS
	mu       sync.Mutex
	networks []string
}

func startUpstream(t *testing.T, records int) *upstream {
	t.Helper()
	u := &upstream{}
	tcp, udp, err := listenBoth("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.DNS = &DNS{addr: udp.LocalAddr().(*net.UDPAddr).AddrPort()}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		network := w.LocalAddr().Network()
		u.mu.Lock()
		u.networks = append(u.networks, network)
		u.mu.Unlock()
		reply := new(dns.Msg).SetReply(query)
		for i := range records {
			header := dns.RR_Header{Name: query.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
			reply.Answer = append(reply.Answer, &dns.A{Hdr: header, A: net.IPv4(192, 0, 2, byte(i+1))})
		}
		if network == "udp" {
			reply.Truncate(udpSize(query))
		}
		_ = w.WriteMsg(reply)
	})
	t.Cleanup(u.serving.Wait)
	for _, server := range []*dns.Server{{Listener: tcp, Handler: handler}, {PacketConn: udp, Handler: handler}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		u.serving.Go(func() { _ = server.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return u
}

func TestDNSForwards(t *testing.T) {
	u := startUpstream(t, 100)
	// The first upstream is silent, and is not waited for forever.
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := startDNS(t, &DNS{Upstreams: []string{silent.LocalAddr().String(), u.addr.String()}, Timeout: time.Second})

	if reply := ask(t, d, "udp", "example.com.", dns.TypeA); !reply.Truncated || reply.Authoritative {
		t.Errorf("udp: truncated %v, authoritative %v", reply.Truncated, reply.Authoritative)
	}
	if reply := ask(t, d, "tcp", "example.com.", dns.TypeA); reply.Truncated || len(reply.Answer) != 100 || !reply.RecursionAvailable {
		t.Errorf("tcp: truncated %v, %d answers", reply.Truncated, len(reply.Answer))
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Equal(u.networks, []string{"udp", "tcp"}) {
		t.Errorf("the upstream was asked by %v", u.networks)
	}
}

func TestDNSWithoutUpstream(t *testing.T) {
	itself := fmt.Sprintf("127.0.0.1:%d", testenv.FreePort(t))
	d := startDNS(t, &DNS{Addr: itself, Upstreams: []string{itself}, Timeout: time.Hour}) // which it does not wait for
	if reply := ask(t, d, "udp", "example.com.", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s", dns.RcodeToString[reply.Rcode])
	}
}

// TestDNSIsBounded has one slot, which a silent upstream holds; Close does
// not wait for it.
func TestDNSIsBounded(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	d := startDNS(t, &DNS{Upstreams: []string{silent.LocalAddr().String()}, Timeout: time.Hour, MaxQueries: 1})
	first, err := dns.Dial("udp", d.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if err := first.WriteMsg(new(dns.Msg).SetQuestion("example.com.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := silent.ReadFrom(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	if reply := ask(t, d, "udp", "kuard.default.svc.cluster.local.", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("rcode %s", dns.RcodeToString[reply.Rcode])
	}
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestDNSPortInUse(t *testing.T) {
	d := startDNS(t, &DNS{})
	if err := (&DNS{Addr: d.LocalAddr().String()}).Start(); err == nil || !strings.HasPrefix(err.Error(), "dns: ") {
		t.Errorf("start: %v", err)
	}
	if err := (&DNS{}).Close(); err != nil {
		t.Errorf("close without start: %v", err)
	}
}

func TestHostResolvers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"}
	if got := hostResolvers(path); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	if got := hostResolvers(path + ".missing"); got != nil {
		t.Errorf("missing file: %v", got)
	}
}
