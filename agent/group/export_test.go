package group

// Loaded is how many groups are in memory.
func (c *Coordinator) Loaded() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		n += len(c.slots[i].groups)
	}
	return n
}
