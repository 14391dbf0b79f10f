package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
)

// lineBytesMax bounds one line of input, or one file with --whole-file.
const lineBytesMax = 32 << 20

// source is where lines come from.
type source struct {
	name string // as errors call it
	path string // empty for standard input
	size int64  // bytes, or -1 where that is not known
}

// findSources checks all files before any is read, so that a mistyped name stops the command before it sends. Without
// paths, and for the path -, the source is standard input.
func findSources(stdin io.Reader, paths []string) ([]source, error) {
	if len(paths) == 0 {
		paths = []string{"-"}
	}
	var sources []source
	var errs []error
	for _, path := range paths {
		if path == "-" {
			s := source{name: "standard input", size: -1}
			if f, ok := stdin.(*os.File); ok {
				if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
					s.size = info.Size()
				}
			}
			sources = append(sources, s)
			continue
		}
		s, err := findFile(path)
		errs = append(errs, err)
		sources = append(sources, s)
	}
	return sources, errors.Join(errs...)
}

func findFile(path string) (source, error) {
	s := source{name: path, path: path, size: -1}
	f, err := os.Open(path)
	if err != nil {
		return s, fmt.Errorf("--file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return s, fmt.Errorf("--file: %w", err)
	case info.IsDir():
		return s, fmt.Errorf("--file: %s is a directory, name the files in it", path)
	case info.Mode().IsRegular():
		s.size = info.Size()
	}
	return s, nil
}

// open returns a source's reader, which adds to read what it reads, and a function that closes it.
func (s source) open(stdin io.Reader, read *atomic.Int64) (io.Reader, func(), error) {
	if s.path == "" {
		return countReader{stdin, read}, func() {}, nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, nil, fmt.Errorf("--file: %w", err)
	}
	return countReader{f, read}, func() { _ = f.Close() }, nil
}

// countReader adds up what is read through it.
type countReader struct {
	r    io.Reader
	read *atomic.Int64
}

func (c countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// failing remembers whether reading failed, which to a bufio.Scanner looks like the end.
type failing struct {
	r      io.Reader
	failed bool
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	f.failed = f.failed || err != nil && !errors.Is(err, io.EOF)
	return n, err
}

// readWhole reads a source to its end. One that is too long is an error.
func readWhole(name string, r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, lineBytesMax+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	case len(content) > lineBytesMax:
		return nil, fmt.Errorf("%s: more than %d bytes, the most that one record is read from", name, lineBytesMax)
	}
	return content, nil
}

// eachLine calls do with each line of r, counted from 1, in memory of its own, until the end, an error of do or of r, or
// the end of ctx. A read that blocks does not hold up the end of ctx. What an error of r cuts off is no line. Errors name the
// source and the line.
func eachLine(ctx context.Context, name string, r io.Reader, do func(number int, line []byte) error) error {
	lines := make(chan []byte)
	ended := make(chan error, 1)
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		whole := &failing{r: r}
		scanner := bufio.NewScanner(whole)
		scanner.Buffer(make([]byte, 0, 64<<10), lineBytesMax)
		scanner.Split(func(data []byte, ended bool) (int, []byte, error) {
			return bufio.ScanLines(data, ended && !whole.failed)
		})
		for scanner.Scan() {
			select {
			case lines <- bytes.Clone(scanner.Bytes()):
			case <-reading.Done():
				return
			}
		}
		ended <- scanner.Err()
	}()
	for number := 1; ; number++ {
		select {
		case line := <-lines:
			if err := do(number, line); err != nil {
				return fmt.Errorf("%s line %d: %w", name, number, err)
			}
		case err := <-ended:
			if errors.Is(err, bufio.ErrTooLong) {
				err = fmt.Errorf("%w (a line may have %d bytes)", err, lineBytesMax)
			}
			if err != nil {
				return fmt.Errorf("%s line %d: %w", name, number, err)
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%s: stopped after line %d: %w", name, number-1, context.Cause(ctx))
		}
	}
}
