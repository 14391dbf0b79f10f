package main

import (
	"strings"
	"testing"
)

func TestListenersAreJudgedTogether(t *testing.T) {
	base := []string{"agent", "--etcd", "h:1", "--bucket", "mem://", "--check-config", "--data-dir", "absent"}
	t.Chdir(t.TempDir())
	for name, tc := range map[string]struct {
		args []string
		want string // "": valid
	}{
		"one":                       {[]string{"--kafka", "127.0.0.1:9092"}, ""},
		"one, advertised":           {[]string{"--kafka", "0.0.0.0:9092", "--advertise", "a1.example.net:9092"}, ""},
		"two":                       {[]string{"--kafka", "inner=10.0.0.1:9092", "--kafka", "outer=10.0.0.1:9093", "--advertise", "outer=a1.example.net:9093"}, ""},
		"two in one":                {[]string{"--kafka", "10.0.0.1:9092,outer=10.0.0.1:9093", "--advertise", "outer=a1.example.net:9093,kafka=h:9092"}, ""},
		"named, every address":      {[]string{"--kafka", "inner=10.0.0.1:9092", "--kafka", "outer=:9093"}, "advertise is not set: --kafka outer=:9093 is every address"},
		"named, one left out":       {[]string{"--kafka", ":9092,outer=:9093", "--advertise", "h:1"}, "has no address for listener outer: --kafka outer=:9093 is every address"},
		"two without a name":        {[]string{"--kafka", "10.0.0.1:9092", "--kafka", "10.0.0.1:9093"}, "the listener without a name is given twice"},
		"one name twice":            {[]string{"--kafka", "a=10.0.0.1:9092,a=10.0.0.1:9093"}, "listener a is given twice"},
		"one socket twice":          {[]string{"--kafka", "a=10.0.0.1:9092,b=10.0.0.1:9092"}, "listener a and listener b listen at the same address 10.0.0.1:9092"},
		"advertised without":        {[]string{"--kafka", "a=10.0.0.1:9092", "--advertise", "b=h:1"}, "names listener b, which --kafka does not; it has listener a"},
		"advertised without a name": {[]string{"--kafka", "a=10.0.0.1:9092", "--advertise", "h:1"}, "names the listener without a name, which --kafka does not"},
		"advertised twice":          {[]string{"--kafka", "a=10.0.0.1:9092", "--advertise", "a=h:1,a=h:2"}, "listener a is given twice"},
		"one address for two":       {[]string{"--kafka", "a=10.0.0.1:1,b=10.0.0.1:2", "--advertise", "a=h:1,b=h:1"}, "the same address h:1, which leads to one of them only"},
		"bad name":                  {[]string{"--kafka", "A=10.0.0.1:1"}, `listener name "A" is not`},
		"no name":                   {[]string{"--kafka", "=10.0.0.1:1"}, `listener name "" is not`},
		"the agents' own":           {[]string{"--kafka", "internal=10.0.0.1:1"}, "is the agents' own"},
		"no address":                {[]string{"--kafka", "a=10.0.0.1"}, "is not host:port"},
		"advertised at every host":  {[]string{"--kafka", "a=10.0.0.1:1", "--advertise", "a=:1"}, "has no host"},
		"advertised at no port":     {[]string{"--kafka", "a=10.0.0.1:1", "--advertise", "a=h:0"}, "has no port from 1"},
		"zones":                     {[]string{"--client-zones", "10.0.1.0/24=eu-1a,10.0.2.0/24=eu-1b,10.0.0.0/8=eu-1c"}, ""},
		"zone without a network":    {[]string{"--client-zones", "eu-1a"}, "is not network=zone"},
		"zone of no network":        {[]string{"--client-zones", "here=eu-1a"}, "is no IP address and no network"},
		"network in two zones":      {[]string{"--client-zones", "10.0.0.0/8=a,10.0.0.0/8=b"}, "network 10.0.0.0/8 is in zone a and in zone b; keep one"},
		"trusted":                   {[]string{"--trusted-proxies", "10.0.0.0/8,::1"}, ""},
		"trusted host":              {[]string{"--trusted-proxies", "lb.example.net"}, `"lb.example.net" is no IP address and no network`},
		"trusted too far":           {[]string{"--trusted-proxies", "10.0.0.5/8"}, "has bits beyond its length; write 10.0.0.0/8, or 10.0.0.5"},
		"too many":                  {[]string{"--kafka", "a=h:1,b=h:2,c=h:3,d=h:4,e=h:5,f=h:6,g=h:7,h=h:8,i=h:9,j=h:10,k=h:11,l=h:12,m=h:13,n=h:14,o=h:15,p=h:16,q=h:17"}, "at most 16"},
	} {
		t.Run(name, func(t *testing.T) {
			r := with(t, nil, append(base[:len(base):len(base)], tc.args...)...)
			if tc.want == "" && (r.code != exitOK || r.errOut != "") || tc.want != "" && (r.code != exitUsage || !strings.Contains(r.errOut, tc.want)) {
				t.Errorf("exit code %d: %s", r.code, r.errOut)
			}
		})
	}
}
