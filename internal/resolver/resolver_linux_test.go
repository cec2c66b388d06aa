package resolver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"porthole.dev/porthole/internal/resolver"
	"porthole.dev/porthole/internal/target"
	"porthole.dev/porthole/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// servers are name servers on loopback, by the addresses that resolv.conf has for them.
type servers struct {
	t     *testing.T
	ports map[string]string // by address; others are refused

	mu    sync.Mutex
	asked []string // "NAME TYPE" of each query, in the order of arrival
}

// add starts a server, by UDP and TCP.
func (s *servers) add(address string, answer dns.HandlerFunc) {
	s.t.Helper()
	tcp, udp := listenBoth(s.t)
	handler := func(w dns.ResponseWriter, query *dns.Msg) {
		s.mu.Lock()
		s.asked = append(s.asked, query.Question[0].Name+" "+dns.TypeToString[query.Question[0].Qtype])
		s.mu.Unlock()
		answer(w, query)
	}
	for _, server := range []*dns.Server{{Listener: tcp}, {PacketConn: udp}} {
		started := make(chan struct{})
		server.Handler, server.NotifyStartedFunc = dns.HandlerFunc(handler), func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		s.t.Cleanup(func() { _ = server.Shutdown() })
	}
	s.ports[address] = udp.LocalAddr().String()
}

func listenBoth(t *testing.T) (net.Listener, net.PacketConn) {
	t.Helper()
	for range 100 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if udp, err := net.ListenPacket("udp", tcp.Addr().String()); err == nil {
			return tcp, udp
		}
		tcp.Close()
	}
	t.Fatal("no port is free for both networks")
	return nil, nil
}

func (s *servers) dial(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	to := s.ports[server.Addr().String()]
	if to == "" {
		to = "127.0.0.1:1" // nobody listens there
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

func (s *servers) queries() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.asked)
	return s.asked
}

// records answers with the records of a zone: those that a name has, with the aliases on the way.
func records(zone ...string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, query *dns.Msg) {
		reply := new(dns.Msg).SetReply(query)
		reply.Rcode = dns.RcodeNameError
		for _, line := range zone {
			record, err := dns.NewRR(line)
			if err != nil {
				panic(err)
			}
			kind := record.Header().Rrtype
			if strings.EqualFold(record.Header().Name, query.Question[0].Name) {
				reply.Rcode = dns.RcodeSuccess
			}
			if kind == dns.TypeCNAME || kind == query.Question[0].Qtype {
				reply.Answer = append(reply.Answer, record)
			}
		}
		if reply.Rcode == dns.RcodeNameError {
			reply.Answer = nil
		}
		_, byUDP := w.LocalAddr().(*net.UDPAddr)
		if byUDP {
			reply.Truncate(dns.MinMsgSize)
		}
		_ = w.WriteMsg(reply)
	}
}

func code(rcode int) dns.HandlerFunc {
	return func(w dns.ResponseWriter, query *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(query, rcode)) }
}

func silent(dns.ResponseWriter, *dns.Msg) {}

// place returns a Resolver with files, and servers for it.
func place(t *testing.T, hosts, conf string) (*resolver.Resolver, *servers) {
	testenv.NoLeaks(t)
	s := &servers{t: t, ports: map[string]string{}}
	files := map[string]string{"hosts": hosts, "resolv.conf": conf}
	read := func(name string) ([]byte, error) {
		if files[name] == "" {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return []byte(files[name]), nil
	}
	return &resolver.Resolver{ReadFile: read, Dial: s.dial}, s
}

func lookup(t *testing.T, r *resolver.Resolver, host string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testenv.Patience)
	defer cancel()
	addrs, err := r.Lookup(ctx, host)
	if ctx.Err() != nil {
		t.Fatalf("the lookup took all of its time: %v, %v", addrs, err)
	}
	return strings.Trim(fmt.Sprint(addrs), "[]"), err
}

