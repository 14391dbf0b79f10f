package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/cmd/firn/client"
)

func newHealth(e env) *cobra.Command {
	addr, ready, timeout := "127.0.0.1:8080", false, 5*time.Second
	if at := e.Getenv("FIRN_HTTP"); at != "" {
		addr = at
	}
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Ask an agent whether it runs, or should get clients",
		Long: `Ask an agent, at its --http address, whether it runs, or with --ready whether it should get clients. For health checks of containers,
where there is nothing else to ask with. The exit code is 0 for yes, 3 for no and 5 where nobody answers.`,
		Example: "  firn health\n  firn health --ready --http 10.0.0.7:8080",
		Args:    arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			host, port, err := net.SplitHostPort(addr)
			if err != nil || port == "" {
				return usage(cmd, fmt.Errorf("--http: %q is not host:port", addr))
			}
			if timeout < time.Millisecond {
				return usage(cmd, fmt.Errorf("--timeout: %v: want 1ms or more", timeout))
			}
			if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
				host = "127.0.0.1" // what an agent at every address of this host is reached at
			}
			path := "/healthz"
			if ready {
				path = "/readyz"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			said, err := getHealth(ctx, "http://"+net.JoinHostPort(host, port)+path)
			if err == nil {
				_, err = fmt.Fprintln(e.Stdout, said)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&addr, "http", addr, "the agent's --http address (environment FIRN_HTTP)")
	cmd.Flags().BoolVar(&ready, "ready", ready, "ask whether it should get clients: no while it starts, drains or has failed")
	cmd.Flags().DurationVar(&timeout, "timeout", timeout, "longest that the answer may take")
	return cmd
}

// getHealth returns what an agent says where it says yes.
func getHealth(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	web := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := web.Do(req)
	if err != nil {
		return "", fmt.Errorf("%w: %w", client.ErrNoAgent, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", fmt.Errorf("%s: %w", url, err)
	}
	said := strings.TrimSpace(string(body))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%w: %s: %s: %s", errCheck, url, resp.Status, said)
	}
	return said, nil
}
