package agent

// Rooms are what the rooms get of a configuration.
func (c *Config) Rooms() []any {
	in, cache, srv, meta := c.ingest(), c.fetch(), c.kafka(), c.metastore()
	return []any{&in, &cache, &srv, &meta}
}
