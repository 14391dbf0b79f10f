package file

// Disk is what a Bucket does to its disk, the seam of crash_test.go.
type Disk = disk

// OpenOn is Open with a disk of the test's own.
func OpenOn(root string, d Disk) (*Bucket, error) { return open(root, d) }

// ScriptDisk is the real disk, but calls before ahead of every step with the step's name and its path, for rename and
// link the new one. An error of before is the result of the step, which is then not taken; a close is.
func ScriptDisk(before func(step, path string) error) Disk {
	return scriptDisk{before: before}
}

type scriptDisk struct {
	real   osDisk
	before func(step, path string) error
}

type scriptFile struct {
	diskFile
	path   string
	before func(step, path string) error
}

func (d scriptDisk) create(path string) (diskFile, error) {
	if err := d.before("create", path); err != nil {
		return nil, err
	}
	f, err := d.real.create(path)
	return scriptFile{diskFile: f, path: path, before: d.before}, err
}

func (d scriptDisk) rename(from, to string) error {
	if err := d.before("rename", to); err != nil {
		return err
	}
	return d.real.rename(from, to)
}

func (d scriptDisk) link(from, to string) error {
	if err := d.before("link", to); err != nil {
		return err
	}
	return d.real.link(from, to)
}

func (d scriptDisk) remove(path string) error {
	if err := d.before("remove", path); err != nil {
		return err
	}
	return d.real.remove(path)
}

func (d scriptDisk) mkdir(path string) error {
	if err := d.before("mkdir", path); err != nil {
		return err
	}
	return d.real.mkdir(path)
}

func (d scriptDisk) syncDir(path string) error {
	if err := d.before("fsync dir", path); err != nil {
		return err
	}
	return d.real.syncDir(path)
}

func (f scriptFile) Write(p []byte) (int, error) {
	if err := f.before("write", f.path); err != nil {
		return 0, err
	}
	return f.diskFile.Write(p)
}

func (f scriptFile) Sync() error {
	if err := f.before("fsync file", f.path); err != nil {
		return err
	}
	return f.diskFile.Sync()
}

func (f scriptFile) Close() error {
	closeErr := f.diskFile.Close()
	if err := f.before("close", f.path); err != nil {
		return err
	}
	return closeErr
}
