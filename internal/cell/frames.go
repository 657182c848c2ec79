package cell

import (
	"encoding/binary"
	"fmt"
	"net"
)

// kafkaMaxRequestBytes is Kafka's own default (socket.request.max.bytes).
const kafkaMaxRequestBytes = 100 << 20

// listenFrames listens for Kafka's clients. The embedded broker allocates what the first four bytes of a request announce, and of "POST", which any web page
// can have a browser send here, that is 1.3 GB. What announces more than Kafka takes is cut off.
func listenFrames(network, address string) (net.Listener, error) {
	ln, err := net.Listen(network, address)
	return frameListener{ln}, err
}

type frameListener struct{ net.Listener }

func (l frameListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &frameConn{Conn: c}, nil
}

// frameConn is read by one goroutine at a time, as a connection of the broker is.
type frameConn struct {
	net.Conn
	size [4]byte // of the frame whose size is being read
	have int     // bytes of size
	left int     // bytes of the frame that are still to come
}

func (c *frameConn) Read(p []byte) (int, error) {
	if c.left > 0 {
		n, err := c.Conn.Read(p[:min(len(p), c.left)])
		c.left -= n
		return n, err
	}
	n, err := c.Conn.Read(p[:min(len(p), len(c.size)-c.have)])
	c.have += copy(c.size[c.have:], p[:n])
	if c.have < len(c.size) {
		return n, err
	}
	size := binary.BigEndian.Uint32(c.size[:])
	if size > kafkaMaxRequestBytes {
		_ = c.Close() // whoever sent this is no client of Kafka's
		return 0, fmt.Errorf("a request of %d bytes is more than %d", size, kafkaMaxRequestBytes)
	}
	c.left, c.have = int(size), 0
	return n, err
}
