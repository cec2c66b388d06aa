package demo

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// forward asks the upstreams in turn, over the network that the query came
// by: who asks by TCP has seen a reply that UDP cut short.
func (d *DNS) forward(network string, query *dns.Msg) *dns.Msg {
	failed := new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	for _, upstream := range d.Upstreams {
		if d.isSelf(upstream) {
			continue
		}
		reply, err := d.exchange(network, upstream, query)
		if err != nil {
			d.Log.Debug("dns: upstream", "addr", upstream, "err", err)
			continue
		}
		if reply.Rcode != dns.RcodeServerFailure && reply.Rcode != dns.RcodeRefused {
			return reply
		}
		failed = reply // better than one that says nothing, unless another knows
	}
	return failed
}

// isSelf keeps a query from going round in circles.
func (d *DNS) isSelf(upstream string) bool {
	addr, err := netip.ParseAddrPort(upstream)
	return err == nil && addr.Port() == d.addr.Port() && addr.Addr().Unmap() == d.addr.Addr().Unmap()
}

// exchange uses an ID and a port of its own, so that whoever sends the pod
// forged replies has to guess both.
func (d *DNS) exchange(network, upstream string, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, upstream)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	asked := query.Copy()
	asked.Id = dns.Id()
	client := &dns.Client{Net: network, Timeout: d.Timeout}
	reply, _, err := client.ExchangeWithConn(asked, &dns.Conn{Conn: conn})
	if err != nil {
		return nil, err
	}
	if len(reply.Question) != 1 || !sameQuestion(reply.Question[0], asked.Question[0]) {
		return nil, errors.New("reply to another question")
	}
	reply.Id = query.Id
	return reply, nil
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// hostResolvers are the name servers of a resolv.conf file, the first three
// as resolv.conf(5) has it; none if there is no such file.
func hostResolvers(path string) []string {
	config, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil
	}
	var addrs []string
	for _, server := range config.Servers[:min(len(config.Servers), 3)] {
		addrs = append(addrs, net.JoinHostPort(server, config.Port))
	}
	return addrs
}
