package ingestreceiver

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/stats"
)

// connection is a TCP connection of a sender. It outlives the connection, but keeps neither its descriptor nor its buffers.
type connection struct{ socket syscall.RawConn }

type connectionKey struct{}

// connectionOf returns nil for what is no TCP connection, below TLS.
func connectionOf(c net.Conn) *connection {
	if secured, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secured.NetConn()
	}
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	socket, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return &connection{socket}
}

func withConnection(ctx context.Context, c *connection) context.Context {
	if c == nil {
		return ctx
	}
	return context.WithValue(ctx, connectionKey{}, c)
}

type oldKey struct{}

// withAge says of an HTTP connection when it is old enough to go; age 0: never. Connections that came at once, as after a failover, do not go at once.
func withAge(ctx context.Context, age time.Duration) context.Context {
	if age == 0 {
		return ctx
	}
	return context.WithValue(ctx, oldKey{}, time.Now().Add(age-age/10+rand.N(age/5)))
}

func isOld(ctx context.Context) bool {
	old, ok := ctx.Value(oldKey{}).(time.Time)
	return ok && time.Now().After(old)
}

// connections are those that a listener has accepted: the gRPC library tells of a call's connection no more than its addresses.
type connections struct {
	net.Listener
	budget *budget
	open   sync.Map // address of the sender -> *accepted
}

func (l *connections) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	tcp, ok := c.(*net.TCPConn)
	if err != nil || !ok {
		return c, err
	}
	a := &accepted{TCPConn: tcp, connection: connectionOf(tcp), inbound: newInbound(l.budget), of: l}
	l.open.Store(tcp.RemoteAddr().String(), a)
	return a, nil
}

func (l *connections) tag(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	a, ok := l.open.Load(info.RemoteAddr.String())
	if !ok { // it has ended already, or is no TCP connection
		return context.WithValue(ctx, inboundKey{}, newInbound(l.budget))
	}
	return context.WithValue(withConnection(ctx, a.(*accepted).connection), inboundKey{}, a.(*accepted).inbound)
}

type accepted struct {
	*net.TCPConn
	connection *connection
	inbound    *inbound
	of         *connections
}

func (a *accepted) Read(b []byte) (int, error) {
	n, err := a.TCPConn.Read(b)
	a.inbound.read(n)
	return n, err
}

func (a *accepted) Close() error {
	a.of.open.CompareAndDelete(a.RemoteAddr().String(), a)
	a.inbound.close()
	return a.TCPConn.Close()
}
