package entry_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/bufbuild/protocompile"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/firnlog/firn/metastore/entry"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files that do not exist yet")

// goldens are the entries in testdata. A file that exists is never rewritten: agents have to read it for ever.
func goldens() map[string]*entry.Entry {
	all := make(map[string]*entry.Entry)
	var ops, groups, merged []entry.Op
	for name, op := range samples() {
		all[name] = envelope(op)
	}
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range all {
			if !yield(name) {
				return
			}
		}
	}) {
		if name == "new_log_epoch" { // came after the mixed file was written
			continue
		}
		switch all[name].FeatureLevel { // they too
		case 2:
			groups = append(groups, all[name].Ops[0])
			continue
		case 3:
			merged = append(merged, all[name].Ops[0])
			continue
		}
		ops = append(ops, all[name].Ops[0])
	}
	all["mixed"] = envelope(ops...)
	all["mixed_groups"] = envelope(groups...)
	all["mixed_merged"] = envelope(merged...)
	all["empty"] = &entry.Entry{Format: 1, Incarnation: id(1), Seq: 1}
	return all
}

func TestGolden(t *testing.T) {
	message := compile(t)
	for name, want := range goldens() {
		path := filepath.Join("testdata", name+".v1.entry")
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) && *rewrite {
			b = want.AppendTo(nil)
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := entry.Parse(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, got, ignoreCache); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if string(got.AppendTo(nil)) != string(b) {
			t.Errorf("%s: encodes to other bytes", name)
		}

		dynamic := dynamicpb.NewMessage(message)
		if err := proto.Unmarshal(b, dynamic); err != nil {
			t.Errorf("%s: not an Entry of entry.proto: %v", name, err)
			continue
		}
		for _, difference := range compare(name, reflect.ValueOf(got).Elem(), dynamic) {
			t.Error(difference)
		}
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(dynamic)
		if err != nil || string(again) != string(b) {
			t.Errorf("%s: another encoder makes other bytes (%v)", name, err)
		}
	}
	files, err := filepath.Glob("testdata/*.entry")
	if err != nil || len(files) != len(goldens()) {
		t.Errorf("%d golden files for %d goldens (%v)", len(files), len(goldens()), err)
	}
}

func compile(t *testing.T) protoreflect.MessageDescriptor {
	t.Helper()
	compiler := protocompile.Compiler{Resolver: &protocompile.SourceResolver{}}
	files, err := compiler.Compile(context.Background(), "entry.proto")
	if err != nil {
		t.Fatal(err)
	}
	return files[0].Messages().ByName("Entry")
}

// TestEveryFieldIsInAGolden keeps the goldens complete as fields are added.
func TestEveryFieldIsInAGolden(t *testing.T) {
	message := compile(t)
	seen := make(map[protoreflect.FullName]bool)
	for _, e := range goldens() {
		dynamic := dynamicpb.NewMessage(message)
		if err := proto.Unmarshal(e.AppendTo(nil), dynamic); err != nil {
			t.Fatal(err)
		}
		var walk func(m protoreflect.Message)
		walk = func(m protoreflect.Message) {
			m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
				seen[f.FullName()] = true
				switch {
				case f.Message() == nil:
				case f.IsList():
					for i := range v.List().Len() {
						walk(v.List().Get(i).Message())
					}
				default:
					walk(v.Message())
				}
				return true
			})
		}
		walk(dynamic)
	}
	messages := message.ParentFile().Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			if name := fields.Get(j).FullName(); !seen[name] {
				t.Errorf("no golden has %s", name)
			}
		}
	}
}

// compare walks a struct and the dynamic message that has the same meaning, matching fields by name.
func compare(path string, v reflect.Value, m protoreflect.Message) (differences []string) {
	fields := m.Descriptor().Fields()
	matched := 0
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		if !sf.IsExported() {
			continue
		}
		field := fields.ByName(protoreflect.Name(snake(sf.Name)))
		if field == nil {
			return append(differences, fmt.Sprintf("%s.%s: not in entry.proto", path, sf.Name))
		}
		matched++
		differences = append(differences, compareField(path+"."+sf.Name, v.Field(i), m.Get(field), field)...)
	}
	if matched != fields.Len() {
		differences = append(differences, fmt.Sprintf("%s: entry.proto has %d fields, the struct %d", path, fields.Len(), matched))
	}
	return differences
}

