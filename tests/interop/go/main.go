// Runs RocketMQ's Go client on behalf of a test: one JSON object a line on standard input asks for
// something ({"id": 7, "do": "send", ...}), one JSON object a line on standard output answers it
// ({"id": 7, "result": ...} or {"id": 7, "error": {"type", "code", "message"}}). Asks are worked off one
// after the other; the end of standard input ends the process.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// ask is one line of a test. Fields that a verb does not use stay at zero.
type ask struct {
	ID        json.RawMessage `json:"id"`
	Do        string          `json:"do"`
	Name      string          `json:"name"`
	Group     string          `json:"group"`
	Namesrv   string          `json:"namesrv"`
	Topic     string          `json:"topic"`
	Filter    string          `json:"filter"`
	From      string          `json:"from"`
	Broadcast bool            `json:"broadcast"`
	Mode      string          `json:"mode"`
	Messages  []message       `json:"messages"`
	Count     int             `json:"count"`
	WaitMs    int             `json:"wait_ms"`
}

type message struct {
	Topic      string            `json:"topic"`
	Body       string            `json:"body"`
	Tags       string            `json:"tags"`
	Keys       string            `json:"keys"`
	Properties map[string]string `json:"properties"`
}

type failure struct {
	Type    string `json:"type"`
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type answer struct {
	ID     json.RawMessage `json:"id"`
	Result any             `json:"result"`
	Error  *failure        `json:"error,omitempty"`
}

// running is something started by name, which "stop" ends.
type running interface{ stop() error }

var started = map[string]running{}

func find[T running](name string) (T, error) {
	found, ok := started[name].(T)
	if !ok {
		return found, fmt.Errorf("nothing of that kind called %q is running", name)
	}
	return found, nil
}

func stop(a *ask) (any, error) {
	found, ok := started[a.Name]
	if !ok {
		return false, nil
	}
	delete(started, a.Name)
	return true, found.stop()
}

var commands = map[string]func(*ask) (any, error){
	"hello":          func(*ask) (any, error) { return map[string]int{"pid": os.Getpid()}, nil },
	"start_producer": startProducer,
	"send":           send,
	"start_consumer": startConsumer,
	"received":       received,
	"stop":           stop,
}

func work(line []byte) answer {
	var a ask
	if err := json.Unmarshal(line, &a); err != nil {
		return answer{ID: a.ID, Error: &failure{"BadAsk", -1, err.Error()}}
	}
	command, ok := commands[a.Do]
	if !ok {
		return answer{ID: a.ID, Error: &failure{"BadAsk", -1, "unknown verb " + a.Do}}
	}
	result, err := command(&a)
	if err != nil {
		return answer{ID: a.ID, Error: &failure{fmt.Sprintf("%T", err), -1, err.Error()}}
	}
	return answer{ID: a.ID, Result: result}
}

func main() {
	rlog.SetLogLevel("warn")
	answers := json.NewEncoder(os.Stdout)
	asks := bufio.NewScanner(os.Stdin)
	asks.Buffer(nil, 16<<20)
	for asks.Scan() {
		if err := answers.Encode(work(asks.Bytes())); err != nil {
			os.Exit(1)
		}
	}
	for _, left := range started {
		_ = left.stop()
	}
}
