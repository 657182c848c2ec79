package ingestreceiver

import "golang.org/x/sys/unix"

const tcpEstablished = 1 // linux/include/net/tcp_states.h

// stands tells whether neither side has closed the connection. The kernel knows that before any reader of this program does.
func (c *connection) stands() bool {
	established := false
	err := c.socket.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		established = err == nil && info.State == tcpEstablished
	})
	return err == nil && established
}
