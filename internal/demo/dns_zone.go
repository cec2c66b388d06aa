package demo

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// zone is what the server knows by itself. All names end with a dot and are
// in lower case.
type zone struct {
	domain   string
	hosts    map[string]netip.Addr
	pointers map[string]string // by name below in-addr.arpa.
}

// ttl is short, in seconds: the next demo may have another address.
const ttl = 5

func newZone(domain string, hosts map[string]netip.Addr, pointers map[netip.Addr]string) zone {
	z := zone{domain: dns.CanonicalName(domain), hosts: map[string]netip.Addr{}, pointers: map[string]string{}}
	for name, ip := range hosts {
		z.hosts[dns.CanonicalName(name)] = ip
	}
	for ip, name := range pointers {
		if reverse, err := dns.ReverseAddr(ip.String()); err == nil {
			z.pointers[reverse] = dns.CanonicalName(name)
		}
	}
	return z
}

// answer is nil for names of which the zone knows nothing.
func (z zone) answer(query *dns.Msg) *dns.Msg {
	name := dns.CanonicalName(query.Question[0].Name)
	_, reverse := z.pointers[name]
	if !reverse && !dns.IsSubDomain(z.domain, name) {
		return nil
	}
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative = true
	if opt := query.IsEdns0(); opt != nil {
		reply.SetEdns0(dns.DefaultMsgSize, opt.Do())
	}
	reply.Answer = z.records(query.Question[0], name)
	switch {
	case len(reply.Answer) > 0:
	case reverse:
		reply.Ns = []dns.RR{z.soa(name)}
	default:
		reply.Ns = []dns.RR{z.soa(z.domain)}
		if !z.exists(name) {
			reply.Rcode = dns.RcodeNameError
		}
	}
	return reply
}

// records keeps the name as it was asked: some resolvers mix the case and
// compare.
func (z zone) records(question dns.Question, name string) []dns.RR {
	wants := func(t uint16) bool { return question.Qtype == t || question.Qtype == dns.TypeANY }
	header := dns.RR_Header{Name: question.Name, Class: dns.ClassINET, Ttl: ttl}
	if question.Qclass != dns.ClassINET && question.Qclass != dns.ClassANY {
		return nil
	}
	if ip, ok := z.hosts[name]; ok && wants(dns.TypeA) {
		header.Rrtype = dns.TypeA
		return []dns.RR{&dns.A{Hdr: header, A: ip.AsSlice()}}
	}
	if host, ok := z.pointers[name]; ok && wants(dns.TypePTR) {
		header.Rrtype = dns.TypePTR
		return []dns.RR{&dns.PTR{Hdr: header, Ptr: host}}
	}
	if name == z.domain && wants(dns.TypeSOA) {
		return []dns.RR{z.soa(name)}
	}
	return nil
}

// exists holds for names between the domain and a host as well: they have
// no records, and yet are there (RFC 8020).
func (z zone) exists(name string) bool {
	if name == z.domain {
		return true
	}
	for host := range z.hosts {
		if host == name || strings.HasSuffix(host, "."+name) {
			return true
		}
	}
	return false
}

// soa tells how long a "no" may be kept (RFC 2308).
func (z zone) soa(owner string) dns.RR {
	return &dns.SOA{
		Hdr:    dns.RR_Header{Name: owner, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:     "ns.dns." + z.domain,
		Mbox:   "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}
