package resolver

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func FuzzHosts(f *testing.F) {
	f.Add([]byte("127.0.0.1 localhost\n::1 db # x\n10.0.0.1\tdb.\r\n"))
	f.Add([]byte("fe80::1%eth0 db\x00\n" + strings.Repeat("10.0.0.2 db\n", 20)))
	f.Fuzz(func(t *testing.T, file []byte) {
		addrs := parseHosts(file, "db")
		if len(addrs) > maxAddrs {
			t.Errorf("%d addresses", len(addrs))
		}
		for _, addr := range addrs {
			if !addr.IsValid() || addr.Is4In6() {
				t.Errorf("address %v", addr)
			}
		}
		if len(addrs) > 0 && !bytes.Contains(bytes.ToLower(file), []byte("db")) {
			t.Errorf("%v, and the host is not in the file", addrs)
		}
		line := append([]byte("10.9.9.9 db\n"), file...)
		if with := parseHosts(line, "db"); len(with) == 0 || with[0] != netip.MustParseAddr("10.9.9.9") {
			t.Errorf("%v, and the first line is another one", with)
		}
	})
}

func FuzzConf(f *testing.F) {
	f.Add([]byte("nameserver 10.0.0.1\nnameserver fe80::1%eth0\nsearch a b . c..d\noptions ndots:99 timeout:-1 attempts:99999999999999999999\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		conf, err := dns.ClientConfigFromReader(bytes.NewReader(file))
		if err != nil {
			return
		}
		dial := func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, net.ErrClosed }
		l := newLookup(dial, conf, "db")
		if n := len(l.servers); n < 1 || n > maxServers {
			t.Errorf("%d servers", n)
		}
		if len(l.names) > maxSearch+1 || l.timeout <= 0 || l.timeout > maxTimeout || l.attempts < 1 || l.attempts > maxAttempts {
			t.Errorf("%d names, %v, %d attempts", len(l.names), l.timeout, l.attempts)
		}
		for _, name := range l.names {
			if _, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack(); err != nil {
				t.Errorf("%q cannot be asked for: %v", name, err)
			}
		}
	})
}

func FuzzReply(f *testing.F) {
	query := new(dns.Msg).SetQuestion("db.", dns.TypeA)
	query.Id = 1
	reply := new(dns.Msg).SetReply(query)
	for _, line := range []string{"db. CNAME a.", "a. A 10.0.0.1", "a. CNAME db."} {
		record, err := dns.NewRR(line)
		if err != nil {
			f.Fatal(err)
		}
		reply.Answer = append(reply.Answer, record)
	}
	packed, err := reply.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, packet []byte) {
		reply := new(dns.Msg)
		if reply.Unpack(packet) != nil || !answers(reply, query) {
			return
		}
		addrs := addressesIn(reply, "db.")
		if len(addrs) > maxAddrs {
			t.Errorf("%d addresses", len(addrs))
		}
		for _, addr := range addrs {
			if !addr.IsValid() || addr.Zone() != "" {
				t.Errorf("address %v", addr)
			}
		}
	})
}