func TestLookup(t *testing.T) {
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("many. A 10.1.%d.%d", i/256, i%256)
	}
	loop := []string{"a. CNAME b.", "b. CNAME a."}
	zone := slices.Concat(many, []string{
		"db. A 10.0.0.5", "db. AAAA fd00::5", "six. AAAA fd00::6", "alias. CNAME other.", "other. CNAME db.", "empty. TXT x",
		"mapped. AAAA ::ffff:10.0.0.7", "db.a.test. A 10.0.0.8",
	})
	const hosts = "10.0.0.1 one Other # db\n# 10.0.0.2 one\nfe80::1%lo one x\nnonsense one\n10.0.0.3\n\n::1 one.\n"
	for _, c := range []struct{ host, want string }{
		{"10.0.0.9", "10.0.0.9"},
		{"::ffff:10.0.0.9", "10.0.0.9"},
		{"fe80::1%eth0", "fe80::1%eth0"},
		{"localhost", "127.0.0.1 ::1"},
		{"db.LocalHost.", "127.0.0.1 ::1"},
		{"ONE", "10.0.0.1 fe80::1%lo ::1"},
		{"other.", "10.0.0.1"},
		{"db", "10.0.0.5 fd00::5"},
		{"DB.", "10.0.0.5 fd00::5"},
		{"six", "fd00::6"},
		{"alias", "10.0.0.5 fd00::5"},
		{"mapped", "10.0.0.7"},
		{"db.a", "10.0.0.8"},
	} {
		t.Run(c.host, func(t *testing.T) {
			r, s := place(t, hosts, "nameserver 10.0.0.53\nsearch . test\n")
			s.add("10.0.0.53", records(zone...))
			if got, err := lookup(t, r, c.host); err != nil || got != c.want {
				t.Errorf("got %s, %v, want %s", got, err, c.want)
			}
		})
	}
	t.Run("very many", func(t *testing.T) {
		r, s := place(t, "", "nameserver 10.0.0.53\n")
		s.add("10.0.0.53", records(zone...))
		if got, err := lookup(t, r, "many"); err != nil || len(strings.Fields(got)) != 16 {
			t.Errorf("got %s, %v, want 16 addresses", got, err)
		}
	})
	t.Run("aliases in a circle", func(t *testing.T) {
		r, s := place(t, "", "nameserver 10.0.0.53\n")
		s.add("10.0.0.53", records(loop...))
		if got, err := lookup(t, r, "a"); !errors.Is(err, target.ErrNoHost) {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

// Which names are asked for, and where the list ends, is as in resolv.conf(5).
func TestSearch(t *testing.T) {
	for _, c := range []struct {
		name, options, host, want string
		queries                   []string
	}{
		{"short", "search x.test y.test", "db", "10.0.0.5", []string{"db.x.test.", "db.y.test."}},
		{"dotted", "search x.test y.test", "db.y.test", "10.0.0.5", []string{"db.y.test."}},
		{"absolute", "search x.test y.test", "db.", "", []string{"db."}},
		{"ndots", "search x.test\noptions ndots:5", "db.y.test", "10.0.0.5", []string{"db.y.test.x.test.", "db.y.test."}},
		{"invalid", "search x..test y.test", "db", "10.0.0.5", []string{"db.y.test."}},
		{"domain", "domain y.test", "db", "10.0.0.5", []string{"db.y.test."}},
		{"none", "", "db", "", []string{"db."}},
		{"not a name", "", "a..b", "", nil},
		{"a label too long", "", strings.Repeat("x", 64), "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, s := place(t, "", "nameserver 10.0.0.53\n"+c.options+"\n")
			s.add("10.0.0.53", records("db.y.test. A 10.0.0.5"))
			got, err := lookup(t, r, c.host)
			if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, target.ErrNoHost) {
				t.Errorf("got %s, %v, want %q", got, err, c.want)
			}
			var want []string
			for _, name := range c.queries {
				want = append(want, name+" A", name+" AAAA")
			}
			if slices.Sort(want); !slices.Equal(s.queries(), want) {
				t.Errorf("asked for %q, want %q", s.queries(), want)
			}
		})
	}
}

// What cannot be found out is told apart from what does not exist.
func TestFailures(t *testing.T) {
	const two = "nameserver 10.0.0.53\nnameserver 10.0.0.54\nsearch x.test y.test\noptions timeout:1 attempts:1\n"
	for _, c := range []struct {
		name          string
		first, second dns.HandlerFunc
		want          string // of the error, or the address
		is            error
		timeout       bool
	}{
		{"no such host", records("x. A 10.0.0.1"), nil, "lookup db on 10.0.0.53, 10.0.0.54: no such host", target.ErrNoHost, false},
		{"no address", records("db.x.test. TXT x"), nil, "lookup db on 10.0.0.53, 10.0.0.54: the host has no address", target.ErrNoHost, false},
		{"the first one fails", code(dns.RcodeServerFailure), records("db.x.test. A 10.0.0.5"), "10.0.0.5", nil, false},
		{"the first one refuses", code(dns.RcodeRefused), records("db.x.test. A 10.0.0.5"), "10.0.0.5", nil, false},
		{"nobody is the first one", nil, records("db.x.test. A 10.0.0.5"), "10.0.0.5", nil, false},
		{"the first one is silent", silent, records("db.x.test. A 10.0.0.5"), "10.0.0.5", nil, false},
		{"a search domain fails", failFor("db.x.test.", records("db.y.test. A 10.0.0.5")), nil, "10.0.0.5", nil, false},
		{"a search domain fails, and nothing is found", failFor("db.x.test.", records("x. A 10.0.0.1")), nil, "lookup db on 10.0.0.53: server failure: SERVFAIL", target.ErrLookup, false},
		{"both fail", code(dns.RcodeServerFailure), code(dns.RcodeRefused), "lookup db on 10.0.0.54: server failure: REFUSED", target.ErrLookup, false},
		{"nobody", nil, nil, "lookup db on 10.0.0.53, 10.0.0.54: connection refused", target.ErrLookup, false},
		{"silence", silent, silent, "lookup db on 10.0.0.53, 10.0.0.54: no answer", target.ErrLookup, true},
		{"one family is silent, the other empty", onlyFor(dns.TypeA, silent, records("db.x.test. A 10.0.0.5")), silent, "lookup db on 10.0.0.53, 10.0.0.54: no answer", target.ErrLookup, true},
		{"one family fails", onlyFor(dns.TypeAAAA, records("db.x.test. AAAA fd00::5"), code(dns.RcodeServerFailure)), nil, "fd00::5", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, s := place(t, "", two)
			for address, answer := range map[string]dns.HandlerFunc{"10.0.0.53": c.first, "10.0.0.54": c.second} {
				if answer != nil {
					s.add(address, answer)
				}
			}
			got, err := lookup(t, r, "db")
			if err != nil {
				got = err.Error()
			}
			if got != c.want || !errors.Is(err, c.is) {
				t.Errorf("got %s, want %s", got, c.want)
			}
			var failed *net.DNSError
			if errors.As(err, &failed) && failed.Timeout() != c.timeout {
				t.Errorf("a timeout: %v", failed.Timeout())
			}
		})
	}
}

