package demo

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
)

// DNS is a cluster's DNS server for one pod: it knows the names of the
// cluster by itself and passes all others on. Fill in the fields, Start it,
// Close it; the fields must not change in between.
type DNS struct {
	// Addr is where to listen, UDP and TCP on the same port. Port 0 takes
	// one that is free.
	Addr string

	// Domain is the cluster's, answered with authority. "" is cluster.local.
	Domain string

	// Hosts are the names that have an A record, in full, without the last
	// dot, in lower case.
	Hosts map[string]netip.Addr

	// Pointers are the names that IPv4 addresses have as their PTR record.
	Pointers map[netip.Addr]string

	// Upstreams ("192.0.2.53:53") are asked in turn for all other names.
	// Without any, the answer is SERVFAIL.
	Upstreams []string

	// Timeout is how long each upstream may take. 0 is two seconds.
	Timeout time.Duration

	// MaxQueries is how many queries are worked on at once; those beyond
	// get SERVFAIL. It is also how many TCP connections are open; those
	// beyond wait. 0 is 64.
	MaxQueries int

	// Log receives what goes wrong; nil discards it.
	Log *slog.Logger

	zone     zone
	slots    chan struct{}
	addr     netip.AddrPort
	ctx      context.Context // ends with Close, and with it all upstream queries
	cancel   context.CancelFunc
	servers  []*dns.Server
	serving  sync.WaitGroup
	closing  sync.Once
	closeErr error
}

// Start listens and returns; queries are answered until Close.
func (d *DNS) Start() error {
	d.setDefaults()
	tcp, udp, err := listenBoth(d.Addr)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	d.zone = newZone(d.Domain, d.Hosts, d.Pointers)
	d.addr = udp.LocalAddr().(*net.UDPAddr).AddrPort()
	d.slots = make(chan struct{}, d.MaxQueries)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.serve(&dns.Server{Listener: netutil.LimitListener(tcp, d.MaxQueries)})
	d.serve(&dns.Server{PacketConn: udp, UDPSize: dns.DefaultMsgSize})
	return nil
}

func (d *DNS) setDefaults() {
	if d.Domain == "" {
		d.Domain = "cluster.local"
	}
	if d.Timeout == 0 {
		d.Timeout = 2 * time.Second
	}
	if d.MaxQueries == 0 {
		d.MaxQueries = 64
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
}

// serve returns once the server can be shut down.
func (d *DNS) serve(server *dns.Server) {
	started := make(chan struct{})
	server.Handler = d
	server.NotifyStartedFunc = func() { close(started) }
	d.servers = append(d.servers, server)
	d.serving.Go(func() {
		if err := server.ActivateAndServe(); err != nil {
			d.Log.Warn("dns: stopped serving", "addr", d.addr, "err", err)
		}
	})
	<-started
}

// LocalAddr is where the server listens, after Start.
func (d *DNS) LocalAddr() netip.AddrPort { return d.addr }

// Close stops the server and returns once no query is left. It may be
// called again, and without Start.
func (d *DNS) Close() error {
	d.closing.Do(func() {
		if d.cancel != nil {
			d.cancel()
		}
		var errs []error
		for _, server := range d.servers {
			errs = append(errs, server.Shutdown())
		}
		d.serving.Wait()
		d.closeErr = errors.Join(errs...)
	})
	return d.closeErr
}

// ServeDNS answers one query; the servers call it. Queries beyond
// MaxQueries are turned away at once, so that none piles up.
func (d *DNS) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	select {
	case d.slots <- struct{}{}:
		reply = d.answer(w.LocalAddr().Network(), query)
		<-d.slots
	default:
	}
	reply.RecursionAvailable = true
	reply.Compress = true
	if w.LocalAddr().Network() == "udp" {
		reply.Truncate(udpSize(query))
	}
	if err := w.WriteMsg(reply); err != nil {
		d.Log.Debug("dns: reply", "to", w.RemoteAddr(), "err", err)
	}
}

func (d *DNS) answer(network string, query *dns.Msg) *dns.Msg {
	if query.Opcode != dns.OpcodeQuery {
		return new(dns.Msg).SetRcode(query, dns.RcodeNotImplemented)
	}
	if len(query.Question) != 1 {
		return new(dns.Msg).SetRcode(query, dns.RcodeFormatError)
	}
	if reply := d.zone.answer(query); reply != nil {
		return reply
	}
	return d.forward(network, query)
}

// udpSize is what the asker can take (RFC 6891, section 6.2.3).
func udpSize(query *dns.Msg) int {
	if opt := query.IsEdns0(); opt != nil {
		return max(int(opt.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// listenBoth tries anew when port 0 gave a TCP port that UDP has in use.
func listenBoth(addr string) (tcp net.Listener, udp net.PacketConn, err error) {
	for range 8 {
		tcp, err = net.Listen("tcp", addr)
		if err != nil {
			return nil, nil, err
		}
		udp, err = net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			return tcp, udp, nil
		}
		tcp.Close()
	}
	return nil, nil, err
}
