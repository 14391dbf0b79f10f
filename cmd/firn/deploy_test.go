package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// The files that people deploy firn with are held to the program: what they say an agent is started with is judged by it.

func deployed(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// judged runs a command line with --check-config, its data in a directory of the test, and returns the settings in force.
func judged(t *testing.T, what string, variables map[string]string, args ...string) map[string]string {
	t.Helper()
	args = slices.Clone(args)
	for i, arg := range args { // nothing outside the test is looked at
		if name, _, ok := strings.Cut(arg, "="); ok && name == "--data-dir" {
			args[i] = name + "=" + t.TempDir()
		} else if arg == "--data-dir" {
			args[i+1] = t.TempDir()
		} else if arg == "/etc/firn/firn.yaml" {
			args[i] = filepath.Join("..", "..", "docs", "firn.yaml")
		}
	}
	if _, ok := variables["FIRN_DATA_DIR"]; ok {
		variables["FIRN_DATA_DIR"] = t.TempDir()
	}
	r := with(t, variables, append(args, "--check-config", "-o", "json")...)
	var report struct {
		Problems []string
		Settings []struct{ Name, Value, Source string }
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || r.code != exitOK {
		t.Fatalf("%s: code %d, %v\n%s%s", what, r.code, err, r.out, r.errOut)
	}
	if strings.Contains(r.errOut, "warn") {
		t.Errorf("%s: %s", what, r.errOut)
	}
	got := make(map[string]string)
	for _, s := range report.Settings {
		got[s.Name] = s.Value
	}
	return got
}

// longerThanDrain fails where whoever stops an agent does not leave it the time that a drain may take.
func longerThanDrain(t *testing.T, what string, given time.Duration, settings map[string]string) {
	t.Helper()
	drain, err := time.ParseDuration(settings["drain-timeout"])
	if err != nil {
		t.Fatalf("%s: drain-timeout: %v", what, err)
	}
	if given < drain+5*time.Second {
		t.Errorf("%s: an agent is killed after %v; --drain-timeout is %v", what, given, drain)
	}
}

func TestSystemdUnit(t *testing.T) {
	unit := deployed(t, "docs/deploy/firn.service")
	value := func(key string) string {
		t.Helper()
		m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(unit)
		if m == nil {
			t.Fatalf("no %s", key)
		}
		return m[1]
	}
	start := strings.Fields(value("ExecStart"))
	settings := judged(t, "ExecStart", map[string]string{}, start[1:]...)
	if check := value("ExecStartPre"); check != value("ExecStart")+" --check-config" {
		t.Errorf("ExecStartPre judges another command line: %s", check)
	}
	stop, err := time.ParseDuration(value("TimeoutStopSec"))
	if err != nil {
		t.Fatal(err)
	}
	longerThanDrain(t, "TimeoutStopSec", stop, settings)
	if value("KillSignal") != "SIGTERM" || !strings.Contains(unit, "--data-dir /var/lib/"+value("StateDirectory")+"\n") {
		t.Error("the signal is not SIGTERM, or the data lies outside of StateDirectory")
	}
}

func TestComposeFile(t *testing.T) {
	type service struct {
		Build           struct{ Dockerfile, Target string }
		Environment     map[string]string
		StopGracePeriod string `yaml:"stop_grace_period"`
		Volumes         []string
	}
	var file struct {
		Services map[string]service
		Volumes  map[string]any
	}
	if err := yaml.Unmarshal([]byte(deployed(t, "localstack/compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	dockerfile := deployed(t, "localstack/Dockerfile")
	image := make(map[string]string) // what the image sets
	for _, pair := range strings.Fields(regexp.MustCompile(`(?m)^ENV (FIRN_.*)$`).FindStringSubmatch(dockerfile)[1]) {
		name, value, _ := strings.Cut(pair, "=")
		image[name] = value
	}
	agents := 0
	reached := make(map[string]string)
	for name, s := range file.Services {
		for _, v := range s.Volumes {
			if from, _, _ := strings.Cut(v, ":"); !strings.Contains(from, "/") {
				if _, ok := file.Volumes[from]; !ok {
					t.Errorf("%s: no volume %s", name, from)
				}
			}
		}
		if s.Build.Target != "" && !strings.Contains(dockerfile, " AS "+s.Build.Target+"\n") {
			t.Errorf("%s: %s has no target %s", name, s.Build.Dockerfile, s.Build.Target)
		}
		if s.Build.Target != "firn" {
			continue
		}
		agents++
		variables := make(map[string]string)
		for _, from := range []map[string]string{image, s.Environment} {
			for k, v := range from {
				variables[k] = v
			}
		}
		settings := judged(t, name, variables, "agent")
		for _, what := range []string{"name", "advertise", "advertise-internal"} {
			if other := reached[settings[what]]; other != "" || settings[what] == "" {
				t.Errorf("%s: %s %q is %s's too", name, what, settings[what], other)
			}
			reached[settings[what]] = name
		}
		grace, err := time.ParseDuration(s.StopGracePeriod)
		if err != nil {
			t.Fatal(err)
		}
		longerThanDrain(t, name, grace, settings)
	}
	if agents != 3 {
		t.Errorf("%d agents", agents)
	}
}

func TestImageIsBuiltOfWhatIsTested(t *testing.T) {
	dockerfile := deployed(t, "localstack/Dockerfile")
	minio := regexp.MustCompile(`(?m)^version=(\S+)$`).FindStringSubmatch(deployed(t, ".ci/minio"))
	if minio == nil || !strings.Contains(dockerfile, "minio@"+minio[1]) {
		t.Errorf("its MinIO is not %v of .ci/minio", minio)
	}
	golang := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(deployed(t, "go.mod"))
	if golang == nil || !strings.Contains(dockerfile, "FROM golang:"+golang[1]+" ") {
		t.Errorf("its Go is not %v of go.mod", golang)
	}
	last := dockerfile[strings.LastIndex(dockerfile, "\nFROM "):]
	if !strings.HasPrefix(last, "\nFROM scratch AS firn\n") || !strings.Contains(last, "\nUSER 65532:65532\n") {
		t.Error("what is built without --target is not firn alone, without root")
	}
	health := regexp.MustCompile(`CMD \["/firn", "health"\]`)
	if r := with(t, nil, "health", "--help"); r.code != exitOK || !health.MatchString(dockerfile) {
		t.Error("its health check does not exist")
	}
}

// kubernetes is as much of the manifests as is looked at.
type kubernetes struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		ServiceName string
		Selector    map[string]any
		Ports       []struct{ Name, TargetPort string }
		Template    struct {
			Metadata struct{ Labels map[string]any }
			Spec     struct {
				TerminationGracePeriodSeconds int
				Containers                    []struct {
					Name, Image string
					Args        []string
					Env         []struct {
						Name      string
						ValueFrom struct{ FieldRef struct{ FieldPath string } }
					}
					Ports []struct {
						Name          string
						ContainerPort int
					}
					StartupProbe, ReadinessProbe, LivenessProbe struct {
						HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
					}
					Lifecycle struct {
						PreStop struct{ Sleep struct{ Seconds int } }
					}
				}
			}
		}
	}
}

func TestKubernetesManifests(t *testing.T) {
	objects := make(map[string]kubernetes)
	for dec := yaml.NewDecoder(strings.NewReader(deployed(t, "docs/deploy/kubernetes.yaml"))); ; {
		var node yaml.Node
		if err := dec.Decode(&node); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		var o kubernetes
		// yaml's keys are lower case where a field has no tag; Kubernetes' are not.
		if err := lowered(&node).Decode(&o); err != nil {
			t.Fatal(err)
		}
		objects[o.Kind+"/"+o.Metadata.Name] = o
	}
	set, ok := objects["StatefulSet/firn"]
	if !ok {
		t.Fatalf("no StatefulSet among %d objects", len(objects))
	}
	pod := set.Spec.Template.Spec
	c := pod.Containers[0]
	fields := map[string]string{
		"metadata.name": "firn-0", "metadata.namespace": "prod", "metadata.labels['topology.kubernetes.io/zone']": "eu-central-1a",
	}
	ports := make(map[string]int)
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}

	for _, zone := range []string{"eu-central-1a", ""} { // a pod may lack the label
		fields["metadata.labels['topology.kubernetes.io/zone']"] = zone
		args, variables := slices.Clone(c.Args), make(map[string]string)
		for _, e := range c.Env {
			if strings.HasPrefix(e.Name, "FIRN_") {
				variables[e.Name] = fields[e.ValueFrom.FieldRef.FieldPath]
			}
		}
		for i := range args {
			for _, e := range c.Env {
				value, known := fields[e.ValueFrom.FieldRef.FieldPath]
				if !known {
					t.Errorf("%s is of an unknown field", e.Name)
				}
				args[i] = strings.ReplaceAll(args[i], "$("+e.Name+")", value)
			}
			if strings.Contains(args[i], "$(") {
				t.Errorf("%s names a variable that is not there", args[i])
			}
		}
		settings := judged(t, "StatefulSet", variables, args...)
		if settings["zone"] != zone || settings["name"] != "firn-0" {
			t.Errorf("%v", settings)
		}
		for setting, port := range map[string]string{"kafka": "kafka", "advertise": "kafka", "http": "http", "internal": "internal", "advertise-internal": "internal"} {
			if !strings.HasSuffix(settings[setting], fmt.Sprintf(":%d", ports[port])) {
				t.Errorf("%s %s is not at the port %s, %d", setting, settings[setting], port, ports[port])
			}
		}
		if host := "firn-0." + set.Spec.ServiceName + ".prod.svc.cluster.local:"; !strings.HasPrefix(settings["advertise"], host) {
			t.Errorf("advertise %s is not a name that service %s makes", settings["advertise"], set.Spec.ServiceName)
		}
		longerThanDrain(t, "terminationGracePeriodSeconds", time.Duration(pod.TerminationGracePeriodSeconds-c.Lifecycle.PreStop.Sleep.Seconds)*time.Second, settings)
	}

	for _, name := range []string{"Service/firn", "Service/" + set.Spec.ServiceName} {
		s, ok := objects[name]
		if !ok {
			t.Errorf("no %s", name)
		}
		for _, p := range s.Spec.Ports {
			if ports[p.TargetPort] == 0 {
				t.Errorf("%s: no port %s in the pod", name, p.TargetPort)
			}
		}
		for label, value := range s.Spec.Selector {
			if set.Spec.Template.Metadata.Labels[label] != value {
				t.Errorf("%s selects other pods", name)
			}
		}
	}
	if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.StartupProbe.HTTPGet.Path != "/readyz" {
		t.Error("a probe asks for something else: an outage must not restart agents")
	}
	if _, ok := objects["PodDisruptionBudget/firn"]; !ok {
		t.Error("no PodDisruptionBudget")
	}
}

// lowered makes the first letters of all keys lower case and the rest as Go's fields are found by.
func lowered(n *yaml.Node) *yaml.Node {
	for i, c := range n.Content {
		lowered(c)
		if n.Kind == yaml.MappingNode && i%2 == 0 && c.Value != "httpGet" {
			c.Value = strings.ToLower(c.Value)
		}
	}
	return n
}