func compareField(path string, v reflect.Value, pv protoreflect.Value, field protoreflect.FieldDescriptor) []string {
	unequal := func(want any) []string {
		if got := v.Interface(); !reflect.DeepEqual(got, want) {
			return []string{fmt.Sprintf("%s: %v, by entry.proto %v", path, got, want)}
		}
		return nil
	}
	if field.IsList() {
		list := pv.List()
		if list.Len() != v.Len() {
			return []string{fmt.Sprintf("%s: %d elements, by entry.proto %d", path, v.Len(), list.Len())}
		}
		var differences []string
		sum := int64(0)
		var topic protoreflect.Value
		for i := range v.Len() {
			element := fmt.Sprintf("%s[%d]", path, i)
			switch item := v.Index(i); {
			case field.Name() == "offsets": // a topic is left out there where it is that of the one before
				m := proto.Clone(list.Get(i).Message().Interface()).ProtoReflect()
				if of := m.Descriptor().Fields().ByName("topic"); m.Has(of) {
					topic = m.Get(of)
				} else {
					m.Set(of, topic)
				}
				differences = append(differences, compare(element, item, m)...)
			case field.FullName() == "firn.metastore.v1.Block.timestamps": // deltas there, absolute here
				if sum += list.Get(i).Int(); item.Int() != sum {
					differences = append(differences, fmt.Sprintf("%s: %d, by entry.proto %d", element, item.Int(), sum))
				}
			case item.Kind() == reflect.Interface: // an Op: the one field of its oneof
				op := list.Get(i).Message()
				kind := op.WhichOneof(op.Descriptor().Oneofs().ByName("kind"))
				if got := snake(item.Elem().Elem().Type().Name()); got != string(kind.Name()) {
					differences = append(differences, fmt.Sprintf("%s: %s, by entry.proto %s", element, got, kind.Name()))
					continue
				}
				m := op.Get(kind).Message()
				if kind.Name() == "rewrite" {
					m = absolute(m)
				}
				differences = append(differences, compare(element, item.Elem().Elem(), m)...)
			case item.Kind() == reflect.Struct:
				differences = append(differences, compare(element, item, list.Get(i).Message())...)
			default:
				if fmt.Sprint(item.Interface()) != fmt.Sprint(list.Get(i).Interface()) {
					differences = append(differences, fmt.Sprintf("%s: %v, by entry.proto %v", element, item, list.Get(i)))
				}
			}
		}
		return differences
	}
	switch v.Kind() {
	case reflect.Array:
		want := reflect.New(v.Type()).Elem()
		reflect.Copy(want, reflect.ValueOf(pv.Bytes()))
		return unequal(want.Interface())
	case reflect.Struct:
		if !pv.Message().IsValid() && v.IsZero() {
			return nil
		}
		return compare(path, v, pv.Message())
	default:
		return unequal(reflect.ValueOf(pv.Interface()).Convert(v.Type()).Interface())
	}
}

// snake turns a Go name into a protobuf one: ProducerID, ReserveProducerIDs.
func snake(name string) string {
	name = strings.NewReplacer("IDs", "Ids", "ID", "Id").Replace(name)
	var b strings.Builder
	for i, c := range name {
		if c >= 'A' && c <= 'Z' {
			if i > 0 {
				b.WriteByte('_')
			}
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// absolute is a Rewrite with what its comments call differences added up, and with the topic that goes without saying.
func absolute(m protoreflect.Message) protoreflect.Message {
	m = proto.Clone(m.Interface()).ProtoReflect()
	get := func(m protoreflect.Message, name protoreflect.Name) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(name))
	}
	add := func(m protoreflect.Message, name protoreflect.Name, to int64) int64 {
		sum := to + get(m, name).Int()
		m.Set(m.Descriptor().Fields().ByName(name), protoreflect.ValueOfInt64(sum))
		return sum
	}
	for i, objects := 0, get(m, "objects").List(); i < objects.Len(); i++ {
		id := get(objects.Get(i).Message(), "id").Message()
		if of := id.Descriptor().Fields().ByName("topic"); !id.Has(of) {
			id.Set(of, get(m, "topic"))
		}
	}
	last := int64(0)
	for i, parts := 0, get(m, "parts").List(); i < parts.Len(); i++ {
		part := parts.Get(i).Message()
		at := get(part, "start").Int()
		add(part, "end", at)
		for j, rows := 0, get(part, "replacement").List(); j < rows.Len(); j++ {
			row := rows.Get(j).Message()
			at = add(row, "end", add(row, "base", at))
			last = add(row, "max_timestamp", last)
		}
	}
	return m
}
