package duty

// ScratchError is what a scratch file makes of an error of its disk.
func ScratchError(dir string, err error) error { return (&dirScratch{dir: dir}).failed(err) }
