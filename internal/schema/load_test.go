package schema

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"io/fs"
	"fmt"
	"time"
)

func TestScratch(t *testing.T) {
	for _, v := range []string{"v1.25.0", "v1.30.0", "v1.37.0", "v1.44.0"} {
		dir := "/tmp/sc/" + v + "/model"
		var files []File
		_ = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if strings.HasSuffix(p, ".yaml") {
				b, _ := os.ReadFile(p)
				rel, _ := filepath.Rel(dir, p)
				files = append(files, File{rel, b})
			}
			return nil
		})
		at := time.Now()
		r, err := Load(files)
		fmt.Println(v, len(files), time.Since(at))
		if err != nil {
			s := err.Error()
			if len(s) > 3000 { s = s[:3000] }
			fmt.Println(s)
			continue
		}
		fmt.Println(r.Schemas(), r.Version())
	}
}
