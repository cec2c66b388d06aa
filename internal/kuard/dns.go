package kuard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// dnsPatience bounds one query with all its names, servers and attempts.
const dnsPatience = 10 * time.Second

// dnsQuery is the JSON that /dns/api takes.
type dnsQuery struct {
	Type string `json:"type"` // as in "A", "SRV" or "TYPE65"
	Name string `json:"name"` // absolute with a dot at its end, else the search list applies
}

// dnsResult is the JSON that /dns/api answers with.
type dnsResult struct {
	Result string `json:"result"` // as dig shows it
	Status string `json:"status"` // as in "NOERROR" or "NXDOMAIN"
}

func (s *Server) queryDNS(r *http.Request) (any, error) {
	var q dnsQuery
	if err := decode(r, &q); err != nil {
		return nil, err
	}
	name, qtype, err := q.parse()
	if err != nil {
		return nil, err
	}
	conf, err := s.resolvConf()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), dnsPatience)
	defer cancel()
	found, err := (&resolver{conf}).search(ctx, name, qtype)
	if err != nil {
		return nil, err
	}
	return dnsResult{found.String(), dns.RcodeToString[found.msg.Rcode]}, nil
}

// parse returns the name and type to ask for. The PTR of an address is asked for as the name it has in the tree.
func (q dnsQuery) parse() (name string, qtype uint16, err error) {
	if qtype, err = parseType(strings.ToUpper(strings.TrimSpace(q.Type))); err != nil {
		return "", 0, err
	}
	name = strings.TrimSpace(q.Name)
	if addr, err := netip.ParseAddr(name); err == nil && qtype == dns.TypePTR {
		name, err = dns.ReverseAddr(addr.WithZone("").String())
		return name, qtype, err
	}
	// The library takes the empty name for the root; a person who means the root writes it.
	if name == "" || !sendable(name) {
		return "", 0, refuse(http.StatusBadRequest, "DNS query: %q is not a domain name", q.Name)
	}
	return name, qtype, nil
}

// sendable tells whether name can be put into a packet, which is more than dns.IsDomainName asks for.
func sendable(name string) bool {
	_, err := dns.PackDomainName(dns.Fqdn(name), make([]byte, 256), 0, nil, false)
	return err == nil
}

func parseType(s string) (uint16, error) {
	qtype, ok := dns.StringToType[s]
	if number, found := strings.CutPrefix(s, "TYPE"); found && !ok {
		// RFC 3597, section 5: how a type without a name is written.
		n, err := strconv.ParseUint(number, 10, 16)
		qtype, ok = uint16(n), err == nil
	}
	switch {
	case !ok || qtype == dns.TypeNone:
		return 0, refuse(http.StatusBadRequest, "DNS query: %q is not a record type", s)
	case qtype == dns.TypeAXFR || qtype == dns.TypeIXFR || qtype == dns.TypeOPT:
		return 0, refuse(http.StatusBadRequest, "DNS query: %s is not a type that one reply can answer", s)
	}
	return qtype, nil
}

// resolvConf reads the servers to ask, anew each time: the file is the pod's, and may be what is being tried out.
func (s *Server) resolvConf() (*dns.ClientConfig, error) {
	file := cmp.Or(s.ResolvConf, "/etc/resolv.conf")
	conf, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil, fmt.Errorf("DNS query: read the pod's resolver configuration: %w", err)
	}
	if len(conf.Servers) == 0 {
		return nil, refuse(http.StatusInternalServerError, "DNS query: %s names no server", file)
	}
	conf.Port = cmp.Or(s.DNSPort, conf.Port)
	return conf, nil
}

// resolver asks the way the pod's libc does, see resolv.conf(5).
type resolver struct {
	conf *dns.ClientConfig
}

// dnsReply is a server's reply, and how it came about.
type dnsReply struct {
	msg     *dns.Msg
	network string // "udp" or "tcp"
	server  string // host:port
	elapsed time.Duration
	tried   []string // all names that were asked for and what came back, when there was more than one
}

