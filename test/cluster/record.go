package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// record is all that another program needs to take over the machine's cluster, or to take it down. It lies in
// the run folder: one who deletes the cluster's own folder can still have the host put back,
// and a machine that was booted again has none.
type record struct {
	Folder  folder
	Options Options
	Network network
	Before  hostState
}

func recordFile() string { return filepath.Join(runFolder, "cluster.json") }

// save replaces the record in one step, so that a crash leaves the old or the new.
func (r record) save() error {
	data, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return fmt.Errorf("record cluster: %w", err)
	}
	if err := os.MkdirAll(runFolder, 0o700); err != nil {
		return fmt.Errorf("record cluster: %w", err)
	}
	next := recordFile() + ".next"
	if err := writeFile(next, data); err != nil {
		return err
	}
	return os.Rename(next, recordFile())
}

// recordOf reads the record of the machine's cluster. It returns ErrNotRunning when there is none,
// and ErrInUse beside the record when the cluster is another folder's.
func recordOf(f folder) (record, error) {
	var r record
	data, err := os.ReadFile(recordFile())
	if errors.Is(err, fs.ErrNotExist) {
		return r, ErrNotRunning
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read record of the cluster: %w", err)
	}
	if r.Folder != f {
		return r, fmt.Errorf("%w: in %s\nhint: take it down first, with --dir %s", ErrInUse, r.Folder, r.Folder)
	}
	return r, nil
}
