package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
)

const sendTimeout = 30 * time.Second

var instances = 0

// instanceName is one that no other client of this machine has.
func instanceName() string {
	instances++
	return fmt.Sprintf("go-%d-%d", os.Getpid(), instances)
}

func servers(namesrv string) primitive.NamesrvAddr {
	return primitive.NamesrvAddr(strings.Split(namesrv, ";"))
}

type runningProducer struct{ client rocketmq.Producer }

func (p *runningProducer) stop() error { return p.client.Shutdown() }

func startProducer(a *ask) (any, error) {
	client, err := rocketmq.NewProducer(
		producer.WithGroupName(a.Group),
		producer.WithNameServer(servers(a.Namesrv)),
		producer.WithInstanceName(instanceName()),
		producer.WithSendMsgTimeout(sendTimeout),
	)
	if err != nil {
		return nil, err
	}
	if err := client.Start(); err != nil {
		return nil, err
	}
	started[a.Name] = &runningProducer{client}
	return nil, nil
}

func (m *message) primitive() *primitive.Message {
	made := primitive.NewMessage(m.Topic, []byte(m.Body))
	if m.Tags != "" {
		made.WithTag(m.Tags)
	}
	if m.Keys != "" {
		made.WithKeys(strings.Fields(m.Keys))
	}
	for key, value := range m.Properties {
		made.WithProperty(key, value)
	}
	return made
}

var statuses = map[primitive.SendStatus]string{
	primitive.SendOK:                "SEND_OK",
	primitive.SendFlushDiskTimeout:  "FLUSH_DISK_TIMEOUT",
	primitive.SendFlushSlaveTimeout: "FLUSH_SLAVE_TIMEOUT",
	primitive.SendSlaveNotAvailable: "SLAVE_NOT_AVAILABLE",
}

func sent(result *primitive.SendResult) map[string]any {
	return map[string]any{
		"status":        statuses[result.Status],
		"topic":         result.MessageQueue.Topic,
		"broker":        result.MessageQueue.BrokerName,
		"queue_id":      result.MessageQueue.QueueId,
		"msg_id":        result.MsgID,
		"offset_msg_id": result.OffsetMsgID,
		"queue_offset":  result.QueueOffset,
		"region_id":     result.RegionID,
	}
}

func send(a *ask) (any, error) {
	p, err := find[*runningProducer](a.Name)
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	var all []*primitive.Message
	for i := range a.Messages {
		all = append(all, a.Messages[i].primitive())
	}
	switch a.Mode {
	case "", "sync":
		results := []any{}
		for _, each := range all {
			result, err := p.client.SendSync(ctx, each)
			if err != nil {
				return nil, err
			}
			results = append(results, sent(result))
		}
		return results, nil
	case "async":
		return sendAsync(ctx, p.client, all)
	case "oneway":
		for _, each := range all {
			if err := p.client.SendOneWay(ctx, each); err != nil {
				return nil, err
			}
		}
		return nil, nil
	case "batch":
		result, err := p.client.SendSync(ctx, all...)
		if err != nil {
			return nil, err
		}
		return sent(result), nil
	}
	return nil, fmt.Errorf("unknown mode %q", a.Mode)
}

func sendAsync(ctx context.Context, client rocketmq.Producer, all []*primitive.Message) (any, error) {
	type outcome struct {
		place  int
		result *primitive.SendResult
		err    error
	}
	outcomes := make(chan outcome, len(all))
	for i, each := range all {
		err := client.SendAsync(ctx, func(_ context.Context, result *primitive.SendResult, err error) {
			outcomes <- outcome{i, result, err}
		}, each)
		if err != nil {
			return nil, err
		}
	}
	results := make([]any, len(all))
	for range all {
		select {
		case o := <-outcomes:
			if o.err != nil {
				results[o.place] = map[string]any{"error": o.err.Error()}
			} else {
				results[o.place] = sent(o.result)
			}
		case <-time.After(30 * time.Second):
			return nil, fmt.Errorf("a callback did not come")
		}
	}
	return results, nil
}