// failFor fails for one name.
func failFor(name string, others dns.HandlerFunc) dns.HandlerFunc {
	return func(w dns.ResponseWriter, query *dns.Msg) {
		if query.Question[0].Name == name {
			code(dns.RcodeServerFailure)(w, query)
			return
		}
		others(w, query)
	}
}

// onlyFor has one answer for a type, and another for the rest.
func onlyFor(kind uint16, of, rest dns.HandlerFunc) dns.HandlerFunc {
	return func(w dns.ResponseWriter, query *dns.Msg) {
		if query.Question[0].Qtype == kind {
			of(w, query)
			return
		}
		rest(w, query)
	}
}

// A server that leaves the questions of one type unanswered does not hold up the other type.
func TestOneFamilyIsSilent(t *testing.T) {
	r, s := place(t, "", "nameserver 10.0.0.53\noptions timeout:30 attempts:5\n")
	s.add("10.0.0.53", onlyFor(dns.TypeAAAA, silent, records("db. A 10.0.0.5")))
	if got, err := lookup(t, r, "db"); err != nil || got != "10.0.0.5" {
		t.Errorf("got %s, %v", got, err)
	}
}

// What a server sends besides the answer, or in its place, leads nowhere.
func TestHostileServer(t *testing.T) {
	lie := func(query *dns.Msg, change func(*dns.Msg)) *dns.Msg {
		reply := new(dns.Msg).SetReply(query)
		record, _ := dns.NewRR(query.Question[0].Name + " A 6.6.6.6")
		reply.Answer = []dns.RR{record}
		change(reply)
		return reply
	}
	lies := func(query *dns.Msg) []*dns.Msg {
		return []*dns.Msg{
			lie(query, func(m *dns.Msg) { m.Id++ }),
			lie(query, func(m *dns.Msg) { m.Question[0].Name = "bank." }),
			lie(query, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeTXT }),
			lie(query, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
			lie(query, func(m *dns.Msg) { m.Question = nil }),
			lie(query, func(m *dns.Msg) { m.Response = false }),
		}
	}
	t.Run("lies", func(t *testing.T) {
		r, s := place(t, "", "nameserver 10.0.0.53\n")
		s.add("10.0.0.53", func(w dns.ResponseWriter, query *dns.Msg) {
			for _, m := range lies(query) {
				_ = w.WriteMsg(m)
			}
			_, _ = w.Write(bytes.Repeat([]byte{0xff}, 600))
			_, _ = w.Write([]byte{1})
			records("db. A 10.0.0.5")(w, query)
		})
		if got, err := lookup(t, r, "db"); err != nil || got != "10.0.0.5" {
			t.Errorf("got %s, %v", got, err)
		}
	})
	t.Run("another name's address", func(t *testing.T) {
		r, s := place(t, "", "nameserver 10.0.0.53\n")
		s.add("10.0.0.53", func(w dns.ResponseWriter, query *dns.Msg) {
			_ = w.WriteMsg(lie(query, func(m *dns.Msg) { m.Answer[0].Header().Name = "bank." }))
		})
		if got, err := lookup(t, r, "db"); !errors.Is(err, target.ErrNoHost) {
			t.Errorf("got %s, %v", got, err)
		}
	})
	t.Run("cut short without a question", func(t *testing.T) {
		r, s := place(t, "", "nameserver 10.0.0.53\noptions timeout:1 attempts:1\n")
		s.add("10.0.0.53", func(w dns.ResponseWriter, query *dns.Msg) {
			m := new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
			m.Truncated, m.Question = true, nil
			_ = w.WriteMsg(m)
		})
		if got, err := lookup(t, r, "db"); !errors.Is(err, target.ErrLookup) {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

// A context that ends ends the lookup, with its cause.
func TestCancel(t *testing.T) {
	r, s := place(t, "", "nameserver 10.0.0.53\noptions timeout:30\n")
	s.add("10.0.0.53", silent)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the client is gone")
	go func() {
		testenv.Await(t, "both questions arrive", func() bool { return len(s.queries()) == 2 })
		cancel(why)
	}()
	if addrs, err := r.Lookup(ctx, "db"); !errors.Is(err, why) {
		t.Errorf("got %v, %v", addrs, err)
	}
}

// An error that is no server's ends the lookup, and is returned as it is.
func TestNothingCanBeAsked(t *testing.T) {
	gone := errors.New("the namespace is gone")
	r, _ := place(t, "", "nameserver 10.0.0.53\n")
	r.Dial = func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, gone }
	if addrs, err := r.Lookup(t.Context(), "db"); !errors.Is(err, gone) {
		t.Errorf("got %v, %v", addrs, err)
	}
	r.ReadFile = func(string) ([]byte, error) { return nil, gone }
	if addrs, err := r.Lookup(t.Context(), "db"); !errors.Is(err, gone) {
		t.Errorf("got %v, %v", addrs, err)
	}
}