// search asks for name with each ending of the search list until a reply has an answer.
// When none has, a reply that knows the name without having the type says more than one that does not know it.
func (v *resolver) search(ctx context.Context, name string, qtype uint16) (*dnsReply, error) {
	var best *dnsReply
	var tried []string
	for _, fqdn := range v.conf.NameList(name) {
		reply, err := v.ask(ctx, fqdn, qtype)
		if err != nil {
			return nil, err
		}
		tried = append(tried, fqdn+" "+describe(reply.msg))
		if best == nil || best.msg.Rcode != dns.RcodeSuccess || len(reply.msg.Answer) > 0 {
			best = reply
		}
		if len(reply.msg.Answer) > 0 {
			break
		}
	}
	if best == nil {
		return nil, refuse(http.StatusBadRequest, "DNS query: %q makes no name that can be asked for", name)
	}
	if len(tried) > 1 {
		best.tried = tried
	}
	return best, nil
}

func describe(m *dns.Msg) string {
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 {
		return "NODATA"
	}
	return dns.RcodeToString[m.Rcode]
}

// ask goes round the servers until one has a reply that settles the matter.
func (v *resolver) ask(ctx context.Context, fqdn string, qtype uint16) (*dnsReply, error) {
	var unsettled *dnsReply
	var failure error
	for range v.conf.Attempts {
		for _, server := range v.conf.Servers {
			reply, err := v.exchange(ctx, net.JoinHostPort(server, v.conf.Port), fqdn, qtype)
			switch {
			case err != nil:
				failure = err
			case reply.msg.Rcode == dns.RcodeSuccess || reply.msg.Rcode == dns.RcodeNameError:
				return reply, nil
			default:
				unsettled = reply
			}
		}
	}
	if unsettled != nil {
		return unsettled, nil
	}
	return nil, v.explain(fqdn, failure)
}

// explain turns the last failure into a sentence for the page, and a status.
func (v *resolver) explain(fqdn string, err error) error {
	servers := strings.Join(v.conf.Servers, ", ")
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return refuse(http.StatusGatewayTimeout, "DNS query for %s: no reply in time from %s, port %s", fqdn, servers, v.conf.Port)
	}
	return refuse(http.StatusBadGateway, "DNS query for %s: no reply from %s, port %s: %w", fqdn, servers, v.conf.Port, err)
}

// exchange asks one server, over TCP too when the reply did not fit over UDP (RFC 7766, section 5).
func (v *resolver) exchange(ctx context.Context, server, fqdn string, qtype uint16) (*dnsReply, error) {
	start := time.Now()
	reply := &dnsReply{server: server}
	for _, network := range []string{"udp", "tcp"} {
		msg, err := v.roundTrip(ctx, network, server, new(dns.Msg).SetQuestion(fqdn, qtype))
		if err != nil {
			return nil, err
		}
		reply.msg, reply.network, reply.elapsed = msg, network, time.Since(start)
		if !msg.Truncated {
			break
		}
	}
	return reply, nil
}

// roundTrip sends m and reads the reply. The library looks at ctx only when it starts to read,
// so a ctx that ends closes the connection.
func (v *resolver) roundTrip(ctx context.Context, network, server string, m *dns.Msg) (*dns.Msg, error) {
	client := &dns.Client{Net: network, Timeout: time.Duration(v.conf.Timeout) * time.Second}
	conn, err := client.DialContext(ctx, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	msg, _, err := client.ExchangeWithConnContext(ctx, m, conn)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return msg, err
}

// String shows the reply as dig does, behind the names that the search list led through.
func (r *dnsReply) String() string {
	var b strings.Builder
	for _, t := range r.tried {
		fmt.Fprintf(&b, ";; tried %s\n", t)
	}
	host, port, _ := net.SplitHostPort(r.server)
	fmt.Fprintf(&b, "%s\n;; Query time: %d msec\n", r.msg, r.elapsed.Milliseconds())
	fmt.Fprintf(&b, ";; SERVER: %s#%s (%s)\n", host, port, strings.ToUpper(r.network))
	fmt.Fprintf(&b, ";; WHEN: %s\n", time.Now().Format(time.RFC1123Z))
	fmt.Fprintf(&b, ";; MSG SIZE  rcvd: %d\n", r.msg.Len())
	return b.String()
}
