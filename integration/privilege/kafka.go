package privilege

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicByID begins the resource of a call whose request named its topic by the id: 16 raw bytes follow.
const topicByID = "topic/id:"

const frameMost = 256 << 20 // bytes of a request

// KafkaProxy stands between a component and a broker.
type KafkaProxy struct {
	Addr string

	recorder      *Recorder
	component, to string
	listener      net.Listener
	mu            sync.Mutex
	open          map[net.Conn]bool // guarded by mu
	down          bool              // guarded by mu
	done          sync.WaitGroup
}

// Kafka listens for a component's connections to a broker.
func (r *Recorder) Kafka(component, broker string) (*KafkaProxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &KafkaProxy{Addr: l.Addr().String(), recorder: r, component: component, to: broker, listener: l, open: map[net.Conn]bool{}}
	p.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil { // Close
				return
			}
			p.done.Go(func() { p.serve(c) })
		}
	})
	return p, nil
}

// Cut breaks all connections, and refuses new ones until it is told otherwise.
func (p *KafkaProxy) Cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for c := range p.open {
		_ = c.Close() // its reader sees it
	}
}

// Close ends it.
func (p *KafkaProxy) Close() error {
	err := p.listener.Close()
	p.Cut(true)
	p.done.Wait()
	return err
}

func (p *KafkaProxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		p.open[c] = true
	}
	return !p.down
}

func (p *KafkaProxy) serve(client net.Conn) {
	broker, err := net.Dial("tcp", p.to)
	if err != nil {
		_ = client.Close() // as the broker is away
		return
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range []net.Conn{client, broker} {
			delete(p.open, c)
			_ = c.Close() // it may be closed already
		}
	}()
	if !p.keep(client, broker) {
		return
	}
	p.done.Go(func() {
		_, _ = io.Copy(client, broker) // ends with either connection
		_ = client.Close()             // so does the other direction
	})
	p.recorder.record(p.component, "kafka-cluster:Connect", "cluster")
	for {
		frame, err := readFrame(client)
		if err != nil {
			return
		}
		if err := p.recorder.kafkaRequest(p.component, frame[4:]); err != nil {
			p.recorder.problem(p.component, "Kafka: %v", err)
		}
		if _, err := broker.Write(frame); err != nil {
			return
		}
	}
}

// readFrame reads a request with its length before it.
func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > frameMost {
		return nil, fmt.Errorf("a request of %d bytes", n)
	}
	frame := make([]byte, 4+int(n))
	copy(frame, size[:])
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}

// parseRequest decodes a request and its header.
func parseRequest(frame []byte) (kmsg.Request, error) {
	b := kbin.Reader{Src: frame}
	key, version := b.Int16(), b.Int16()
	b.Int32() // correlation
	b.NullableString()
	req := kmsg.RequestForKey(key)
	if req == nil {
		return nil, fmt.Errorf("request %d is unknown", key)
	}
	req.SetVersion(version)
	if req.IsFlexible() {
		kmsg.SkipTags(&b)
	}
	if !b.Ok() {
		return nil, fmt.Errorf("request %s: its header is cut off", kmsg.NameForKey(key))
	}
	if err := req.ReadFrom(b.Src); err != nil {
		return nil, fmt.Errorf("request %s, version %d: %w", kmsg.NameForKey(key), version, err)
	}
	return req, nil
}

