package resolver

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// graceTime is how long the second of the two questions may take longer than the first,
	// when that has found addresses: some servers leave all questions of one type unanswered.
	graceTime = 500 * time.Millisecond
	// udpSize is what is received by UDP. Questions have no EDNS, so that 512 bytes would do,
	// but not all servers heed that.
	udpSize = 4096

	errNoHost    = "no such host"
	errNoAddress = "the host has no address"
)

// lookup asks name servers for the addresses of one host.
type lookup struct {
	dial     func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)
	host     string
	names    []string // that it may stand for, all of them absolute
	servers  []netip.AddrPort
	timeout  time.Duration // of one exchange
	attempts int
}

func newLookup(dial func(context.Context, string, netip.AddrPort) (net.Conn, error), conf *dns.ClientConfig, host string) *lookup {
	l := &lookup{dial: dial, host: host, attempts: min(conf.Attempts, maxAttempts)}
	l.timeout = time.Duration(min(conf.Timeout, int(maxTimeout/time.Second))) * time.Second
	for _, server := range conf.Servers {
		if addr, err := netip.ParseAddr(server); err == nil && len(l.servers) < maxServers {
			l.servers = append(l.servers, netip.AddrPortFrom(addr.Unmap(), 53))
		}
	}
	if len(l.servers) == 0 {
		l.servers = []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 53)} // resolv.conf(5)
	}
	conf.Search = conf.Search[:min(len(conf.Search), maxSearch)]
	for i, domain := range conf.Search {
		conf.Search[i] = strings.Trim(domain, ".") // the root may be in the list
	}
	for _, name := range conf.NameList(host) {
		if _, err := dns.PackDomainName(name, make([]byte, 256), 0, nil, false); err == nil {
			l.names = append(l.names, name)
		}
	}
	return l
}

// addresses asks for each name in turn, until one has addresses.
func (l *lookup) addresses(ctx context.Context) ([]netip.Addr, error) {
	worst := notFound(l.host, l.asked(), errNoHost)
	for _, name := range l.names {
		addrs, err := l.addressesOf(ctx, name)
		failed := dnsError(err)
		switch {
		case err == nil:
			return addrs, nil
		case failed == nil || ctx.Err() != nil || !failed.IsNotFound && !failed.IsTemporary:
			return nil, err // the servers would not answer for another name either
		case worst.Err == errNoHost || worst.IsNotFound && !failed.IsNotFound:
			worst = failed
		}
	}
	return nil, worst
}

// addressesOf asks for the addresses of both families at once.
func (l *lookup) addressesOf(ctx context.Context, name string) (addrs []netip.Addr, err error) {
	type answer struct {
		addrs []netip.Addr
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 2)
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		go func() {
			addrs, err := l.question(ctx, new(dns.Msg).SetQuestion(name, kind))
			answers <- answer{addrs, err}
		}()
	}
	for range 2 {
		a := <-answers
		if addrs = append(addrs, a.addrs...); len(addrs) > 0 {
			defer time.AfterFunc(graceTime, cancel).Stop()
		}
		// A failure says that there may be addresses after all.
		if failed := dnsError(err); err == nil || failed != nil && failed.IsNotFound && a.err != nil {
			err = a.err
		}
	}
	if len(addrs) > 0 {
		return addrs, nil
	}
	return nil, err
}

// question asks the servers in turn, until one knows.
func (l *lookup) question(ctx context.Context, query *dns.Msg) ([]netip.Addr, error) {
	var failed error
	for range l.attempts {
		for _, server := range l.servers {
			reply, err := l.exchange(ctx, server, query)
			switch {
			case errors.Is(ctx.Err(), context.Canceled):
				return nil, context.Cause(ctx)
			case err != nil && dnsError(err) == nil:
				return nil, err
			case err == nil && reply.Rcode == dns.RcodeSuccess:
				return l.found(addressesIn(reply, query.Question[0].Name))
			case err == nil && reply.Rcode == dns.RcodeNameError:
				return nil, notFound(l.host, l.asked(), errNoHost)
			case err == nil:
				e := failure(l.host, server.Addr().String(), "server failure: "+dns.RcodeToString[reply.Rcode])
				e.IsTemporary = true
				failed = e
			case failed == nil:
				failed = err
			}
			if ctx.Err() != nil {
				return nil, failed
			}
		}
	}
	return nil, failed
}

