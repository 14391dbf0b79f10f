package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// recordView is a record as consume -o json prints it and produce --format json takes it.
type recordView struct {
	Topic         string       `json:"topic"`
	Partition     int32        `json:"partition"`
	Offset        int64        `json:"offset"`
	LeaderEpoch   int32        `json:"leader_epoch"` // -1 where the broker does not tell
	Timestamp     int64        `json:"timestamp_ms"`
	TimestampType string       `json:"timestamp_type"` // "create", "append", or "none" in formats that have none
	Key           *textView    `json:"key"`
	Value         *textView    `json:"value"`
	Headers       []headerView `json:"headers,omitempty"`
}

type headerView struct {
	Key   string    `json:"key"`
	Value *textView `json:"value"`
}

// textView is a byte string in JSON: {"text": …} where it is UTF-8, else {"base64": …}. Null bytes are a nil *textView.
type textView struct {
	Text   *string `json:"text,omitempty"`
	Base64 *string `json:"base64,omitempty"`
}

func textViewOf(b []byte) *textView {
	if b == nil {
		return nil
	}
	text := string(b)
	if utf8.Valid(b) {
		return &textView{Text: &text}
	}
	text = base64.StdEncoding.EncodeToString(b)
	return &textView{Base64: &text}
}

func recordViewOf(r *kgo.Record) recordView {
	v := recordView{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, LeaderEpoch: r.LeaderEpoch,
		Timestamp: r.Timestamp.UnixMilli(), TimestampType: "none", Key: textViewOf(r.Key), Value: textViewOf(r.Value),
	}
	switch r.Attrs.TimestampType() {
	case 0:
		v.TimestampType = "create"
	case 1:
		v.TimestampType = "append"
	}
	for _, h := range r.Headers {
		v.Headers = append(v.Headers, headerView{h.Key, textViewOf(h.Value)})
	}
	return v
}

// parseRecord reads a record printed by recordViewOf, or one that was written by hand: of its fields value must be there,
// and a plain string is text. Offset, leader epoch and topic are not the writer's to choose and are passed over.
func parseRecord(line []byte) (*kgo.Record, error) {
	var in struct {
		Partition int32           `json:"partition"`
		Timestamp *int64          `json:"timestamp_ms"`
		Key       json.RawMessage `json:"key"`
		Value     json.RawMessage `json:"value"`
		Headers   []struct {
			Key   string          `json:"key"`
			Value json.RawMessage `json:"value"`
		} `json:"headers"`
	}
	if err := json.Unmarshal(line, &in); err != nil {
		return nil, fmt.Errorf("not a record in JSON: %w", err)
	}
	if in.Value == nil {
		return nil, errors.New(`no "value"; for a record without one say null`)
	}
	r := &kgo.Record{Partition: in.Partition}
	if in.Timestamp != nil {
		r.Timestamp = time.UnixMilli(*in.Timestamp)
	}
	var err error
	if r.Key, err = parseText(in.Key); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if r.Value, err = parseText(in.Value); err != nil {
		return nil, fmt.Errorf("value: %w", err)
	}
	for _, h := range in.Headers {
		value, err := parseText(h.Value)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", h.Key, err)
		}
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: value})
	}
	return r, nil
}

// parseText reads null, a string, {"text": …} or {"base64": …}.
func parseText(raw json.RawMessage) ([]byte, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if raw[0] == '"' {
		var text string
		err := json.Unmarshal(raw, &text)
		return []byte(text), err
	}
	var v textView
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil || (v.Text == nil) == (v.Base64 == nil) {
		return nil, errors.New(`neither null, a string, {"text": …} nor {"base64": …}`)
	}
	if v.Text != nil {
		return []byte(*v.Text), nil
	}
	b, err := base64.StdEncoding.DecodeString(*v.Base64)
	if err != nil {
		return nil, err
	}
	return append([]byte{}, b...), nil // empty is not null
}
