package cells

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ReplicaDelay bounds the time from an object's writing to its copy. S3 replicates most objects within seconds, and says 15 minutes of 99.99 %.
const ReplicaDelay = 15 * time.Second

// replication copies the objects of a cell's lake into its replica, each for itself and after a time of its own, as S3 replicates a bucket: in no order. What is deleted stays in the replica.
type replication struct {
	quit chan struct{}
	done sync.WaitGroup
	once sync.Once

	mu  sync.Mutex
	err error // guarded by mu: of an object that could not be copied
}

const replicaLook = 200 * time.Millisecond

func (c *Cell) replicate(rng *rand.Rand) *replication {
	r := &replication{quit: make(chan struct{})}
	seen := map[string]bool{}
	r.done.Go(func() {
		tick := time.NewTicker(replicaLook)
		defer tick.Stop()
		for {
			select {
			case <-r.quit:
				return
			case <-tick.C:
			}
			r.fail(filepath.WalkDir(c.Objects.LakeDir(), func(path string, d fs.DirEntry, err error) error {
				if d != nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") {
					return fs.SkipDir // the server's own
				}
				if errors.Is(err, fs.ErrNotExist) || err == nil && (d.IsDir() || seen[path]) {
					return nil
				}
				if err != nil {
					return err
				}
				seen[path] = true
				to, after := filepath.Join(c.Replica, strings.TrimPrefix(path, c.Objects.LakeDir())), time.Duration(rng.Int64N(int64(ReplicaDelay)))
				r.done.Go(func() {
					select {
					case <-r.quit:
					case <-time.After(after):
						r.fail(copied(path, to))
					}
				})
				return nil
			}))
		}
	})
	return r
}

// copied copies a file, which appears whole. One that is gone is none.
func copied(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	half := filepath.Join(filepath.Dir(to), ".half-"+filepath.Base(to))
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(half, content, 0o600), os.Rename(half, to))
}

func (r *replication) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.err, err)
}

// stop ends it at once: what was not copied never is.
func (r *replication) stop() error {
	r.once.Do(func() { close(r.quit) })
	r.done.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