// exchange asks one server, by TCP if the answer is too long for UDP (RFC 7766, section 5).
func (l *lookup) exchange(ctx context.Context, server netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	reply, err := l.exchangeBy(ctx, "udp", server, query)
	if err != nil || !reply.Truncated {
		return reply, err
	}
	whole, err := l.exchangeBy(ctx, "tcp", server, query)
	if err != nil && len(addressesIn(reply, query.Question[0].Name)) > 0 {
		return reply, nil // some addresses are enough
	}
	return whole, err
}

// exchangeBy asks one server by one network. What does not answer the question is passed over.
func (l *lookup) exchangeBy(ctx context.Context, network string, server netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	conn, err := l.dial(ctx, network, server)
	var op *net.OpError
	if errors.As(err, &op) {
		return nil, l.unanswered(err)
	}
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(query); err != nil {
		return nil, l.unanswered(err)
	}
	buf := make([]byte, udpSize)
	if network == "tcp" {
		buf = make([]byte, dns.MaxMsgSize)
	}
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, l.unanswered(err)
		}
		if reply := new(dns.Msg); reply.Unpack(buf[:n]) == nil && answers(reply, query) {
			return reply, nil
		}
	}
}

// found returns the addresses of a host that exists.
func (l *lookup) found(addrs []netip.Addr) ([]netip.Addr, error) {
	if len(addrs) == 0 {
		return nil, notFound(l.host, l.asked(), errNoAddress)
	}
	return addrs, nil
}

// answers reports whether a reply is one to a query. A server that fails may leave the question out.
func answers(reply, query *dns.Msg) bool {
	if !reply.Response || reply.Id != query.Id {
		return false
	}
	if len(reply.Question) == 0 {
		return reply.Rcode != dns.RcodeSuccess && reply.Rcode != dns.RcodeNameError
	}
	got, want := reply.Question[0], query.Question[0]
	return len(reply.Question) == 1 && got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}

// addressesIn returns the addresses that a reply has for a name, through the aliases in it.
func addressesIn(reply *dns.Msg, name string) (addrs []netip.Addr) {
	for range maxAliases {
		alias := ""
		for _, record := range reply.Answer {
			if !strings.EqualFold(record.Header().Name, name) {
				continue
			}
			var ip net.IP
			switch record := record.(type) {
			case *dns.CNAME:
				alias = record.Target
			case *dns.A:
				ip = record.A
			case *dns.AAAA:
				ip = record.AAAA
			}
			if addr, ok := netip.AddrFromSlice(ip); ok && len(addrs) < maxAddrs {
				addrs = append(addrs, addr.Unmap())
			}
		}
		if len(addrs) > 0 || alias == "" {
			break
		}
		name = alias
	}
	return addrs
}

// asked are the servers that are asked, for errors.
func (l *lookup) asked() string {
	var all []string
	for _, server := range l.servers {
		all = append(all, server.Addr().String())
	}
	return strings.Join(all, ", ")
}

// unanswered is the error of a server that has given no answer.
func (l *lookup) unanswered(err error) error {
	var errno syscall.Errno
	text := err.Error()
	slow := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if slow {
		text = "no answer"
	} else if errors.As(err, &errno) {
		text = errno.Error()
	}
	e := failure(l.host, l.asked(), text)
	e.IsTimeout = slow
	return e
}

func dnsError(err error) (e *net.DNSError) {
	errors.As(err, &e)
	return e
}
