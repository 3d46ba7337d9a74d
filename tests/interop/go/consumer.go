package main

import (
	"context"
	"encoding/base64"
	"sync"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
)

// runningConsumer is a push consumer and all that it was given so far.
type runningConsumer struct {
	client   rocketmq.PushConsumer
	lock     sync.Mutex
	messages []map[string]any
	news     chan struct{}
}

func (c *runningConsumer) stop() error { return c.client.Shutdown() }

func (c *runningConsumer) consume(_ context.Context, all ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	c.lock.Lock()
	for _, each := range all {
		c.messages = append(c.messages, seen(each))
	}
	c.lock.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
	return consumer.ConsumeSuccess, nil
}

func (c *runningConsumer) all() []map[string]any {
	c.lock.Lock()
	defer c.lock.Unlock()
	return append([]map[string]any{}, c.messages...)
}

func seen(m *primitive.MessageExt) map[string]any {
	return map[string]any{
		"topic":             m.Topic,
		"queue_id":          m.Queue.QueueId,
		"broker":            m.Queue.BrokerName,
		"queue_offset":      m.QueueOffset,
		"commit_log_offset": m.CommitLogOffset,
		"msg_id":            m.MsgId,
		"offset_msg_id":     m.OffsetMsgId,
		"tags":              m.GetTags(),
		"keys":              m.GetKeys(),
		"properties":        m.GetProperties(),
		"body":              string(m.Body),
		"body_base64":       base64.StdEncoding.EncodeToString(m.Body),
		"born_ms":           m.BornTimestamp,
		"born_host":         m.BornHost,
		"store_ms":          m.StoreTimestamp,
		"store_host":        m.StoreHost,
		"reconsume_times":   m.ReconsumeTimes,
		"sys_flag":          m.SysFlag,
	}
}

var starts = map[string]consumer.ConsumeFromWhere{
	"":             consumer.ConsumeFromLastOffset,
	"LAST_OFFSET":  consumer.ConsumeFromLastOffset,
	"FIRST_OFFSET": consumer.ConsumeFromFirstOffset,
}

func startConsumer(a *ask) (any, error) {
	model := consumer.Clustering
	if a.Broadcast {
		model = consumer.BroadCasting
	}
	client, err := rocketmq.NewPushConsumer(
		consumer.WithGroupName(a.Group),
		consumer.WithNameServer(servers(a.Namesrv)),
		consumer.WithInstance(instanceName()),
		consumer.WithConsumerModel(model),
		consumer.WithConsumeFromWhere(starts[a.From]),
	)
	if err != nil {
		return nil, err
	}
	made := &runningConsumer{client: client, news: make(chan struct{}, 1)}
	filter := a.Filter
	if filter == "" {
		filter = "*"
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: filter}
	if err := client.Subscribe(a.Topic, selector, made.consume); err != nil {
		return nil, err
	}
	if err := client.Start(); err != nil {
		return nil, err
	}
	started[a.Name] = made
	return nil, nil
}

// received gives all that came so far, once that is "count" messages or "wait_ms" are over.
func received(a *ask) (any, error) {
	c, err := find[*runningConsumer](a.Name)
	if err != nil {
		return nil, err
	}
	end := time.After(time.Duration(a.WaitMs) * time.Millisecond)
	for len(c.all()) < a.Count {
		select {
		case <-c.news:
		case <-end:
			return c.all(), nil
		}
	}
	return c.all(), nil
}
