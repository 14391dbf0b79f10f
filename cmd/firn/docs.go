package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// configurationIntro is the part of docs/configuration.md that people write.
const configurationIntro = `# Configuration

Written by ` + "`firn docs configuration`" + ` (` + "`make generate`" + `); a test holds this page to the program. ` + "`firn agent --help`" + ` has the same.

Every setting has one name and three places. The first place that has it counts:

| | | |
| --- | --- | --- |
| 1 | flag | ` + "`--flush-interval 1s`" + ` |
| 2 | environment | ` + "`FIRN_FLUSH_INTERVAL=1s`" + `; an empty variable counts as not set |
| 3 | YAML file named by ` + "`--config`" + ` or ` + "`FIRN_CONFIG`" + ` | ` + "`flush-interval: 1s`" + `, at the top level; [firn.yaml](firn.yaml) is an example |

An agent judges all of it before it starts, also what another place overrides, and reports **every problem at once**: where it stands,
the value, what to do. Unknown keys of the file, keys given twice, numbers without their unit and values out of bounds are problems.
A variable that begins with FIRN_ and is no setting is a warning: client tools and orchestrators use the prefix too.

` + "```sh" + `
firn agent --config firn.yaml --check-config          # judge, print what would be in force and from where, end
firn agent --config firn.yaml --check-config -o json  # for programs
` + "```" + `

Exit code 0 means that an agent would start as far as this machine can tell: the files are there, keys match certificates, the data
directory can be written. It connects to nothing. Exit code 2 comes with the problems.

- Sizes have a unit: ` + "`64MiB`, `1GiB`, `500MB`" + `; a bare number is bytes. Durations always have one: ` + "`250ms`, `30s`, `10m`" + `.
- Lists are written with commas, or as a sequence in the file.
- Secrets come from the environment or from a file of their own, never from a flag or the configuration file, and are never printed.
- The bucket's credentials are not settings of firn: see [buckets.md](buckets.md).
- Defaults of topic configs (retention.ms and the like) are the cluster's, not an agent's: they live in the metastore and are changed with
  ` + "`firn config set cluster`" + ` or any Kafka tool; see [topic-configs.md](topic-configs.md).
- ` + "`firn metastore`, `firn bucket`" + ` and ` + "`firn inspect`" + ` take the settings of etcd and the bucket from the same places, and accept an agent's file.

## etcd with TLS and users

` + "```yaml" + `
etcd: [https://10.0.0.5:2379, https://10.0.0.6:2379, https://10.0.0.7:2379]
etcd-ca-file: /etc/firn/etcd-ca.pem
etcd-cert-file: /etc/firn/etcd-client.pem   # where etcd runs with --client-cert-auth
etcd-key-file: /etc/firn/etcd-client-key.pem
etcd-username: firn
etcd-password-file: /etc/firn/etcd-password
` + "```" + `

The client certificate is read again when its files change, and serves for connections made from then on. Authorities are read at the start:
while they change over, keep both in the file. The user needs read and write on every key of the cluster, and nothing else:

` + "```sh" + `
etcdctl role add firn
etcdctl role grant-permission firn readwrite --prefix=true /firn/default/
etcdctl user add firn && etcdctl user grant-role firn firn
` + "```" + `

Where etcd takes the user from the certificate's common name, no password is needed. An etcd that this agent can never work with (wrong
authority, wrong password, missing permission, too old) ends it at the start with what would mend it; one that is merely away is waited for
once the agent runs. While users are switched off and on again in a running etcd, agents with both a certificate and a password need a restart.
The password is read at the start: after it was changed, restart the agents, one by one.

# Settings of ` + "`firn agent`" + `
`

// newDocs is for the project itself: pages that follow from the program.
func newDocs(e env) *cobra.Command {
	cmd := group(&cobra.Command{Use: "docs", Short: "Print documentation that is generated", Hidden: true})
	cmd.AddCommand(&cobra.Command{
		Use: "configuration", Short: "Print docs/configuration.md", Args: arguments(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return writeConfiguration(e.Stdout) },
	})
	return cmd
}

func writeConfiguration(w io.Writer) error {
	s := serving{dataDir: "firn-agent"}
	if _, err := io.WriteString(w, configurationIntro); err != nil {
		return err
	}
	s.set = s.declare()
	if err := s.set.Markdown(w); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, "\n# Settings of `firn dev`\n\nThe same, but etcd and the bucket need not be given, `data-dir` is `firn-data`, and there is "+
		"`memory` (`FIRN_MEMORY`): keep everything in memory only, for tests of your own code.\n")
	return err
}