// kafkaRequest translates a request, by the rights that Apache Kafka's documents say it needs and the actions that MSK's documents give for these rights.
func (r *Recorder) kafkaRequest(component string, frame []byte) error {
	request, err := parseRequest(frame)
	if err != nil {
		return err
	}
	do := func(action, resource string) { r.record(component, "kafka-cluster:"+action, resource) }
	topic := func(action, name string, id [16]byte) {
		if name == "" {
			name = "id:" + string(id[:])
		}
		do(action, "topic/"+name)
	}
	transaction := func(id *string) {
		if id != nil {
			do("AlterTransactionalId", "transactional-id/"+*id)
		}
	}
	switch q := request.(type) {
	case *kmsg.ApiVersionsRequest, *kmsg.SASLHandshakeRequest, *kmsg.SASLAuthenticateRequest:
	case *kmsg.MetadataRequest:
		for _, t := range q.Topics { // of all topics a broker names those that may be described
			name := ""
			if t.Topic != nil {
				name = *t.Topic
			}
			topic("DescribeTopic", name, t.TopicID)
		}
	case *kmsg.DescribeTopicPartitionsRequest:
		for _, t := range q.Topics {
			topic("DescribeTopic", t.Topic, [16]byte{})
		}
	case *kmsg.ProduceRequest:
		transaction(q.TransactionID)
		for _, t := range q.Topics {
			topic("WriteData", t.Topic, t.TopicID)
		}
	case *kmsg.InitProducerIDRequest:
		if q.TransactionalID == nil {
			do("WriteDataIdempotently", "cluster")
		}
		transaction(q.TransactionalID)
	case *kmsg.FetchRequest:
		for _, t := range q.Topics {
			topic("ReadData", t.Topic, t.TopicID)
		}
	case *kmsg.ListOffsetsRequest:
		for _, t := range q.Topics {
			topic("DescribeTopic", t.Topic, [16]byte{})
		}
	case *kmsg.OffsetForLeaderEpochRequest:
		for _, t := range q.Topics {
			topic("DescribeTopic", t.Topic, [16]byte{})
		}
	case *kmsg.FindCoordinatorRequest:
		keys := q.CoordinatorKeys
		if q.CoordinatorKey != "" {
			keys = append(keys, q.CoordinatorKey)
		}
		for _, k := range keys {
			switch q.CoordinatorType {
			case 0:
				do("DescribeGroup", "group/"+k)
			case 1:
				do("DescribeTransactionalId", "transactional-id/"+k)
			default:
				return fmt.Errorf("FindCoordinator of kind %d", q.CoordinatorType)
			}
		}
	case *kmsg.JoinGroupRequest:
		do("AlterGroup", "group/"+q.Group)
	case *kmsg.SyncGroupRequest:
		do("AlterGroup", "group/"+q.Group)
	case *kmsg.HeartbeatRequest:
		do("AlterGroup", "group/"+q.Group)
	case *kmsg.LeaveGroupRequest:
		do("AlterGroup", "group/"+q.Group)
	case *kmsg.DescribeGroupsRequest:
		for _, g := range q.Groups {
			do("DescribeGroup", "group/"+g)
		}
	case *kmsg.OffsetCommitRequest:
		do("AlterGroup", "group/"+q.Group)
		for _, t := range q.Topics {
			topic("ReadData", t.Topic, t.TopicID)
		}
	case *kmsg.OffsetFetchRequest:
		if q.Group != "" {
			do("DescribeGroup", "group/"+q.Group)
		}
		for _, g := range q.Groups {
			do("DescribeGroup", "group/"+g.Group)
			for _, t := range g.Topics {
				topic("DescribeTopic", t.Topic, t.TopicID)
			}
		}
		for _, t := range q.Topics {
			topic("DescribeTopic", t.Topic, [16]byte{})
		}
	case *kmsg.CreateTopicsRequest:
		for _, t := range q.Topics {
			topic("CreateTopic", t.Topic, [16]byte{})
		}
	case *kmsg.DescribeConfigsRequest:
		for _, c := range q.Resources {
			if c.ResourceType != kmsg.ConfigResourceTypeTopic {
				return fmt.Errorf("DescribeConfigs of a %s", c.ResourceType)
			}
			topic("DescribeTopicDynamicConfiguration", c.ResourceName, [16]byte{})
		}
	case *kmsg.DescribeClusterRequest:
		do("DescribeCluster", "cluster")
	case *kmsg.AddPartitionsToTxnRequest:
		if q.TransactionalID != "" {
			transaction(&q.TransactionalID)
		}
		for _, t := range q.Topics {
			topic("WriteData", t.Topic, [16]byte{})
		}
		for _, tx := range q.Transactions {
			transaction(&tx.TransactionalID)
			for _, t := range tx.Topics {
				topic("WriteData", t.Topic, [16]byte{})
			}
		}
	case *kmsg.AddOffsetsToTxnRequest:
		transaction(&q.TransactionalID)
		do("AlterGroup", "group/"+q.Group)
	case *kmsg.TxnOffsetCommitRequest:
		transaction(&q.TransactionalID)
		do("AlterGroup", "group/"+q.Group)
	case *kmsg.EndTxnRequest:
		transaction(&q.TransactionalID)
	default:
		return errors.New(kmsg.NameForKey(request.Key()) + " is not translated: see kafka.go")
	}
	return nil
}
