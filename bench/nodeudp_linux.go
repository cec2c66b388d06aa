package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"time"
)

// echoes are two clients of one porthole that ask for echoes: one over TCP, one over UDP.
type echoes struct {
	tcp      net.Conn
	udp      *sender
	download dialer // of what else it carries
}

// nodeDatagrams measures UDP through the node alone.
func (b *bench) nodeDatagrams(ctx context.Context) error {
	return b.onNode(ctx, (*nodeSide).datagrams)
}

// datagrams compares round trips of datagrams with those of a TCP connection by the same porthole,
// and both with what they are beside a download by it.
func (n *nodeSide) datagrams(ctx context.Context) error {
	if err := n.lead(ctx, n.ours()); err != nil {
		return err
	}
	e, end, err := n.startEchoes(ctx)
	if err != nil {
		return err
	}
	defer end()
	var tcp, udp, tcpBeside, udpBeside []float64
	for range n.runs {
		if err := e.roundTrips(&tcp, &udp); err != nil {
			return err
		}
		if err := e.besideDownload(func() error { return e.roundTrips(&tcpBeside, &udpBeside) }); err != nil {
			return err
		}
	}
	alone, beside := median(ratios(udp, tcp)), median(ratios(udpBeside, udp))
	n.add(row{"node: UDP round trip, p50, ms", fmt.Sprintf("%.3f", median(udp)), fmt.Sprintf("%.3f (TCP by the same porthole)", median(tcp)),
		fmt.Sprintf("%.2f", alone), "at most 1.3", alone <= 1.3})
	n.add(row{"node: UDP round trip beside a download by the same porthole, p50, ms", fmt.Sprintf("%.3f", median(udpBeside)),
		fmt.Sprintf("%.3f (TCP beside it)", median(tcpBeside)), fmt.Sprintf("%.2f of alone", beside), "at most 2 of alone", beside <= 2})
	return nil
}

// startEchoes starts porthole for a port of both networks.
func (n *nodeSide) startEchoes(ctx context.Context) (e *echoes, end func(), err error) {
	port, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	p, err := startPortholeAs(exec.CommandContext(ctx, n.porthole, "forward", "--address", "127.0.0.1", "pod/"+n.cluster.pod,
		":"+n.cluster.port, fmt.Sprintf("%d:%s/udp", port, n.cluster.port)))
	if err != nil {
		return nil, nil, err
	}
	e = &echoes{download: p.dial}
	if e.udp, err = newSender(fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		e.tcp, err = echoed(p.dial)
	}
	if err != nil {
		p.close()
		return nil, nil, err
	}
	return e, func() { e.tcp.Close(); e.udp.Close(); p.close() }, nil
}

// roundTrips measures both, in turn.
func (e *echoes) roundTrips(tcp, udp *[]float64) error {
	const trips = 300
	one := []byte{echoDatagram}
	for _, way := range []struct {
		conn net.Conn
		p50  *[]float64
	}{{e.tcp, tcp}, {e.udp, udp}} {
		var times []float64
		for range trips {
			began := time.Now()
			_ = way.conn.SetDeadline(began.Add(10 * time.Second))
			if _, err := way.conn.Write(one); err != nil {
				return err
			}
			if _, err := way.conn.Read(one); err != nil {
				return err
			}
			times = append(times, time.Since(began).Seconds()*1e3)
		}
		*way.p50 = append(*way.p50, median(times))
	}
	return nil
}

// besideDownload measures something while a download that does not end is under way.
func (e *echoes) besideDownload(measure func() error) error {
	c, err := e.download()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, chunk))
	}()
	if err = ask(c, 1<<40); err == nil {
		time.Sleep(300 * time.Millisecond) // until it is at its full rate
		err = measure()
	}
	c.Close()
	<-done
	return err
}
